//! Tests of the helpers of tests and benches.

mod fuse_file_system;
mod instruction_counts;
