//! Standard output that is closed, is full, or has lost its reader.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use crate::tool::{NO_ARGS, corestream, ok, shell, stderr, write_image};

#[test]
fn reports_a_closed_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), [1; 65_536]);
    for (closed, code) in [(">&-", 1), (">/dev/null", 0)] {
        let line = format!("exec \"$0\" dump --memory guest.mem -o - {closed}");
        let output = shell(directory.path(), &line, NO_ARGS);
        assert_eq!(output.status.code(), Some(code), "{closed}: {}", stderr(&output));
        let message =
            "corestream: standard output: is closed; redirect it, or name a file with -o\n";
        assert_eq!(stderr(&output), if code == 1 { message } else { "" });
    }
}

/// Without a check, a dump to a closed standard stream would be lost silently.
#[test]
fn reports_closed_standard_streams_by_any_name() {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), [1; 65_536]);
    for (command, message) in [
        ("dump --memory guest.mem --fd 1 >&-", "descriptor 1: is not open"),
        ("dump --memory guest.mem --fd 0 <&-", "descriptor 0: is not open"),
        ("dump --memory guest.mem -o /dev/stdout >&-", "/dev/stdout: is not open"),
        ("dump --memory guest.mem -o /dev/fd/1 >&-", "/dev/fd/1: is not open"),
        ("dump --manifest - -o core <&-", "standard input: is closed"),
        ("verify - <&-", "standard input: is closed"),
    ] {
        let output = shell(directory.path(), &format!("exec \"$0\" {command}"), NO_ARGS);
        assert_eq!(stderr(&output), format!("corestream: {message}\n"), "{command}");
        assert_eq!(output.status.code(), Some(1), "{command}");
    }
}

/// Returns commands that print text, with their exit codes.
fn texts(directory: &Path) -> Vec<(Vec<&'static str>, i32)> {
    write_image(directory.join("guest.mem"), [1; 65_536]);
    ok(directory, ["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    let whole = fs::read(directory.join("guest.core")).unwrap();
    fs::write(directory.join("cut.core"), &whole[..whole.len() - 1000]).unwrap();
    vec![
        (vec!["--help"], 0),
        (vec!["help", "dump"], 0),
        (vec!["--version"], 0),
        (vec!["inspect", "guest.core"], 0),
        (vec!["inspect", "guest.core", "--json"], 0),
        (vec!["inspect", "cut.core", "--map"], 3),
        (vec!["verify", "guest.core"], 0),
        (vec!["dump", "--memory", "guest.mem", "-o", "other.core", "--dry-run"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["man", "receive"], 0),
    ]
}

#[test]
fn accepts_a_reader_that_leaves_before_the_end_of_a_text() {
    let directory = tempfile::tempdir().unwrap();
    for (args, code) in texts(directory.path()) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = corestream(directory.path(), &args).stdout(writer).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(
            !message.contains("pipe") && message.is_empty() == (code == 0),
            "{args:?}: {message}"
        );
    }
}

#[test]
fn reports_a_text_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    for (args, _) in texts(directory.path()) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output =
            corestream(directory.path(), &args).stdout(Stdio::from(full)).output().unwrap();
        let message = "corestream: standard output: No space left on device (os error 28)\n";
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(1), message),
            "{args:?}"
        );
    }
}
