//! treering: a content-addressed, incremental store for training checkpoints.

// -- ground: words and numbers; no I/O
pub mod env;
pub mod error;
pub mod id;
pub mod monitor;
mod parallel;
pub mod tensor;
pub mod wire;
// -- bytes: pure functions of slices
pub mod chunk;
pub mod codec;
// -- formats: what is stored, field by field
pub mod format;
// -- places: where bytes and facts lie
pub mod backend;
pub mod catalog;
pub mod disk;
// -- the opened store
pub mod store;
// -- journeys
pub mod gc;
pub mod restore;
pub mod retain;
pub mod save;
pub mod verify;
// -- errands
pub mod doctor;
pub mod export;
pub mod history;
pub mod stats;

pub use error::{Error, ErrorKind, Result};
pub use store::Store;
