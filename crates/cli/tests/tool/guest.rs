//! A guest with everything that a manifest can describe, and its dump.

use std::fs;

use tempfile::TempDir;

use crate::tool::{ok, write_image};

/// The manifest.
pub const MANIFEST: &str = r#"{
    "name": "guest \u001b[31m", "modules": ["a.wasm", null],
    "memories": [{ "image": "first.mem", "maximum": 9 },
                 { "minimum": "281474976710656", "memory64": true },
                 { "image": "bytes.mem", "page_size": 1, "shared": true, "maximum": 70001 }],
    "globals": [{ "type": "i32", "mutable": true, "value": -1 },
                { "type": "i64", "value": "-9223372036854775808" },
                { "type": "f32", "value": "0x7fa00001" }, { "type": "f64", "value": "0xfff0000000000001" },
                { "type": "v128", "value": "0xff000000000000000000000000000001" },
                { "type": "funcref" }, { "type": "externref", "mutable": true },
                { "type": "anyref" }, { "type": "exnref" }, { "type": "contref" }],
    "instances": [{ "module": 0, "memories": [0, null, 2], "globals": [9, null, 0] }, {}],
    "threads": [{ "name": "main", "frames": [
                    { "instance": 0, "function": 3, "offset": 17,
                      "locals": [{ "i32": -2147483648 }, "missing", { "f32": "0x7fc00001" }],
                      "stack": [{ "i64": "9007199254740993" }, { "f64": "0x7ff8000000000001" }] },
                    { "function": 4294967295 }] },
                { "name": "idle" }] }"#;

/// Returns a directory with the guest and its dump `guest.core`, and the image of its memories 0 and 2.
pub fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; 70_000];
    image[1000..3000].fill(1);
    image[69_999] = 2;
    write_image(directory.path().join("first.mem"), &image);
    write_image(directory.path().join("bytes.mem"), &image);
    fs::write(directory.path().join("guest.json"), MANIFEST).unwrap();
    ok(directory.path(), ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    (directory, image)
}
