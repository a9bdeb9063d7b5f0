//! What `cargo fuzz` runs: the targets, and the simulated store of the tests that some of them need.
#![allow(clippy::unwrap_used, reason = "a target that unwraps an error has found something")]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/it/helpers.rs"]
mod helpers;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/sim/sim.rs"]
mod sim;
pub mod targets;
