//! `corestream verify`.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;

use crate::guest::directory;
use crate::tool::{corestream, names, run, stderr};

/// Every command that reads a dump names the program that decompresses it.
#[test]
fn names_the_compression_of_a_dump() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    for (name, magic) in [
        ("gzip", &b"\x1f\x8b\x08\0"[..]),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("xz", b"\xfd7zXZ\0"),
        ("bzip2", b"BZh9"),
    ] {
        fs::write(dir.join("guest.core"), [magic, &[7; 1000]].concat()).unwrap();
        for args in [
            &["inspect", "guest.core"][..],
            &["verify", "guest.core"],
            &["verify", "-"],
            &["extract", "guest.core", "--all", "out"],
            &["extract", "guest.core", "--memory", "0", "-o", "image", "--salvage"],
        ] {
            let stdin = File::open(dir.join("guest.core")).unwrap();
            let output = corestream(dir, args).stdin(stdin).output().unwrap();
            let input = if args == ["verify", "-"] { "standard input" } else { "guest.core" };
            let expected = format!(
                "corestream: {input}: is compressed with {name}; decompress it with `{name} -d` first\n"
            );
            assert_eq!((stderr(&output), output.status.code()), (expected, Some(3)), "{args:?}");
        }
    }
    // A short file is not compressed.
    fs::write(dir.join("guest.core"), "\x1f").unwrap();
    let output = run(dir, ["verify", "guest.core"]);
    assert!(stderr(&output).contains("not a core dump"), "{}", stderr(&output));
    assert_eq!(names(dir), ["guest.core"]);
}

#[test]
fn verifies_a_dump_from_a_pipe() {
    let (directory, _) = directory();
    let dump = fs::read(directory.path().join("guest.core")).unwrap();
    let mut child = corestream(directory.path(), ["verify", "-"])
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
    assert!(output.status.success(), "{}", stderr(&output));
    let message = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "standard input: intact, {} bytes in 4 segments, all checksums match\n",
        dump.len()
    );
    assert_eq!(message, expected);
}
