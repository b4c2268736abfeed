//! The tool, as its user runs it.
#![cfg(feature = "cli")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::decode;
use tempfile::TempDir;

fn corestream() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("corestream"))
}

/// A folder with `guest.mem`, an image of a bit over a page.
fn folder() -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut image = vec![0; 70_000];
    image[1000..3000].fill(1);
    image[69_999] = 2;
    fs::write(folder.path().join("guest.mem"), &image).unwrap();
    (folder, image)
}

fn dump(folder: &Path, args: &[&str]) -> Output {
    corestream().current_dir(folder).arg("dump").args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_image_becomes_a_dump() {
    let (folder, image) = folder();
    let output = dump(folder.path(), &["--memory", "guest.mem", "-o", "guest.core"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let path = folder.path().join("guest.core");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(path).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "guest.mem");
    assert_eq!(decoded.memories[0].initial, 2);
    assert_eq!(decoded.contents(0, image.len()), image);

    // The same bytes go to standard output, be it a pipe or a file.
    let piped = dump(folder.path(), &["--memory", "guest.mem", "-o", "-"]);
    assert!(piped.stdout == bytes);
    let file = File::create(folder.path().join("redirected")).unwrap();
    let mut command = corestream();
    command.current_dir(folder.path()).args(["dump", "--memory", "guest.mem", "-o", "-"]);
    assert!(command.stdout(file).status().unwrap().success());
    assert!(fs::read(folder.path().join("redirected")).unwrap() == bytes);
}

#[test]
fn a_fifo_is_written_in_place() {
    let (folder, image) = folder();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for force in [&[][..], &["--force"]] {
        let reader = Command::new("cat").arg(&fifo).stdout(Stdio::piped()).spawn().unwrap();
        let mut args = vec!["--memory", "guest.mem", "-o", "fifo"];
        args.extend(force);
        assert!(dump(folder.path(), &args).status.success());
        let bytes = reader.wait_with_output().unwrap().stdout;
        assert_eq!(decode(&bytes).contents(0, image.len()), image);
    }
    assert_eq!(names(folder.path()), ["fifo", "guest.mem"]);
}

#[test]
fn options_of_a_memory() {
    let (folder, image) = folder();
    let first = "guest.mem,memory64,page-size=1,maximum=100000,shared";
    let args = ["--name", "two", "--memory", first, "--memory", "guest.mem", "-o", "-"];
    let output = dump(folder.path(), &[&args[..], &["--max-segments", "1"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let decoded = decode(&output.stdout);
    assert_eq!(decoded.name, "two");
    assert_eq!(decoded.segments.len(), 2);
    let ty = decoded.memories[0];
    assert!(ty.memory64 && ty.shared);
    assert_eq!((ty.initial, ty.maximum, ty.page_size_log2), (70_000, Some(100_000), Some(0)));
    for memory in [0, 1] {
        assert_eq!(decoded.contents(memory, image.len()), image);
    }
}

#[test]
fn the_example_of_a_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guest.json");
    let example = example.to_str().unwrap();
    let output =
        dump(folder.path(), &["--manifest", example, "-o", "guest.core", "--stats", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let bytes = fs::read(folder.path().join("guest.core")).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "guest.wasm");
    assert_eq!(decoded.threads[0].0, "main");
    assert_eq!(decoded.threads[0].1.len(), 3);
    let image = fs::read(Path::new(example).with_extension("mem")).unwrap();
    assert_eq!(decoded.contents(0, image.len()), image);

    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(stats["dump_bytes"], bytes.len());
    assert_eq!(stats["segments"], decoded.segments.len());
    assert_eq!(stats["image_bytes"], image.len());
}

/// The process needs less than 16 MiB of its own memory for a 1 TiB image, and for one whose gaps
/// are far more than the budget.
#[test]
fn little_memory_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = File::create(folder.path().join("sparse.mem")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    for i in 1..=64 {
        sparse.write_all_at(&vec![1; 1 << 20], i << 33).unwrap();
    }
    let mut gaps = vec![1; 64 << 20];
    gaps.chunks_mut(64).for_each(|object| object[40..].fill(0));
    fs::write(folder.path().join("gaps.mem"), gaps).unwrap();
    for (memory, segments) in [("sparse.mem,memory64", 64), ("gaps.mem", 100_000)] {
        let args = ["--memory", memory, "-o", "out", "--force", "--stats", "json"];
        let output = dump(folder.path(), &args);
        assert!(output.status.success(), "{}", stderr(&output));
        let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(stats["segments"], segments);
        let peak = stats["peak_anon_bytes"].as_u64().unwrap();
        assert!((1..16 << 20).contains(&peak), "{peak} bytes");
    }
}

/// Each mistake: exit code, the line that says what to do, and no output.
#[test]
fn mistakes_are_said_in_one_line_and_leave_nothing() {
    let (folder, _) = folder();
    let dir = folder.path();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("old.core"), "old").unwrap();
    fs::write(dir.join("bad.json"), "{\n  \"nam\": 1 }").unwrap();
    fs::write(dir.join("range.json"), r#"{ "instances": [{ "module": 3 }] }"#).unwrap();
    fs::write(
        dir.join("small.json"),
        r#"{ "memories": [{ "image": "guest.mem", "minimum": 1 }] }"#,
    )
    .unwrap();
    let huge = File::create(dir.join("huge.mem")).unwrap();
    huge.set_len((1 << 32) + 1).unwrap();
    let before = names(dir);
    let memory = ["--memory", "guest.mem"];
    for (args, code, expected) in [
        (
            vec!["-o", "new"],
            2,
            "there is nothing to dump: give an image with --memory, or a --manifest",
        ),
        (
            vec!["--memory", "none.mem", "-o", "new"],
            1,
            "none.mem: cannot open: No such file or directory (os error 2)",
        ),
        (
            vec!["--memory", "sub", "-o", "new"],
            1,
            "sub: an image must be a regular file, this is a folder",
        ),
        (
            vec!["--memory", "huge.mem", "-o", "new"],
            1,
            "memory 0: 65537 pages are more than the 65536 of a 32-bit memory",
        ),
        (
            vec!["--memory", "guest.mem,shared", "-o", "new"],
            1,
            "memory 0: a shared memory needs a maximum",
        ),
        (
            vec!["--manifest", "bad.json", "-o", "new"],
            1,
            "bad.json: unknown field `nam`, expected one of `name`, `modules`, `memories`, `globals`, \
             `instances`, `threads` at line 2 column 7",
        ),
        (
            vec!["--manifest", "range.json", "-o", "new"],
            1,
            "instance 0: module index 3 is out of range, there are 0 modules",
        ),
        (
            vec!["--manifest", "small.json", "-o", "new"],
            1,
            "memory 0: its image of 70000 bytes is larger than its 65536 bytes",
        ),
        (
            [&memory[..], &["-o", "old.core"]].concat(),
            1,
            "old.core: exists, use --force to replace it",
        ),
        ([&memory[..], &["-o", "sub"]].concat(), 1, "sub: is a folder, name a file in it"),
        (
            [&memory[..], &["-o", "none/new"]].concat(),
            1,
            "none/new: cannot create: No such file or directory (os error 2)",
        ),
        (
            [&memory[..], &["-o", "new", "--max-segments", "0"]].concat(),
            2,
            "max_segments: at least 1 segment is needed",
        ),
        (
            [&memory[..], &["-o", "new", "--max-segments", "100001"]].concat(),
            2,
            "max_segments: 100001 segments are more than the 100000 that engines accept",
        ),
        (
            [&memory[..], &["-o", "new", "--threads", "0"]].concat(),
            2,
            "threads: at least 1 thread is needed",
        ),
        (
            [&memory[..], &["-o", "/dev/full"]].concat(),
            1,
            "/dev/full: 0 of 2082 bytes written: No space left on device (os error 28)",
        ),
    ] {
        let output = dump(dir, &args);
        assert_eq!(stderr(&output), format!("corestream: {expected}\n"), "{args:?}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(names(dir), before, "{args:?}");
        assert_eq!(fs::read(dir.join("old.core")).unwrap(), b"old");
    }
    // With --force the old file is replaced, whole.
    let output = dump(dir, &[&memory[..], &["-o", "old.core", "--force"]].concat());
    assert!(output.status.success());
    decode(&fs::read(dir.join("old.core")).unwrap());
    assert_eq!(names(dir), before);
}

#[test]
fn an_option_that_is_not_there_is_a_usage_error() {
    let (folder, _) = folder();
    let output = dump(folder.path(), &["--memory", "guest.mem,memory65", "-o", "new"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no option memory65, only memory64"));
    assert_eq!(names(folder.path()), ["guest.mem"]);
}

#[test]
fn a_reader_that_goes_away_is_an_error() {
    let (folder, _) = folder();
    fs::write(folder.path().join("dense.mem"), vec![1; 8 << 20]).unwrap();
    let mut command = corestream();
    command.current_dir(folder.path()).args(["dump", "--memory", "dense.mem", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("corestream: standard output: "), "{said}");
    assert!(said.ends_with(" bytes written: Broken pipe (os error 32)\n"), "{said}");
}
