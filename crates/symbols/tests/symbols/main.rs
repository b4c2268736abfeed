//! The tests of the symbols crate, one module per subject.

mod instances;
mod matching;
mod traits;
