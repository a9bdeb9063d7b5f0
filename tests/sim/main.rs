//! One binary for all tests on a simulated disk: crashes, damage, and histories by chance.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has found something")]

mod before;
mod collection;
mod crash;
mod damage;
mod faults;
mod faulty;
#[allow(dead_code, reason = "shared with the tests on real files")]
#[path = "../it/helpers.rs"]
mod helpers;
mod hostile;
mod joint;
mod model;
mod network;
mod orderings;
mod sim;
