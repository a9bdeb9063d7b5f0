//! `treering demo`

mod model;

use std::process::ExitCode;

use treering::{Error, Result};

use crate::args::Demo;
use crate::context::Context;

pub(crate) fn run(_args: &Demo, _context: &Context) -> Result<ExitCode> {
    Err(Error::Unsupported { what: "demo is not built yet".into() })
}
