//! The text and the JSON that describe a dump.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::guest::{MANIFEST, directory};
use crate::tool::{self, ok, run, stderr};
use crate::writers;

#[test]
fn json_contains_the_manifest() {
    let (directory, image) = directory();
    let dir = directory.path();
    let found = tool::json(dir, ["inspect", "guest.core", "--json"]);
    let dump = fs::read(dir.join("guest.core")).unwrap();
    assert_eq!(found["bytes"], dump.len());
    for (key, value) in [
        ("name", json!("guest \u{1b}[31m")),
        ("producer", json!("corestream")),
        ("index", json!(true)),
        ("checksums", json!(true)),
        ("partial", json!(false)),
        ("degraded", json!(false)),
        ("damage", json!(null)),
        ("modules", json!(["a.wasm", null])),
    ] {
        assert_eq!(found[key], value, "{key}");
    }
    let given: Value = serde_json::from_str(MANIFEST).unwrap();
    for (found, given) in
        [("globals", "globals"), ("instances", "instances"), ("threads", "threads")]
            .map(|(a, b)| (&found[a], &given[b]))
    {
        let pairs = found.as_array().unwrap().iter().zip(given.as_array().unwrap());
        for (found, given) in pairs {
            for (key, value) in given.as_object().unwrap() {
                let found = found[key].to_string();
                let value = value.to_string();
                assert!(found == value || key == "frames", "{key}: {found} is not {value}");
            }
        }
    }
    assert_eq!(found["threads"][0]["frames"][0], given["threads"][0]["frames"][0]);
    assert_eq!(found["threads"][0]["frames"][1]["instance"], Value::Null);
    let memories = &found["memories"];
    assert_eq!(
        (&memories[1]["minimum"], &memories[1]["bytes"]),
        (&json!(1_u64 << 48), &Value::Null)
    );
    assert_eq!(memories[2]["page_size"], 1);
    assert_eq!(memories[0]["coverage"], "whole");
    // The offsets are where the bytes are.
    let mut restored = vec![0; image.len()];
    for part in memories[0]["data"].as_array().unwrap() {
        let number = |key: &str| usize::try_from(part[key].as_u64().unwrap()).unwrap();
        let (address, offset, length) = (number("address"), number("offset"), number("length"));
        restored[address..address + length].copy_from_slice(&dump[offset..offset + length]);
    }
    assert!(restored == image);
}

#[test]
fn text_fits_into_80_columns() {
    let (directory, _) = directory();
    let shown = ok(directory.path(), ["inspect", "guest.core"]);
    assert!(shown.starts_with("core dump of guest \\u{1b}[31m\n"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    for line in [
        "  1: <anonymous-module-1>",
        "     memories 0 ? 2",
        "     2001 of 131072 bytes kept in 2 segments",
        "     0 of 2^64 bytes kept in 0 segments",
        "  1: i64:-9223372036854775808",
        "thread idle",
        "  0: a.wasm function 3 at 0x11",
        "     locals i32:-2147483648 missing f32:NaN:0x400001",
        "  1: <unknown module> function 4294967295 at 0x0",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\nis not in\n{shown}");
    }
}

/// `inspect` does not read the contents of memories: it accepts a dump of 128 MiB in which they are damaged.
#[test]
fn reads_no_contents_of_memories() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let image = File::create(dir.join("guest.mem")).unwrap();
    image.set_len(128 << 20).unwrap();
    image.write_all_at(b"x", 0).unwrap();
    image.write_all_at(b"x", (128 << 20) - 1).unwrap();
    let args =
        ["dump", "--memory", "guest.mem,memory64", "-o", "guest.core", "--max-segments", "1"];
    ok(dir, args);
    let dump = File::options().write(true).open(dir.join("guest.core")).unwrap();
    let zeros = vec![0xff; 1 << 20];
    for mib in [20, 60, 100] {
        dump.write_all_at(&zeros, mib << 20).unwrap();
    }
    let shown = ok(dir, ["inspect", "guest.core"]);
    assert!(shown.contains("134217728 of 134217728 bytes kept in 1 segment"), "{shown}");
    let verdict = run(dir, ["verify", "guest.core"]);
    assert_eq!(verdict.status.code(), Some(3));
    let message = stderr(&verdict);
    assert!(message.contains("bad blocks"), "{message}");
    assert!(message.contains("(bytes 0x1400000..0x1500000)"), "{message}");
}

/// The report names the layout of dumps by other writers, and says what is unknown.
#[test]
fn names_the_layout_of_other_writers() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let frames = [(Some(0), 2, 123, &[1, -1][..], &[][..])];
    let plain = [(Some(0), 2, 123, &[][..], &[][..])];
    for (name, bytes, layout, text) in [
        (
            "wasmer",
            writers::wasmer(),
            "no-instance",
            "layout of wasm-coredump-builder, without instances",
        ),
        ("plain", writers::rewriter(&plain, 0), "standard", "standard layout"),
        (
            "rewriter",
            writers::rewriter(&frames, 0),
            "counts-first",
            "layout of wasm-coredump-rewriter, counts before values",
        ),
        (
            "wasmedge",
            writers::wasmedge(b"guest"),
            "no-instance-counts-first",
            "layout of WasmEdge, without instances",
        ),
    ] {
        fs::write(dir.join(name), &bytes).unwrap();
        let shown = ok(dir, ["inspect", name]);
        assert!(shown.contains(&format!("  frames: {text}\n")), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let shown = tool::json(dir, ["inspect", name, "--json"]);
        assert_eq!((&shown["frame_layout"], &shown["rewritten"]), (&json!(layout), &json!(false)));
        let instance = &shown["threads"][0]["frames"][0]["instance"];
        assert_eq!(*instance == Value::Null, layout.starts_with("no-instance"), "{shown}");
        let message = ok(dir, ["verify", name]);
        assert!(
            message.contains(&format!("only its structure can be checked; frames: {text}")),
            "{message}"
        );
        ok(dir, ["extract", name, "--all", "out"]);
        let again = run(dir, ["dump", "--manifest", "out/manifest.json", "-o", "again", "--force"]);
        if name == "wasmedge" {
            let expected = "out/manifest.json: global 0: an i32 requires a value";
            assert!(stderr(&again).contains(expected), "{}", stderr(&again));
        } else {
            assert!(again.status.success(), "{}", stderr(&again));
            let again = tool::json(dir, ["inspect", "again", "--json"]);
            let frames = |shown: &Value| {
                let frames = shown["threads"][0]["frames"].as_array().unwrap().clone();
                let of = |frame: &Value| (frame["function"].clone(), frame["locals"].clone());
                frames.iter().map(of).collect::<Vec<_>>()
            };
            assert_eq!(frames(&again), frames(&shown));
        }
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}
