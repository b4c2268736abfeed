//! The logic of the fuzz targets: ordinary functions, which `cargo test` runs over the saved corpus
//! too (`tests/fuzz_corpus.rs`).

#[path = "../../tests/common/mod.rs"]
mod common;
pub mod count;
mod image;
pub mod manifest;
pub mod plan;
pub mod read;
pub mod roundtrip;
pub mod scan;
