//! `treering show`

use std::process::ExitCode;

use serde_json::{Value, json};
use treering::Result;
use treering::encodings::Encoded;
use treering::restore::{Checkpoint, TensorInfo};

use super::rows;
use crate::args::Show;
use crate::context::Context;
use crate::ui::{Out, Table, bytes, count, left, percent, printable, right};

pub(crate) fn run(args: &Show, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let checkpoint = store.checkpoint(&args.checkpoint.parse()?)?;
    let tensors: Vec<(TensorInfo, Vec<Encoded>)> = match args.tensors {
        true => checkpoint.tensors()?.into_iter().zip(store.encodings_of(&checkpoint)?).collect(),
        false => Vec::new(),
    };
    let mut facts = rows::checkpoint(checkpoint.info());
    facts["sizes"] = rows::sizes(&checkpoint.info().sizes);
    facts["save_id"] = json!(checkpoint.info().save);
    facts["components"] = json!(checkpoint.info().components);
    facts["files"] = json!(checkpoint.files());
    facts["side_files"] =
        checkpoint.side_files().into_iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
    if args.tensors {
        facts["tensor_list"] = tensors.iter().map(tensor).collect();
    }
    context.print(&facts, |_, out| print(&checkpoint, &tensors, out))?;
    Ok(ExitCode::SUCCESS)
}

fn tensor((info, encoded): &(TensorInfo, Vec<Encoded>)) -> Value {
    json!({
        "component": info.component,
        "name": info.meta.name,
        "dtype": info.meta.dtype.name(),
        "shape": info.meta.shape,
        "bytes": info.meta.bytes,
        "id": info.id,
        "boxes": info.boxes.len(),
        "chunks": info.chunks,
        "stored_bytes": info.stored_bytes,
        "encodings": info.encodings.iter().map(|(name, count)| json!({ "encoding": name, "chunks": count })).collect::<Vec<_>>(),
        "depth": info.depth,
        "packs": info.packs,
        "how": encoded.iter().map(how).collect::<Vec<_>>(),
    })
}

fn how(encoded: &Encoded) -> Value {
    json!({
        "chunks": encoded.chunks,
        "encoding": encoded.encoding,
        "depth": encoded.depth,
        "base": encoded.base.as_ref().map(ToString::to_string),
        "why": encoded.why.as_ref().map(ToString::to_string),
    })
}

fn print(checkpoint: &Checkpoint, tensors: &[(TensorInfo, Vec<Encoded>)], out: &mut Out) -> Result<()> {
    let info = checkpoint.info();
    let mut line = |name: &str, value: String| {
        if value.is_empty() { Ok(()) } else { out.line(format_args!("{name:<12} {}", printable(&value))) }
    };
    line("checkpoint", info.address())?;
    line("status", rows::status(info.status).into())?;
    line("saved", info.created.to_rfc3339())?;
    line("save id", info.save.to_hex())?;
    line("size", format!("{} in {}", bytes(info.sizes.raw), count(info.tensors, "tensor")))?;
    let sizes = info.sizes;
    line(
        "cost",
        format!(
            "{} ({}); unchanged {}, deduplicated {}, encoded {}",
            bytes(sizes.stored),
            percent(sizes.stored, sizes.raw),
            bytes(sizes.unchanged),
            bytes(sizes.deduplicated),
            bytes(sizes.encoded)
        ),
    )?;
    let components: Vec<String> = info
        .components
        .iter()
        .map(|(name, size)| {
            format!("{name} {}{}", bytes(*size), if info.dropped.contains(name) { " (dropped)" } else { "" })
        })
        .collect();
    line("components", components.join(", "))?;
    let metrics: Vec<String> = info.metrics.iter().map(|(name, v)| format!("{name} {}", rows::number(v.0))).collect();
    line("metrics", metrics.join(", "))?;
    line("tags", info.tags.join(", "))?;
    line("note", info.note.clone().unwrap_or_default())?;
    let side: Vec<String> =
        checkpoint.side_files().into_iter().map(|(name, size)| format!("{name} ({})", bytes(size))).collect();
    line("side files", side.join(", "))?;
    if tensors.is_empty() {
        return Ok(());
    }
    let mut table = Table::new([
        left("tensor"),
        left("type"),
        left("shape"),
        right("size"),
        right("stored"),
        left("how"),
        left("id"),
    ]);
    for (t, encoded) in tensors {
        let shape: Vec<String> = t.meta.shape.iter().map(u64::to_string).collect();
        let boxes = if t.boxes.is_empty() { String::new() } else { format!(" in {} boxes", t.boxes.len()) };
        let one = |e: &Encoded| if encoded.len() == 1 { e.to_string() } else { format!("{} x {e}", e.chunks) };
        let how: Vec<String> = encoded.iter().map(one).collect();
        table.row([
            t.meta.name.clone(),
            t.meta.dtype.name().into(),
            format!("[{}]{boxes}", shape.join(", ")),
            bytes(t.meta.bytes),
            bytes(t.stored_bytes),
            if t.id.is_none() { "dropped".into() } else { how.join(" / ") },
            t.id.map_or(String::new(), |id| id.to_hex()[..12].to_string()),
        ]);
    }
    out.line(&table)
}
