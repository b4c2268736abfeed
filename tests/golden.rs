//! What the tool prints, to the letter: help, results and errors. `TRYCMD=overwrite cargo test` writes
//! the files of `tests/golden` anew; the difference is then git's to show.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[test]
fn prints_what_it_printed() {
    let cases = trycmd::TestCases::new();
    cases.case("tests/golden/*.trycmd");
    // The list of commands there is that of the tool without this feature.
    if cfg!(feature = "run") {
        cases.skip("tests/golden/help.trycmd");
    }
}
