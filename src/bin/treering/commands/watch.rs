//! `treering watch`

use std::process::ExitCode;

use treering::Result;
use treering::catalog::Status;
use treering::monitor::Monitor;

use super::rows;
use crate::args::Watch;
use crate::context::Context;
use crate::ui::{self, bytes};

pub(crate) fn run(args: &Watch, context: &Context) -> Result<ExitCode> {
    let progress = context.progress();
    let store = context.store()?;
    let mut position = match args.from {
        Some(position) => position,
        None => store.since(&args.run, u64::MAX >> 1)?.1,
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 && !progress.interrupted() {
        let (rows, next) = store.since(&args.run, position)?;
        for row in rows.iter().filter(|row| row.status != Status::Forgotten) {
            let mut facts = rows::checkpoint(row);
            facts["position"] = (row.slot + 1).into();
            if context.json {
                context.line(ui::json::document(&facts, false)?)?;
            } else {
                context.line(format_args!("{}  {}  position {}", row.address(), bytes(row.sizes.raw), row.slot + 1))?;
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        position = next.max(position);
        if left > 0 {
            std::thread::sleep(args.interval);
        }
    }
    Ok(ExitCode::SUCCESS)
}
