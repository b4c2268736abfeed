//! Why and when a guest stopped and what its modules are: shown by `inspect`, kept by `extract --all` and `dump`.

use crate::tool;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tool::stderr;

const SHA256: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn corestream(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.current_dir(directory).args(args).output().unwrap()
}

/// Returns what the tool printed.
fn stdout(directory: &Path, args: &[&str]) -> String {
    let output = corestream(directory, args);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn facts_are_shown_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let identities = json!([{}, { "build_id": "1234", "sha256": SHA256 }, { "build_id": "ff" }]);
    let manifest = json!({
        "name": "guest.wasm",
        "modules": ["a.wasm", "b.wasm", null],
        "trap": "out of\u{1b}[31m fuel",
        "captured_at": "2026-11-28T04:18:23.5Z",
        "module_identities": identities,
    });
    fs::write(path.join("guest.json"), manifest.to_string()).unwrap();
    stdout(path, &["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    let verified = corestream(path, &["verify", "guest.core"]);
    assert!(verified.status.success(), "{}", stderr(&verified));

    let text = stdout(path, &["inspect", "guest.core"]);
    let lines: Vec<_> = text.lines().skip(2).collect();
    let expected = [
        "  captured at 2026-11-28T04:18:23.500000000Z",
        "  trap: out of\\u{1b}[31m fuel",
        "modules",
        "  0: a.wasm",
        "  1: b.wasm",
        "     build id 1234",
        &format!("     SHA-256 {SHA256}"),
        "  2: <anonymous-module-2>",
        "     build id ff",
    ];
    assert_eq!(lines, expected);
    let described: Value =
        serde_json::from_str(&stdout(path, &["inspect", "--json", "guest.core"])).unwrap();
    assert_eq!(described["trap"], manifest["trap"]);
    assert_eq!(described["captured_at"], "2026-11-28T04:18:23.500000000Z");
    assert_eq!(described["module_identities"], identities);

    stdout(path, &["extract", "guest.core", "--all", "all"]);
    stdout(path, &["dump", "--manifest", "all/manifest.json", "-o", "again.core"]);
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    assert!(read("guest.core") == read("again.core"));
}

/// What a dump does not say is not in its manifest, which older tools read.
#[test]
fn a_manifest_has_only_facts_that_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let manifest = r#"{ "modules": ["a"], "trap": "", "module_identities": [{}] }"#;
    fs::write(path.join("guest.json"), manifest).unwrap();
    stdout(path, &["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    stdout(path, &["extract", "guest.core", "--all", "all"]);
    let written = fs::read_to_string(path.join("all/manifest.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    for field in ["trap", "captured_at", "module_identities"] {
        assert!(written.get(field).is_none(), "{written}");
    }
}

/// What is too long for a dump is cut or left out, with a warning.
#[test]
fn facts_without_room_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let manifest = json!({
        "modules": ["a"],
        "trap": "x".repeat(5000),
        "module_identities": [{ "build_id": "12".repeat(257) }],
    });
    fs::write(path.join("guest.json"), manifest.to_string()).unwrap();
    let output = corestream(path, &["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    let printed = stderr(&output);
    assert!(output.status.success(), "{printed}");
    assert!(
        printed.contains("the message of the trap has 5000 bytes and is shortened"),
        "{printed}"
    );
    assert!(printed.contains("the build id of module 0 has 257 bytes and is omitted"), "{printed}");
    let text = stdout(path, &["inspect", "guest.core"]);
    assert!(text.contains(&format!("  trap: {}\n", "x".repeat(4096))), "{text}");
    assert!(!text.contains("build id"), "{text}");
}
