//! `treering init`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;
use treering::format::config;
use treering::store::{Options, Store};

use crate::args::{Init, Shared};
use crate::context::Context;

pub(crate) fn run(args: &Init, context: &Context) -> Result<ExitCode> {
    let path = args.path.clone().unwrap_or_else(|| context.new_store_path());
    let shared = args.shared.map(|shared| match shared {
        Shared::Group => config::Shared::Group,
        Shared::Private => config::Shared::Private,
    });
    let store = Store::create(&path, shared, Options::default())?;
    let root = store.root().canonicalize().unwrap_or(path);
    let facts = json!({ "store": root, "id": store.config().store, "durability": context.durability(&store) });
    context.print(&facts, |_, out| out.line(format_args!("made an empty store at {}", root.display())))?;
    Ok(ExitCode::SUCCESS)
}
