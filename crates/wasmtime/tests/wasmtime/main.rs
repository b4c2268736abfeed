//! Guests of Wasmtime, captured: beside the reference, beyond it, with frames from the stack, and
//! live.

#[path = "../../../../tests/common/mod.rs"]
mod common;

mod beyond;
mod examples;
mod frames;
mod guests;
mod identity;
mod live;
mod side_by_side;
mod traps;
