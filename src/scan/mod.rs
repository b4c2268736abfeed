//! Finds what is not zero.
//!
//! A **run** is a maximal range that starts and ends with a byte that is not zero and holds no gap
//! of at least a given length. Two backends find the same runs: a scalar one that defines what is
//! right, and one for AVX2.

mod backend;
mod parallel;
mod scanned;
mod scanner;

pub(crate) use parallel::{GapSink, Options, scan};
pub(crate) use scanned::{Gap, Note, Scanned};
pub use scanner::Scanner;
