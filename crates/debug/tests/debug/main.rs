//! The tests of the debug crate, one module per subject.

#[path = "../../../../tests/fuzz/count.rs"]
mod count;
mod dialogue;
mod hostile;
mod memory;
mod stacks;
mod support;

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;
