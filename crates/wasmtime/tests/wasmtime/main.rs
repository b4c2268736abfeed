//! Captures of Wasmtime guests, compared with Wasmtime's own core dumps where those are valid.

#[path = "../../../../tests/common/mod.rs"]
mod common;
#[path = "../../../../tests/common/environment.rs"]
mod environment;

mod beyond;
mod components;
mod examples;
mod frames;
mod frozen;
mod gate;
mod guests;
mod identity;
mod live;
mod side_by_side;
mod snapshot;
mod stores;
mod traps;
