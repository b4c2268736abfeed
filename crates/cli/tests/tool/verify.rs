//! `corestream verify`.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::guest::directory;
use crate::tool::{corestream, stderr};

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
