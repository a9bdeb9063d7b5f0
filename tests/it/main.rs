//! One binary for all tests through the public doors.

mod catalog;
mod collect;
mod folders;
mod helpers;
mod history;
mod hostile;
mod model;
mod reader;
mod save_restore;
mod tidy;
mod writers;
