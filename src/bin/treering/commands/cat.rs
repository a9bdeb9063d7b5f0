//! `treering cat`

use std::io::{self, Write};
use std::process::ExitCode;

use treering::{Error, Result};

use crate::args::Cat;
use crate::context::Context;
use crate::ui::Out;

pub(crate) fn run(args: &Cat, context: &Context) -> Result<ExitCode> {
    let checkpoint = context.store()?.checkpoint(&args.checkpoint.parse()?)?;
    let name = args.component.as_ref().map_or(args.tensor.clone(), |component| format!("{component}:{}", args.tensor));
    let mut sink = Sink(context.out());
    match checkpoint.read_tensor(&name, &mut sink) {
        Err(Error::PartUnknown { .. }) if checkpoint.side_files().iter().any(|(file, _)| *file == args.tensor) => {
            checkpoint.read_side_file(&args.tensor, &mut sink)?;
        }
        read => drop(read?),
    }
    sink.0.finish()?;
    Ok(ExitCode::SUCCESS)
}

struct Sink(Out);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.bytes(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Io { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
