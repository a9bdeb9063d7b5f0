//! From the library's errors to Python's exceptions: one class for each kind, in `treering/errors.py`.

use std::error::Error as _;

use pyo3::prelude::*;
use treering::{Error, ErrorKind};

/// The exception for an error: its message with all causes, and its hint.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let made = py
        .import("treering.errors")
        .and_then(|errors| errors.getattr(class(error.kind())))
        .and_then(|class| class.call1((message(error), error.hint())));
    made.map_or_else(|broken| broken, PyErr::from_value)
}

fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "InvalidError",
        ErrorKind::NotFound => "NotFoundError",
        ErrorKind::Exists => "ExistsError",
        ErrorKind::Conflict => "ConflictError",
        ErrorKind::Damaged => "DamagedError",
        ErrorKind::NoSpace => "NoSpaceError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Unavailable => "UnavailableError",
        ErrorKind::Bug => "InternalError",
    }
}

fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
