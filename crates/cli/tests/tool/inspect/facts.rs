//! The trap, the time, and the identities of the modules: shown by `inspect`, and kept by `extract --all` and `dump`.

use std::fs;

use serde_json::{Value, json};

use crate::tool::{self, ok, stderr, succeed};

const SHA256: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn shows_and_keeps_every_fact() {
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
    ok(path, ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    ok(path, ["verify", "guest.core"]);

    let text = ok(path, ["inspect", "guest.core"]);
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
    let described = tool::json(path, ["inspect", "--json", "guest.core"]);
    assert_eq!(described["trap"], manifest["trap"]);
    assert_eq!(described["captured_at"], "2026-11-28T04:18:23.500000000Z");
    assert_eq!(described["module_identities"], identities);

    ok(path, ["extract", "guest.core", "--all", "all"]);
    ok(path, ["dump", "--manifest", "all/manifest.json", "-o", "again.core"]);
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    assert!(read("guest.core") == read("again.core"));
}

/// A manifest has no fields for unknown facts, so that older tools can read it.
#[test]
fn a_manifest_has_only_known_facts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let manifest = r#"{ "modules": ["a"], "trap": "", "module_identities": [{}] }"#;
    fs::write(path.join("guest.json"), manifest).unwrap();
    ok(path, ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    ok(path, ["extract", "guest.core", "--all", "all"]);
    let written = fs::read_to_string(path.join("all/manifest.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    for field in ["trap", "captured_at", "module_identities"] {
        assert!(written.get(field).is_none(), "{written}");
    }
}

/// A fact that is too long for a dump is cut or excluded, with a warning.
#[test]
fn warns_of_facts_that_are_too_long() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let manifest = json!({
        "modules": ["a"],
        "trap": "x".repeat(5000),
        "module_identities": [{ "build_id": "12".repeat(257) }],
    });
    fs::write(path.join("guest.json"), manifest.to_string()).unwrap();
    let output = succeed(path, ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    let printed = stderr(&output);
    let trap = "the message of the trap has 5000 bytes and is shortened";
    assert!(printed.contains(trap), "{printed}");
    assert!(printed.contains("the build id of module 0 has 257 bytes and is omitted"), "{printed}");
    let text = ok(path, ["inspect", "guest.core"]);
    assert!(text.contains(&format!("  trap: {}\n", "x".repeat(4096))), "{text}");
    assert!(!text.contains("build id"), "{text}");
}
