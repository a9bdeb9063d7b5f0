//! One binary for all tests through the public doors.

mod catalog;
mod collect;
mod folders;
mod helpers;
mod history;
mod save_restore;
mod writers;
