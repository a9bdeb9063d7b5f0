//! One binary for all tests through the public doors.

mod helpers;
mod save_restore;
mod tidy;
