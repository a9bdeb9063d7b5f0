//! How a failure is said: one line with its causes, a hint, an exit code.

use std::error::Error as _;
use std::process::ExitCode;

use serde_json::json;
use treering::{Error, ErrorKind};

use crate::ui::{self, printable};

/// Says what went wrong, and gives the exit code. A reader that closed the pipe has seen enough: that is success.
pub(crate) fn failure(error: &Error, json: bool) -> ExitCode {
    if ui::is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    say(&message(error), kind(error.kind()), error.hint().as_deref(), json);
    ExitCode::from(error.exit_code())
}

/// What clap has to say: help and versions on standard output, mistakes on standard error.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let (message, _) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
        say(&message, kind(ErrorKind::Invalid), Some("treering --help"), true);
    } else {
        // The pipe may be closed, which is nobody's concern.
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { ErrorKind::Invalid.exit_code() } else { 0 })
}

fn say(message: &str, kind: &str, hint: Option<&str>, json: bool) {
    if json {
        let error = json!({ "error": { "kind": kind, "message": message, "hint": hint } });
        // Strings are always JSON.
        ui::tell(ui::json::document(&error, false).unwrap_or_default());
        return;
    }
    ui::tell(format_args!("{} {}", ui::red("error:"), printable(message)));
    if let Some(hint) = hint {
        ui::tell(format_args!("{} {}", ui::green("hint:"), printable(hint)));
    }
}

/// The message and those of its causes, on one line.
fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The name of a kind for programs. Only ever added to.
fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Exists => "exists",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Damaged => "damaged",
        ErrorKind::NoSpace => "no_space",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Bug => "bug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_the_same_line() {
        let source = std::io::Error::other("quota");
        assert_eq!(message(&Error::Io { op: "create", path: "a".into(), source }), "cannot create a: quota");
    }
}
