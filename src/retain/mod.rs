//! Which checkpoints of a run stay, and why.
//!
//! Deciding is apart from doing: [`plan()`] looks at a list of checkpoints and says what a policy makes of them. It
//! knows no store, does no I/O and reads no clock, so the same list, policy and time always give the same plan.

mod plan;

pub use plan::{Candidate, Reason, Request, RetainPlan, Verdict, plan};
