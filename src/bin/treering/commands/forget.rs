//! `treering forget`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;
use treering::catalog::Filter;
use treering::store::Store;

use crate::args::Forget;
use crate::context::Context;
use crate::ui::count;

pub(crate) fn run(args: &Forget, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let slots = slots(&store, args)?;
    let gone = if args.force { store.forget_leased(&slots)? } else { store.forget(&slots)? };
    let addresses: Vec<String> = gone.iter().map(|row| row.address()).collect();
    context.print(&json!({ "forgotten": addresses }), |_, out| {
        let what =
            if addresses.len() == 1 { addresses[0].clone() } else { count(addresses.len() as u64, "checkpoint") };
        out.line(format_args!("forgot {what}; treering gc frees the space, treering undo brings it back until then"))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn slots(store: &Store, args: &Forget) -> Result<Vec<u64>> {
    if !args.checkpoints.is_empty() {
        return args.checkpoints.iter().map(|address| Ok(store.find(&address.parse()?)?.slot)).collect();
    }
    let rows = store.log(&Filter { run: args.run.clone(), superseded: true, ..Filter::default() })?;
    let now = treering::env::Env::system().now();
    let old = |created| args.older_than.is_none_or(|age| now.secs_since(created) > age.as_secs());
    Ok(rows.into_iter().filter(|row| old(row.created)).map(|row| row.slot).collect())
}
