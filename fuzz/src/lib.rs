//! The logic of the fuzz targets: ordinary functions, which `cargo test` runs over the saved corpus
//! too (`crates/cli/tests/fuzz_corpus.rs`).

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/fuzz/count.rs"]
pub mod count;
#[path = "../../tests/fuzz/debug.rs"]
pub mod debug;
#[path = "../../tests/fuzz/image.rs"]
mod image;
#[path = "../../tests/fuzz/manifest.rs"]
pub mod manifest;
#[path = "../../tests/fuzz/plan.rs"]
pub mod plan;
#[path = "../../tests/fuzz/read.rs"]
pub mod read;
#[path = "../../tests/fuzz/reply.rs"]
pub mod reply;
#[path = "../../tests/fuzz/roundtrip.rs"]
pub mod roundtrip;
#[path = "../../tests/fuzz/scan.rs"]
pub mod scan;
#[path = "../../tests/fuzz/symbols.rs"]
pub mod symbols;
