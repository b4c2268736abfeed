//! `inspect`, `verify` and `extract`, as their user runs them.
#![allow(clippy::print_stdout, reason = "a test says what it could not try")]

use crate::{common, foreign, fuse, tool, writers};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fuse::{Faults, Fuse};
use serde_json::{Value, json};
use tempfile::TempDir;
use tool::{names, stderr};

/// A guest with everything that a manifest can say.
const MANIFEST: &str = r#"{
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

fn corestream(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.current_dir(directory).args(args).stdin(Stdio::null());
    command
}

fn run(directory: &Path, args: &[&str]) -> Output {
    corestream(directory, args).output().unwrap()
}

/// Runs what must succeed; gives what it printed.
fn ok(directory: &Path, args: &[&str]) -> String {
    let output = run(directory, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with a guest and its dump `guest.core`.
fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; 70_000];
    image[1000..3000].fill(1);
    image[69_999] = 2;
    fs::write(directory.path().join("first.mem"), &image).unwrap();
    fs::write(directory.path().join("bytes.mem"), &image).unwrap();
    fs::write(directory.path().join("guest.json"), MANIFEST).unwrap();
    ok(directory.path(), &["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    (directory, image)
}

#[test]
fn a_dump_of_everything_is_made_again_from_what_was_extracted() {
    let (directory, image) = directory();
    let dir = directory.path();
    for options in [&[][..], &["--no-checksum"], &["--max-segments", "1", "--threads", "1"]] {
        let from = |manifest, to| {
            let args = ["dump", "--manifest", manifest, "-o", to, "--force"];
            ok(dir, &[&args[..], options].concat());
            fs::read(dir.join(to)).unwrap()
        };
        let first = from("guest.json", "first.core");
        ok(dir, &["extract", "first.core", "--all", "out"]);
        // 2^64 zeros do not go into a file: the manifest says it all.
        let expected = ["manifest.json", "memory-0.mem", "memory-2.mem"];
        assert_eq!(names(&dir.join("out")), expected);
        let again = from("out/manifest.json", "again.core");
        assert!(first == again, "{options:?}");
        let restored = fs::read(dir.join("out/memory-0.mem")).unwrap();
        assert!(restored.len() == 131_072 && restored[..image.len()] == image);
        assert!(fs::read(dir.join("out/memory-2.mem")).unwrap() == image);
        let metadata = dir.join("out/memory-0.mem").metadata().unwrap();
        assert_eq!(metadata.len(), 131_072);
        assert!(metadata.blocks() * 512 < 131_072);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

#[test]
fn one_memory_goes_to_a_file_or_to_standard_output() {
    let (directory, image) = directory();
    let dir = directory.path();
    let mut expected = image.clone();
    expected.resize(131_072, 0);
    ok(dir, &["extract", "guest.core", "--memory", "0", "-o", "out.mem"]);
    assert!(fs::read(dir.join("out.mem")).unwrap() == expected);
    let piped = run(dir, &["extract", "guest.core", "--memory", "0"]);
    assert!(piped.stdout == expected);
    let file = File::create(dir.join("redirected.mem")).unwrap();
    let mut command = corestream(dir, &["extract", "guest.core", "--memory", "2", "-o", "-"]);
    assert!(command.stdout(file).status().unwrap().success());
    assert!(fs::read(dir.join("redirected.mem")).unwrap() == image);
}

#[test]
fn mistakes_are_said_in_one_line_and_leave_nothing() {
    let (directory, _) = directory();
    let dir = directory.path();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/old"), "old").unwrap();
    symlink("nothing", dir.join("link")).unwrap();
    let before = names(dir);
    for (args, code, expected) in [
        (
            &["extract", "guest.core", "--memory", "3", "-o", "new"][..],
            1,
            "guest.core: there is no memory 3, the dump has 3",
        ),
        (
            &["extract", "guest.core", "--memory", "0", "-o", "first.mem"],
            1,
            "first.mem: exists; use --force to overwrite it",
        ),
        (
            &["extract", "guest.core", "--memory", "0", "-o", "guest.core", "--force"],
            1,
            "guest.core: is an input (guest.core); write to another file",
        ),
        (
            &["extract", "guest.core", "--memory", "1", "-o", "new"],
            1,
            "memory 1: no file can have its 2^64 bytes",
        ),
        (
            &["extract", "guest.core", "--all", "full"],
            1,
            "full: is not empty; name a new directory",
        ),
        (
            &["extract", "guest.core", "--all", "link"],
            1,
            "link: is a symbolic link; name a new directory",
        ),
        (
            &["extract", "guest.core", "--all", "none/new"],
            1,
            "none/new: no such directory: none; create it first",
        ),
        (
            &["inspect", "-"],
            2,
            "-: standard input cannot be mapped; name a file (only `verify` accepts a pipe)",
        ),
        (
            &["extract", "guest.core"],
            2,
            "the following required arguments were not provided: <--memory <I>|--all <DIR>>; see --help",
        ),
        (
            &["verify", "none.core"],
            1,
            "none.core: cannot open: No such file or directory (os error 2)",
        ),
        (&["inspect", "full"], 1, "full: not a regular file"),
        (
            &["inspect", "guest.json"],
            3,
            "guest.json: not a core dump: it does not begin as a WebAssembly module does",
        ),
    ] {
        let output = run(dir, args);
        assert_eq!(stderr(&output), format!("corestream: {expected}\n"), "{args:?}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert_eq!(names(dir), before, "{args:?}");
    }
    assert_eq!(names(&dir.join("full")), ["old"]);
}

/// Damage is found by every subcommand: exit code 3, the place, and what it concerns.
#[test]
fn a_damaged_dump_is_refused_unless_told_to_go_on() {
    let (directory, image) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let at = whole.windows(100).position(|bytes| bytes == [1; 100]).unwrap() + 500;
    let mut flipped = whole.clone();
    flipped[at] ^= 0x10;
    fs::write(dir.join("flipped.core"), &flipped).unwrap();
    fs::write(dir.join("cut.core"), &whole[..at]).unwrap();

    let index = whole.windows(17).position(|bytes| bytes == b"\x10corestream.index").unwrap();
    // The section has an id and a size of two bytes before its name.
    let block = format!("0x0..{:#x}", index - 3);
    let reason = format!(
        "checksum mismatch in {block}; affects memory 0 0x3e8..=0x1116f, memory 2 \
         0x3e8..=0x1116f"
    );
    for dump in ["flipped.core", "-"] {
        let name = if dump == "-" { "standard input" } else { dump };
        let mut command = corestream(dir, &["verify", dump]);
        if dump == "-" {
            command.stdin(File::open(dir.join("flipped.core")).unwrap());
        }
        let output = command.output().unwrap();
        let expected = format!("corestream: {name}: is damaged: {reason} (bytes {block})\n");
        assert_eq!((stderr(&output), output.status.code()), (expected, Some(3)));
        assert!(output.stdout.is_empty());
    }
    let refused = run(dir, &["extract", "flipped.core", "--memory", "0", "-o", "new"]);
    let expected =
        format!("corestream: flipped.core: {reason}; --salvage extracts the readable parts\n");
    assert_eq!((stderr(&refused), refused.status.code()), (expected, Some(3)));
    assert!(!dir.join("new").exists());
    let salvage = ["--memory", "0", "-o", "new", "--salvage"];
    let taken = run(dir, &[&["extract", "flipped.core"][..], &salvage].concat());
    assert_eq!(taken.status.code(), Some(3));
    let mut expected = image.clone();
    expected[1500] ^= 0x10;
    expected.resize(131_072, 0);
    assert!(fs::read(dir.join("new")).unwrap() == expected);

    // Cut off in the middle of the first segment: what is before it is there, the rest is said.
    let said = format!("cut.core: truncated: {at} of {} bytes", whole.len());
    let output = run(dir, &["verify", "cut.core"]);
    let place = format!("(bytes {at:#x}..{:#x})", whole.len());
    let line = format!("corestream: {said} {place}\n");
    assert_eq!((stderr(&output), output.status.code()), (line, Some(3)));
    let output = run(dir, &["inspect", "cut.core"]);
    assert_eq!((stderr(&output), output.status.code()), (format!("corestream: {said}\n"), Some(3)));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("0: a.wasm function 3 at 0x11"), "{shown}");
    let taken = run(dir, &["extract", "cut.core", "--all", "out", "--salvage"]);
    assert_eq!(taken.status.code(), Some(3), "{}", stderr(&taken));
    assert_eq!(names(&dir.join("out")), ["manifest.json", "memory-0.mem", "memory-2.mem"]);
    let taken = run(dir, &["extract", "cut.core", "--memory", "0", "-o", "cut.mem", "--salvage"]);
    assert_eq!(taken.status.code(), Some(3));
    // What is before the first segment is zero, and 500 bytes of it are there.
    let missing = "memory 0: 0x5dc..=0x1ffff is not in the dump; the image has zeros there";
    assert!(stderr(&taken).contains(missing), "{}", stderr(&taken));
}

#[test]
fn inspect_json_is_the_manifest_and_more() {
    let (directory, image) = directory();
    let dir = directory.path();
    let found: Value =
        serde_json::from_str(&ok(dir, &["inspect", "guest.core", "--json"])).unwrap();
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
                // What may be left out is there.
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
fn inspect_shows_a_dump_in_80_columns() {
    let (directory, _) = directory();
    let shown = ok(directory.path(), &["inspect", "guest.core"]);
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

/// A dump of 1 GiB with holes in place of its contents: inspecting it reads none of them.
#[test]
fn nothing_of_the_contents_is_read_to_inspect() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let image = File::create(dir.join("guest.mem")).unwrap();
    image.set_len(1 << 30).unwrap();
    image.write_all_at(b"x", 0).unwrap();
    image.write_all_at(b"x", (1 << 30) - 1).unwrap();
    let args =
        ["dump", "--memory", "guest.mem,memory64", "-o", "guest.core", "--max-segments", "1"];
    ok(dir, &args);
    // Its contents are taken away, its own sections stay: still it is inspected.
    let dump = File::options().write(true).open(dir.join("guest.core")).unwrap();
    let zeros = vec![0xff; 1 << 20];
    for mib in [100, 300, 900] {
        dump.write_all_at(&zeros, mib << 20).unwrap();
    }
    let shown = ok(dir, &["inspect", "guest.core"]);
    assert!(shown.contains("1073741824 of 1073741824 bytes kept in 1 segment"), "{shown}");
    let verdict = run(dir, &["verify", "guest.core"]);
    assert_eq!(verdict.status.code(), Some(3));
    let said = stderr(&verdict);
    assert!(said.contains("bad blocks"), "{said}");
    assert!(said.contains("(bytes 0x6400000..0x6500000)"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_an_error() {
    let (directory, _) = directory();
    let mut command = corestream(directory.path(), &["extract", "guest.core", "--memory", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).ends_with("Broken pipe (os error 32)\n"), "{}", stderr(&output));
}

#[test]
fn a_dump_comes_through_a_pipe_whole() {
    let (directory, _) = directory();
    let dump = fs::read(directory.path().join("guest.core")).unwrap();
    let mut child = corestream(directory.path(), &["verify", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for part in dump.chunks(7) {
        stdin.write_all(part).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "standard input: intact, {} bytes in 4 segments, all checksums match\n",
        dump.len()
    );
    assert_eq!(said, expected);
}

/// A dump whose memory takes a while to extract.
fn large() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("guest.mem")).unwrap();
    image.write_all_at(&[1], 0).unwrap();
    image.write_all_at(&[1], (1 << 30) - 1).unwrap();
    let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--max-segments", "1"];
    ok(directory.path(), &args);
    // Not zero, or there would be nothing to write.
    let dump = File::options().write(true).open(directory.path().join("guest.core")).unwrap();
    for mib in 1..1000 {
        dump.write_all_at(&[7; 4096], mib << 20).unwrap();
    }
    directory
}

/// Waits until the process has a file in the directory open that is not the dump.
fn wait_for_output(child: &std::process::Child, directory: &Path) {
    for _ in 0..20_000 {
        let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let mut inside = targets.filter(|target| target.starts_with(directory));
        if inside.any(|target| !target.ends_with("guest.core")) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("nothing was written in 20 seconds");
}

#[test]
fn a_signal_ends_an_extraction_and_leaves_nothing() {
    use rustix::process::{Pid, Signal, kill_process};

    let directory = large();
    let dir = directory.path().canonicalize().unwrap();
    let before = names(&dir);
    for target in [&["--memory", "0", "-o", "new"][..], &["--all", "new"]] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let args = [&["extract", "guest.core", "--salvage"][..], target].concat();
            let mut command = corestream(&dir, &args);
            let child = command.stderr(Stdio::piped()).spawn().unwrap();
            wait_for_output(&child, &dir);
            kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("the output is incomplete"), "{}", stderr(&output));
            assert_eq!(names(&dir), before, "{args:?}");
        }
    }
}

/// The dump is cut, or only written to, while it is extracted: an old image stays.
#[test]
fn a_dump_that_changes_while_it_is_extracted_is_an_error() {
    let directory = large();
    let dir = directory.path().canonicalize().unwrap();
    fs::write(dir.join("old.mem"), "old").unwrap();
    let before = names(&dir);
    for cut in [false, true] {
        let args =
            ["extract", "guest.core", "--memory", "0", "-o", "old.mem", "--force", "--salvage"];
        let mut command = corestream(&dir, &args);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_for_output(&child, &dir);
        let dump = File::options().write(true).open(dir.join("guest.core")).unwrap();
        if cut {
            dump.set_len(1 << 20).unwrap();
        } else {
            dump.write_all_at(&[9], 1 << 29).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let expected = "corestream: guest.core: was modified while it was read\n";
        assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(1)));
        assert_eq!(names(&dir), before);
        assert_eq!(fs::read(dir.join("old.mem")).unwrap(), b"old");
    }
}

/// Every dump that a manifest can describe is made again, byte for byte.
#[test]
fn what_was_extracted_makes_the_same_dump() {
    let (directory, _) = directory();
    let dir = directory.path();
    for memory in [
        r#"{ "image": "first.mem", "changing": true }"#,
        r#"{ "image": "first.mem", "shared": true, "maximum": 9, "changing": true }"#,
        r#"{ "image": "first.mem", "memory64": true, "changing": true,
             "left_out": [{ "first": 0, "last": 999 }, { "first": 1500, "last": 1500 }] }"#,
        r#"{ "minimum": "281474976710656", "memory64": true, "changing": true }"#,
        r#"{ "minimum": 0, "changing": true }"#,
        r#"{ "image": "bytes.mem", "page_size": 1, "left_out": [{ "first": 0, "last": 69999 }] }"#,
    ] {
        let text = MANIFEST.replace(r#"{ "image": "first.mem", "maximum": 9 }"#, memory);
        assert_ne!(text, MANIFEST);
        fs::write(dir.join("one.json"), text).unwrap();
        for options in [&[][..], &["--no-checksum"]] {
            let make = |manifest, to| {
                let args = ["dump", "--manifest", manifest, "-o", to, "--force"];
                ok(dir, &[&args[..], options].concat());
                fs::read(dir.join(to)).unwrap()
            };
            let first = make("one.json", "first.core");
            let shown: Value =
                serde_json::from_str(&ok(dir, &["inspect", "first.core", "--json"])).unwrap();
            let changing = memory.contains("changing");
            assert_eq!(shown["memories"][0]["changing"] == json!(true), changing, "{memory}");
            ok(dir, &["extract", "first.core", "--all", "out"]);
            assert!(make("out/manifest.json", "again.core") == first, "{memory}");
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
}

/// Dumps of other writers are shown with their layout, and what is not known stays so.
#[test]
fn the_layout_of_other_writers_is_named() {
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
        let shown = ok(dir, &["inspect", name]);
        assert!(shown.contains(&format!("  frames: {text}\n")), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let shown: Value = serde_json::from_str(&ok(dir, &["inspect", name, "--json"])).unwrap();
        assert_eq!((&shown["frame_layout"], &shown["rewritten"]), (&json!(layout), &json!(false)));
        let instance = &shown["threads"][0]["frames"][0]["instance"];
        assert_eq!(*instance == Value::Null, layout.starts_with("no-instance"), "{shown}");
        let said = ok(dir, &["verify", name]);
        assert!(
            said.contains(&format!("only its structure can be checked; frames: {text}")),
            "{said}"
        );
        ok(dir, &["extract", name, "--all", "out"]);
        let again =
            run(dir, &["dump", "--manifest", "out/manifest.json", "-o", "again", "--force"]);
        if name == "wasmedge" {
            let expected = "out/manifest.json: global 0: an i32 requires a value";
            assert!(stderr(&again).contains(expected), "{}", stderr(&again));
        } else {
            assert!(again.status.success(), "{}", stderr(&again));
            let again: Value =
                serde_json::from_str(&ok(dir, &["inspect", "again", "--json"])).unwrap();
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

/// A dump that another tool has rewritten is said to be that, and not damaged.
#[test]
fn a_rewritten_dump_is_said_to_be_that() {
    let (directory, _) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    // A section between `core` and `corestream`.
    let core = common::own::end_of_core(&whole);
    let bytes = [&whole[..core], b"\0\x02\x01x", &whole[core..]].concat();
    fs::write(dir.join("rewritten.core"), &bytes).unwrap();
    let said = ok(dir, &["verify", "rewritten.core"]);
    let expected = format!(
        "rewritten.core: rewritten, {} bytes in 4 segments, another tool has moved or changed its \
         sections: only its structure can be checked, because its checksums are those of the original\n",
        bytes.len()
    );
    assert_eq!(said, expected);
    let shown = ok(dir, &["inspect", "rewritten.core"]);
    assert!(
        shown.contains("bytes, rewritten by another tool, so its checksums are void\n"),
        "{shown}"
    );
    let output = run(dir, &["extract", "rewritten.core", "--all", "out"]);
    assert_eq!(output.status.code(), Some(0));
    let said = "warning: another tool has rewritten the dump, so checksums cannot show whether anything \
                is missing or wrong\n";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    ok(dir, &["dump", "--manifest", "out/manifest.json", "-o", "again.core"]);
    assert!(fs::read(dir.join("again.core")).unwrap() == whole);
}

/// One byte before the data costs no more than what it says, and all else is extracted with exit code 3.
#[test]
fn a_damaged_byte_before_the_data_costs_no_memory() {
    let (directory, image) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let after = |name: &[u8]| {
        whole.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len()
    };
    for (what, at, byte) in [
        ("modules", after(b"\x0bcoremodules"), 0x7f),
        ("stack", after(b"\x09corestack"), 0x33),
        ("first byte", 0, 0x01),
        ("header", after(b"\x0acorestream"), 0x09),
    ] {
        let mut bad = whole.clone();
        bad[at] = byte;
        fs::write(dir.join("bad.core"), &bad).unwrap();
        let refused = run(dir, &["extract", "bad.core", "--memory", "0", "-o", "new"]);
        assert_eq!(refused.status.code(), Some(3), "{what}: {}", stderr(&refused));
        assert!(!dir.join("new").exists());
        let args = ["extract", "bad.core", "--memory", "0", "-o", "new", "--salvage"];
        let output = run(dir, &args);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
        let mut expected = image.clone();
        expected.resize(131_072, 0);
        assert!(fs::read(dir.join("new")).unwrap() == expected, "{what}");
        fs::remove_file(dir.join("new")).unwrap();
        let output = run(dir, &["inspect", "bad.core"]);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
    }
    // Cut between two sections, as the dump of another writer may be.
    fs::write(dir.join("bad.core"), &whole[..10 + usize::from(whole[9])]).unwrap();
    for command in ["verify", "inspect"] {
        let output = run(dir, &[command, "bad.core"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("no section `coremodules`"), "{said}");
    }
}

/// Whatever byte is damaged, and whatever is lost with it: what `--salvage` extracts is what it was, or a line
/// says that it may not be.
#[test]
fn nothing_that_is_extracted_from_a_damaged_dump_is_wrong_without_a_word() {
    let (directory, image) = directory();
    let dir = directory.path();
    let mut expected = image;
    expected.resize(131_072, 0);
    for checksums in [true, false] {
        let options: &[&str] = if checksums { &[] } else { &["--no-checksum"] };
        let args = ["dump", "--manifest", "guest.json", "-o", "guest.core", "--force"];
        ok(dir, &[&args[..], options].concat());
        let whole = fs::read(dir.join("guest.core")).unwrap();
        ok(dir, &["extract", "guest.core", "--all", "whole"]);
        let manifest = fs::read(dir.join("whole/manifest.json")).unwrap();
        fs::remove_dir_all(dir.join("whole")).unwrap();
        let data = whole.windows(2000).position(|bytes| bytes == [1; 2000]).unwrap();
        let index = whole.windows(17).position(|bytes| bytes == b"\x10corestream.index").unwrap();
        for at in 0..data + 3 {
            // A bit near the top of a number, and all bits; in turn nothing else is wrong, there is junk at the end,
            // the index is lost, or it is not where it was.
            let mut bad = whole.clone();
            bad[at] ^= if at % 2 == 0 { 0x40 } else { 0xff };
            let kind = at % 5;
            match kind {
                0 => {}
                1 => bad.push(0x55),
                2 => bad.truncate(index + 7),
                3 => bad.insert(at, bad[at]),
                _ => drop(bad.remove(at)),
            }
            let case = format!("byte {at:#x}, checksums: {checksums}");
            fs::write(dir.join("bad.core"), &bad).unwrap();
            let output = run(dir, &["extract", "bad.core", "--all", "out", "--salvage"]);
            let said = stderr(&output);
            // Without checksums a name that is another name is not seen.
            let unseen = !checksums && kind == 0 && output.status.success();
            assert!(unseen || output.status.code() == Some(3), "{case}: {said}");
            if unseen {
                fs::remove_dir_all(dir.join("out")).unwrap();
                continue;
            }
            let Ok(found) = fs::read(dir.join("out/manifest.json")) else {
                // Where bytes were moved within the first sections, nothing is left.
                assert!(kind > 2 && !dir.join("out").exists(), "{case}: {said}");
                continue;
            };
            let unchecked = said.contains("the extracted data may be wrong");
            assert_eq!(unchecked, !checksums || kind > 1, "{case}: {said}");
            let doubtful = unchecked || said.contains("manifest.json (names, sizes of ");
            assert!(doubtful || found == manifest, "{case}: {said}");
            let memory = fs::read(dir.join("out/memory-0.mem")).unwrap_or_default();
            let doubtful = unchecked || said.contains("memory 0 0x3e8..=");
            assert!(doubtful || memory == expected, "{case}: {said}");
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
}

/// An image that no file system takes costs a damaged dump only itself: its size may be what is damaged.
#[test]
fn an_image_that_is_too_large_costs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    fs::write(dir.join("a.mem"), vec![1; 65_536]).unwrap();
    for pages in [1_u64 << 31, 1 << 47] {
        let manifest = format!(
            r#"{{ "memories": [{{ "image": "a.mem", "minimum": "{pages}", "memory64": true }}, {{ "image": "a.mem" }}] }}"#
        );
        fs::write(dir.join("guest.json"), manifest).unwrap();
        ok(dir, &["dump", "--manifest", "guest.json", "-o", "guest.core", "--force"]);
        let refused = run(dir, &["extract", "guest.core", "--all", "out"]);
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert!(!dir.join("out").exists());
        let mut bad = fs::read(dir.join("guest.core")).unwrap();
        bad[1000] ^= 2;
        fs::write(dir.join("bad.core"), bad).unwrap();
        let output = run(dir, &["extract", "bad.core", "--all", "out", "--salvage"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        let expected =
            "warning: memory 0 was not extracted: out/memory-0.mem: cannot set the length";
        assert!(said.contains(expected), "{said}");
        assert_eq!(names(&dir.join("out")), ["manifest.json", "memory-1.mem"]);
        assert!(fs::read(dir.join("out/memory-1.mem")).unwrap() == vec![1; 65_536]);
        let manifest: Value =
            serde_json::from_slice(&fs::read(dir.join("out/manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["memories"][0]["image"], Value::Null);
        assert_eq!(manifest["memories"][1]["image"], "memory-1.mem");
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// A file system that fails to read some sectors: all else is had, and what is not is said.
#[test]
fn one_unreadable_sector_costs_no_more_than_itself() {
    let Some(fuse) = Fuse::mount(Faults::default()) else { return };
    let (directory, _) = directory();
    let dir = directory.path();
    let mut image: Vec<u8> =
        (0_u32..3 << 20).map(|i| (i / 4096 + i).to_le_bytes()[0] | 1).collect();
    image.resize(4 << 20, 0);
    fs::write(dir.join("guest.mem"), &image).unwrap();
    for checksums in [true, false] {
        let options: &[&str] = if checksums { &[] } else { &["--no-checksum"] };
        let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--force"];
        ok(dir, &[&args[..], options].concat());
        let dump = fs::read(dir.join("guest.core")).unwrap();
        fuse.set(Faults::default());
        let path = fuse.path().join("guest.core");
        fs::write(&path, &dump).unwrap();
        let name = path.to_str().unwrap();
        // In the middle of the data, and at its end.
        let bad = [(1 << 20) + 8192..(1 << 20) + 12_288, (2 << 20) + 4096..(2 << 20) + 4097];
        fuse.set(Faults { read: bad.to_vec(), ..Faults::default() });
        drop_caches(&path);
        let pages = [0x10_2000..0x10_3000, 0x20_1000..0x20_2000];
        let eio = "Input/output error (os error 5)";
        let why =
            format!("cannot read bytes 0x102000..0x103000: {eio}; and 1 more unreadable range");
        if checksums {
            let output = run(dir, &["verify", name]);
            let expected = format!("corestream: {name}: {why}\n");
            assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
            assert!(output.stdout.is_empty());
        }
        drop_caches(&path);
        for target in [&["--memory", "0", "-o", "new"][..], &["--all", "new"]] {
            let output = run(dir, &[&["extract", name][..], target].concat());
            let said = stderr(&output);
            assert!(said.contains("cannot read bytes 0x102000..0x103000: "), "{said}");
            assert!(
                said.contains(eio) && said.ends_with("; --salvage extracts the readable parts\n"),
                "{said}"
            );
            assert_eq!(output.status.code(), Some(1));
            assert!(!dir.join("new").exists());
        }
        drop_caches(&path);
        let output = run(dir, &["extract", name, "--memory", "0", "-o", "new", "--salvage"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        let end = format!("corestream: {name}: only the readable parts were extracted: {why}\n");
        assert!(said.ends_with(&end), "{said}");
        let shown: Value =
            serde_json::from_str(&ok(dir, &["inspect", "guest.core", "--json"])).unwrap();
        let part = &shown["memories"][0]["data"][0];
        let offset = usize::try_from(part["offset"].as_u64().unwrap()).unwrap();
        assert_eq!(part["address"], 0);
        let mut expected = image.clone();
        for page in pages {
            let range =
                format!("warning: {name}: cannot read bytes {:#x}..{:#x}\n", page.start, page.end);
            assert!(said.contains(&range), "{said}");
            let (first, last) = (page.start - offset, page.end - offset - 1);
            let line = format!(
                "warning: memory 0: cannot read {first:#x}..={last:#x}; the image has zeros there\n"
            );
            assert!(said.contains(&line), "{said}");
            expected[first..=last].fill(0);
        }
        assert!(fs::read(dir.join("new")).unwrap() == expected);
        fs::remove_file(dir.join("new")).unwrap();
        // In the sections that everything else needs.
        fuse.set(Faults { read: std::iter::once(0..1).collect(), ..Faults::default() });
        drop_caches(&path);
        for command in [&["inspect"][..], &["verify"], &["extract", "--memory", "0", "-o", "new"]] {
            let output = run(dir, &[command, &[name]].concat());
            let expected = format!("cannot read bytes 0x0..0x1000: {eio}");
            assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
            assert_eq!(output.status.code(), Some(1));
        }
        // The index is at the other end, and all else comes from there.
        drop_caches(&path);
        let output = run(dir, &["extract", name, "--memory", "0", "-o", "new", "--salvage"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.contains(&format!("warning: {name}: cannot read bytes 0x0..0x1000\n")),
            "{said}"
        );
        let size = "warning: memory 0: its size is lost; the image ends with the last page that has data\n";
        assert!(said.contains(size), "{said}");
        let zeros = 0x1000 - offset;
        let lost =
            format!("memory 0: cannot read 0x0..={:#x}; the image has zeros there\n", zeros - 1);
        assert!(said.contains(&lost), "{said}");
        let mut expected = image[..3 << 20].to_vec();
        expected[..zeros].fill(0);
        assert!(fs::read(dir.join("new")).unwrap() == expected);
        fs::remove_file(dir.join("new")).unwrap();
    }
}

/// Images too: an error with path and offset, and no dump.
#[test]
fn an_unreadable_sector_of_an_image_is_an_error() {
    let Some(fuse) = Fuse::mount(Faults::default()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    fs::write(dir.join("other.mem"), vec![7; 1 << 20]).unwrap();
    let path = fuse.path().join("guest.mem");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    fuse.set(Faults { read: std::iter::once(0x5_0000..0x5_0001).collect(), ..Faults::default() });
    drop_caches(&path);
    let name = path.to_str().unwrap();
    let output = run(dir, &["dump", "--memory", "other.mem", "--memory", name, "-o", "new.core"]);
    let expected = format!(
        "corestream: {name}: cannot read bytes 0x50000..0x51000: Input/output error (os error 5)\n"
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
    assert_eq!(names(dir), ["other.mem"]);
}

/// Makes the kernel forget what it knows of a file.
fn drop_caches(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// If a memory is missing because the dump is damaged, the message and the exit code say that it is damaged.
#[test]
fn a_memory_that_damage_has_lost_is_said_to_be_that() {
    let (directory, _) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let core = common::own::end_of_core(&whole);
    fs::write(dir.join("cut.core"), &whole[..core]).unwrap();
    let before = names(dir);
    let output = run(dir, &["extract", "cut.core", "--memory", "0", "--salvage", "-o", "image"]);
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    let start = "corestream: cut.core: there is no memory 0, the dump has 0; ";
    assert!(said.starts_with(start) && said.contains("the dump ends here"), "{said}");
    assert_eq!(names(dir), before);
}

/// The verifier has no limit on the number of segments; opening a dump has one.
#[test]
fn a_dump_with_too_many_segments_is_not_extracted_in_part_without_a_word() {
    use corestream::limits::MAX_LISTED_SEGMENTS;

    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    let count = MAX_LISTED_SEGMENTS + 1000;
    let mut data = Vec::new();
    common::own::leb(&mut data, count);
    // One byte at each second address, which is a number of five bytes.
    for i in 0..count {
        let digit = |n: usize| u8::try_from((i * 2) >> (7 * n) & 0x7f).unwrap();
        let address = [digit(0) | 0x80, digit(1) | 0x80, digit(2) | 0x80, digit(3) | 0x80, 0];
        data.extend([&[0, 0x41][..], &address, &[0x0b, 1, b'x']].concat());
    }
    let (modules, instances) = (b"\x0bcoremodules\0", b"\x0dcoreinstances\0");
    let sections: [(u8, &[u8]); 5] =
        [foreign::CORE, (0, modules), (0, instances), (5, &[1, 0, 100]), (11, &data)];
    fs::write(dir.join("many.core"), foreign::module(&sections)).unwrap();
    ok(dir, &["verify", "many.core"]);
    let said = format!("over the limit of {MAX_LISTED_SEGMENTS} segments");
    for args in [
        &["inspect", "many.core"][..],
        &["extract", "many.core", "--memory", "0", "-o", "image"],
        &["extract", "many.core", "--all", "everything"],
    ] {
        let output = run(dir, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(&said), "{args:?}: {}", stderr(&output));
        assert_eq!(names(dir), ["many.core"], "{args:?}");
    }
    let args = ["extract", "many.core", "--memory", "0", "-o", "image", "--salvage"];
    let output = run(dir, &args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&said), "{}", stderr(&output));
    assert!(stderr(&output).lines().count() < 20, "a line for each range that is missing");
    assert_eq!(names(dir), ["image", "many.core"]);
}

/// tmpfs allocates a page for each hole that is read through a mapping.
#[test]
fn reading_a_sparse_dump_in_memory_takes_no_room() {
    let shm = Path::new("/dev/shm");
    let Ok(directory) = tempfile::tempdir_in(shm) else {
        println!("no /dev/shm: not tried");
        return;
    };
    let dir = directory.path();
    let image = File::create(dir.join("image")).unwrap();
    image.set_len(64 << 20).unwrap();
    image.write_all_at(b"a", 0).unwrap();
    image.write_all_at(b"b", (64 << 20) - 1).unwrap();
    let args = ["dump", "--memory", "image", "--max-segments", "1", "-o", "guest.core"];
    ok(dir, &args);
    let dump = fs::read(dir.join("guest.core")).unwrap();
    let sparse = File::create(dir.join("sparse.core")).unwrap();
    sparse.set_len(dump.len() as u64).unwrap();
    for (i, page) in dump.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0))
    {
        sparse.write_all_at(page, i as u64 * 4096).unwrap();
    }
    let allocated = || dir.join("sparse.core").metadata().unwrap().blocks() * 512;
    let before = allocated();
    assert!(before < 1 << 20, "{before} bytes are allocated");
    ok(dir, &["verify", "sparse.core"]);
    ok(dir, &["inspect", "sparse.core", "--map"]);
    ok(dir, &["extract", "sparse.core", "--memory", "0", "-o", "extracted"]);
    assert_eq!(allocated(), before);
}
