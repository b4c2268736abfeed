//! Finds the ranges of memory that are not zero.
//!
//! A **run** is a maximal range that starts and ends with a non-zero byte and contains no gap of at least a given
//! length. Two backends find the same runs: a scalar one, which defines the correct result, and one for AVX2.

mod backend;
mod parallel;
mod scanned;
mod scanner;

pub(crate) use parallel::{GapSink, ScanOptions, scan};
pub(crate) use scanned::{Gap, ScanNote, Scanned};
pub use scanner::Scanner;
