//! Writing a plan: the sinks, cancelling and progress, and outputs that take few bytes at once.

mod control;
mod short_writes;
mod sinks;
