//! `treering annotate`

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use treering::format::entry::{Metrics, Number};
use treering::store::{Address, Point, Store};
use treering::{Error, Result};

use super::rows;
use crate::args::Annotate;
use crate::context::Context;
use crate::ui::count;

pub(crate) fn run(args: &Annotate, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    if let (Some(from), Some(run)) = (&args.from, &args.run) {
        let steps = annotate_from(&store, run, from, context)?;
        context
            .print(&json!({ "steps": steps }), |_, out| out.line(format_args!("annotated {}", count(steps, "step"))))?;
        return Ok(ExitCode::SUCCESS);
    }
    let address = args.checkpoint.as_deref().unwrap_or_default().parse()?;
    let metrics = args.metrics.iter().map(|score| (score.name.clone(), Number(score.value))).collect();
    let row = store.annotate(&address, metrics, args.note.clone())?;
    context.print(&rows::checkpoint(&row), |_, out| out.line(format_args!("annotated {}", row.address())))?;
    Ok(ExitCode::SUCCESS)
}

/// One object a line: the step, and its metrics in `metrics` or beside it. Steps that were not saved are passed.
fn annotate_from(store: &Store, run: &str, path: &Path, context: &Context) -> Result<u64> {
    let unreadable = |source| Error::Io { op: "read", path: path.into(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let (mut done, mut absent) = (0, 0);
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let bad = |why: &str| Error::invalid(format!("{}, line {}", path.display(), number + 1), why);
        let value: Value = serde_json::from_str(&line).map_err(|e| bad(&e.to_string()))?;
        let step = value.get("step").and_then(Value::as_u64).ok_or_else(|| bad("no \"step\""))?;
        let metrics = metrics_of(&value).ok_or_else(|| bad("a metric that is not a number"))?;
        match store.annotate(&Address { run: run.into(), point: Point::Step(step) }, metrics, None) {
            Ok(_) => done += 1,
            Err(Error::CheckpointUnknown { .. }) => absent += 1,
            Err(error) => return Err(error),
        }
    }
    if absent > 0 {
        context.note(format_args!("{} of the file were not saved", count(absent, "step")));
    }
    Ok(done)
}

fn metrics_of(value: &Value) -> Option<Metrics> {
    let object = value.get("metrics").or(Some(value))?.as_object()?;
    let pairs = object.iter().filter(|(name, _)| !["step", "run", "time"].contains(&name.as_str()));
    pairs.map(|(name, value)| serde_json::from_value(value.clone()).ok().map(|number| (name.clone(), number))).collect()
}
