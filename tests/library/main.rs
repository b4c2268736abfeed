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
#[path = "../common/writers.rs"]
mod writers;

mod excluded;
mod facts;
mod format_page;
mod fuse_self_test;
mod instructions;
mod limits;
mod model;
mod must_use;
mod old_dumps;
mod other_writers;
mod progress;
mod promises;
mod read;
mod read_control;
mod reluctant;
mod restore;
mod rewritten_file;
mod roundtrip;
mod shared;
mod sinks;
mod sources;
mod traits;
mod verify;
