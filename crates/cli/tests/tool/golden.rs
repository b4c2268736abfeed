//! Compares what the tool prints (help, results, errors) with the files in `tests/golden`. `TRYCMD=overwrite cargo test`
//! updates the files.

use std::fs;
use std::path::Path;

#[test]
fn prints_the_golden_output() {
    let cases = trycmd::TestCases::new();
    // The width of the help, because there is no terminal.
    cases.env("COLUMNS", "100");
    cases.case("tests/golden/*.trycmd");
    // The file has the list of commands without this feature.
    if cfg!(feature = "run") {
        cases.skip("tests/golden/help.trycmd");
    }
    cases.run();
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
