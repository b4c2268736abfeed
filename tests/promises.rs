//! The tests that `docs/reliability.md` names are there.

use std::fs;

#[test]
fn every_test_that_is_named_exists() {
    let page = fs::read_to_string("docs/reliability.md").unwrap();
    let mut named = 0;
    for code in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = code.split_once("::") else { continue };
        let text = fs::read_to_string(format!("tests/{file}.rs")).unwrap_or_else(|error| {
            panic!("{code}: {error}");
        });
        assert!(text.contains(&format!("fn {test}(")), "{code} is not there");
        named += 1;
    }
    assert!(named > 30, "{named}");
}
