//! The limits of V8 in `limits`, and what `dump --dry-run` says about them, compared with V8 itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use corestream::limits::{V8_MAX_MEMORY64_PAGES, V8_MAX_MODULE_BYTES};

use crate::environment::require;
use crate::tool::{stderr, succeed, write_image};

/// Prints for each file whether V8 accepts it, and then for each length whether V8 accepts a module of that length.
const SCRIPT: &str = r#"
const { readFileSync } = require('fs');
const takes = (bytes) => {
    try { new WebAssembly.Module(bytes); return true; } catch (error) {
        if (!/limit|exceeds/.test(error.message)) throw error;
        return false;
    }
};
const custom = (length) => {
    const bytes = new Uint8Array(length);
    bytes.set([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 0]);
    let body = length - 14;
    for (let i = 0; i < 5; i++) { bytes[9 + i] = (body & 127) | (i < 4 ? 128 : 0); body >>>= 7; }
    return bytes;
};
const [files, lengths] = JSON.parse(process.argv[1]);
console.log(files.map((file) => takes(readFileSync(file))).join(' '));
console.log(lengths.map((length) => takes(custom(length))).join(' '));
"#;

/// Runs the script in Node.js.
///
/// # Errors
/// Returns an error if Node.js is not installed.
fn v8(files: &[&Path], lengths: &[u64]) -> io::Result<String> {
    let input = serde_json::json!([files, lengths]).to_string();
    // Older versions require the option, newer ones reject it.
    for options in [&["--experimental-wasm-memory64"][..], &[]] {
        let node = Command::new("node").args(options).args(["-e", SCRIPT, &input]).output()?;
        if node.status.success() {
            return Ok(String::from_utf8(node.stdout).unwrap());
        }
        assert!(stderr(&node).contains("bad option"), "{}", stderr(&node));
    }
    panic!("no way to call Node.js works");
}

fn dump(directory: &Path, args: &[&str]) -> Output {
    succeed(directory, [&["dump"], args].concat())
}

/// Returns what a dry run and its statistics say about V8, which is the same.
fn refusal(directory: &Path, args: &[&str]) -> Option<String> {
    let output = dump(directory, &[args, &["--dry-run", "--stats", "json"]].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("V8        refuses it: "));
    let stats: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(stats["v8_refusal"].as_str(), line);
    line.map(String::from)
}

#[test]
fn reports_a_dump_that_v8_would_refuse() {
    let directory = tempfile::tempdir().unwrap();
    // A sparse file with one segment from the first byte to the last.
    let image = File::create(directory.path().join("long.mem")).unwrap();
    image.write_all_at(b"first", 0).unwrap();
    image.set_len(V8_MAX_MODULE_BYTES).unwrap();
    image.write_all_at(b"last", V8_MAX_MODULE_BYTES - 4).unwrap();
    let long = refusal(directory.path(), &["--memory", "long.mem", "--max-segments", "1"]).unwrap();
    assert!(long.starts_with("a module of 10737"), "{long}");
    assert!(long.ends_with(" bytes exceeds the limit of 1073741824"), "{long}");
    // With two segments, the dump is short.
    assert_eq!(refusal(directory.path(), &["--memory", "long.mem"]), None);
}

#[test]
fn has_the_limits_of_v8() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("small.mem"), [1; 65_536]);
    let mut files = Vec::new();
    let mut refused = Vec::new();
    for maximum in [V8_MAX_MEMORY64_PAGES, V8_MAX_MEMORY64_PAGES + 1] {
        let memory = format!("small.mem,memory64,maximum={maximum}");
        let name = format!("{maximum}.core");
        refused.push(refusal(directory.path(), &["--memory", &memory]).is_some());
        dump(directory.path(), &["--memory", &memory, "-o", &name]);
        files.push(directory.path().join(name));
    }
    assert_eq!(refused, [false, true]);
    let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    let verdicts = require!("node", v8(&files, &[V8_MAX_MODULE_BYTES, V8_MAX_MODULE_BYTES + 1]));
    assert_eq!(verdicts, "true false\ntrue false\n");
}
