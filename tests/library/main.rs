//! The tests of the library, one module per subject. Tests that need a process of their own are separate crates.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/counting.rs"]
mod counting;
#[path = "../../benches/instructions/counts.rs"]
mod counts;
#[path = "../common/ends.rs"]
mod ends;
#[path = "../common/environment.rs"]
mod environment;
#[path = "../common/foreign.rs"]
mod foreign;
#[path = "../common/fuse.rs"]
mod fuse;
#[path = "../common/mapped.rs"]
mod mapped;
#[path = "../common/questions.rs"]
mod questions;
#[path = "../common/sparse.rs"]
mod sparse;
#[path = "../common/still.rs"]
mod still;
#[path = "../common/writers.rs"]
mod writers;

mod api;
mod docs;
mod excluded;
mod helpers;
mod merge;
mod model;
mod read;
mod roundtrip;
mod shared_memory;
mod verify;
mod write;
