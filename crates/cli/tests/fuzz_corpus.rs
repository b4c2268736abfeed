//! The logic of the fuzz targets, over the saved corpus and over random bytes. Its allocator counts, so it has a crate of
//! its own.

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../../../tests/fuzz/count.rs"]
mod count;
#[path = "../../../tests/fuzz/debug.rs"]
mod debug;
#[path = "../../../tests/fuzz/image.rs"]
mod image;
#[path = "../../../tests/fuzz/manifest.rs"]
mod manifest;
#[path = "../../../tests/fuzz/plan.rs"]
mod plan;
#[path = "../../../tests/fuzz/read.rs"]
mod read;
#[path = "../../../tests/fuzz/reply.rs"]
mod reply;
#[path = "../../../tests/fuzz/roundtrip.rs"]
mod roundtrip;
#[path = "../../../tests/fuzz/scan.rs"]
mod scan;
#[path = "../../../tests/fuzz/symbols.rs"]
mod symbols;

use common::Random;

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

fn over_corpus(target: &str, run: fn(&[u8])) {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    // The corpus is not part of the package.
    if fuzz.exists() {
        let mut inputs = 0;
        for entry in std::fs::read_dir(fuzz.join("corpus").join(target)).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 10, "only {inputs} inputs");
    }
    let mut random = Random(0x5eed);
    for i in 0..300 {
        // Sparse bytes make longer lists than dense ones.
        let zeros = random.below(4);
        let bytes = (0..i * 8).map(|_| match random.below(4) < zeros {
            true => 0,
            false => random.next().to_le_bytes()[0],
        });
        run(&bytes.collect::<Vec<_>>());
    }
}

#[test]
fn debug_holds() {
    over_corpus("debug", debug::run);
}

#[test]
fn manifest_holds() {
    over_corpus("manifest", manifest::run);
}

#[test]
fn plan_holds() {
    over_corpus("plan", plan::run);
}

#[test]
fn read_holds() {
    over_corpus("read", read::run);
}

#[test]
fn reply_holds() {
    over_corpus("reply", reply::run);
}

#[test]
fn roundtrip_holds() {
    over_corpus("roundtrip", roundtrip::run);
}

#[test]
fn scan_holds() {
    over_corpus("scan", scan::run);
}

#[test]
fn symbols_holds() {
    over_corpus("symbols", symbols::run);
}
