//! What people see: numbers, tables, lines, colours and progress; and what programs see: JSON and CSV.
//!
//! Knows no store. Everything printed goes through [`Out`], which turns a closed pipe into an error that `main` treats
//! as success, and drops colours where they are not wanted.

pub(crate) mod csv;
pub(crate) mod json;
pub(crate) mod numbers;
pub(crate) mod progress;
pub(crate) mod spark;
pub(crate) mod table;

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};

use owo_colors::OwoColorize;

pub(crate) use json::Number;
pub(crate) use numbers::{age, bytes, count, duration, percent, rate};
pub(crate) use progress::Progress;
pub(crate) use spark::spark;
pub(crate) use table::{Table, left, right};

/// Standard output. Errors name it.
///
/// Colours are taken out line by line before they come to the stream. A stream that does so itself forgets, when a signal
/// interrupts it, what it has written already, and writes it again.
pub(crate) struct Out {
    stream: io::BufWriter<io::Stdout>,
    colours: bool,
}

impl Out {
    /// Colours as [`anstream::ColorChoice::global`] says, on a terminal only unless forced.
    pub(crate) fn stdout() -> Out {
        let stream = io::stdout();
        let colours = anstream::AutoStream::choice(&stream) != anstream::ColorChoice::Never;
        Out { stream: io::BufWriter::with_capacity(64 << 10, stream), colours }
    }

    /// One line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> treering::Result<()> {
        let mut line = format!("{line}\n");
        if !self.colours {
            line = anstream::adapter::strip_str(&line).to_string();
        }
        self.bytes(line.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> treering::Result<()> {
        self.stream.write_all(bytes).map_err(on_stdout)
    }

    /// Must be called at the end: what a drop cannot write, nobody would hear of.
    pub(crate) fn finish(mut self) -> treering::Result<()> {
        self.stream.flush().map_err(on_stdout)
    }
}

/// What errors call standard output. No file of a store has this name.
const STDOUT: &str = "standard output";

fn on_stdout(source: io::Error) -> treering::Error {
    treering::Error::Io { op: "write", path: STDOUT.into(), source }
}

/// Whether the reader of standard output has gone away.
pub(crate) fn is_closed_pipe(error: &treering::Error) -> bool {
    let treering::Error::Io { path, source, .. } = error else { return false };
    source.kind() == io::ErrorKind::BrokenPipe && path.as_os_str() == STDOUT
}

/// A line on standard error. If nobody reads that, there is nobody to tell: the journey goes on.
pub(crate) fn tell(line: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

pub(crate) fn bold(text: &str) -> String {
    text.bold().to_string()
}

pub(crate) fn dim(text: &str) -> String {
    text.dimmed().to_string()
}

pub(crate) fn green(text: &str) -> String {
    text.green().to_string()
}

pub(crate) fn yellow(text: &str) -> String {
    text.yellow().bold().to_string()
}

pub(crate) fn red(text: &str) -> String {
    text.red().bold().to_string()
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// A name as it can be printed: what would move the cursor, or hide other text, is spelled out.
pub(crate) fn printable(name: &str) -> Cow<'_, str> {
    if !name.contains(unprintable) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if unprintable(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Control characters, line separators, and the marks that change the direction of text.
fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_standard_output_may_be_closed() {
        assert!(is_closed_pipe(&on_stdout(io::ErrorKind::BrokenPipe.into())));
        assert!(!is_closed_pipe(&on_stdout(io::ErrorKind::StorageFull.into())));
        let source = io::ErrorKind::BrokenPipe.into();
        assert!(!is_closed_pipe(&treering::Error::Io { op: "write", path: "store/log".into(), source }));
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("layers.0/wörk"), "layers.0/wörk");
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable("x\u{202e}y\u{85}"), "x\\u{202e}y\\u{85}");
    }
}
