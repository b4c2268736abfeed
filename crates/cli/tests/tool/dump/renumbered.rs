//! A guest with more memories than a dump can have: messages use the indices of the manifest.

use std::fs::{self, OpenOptions};

use serde_json::{Value, json};

use crate::tool::{ok, stderr, succeed};

#[test]
fn messages_use_the_indices_of_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("guest.mem");
    fs::write(&image, [1; 65_536]).unwrap();
    let mut memories = vec![json!({ "minimum": 1 }); 104];
    memories[103] = json!({ "image": "guest.mem" });
    let manifest = json!({
        "name": "guest",
        "memories": memories,
        "modules": ["guest.wasm"],
        "instances": [{ "module": 0, "memories": [103] }],
        "threads": [{ "name": "main", "frames": [{ "instance": 0, "function": 0, "offset": 0 }] }],
    });
    fs::write(directory.path().join("manifest.json"), manifest.to_string()).unwrap();
    // The image is open for writing, so the tool warns that it may have changed.
    let _writer = OpenOptions::new().write(true).open(&image).unwrap();
    let args = [
        "dump",
        "--manifest",
        "manifest.json",
        "--exclude",
        "103:16..32",
        "-o",
        "guest.core",
        "--stats",
        "json",
    ];
    let message = stderr(&succeed(directory.path(), args));
    for index in 99..103 {
        let line = format!("warning: memory {index} is omitted: a dump has at most 100 memories");
        assert!(message.contains(&line), "{message}");
    }
    assert!(
        message.contains("excluded on request: 16 bytes in 1 range of memory 103"),
        "{message}"
    );
    let warning = "guest.mem: was open for writing while it was dumped; the dump may contain old and new bytes, and marks memory 103 (memory 99 of the dump) as changing";
    assert!(message.contains(warning), "{message}");
    let stats = message.lines().find(|line| line.starts_with('{')).unwrap();
    let stats: Value = serde_json::from_str(stats).unwrap();
    assert_eq!(stats["changing_memories"], json!([103]));

    let message = ok(directory.path(), ["verify", "guest.core"]);
    assert!(message.contains("16 bytes in 1 range of memory 99"), "{message}");
    assert!(message.contains("memory 99 changing while read"), "{message}");
}
