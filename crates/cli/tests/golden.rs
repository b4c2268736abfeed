//! Compares what the tool prints (help, results, errors) with the files in `tests/golden`. `TRYCMD=overwrite cargo test`
//! updates the files.
//!
//! These are a crate of their own, and the files run one after the other. trycmd copies the images that the commands dump.
//! If another thread starts a process during the copy, that process has the image open for writing until its `exec`, and
//! the tool reports a writer.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

#[test]
fn prints_the_golden_output() {
    for entry in fs::read_dir("tests/golden").unwrap() {
        let path = entry.unwrap().path();
        // The list of commands in the help depends on this feature.
        let is_skipped = cfg!(feature = "run") && path.ends_with("help.trycmd");
        if is_skipped || path.extension().is_none_or(|extension| extension != "trycmd") {
            continue;
        }
        let cases = trycmd::TestCases::new();
        // The width of the help, because there is no terminal.
        cases.env("COLUMNS", "100");
        cases.case(path);
        cases.run();
    }
    if std::env::var_os("TRYCMD").is_some_and(|mode| mode == "overwrite") {
        mask_all();
    }
}

/// Replaces by `[..]` what differs between runs and machines. In a golden file, `[..]` stands for any text.
fn mask_all() {
    for entry in fs::read_dir("tests/golden").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "trycmd") {
            mask(&path);
        }
    }
}

fn mask(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| match line.split_once(' ') {
        _ if line.starts_with("{\"") => mask_json(line),
        // A row of a table, and not a sentence.
        Some(("extents" | "scanned" | "scan" | "plan" | "write" | "disk", rest))
            if rest.starts_with(' ') =>
        {
            let spaces = rest.len() - rest.trim_start().len();
            let end = rest.rsplit_once(", ").filter(|_| line.starts_with("disk"));
            let end = end.map_or(String::new(), |(_, end)| format!(", {end}"));
            format!("{}[..]{end}", &line[..line.len() - rest.len() + spaces])
        }
        _ => line.to_string(),
    });
    let masked: Vec<String> = lines.collect();
    fs::write(path, masked.join("\n") + "\n").unwrap();
}

fn mask_json(line: &str) -> String {
    let mut masked = line.to_string();
    for key in ["extent_bytes", "scanned_bytes", "scanner", "_seconds"] {
        let key = format!("{key}\":");
        let mut from = 0;
        while let Some(at) = masked[from..].find(&key) {
            let start = from + at + key.len();
            let len = masked[start..].find([',', '}']).unwrap();
            masked.replace_range(start..start + len, "[..]");
            from = start;
        }
    }
    masked
}
