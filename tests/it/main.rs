//! One binary for all tests through the public doors.

mod helpers;
mod reader;
mod save_restore;
