//! The names in the documentation: `docs/reliability.md` names tests that exist, and `SECURITY.md` names every file
//! with `unsafe`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn names_tests_that_exist() {
    let page = fs::read_to_string("docs/reliability.md").unwrap();
    let mut named = 0;
    for code in page.split('`').skip(1).step_by(2) {
        let Some((module, test)) = code.rsplit_once("::") else { continue };
        let crates =
            ["cli", "debug", "symbols", "wasmtime"].map(|name| format!("crates/{name}/tests"));
        let places = crates.iter().map(String::as_str).chain(["tests"]);
        let mut files = Vec::new();
        places.for_each(|place| find(Path::new(place), &module.replace("::", "/"), &mut files));
        assert!(!files.is_empty(), "{code}: no such module");
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert!(text.contains(&format!("fn {test}(")), "{code}: no such test");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

/// Adds the files of a module, at any depth below `directory`.
fn find(directory: &Path, module: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, module, files);
        } else if [".rs", "/mod.rs", "/main.rs"]
            .iter()
            .any(|end| path.ends_with(format!("{module}{end}")))
        {
            files.push(path);
        }
    }
}

/// Adds the files below `directory` that allow `unsafe`.
fn add_files_with_unsafe(directory: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_files_with_unsafe(&path, files);
        } else if fs::read_to_string(&path).unwrap().contains("allow(unsafe_code") {
            files.insert(path.to_str().unwrap().into());
        }
    }
}

#[test]
fn names_every_file_with_unsafe() {
    let mut found = BTreeSet::new();
    let crates =
        ["src", "crates/cli/src", "crates/debug/src", "crates/symbols/src", "crates/wasmtime/src"];
    for crate_ in crates {
        add_files_with_unsafe(Path::new(crate_), &mut found);
    }
    let page = fs::read_to_string("SECURITY.md").unwrap();
    let section = page.split("## Unsafe code").nth(1).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.map(String::from).collect::<BTreeSet<_>>(), found);
}
