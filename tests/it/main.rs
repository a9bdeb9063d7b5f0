//! One binary for all tests through the public doors.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has found something")]

mod bench;
mod catalog;
mod chains;
mod cli;
mod collect;
mod encodings;
mod faults;
#[allow(dead_code, reason = "shared with the tests on a simulated disk")]
#[path = "../sim/faulty.rs"]
mod faulty;
mod folders;
mod helpers;
mod history;
mod hostile;
mod killed;
mod memory;
mod model;
mod reader;
mod save_restore;
mod soak;
mod tidy;
mod writers;
