//! treering: a content-addressed, incremental store for training checkpoints.

// -- ground: words and numbers; no I/O
pub mod env;
pub mod error;
pub mod id;
pub mod monitor;
pub mod tensor;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
