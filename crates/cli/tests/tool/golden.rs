//! What the tool prints, to the letter: help, results and errors. `TRYCMD=overwrite cargo test` writes
//! the files of `tests/golden` anew; the difference is then git's to show.

use std::fs;
use std::path::Path;

#[test]
fn prints_what_it_printed() {
    let cases = trycmd::TestCases::new();
    // Help is wrapped at this width where there is no terminal, and no other variable says one.
    cases.env("COLUMNS", "100");
    cases.case("tests/golden/*.trycmd");
    // The list of commands there is that of the tool without this feature.
    if cfg!(feature = "run") {
        cases.skip("tests/golden/help.trycmd");
    }
    cases.run();
    if std::env::var_os("TRYCMD").is_some_and(|mode| mode == "overwrite") {
        mask_all();
    }
}

/// In a file that was written anew, what differs from run to run, and from machine to machine,
/// becomes `[..]` again, which stands for anything.
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
        // In columns, which text is not.
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
