//! What the tool prints, to the letter: help, results and errors. `TRYCMD=overwrite cargo test` writes
//! the files of `tests/golden` anew; the difference is then git's to show.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[test]
fn prints_what_it_printed() {
    trycmd::TestCases::new().case("tests/golden/*.trycmd");
}
