//! Images and manifests that `extract` writes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::environment::require;
use crate::guest::{MANIFEST, directory};
use crate::tool::{self, corestream, names, ok, run, signal, stderr, write_image};
use crate::waiting::{has_a_file, wait_until};

#[test]
fn restores_a_dump_from_its_extracted_parts() {
    let (directory, image) = directory();
    let dir = directory.path();
    for options in [&[][..], &["--no-checksum"], &["--max-segments", "1", "--threads", "1"]] {
        let from = |manifest, to| {
            let args = ["dump", "--manifest", manifest, "-o", to, "--force"];
            ok(dir, [&args[..], options].concat());
            fs::read(dir.join(to)).unwrap()
        };
        let first = from("guest.json", "first.core");
        ok(dir, ["extract", "first.core", "--all", "out"]);
        // Memory 1 has 2^64 zeros, which the manifest describes without a file.
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

/// The extracted parts of every kind of memory make the same dump, byte for byte.
#[test]
fn restores_every_kind_of_memory() {
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
                ok(dir, [&args[..], options].concat());
                fs::read(dir.join(to)).unwrap()
            };
            let first = make("one.json", "first.core");
            let shown = tool::json(dir, ["inspect", "first.core", "--json"]);
            let changing = memory.contains("changing");
            assert_eq!(shown["memories"][0]["changing"] == json!(true), changing, "{memory}");
            ok(dir, ["extract", "first.core", "--all", "out"]);
            assert!(make("out/manifest.json", "again.core") == first, "{memory}");
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
}

#[test]
fn extracts_one_memory_to_a_file_or_standard_output() {
    let (directory, image) = directory();
    let dir = directory.path();
    let mut expected = image.clone();
    expected.resize(131_072, 0);
    ok(dir, ["extract", "guest.core", "--memory", "0", "-o", "out.mem"]);
    assert!(fs::read(dir.join("out.mem")).unwrap() == expected);
    let piped = run(dir, ["extract", "guest.core", "--memory", "0"]);
    assert!(piped.stdout == expected);
    let file = File::create(dir.join("redirected.mem")).unwrap();
    let mut command = corestream(dir, ["extract", "guest.core", "--memory", "2", "-o", "-"]);
    assert!(command.stdout(file).status().unwrap().success());
    assert!(fs::read(dir.join("redirected.mem")).unwrap() == image);
}

#[test]
fn reports_usage_errors_in_one_line_and_leaves_nothing() {
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
            "guest.core: there is no memory 3; the dump has 3",
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
            "memory 1: its 2^64 bytes exceed the maximum size of a file",
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
            "only `verify` reads a dump from standard input; save the dump to a file and name it",
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
            "guest.json: not a core dump: it is not a WebAssembly module",
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

#[test]
fn reports_a_reader_that_goes_away() {
    let (directory, _) = directory();
    let mut command = corestream(directory.path(), ["extract", "guest.core", "--memory", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).ends_with("Broken pipe (os error 32)\n"), "{}", stderr(&output));
}

/// Returns a directory with a dump whose memory takes a while to extract.
fn large(mib: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("guest.mem")).unwrap();
    image.write_all_at(&[1], 0).unwrap();
    image.write_all_at(&[1], (mib << 20) - 1).unwrap();
    let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--max-segments", "1"];
    ok(directory.path(), args);
    // Bytes that are not zero, or there would be nothing to write.
    let dump = File::options().write(true).open(directory.path().join("guest.core")).unwrap();
    for at in 1..mib - 1 {
        dump.write_all_at(&[7; 4096], at << 20).unwrap();
    }
    directory
}

#[test]
fn a_signal_ends_an_extraction_and_leaves_nothing() {
    let directory = large(400);
    let dir = directory.path().canonicalize().unwrap();
    let before = names(&dir);
    for target in [&["--memory", "0", "-o", "new"][..], &["--all", "new"]] {
        for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let args = [&["extract", "guest.core", "--salvage"][..], target].concat();
            let mut command = corestream(&dir, &args);
            let child = command.stderr(Stdio::piped()).spawn().unwrap();
            wait_until(|| has_a_file(&child, &dir));
            signal(&child, number);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("the output is incomplete"), "{}", stderr(&output));
            assert_eq!(names(&dir), before, "{args:?}");
        }
    }
}

/// The dump is cut, or written to, while it is extracted: an old image stays.
#[test]
#[ignore = "slow: 3 s"]
fn keeps_an_old_image_if_the_dump_changes_meanwhile() {
    let directory = large(1024);
    let dir = directory.path().canonicalize().unwrap();
    write_image(dir.join("old.mem"), "old");
    let before = names(&dir);
    for cut in [false, true] {
        let args =
            ["extract", "guest.core", "--memory", "0", "-o", "old.mem", "--force", "--salvage"];
        let mut command = corestream(&dir, args);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_until(|| has_a_file(&child, &dir));
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

/// A pipe that is not read holds the extraction up, so the dump changes in the middle of it.
#[test]
fn reports_a_dump_that_changes_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    write_image(dir.join("guest.mem"), vec![7; 8 << 20]);
    for cut in [false, true] {
        ok(dir, ["dump", "--memory", "guest.mem", "-o", "guest.core", "--force"]);
        let mut command = corestream(dir, ["extract", "guest.core", "--memory", "0", "--salvage"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 4096]).unwrap();
        let dump = File::options().write(true).open(dir.join("guest.core")).unwrap();
        if cut {
            dump.set_len(1 << 20).unwrap();
        } else {
            dump.write_all_at(&[9], 7 << 20).unwrap();
        }
        stdout.read_to_end(&mut Vec::new()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).ends_with("was modified while it was read\n"),
            "{}",
            stderr(&output)
        );
    }
}

/// tmpfs allocates a page for each hole that is read through a mapping.
#[test]
fn reading_a_sparse_dump_in_tmpfs_allocates_nothing() {
    let directory = require!("tmpfs", tempfile::tempdir_in("/dev/shm"));
    let dir = directory.path();
    let image = File::create(dir.join("image")).unwrap();
    image.set_len(64 << 20).unwrap();
    image.write_all_at(b"a", 0).unwrap();
    image.write_all_at(b"b", (64 << 20) - 1).unwrap();
    let args = ["dump", "--memory", "image", "--max-segments", "1", "-o", "guest.core"];
    ok(dir, args);
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
    ok(dir, ["verify", "sparse.core"]);
    ok(dir, ["inspect", "sparse.core", "--map"]);
    ok(dir, ["extract", "sparse.core", "--memory", "0", "-o", "extracted"]);
    assert_eq!(allocated(), before);
}
