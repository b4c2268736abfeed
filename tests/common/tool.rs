//! What the tests of the tool share: what it said, and what it left in a directory.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::Path;
use std::process::Output;

/// What was printed to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
