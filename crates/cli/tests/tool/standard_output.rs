//! Standard output that is closed, full, or left by who reads it.

use crate::tool;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use tool::stderr;

fn corestream() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("corestream"))
}

#[test]
fn a_standard_output_that_is_closed_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.mem"), [1; 65_536]).unwrap();
    let tool = corestream().get_program().to_os_string();
    for (closed, code) in [(">&-", 1), (">/dev/null", 0)] {
        let line = format!("exec \"$0\" dump --memory guest.mem -o - {closed}");
        let mut shell = Command::new("sh");
        shell.current_dir(directory.path()).args(["-c", &line]).arg(&tool);
        let output = shell.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{closed}: {}", stderr(&output));
        let said = "corestream: standard output: is closed; redirect it, or name a file with -o\n";
        assert_eq!(stderr(&output), if code == 1 { said } else { "" });
    }
}

/// What is written to a standard stream that was closed would be lost without an error.
#[test]
fn standard_streams_that_are_closed_are_errors_by_any_name() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.mem"), [1; 65_536]).unwrap();
    let tool = corestream().get_program().to_os_string();
    for (command, said) in [
        ("dump --memory guest.mem --fd 1 >&-", "descriptor 1: is not open"),
        ("dump --memory guest.mem --fd 0 <&-", "descriptor 0: is not open"),
        ("dump --memory guest.mem -o /dev/stdout >&-", "/dev/stdout: is not open"),
        ("dump --memory guest.mem -o /dev/fd/1 >&-", "/dev/fd/1: is not open"),
        ("dump --manifest - -o core <&-", "standard input: is closed"),
        ("verify - <&-", "standard input: is closed"),
    ] {
        let mut shell = Command::new("sh");
        shell
            .current_dir(directory.path())
            .args(["-c", &format!("exec \"$0\" {command}")])
            .arg(&tool);
        let output = shell.stdin(Stdio::null()).output().unwrap();
        assert_eq!(stderr(&output), format!("corestream: {said}\n"), "{command}");
        assert_eq!(output.status.code(), Some(1), "{command}");
    }
}

/// Commands that print text, and the exit code that they have.
fn texts(directory: &std::path::Path) -> Vec<(Vec<&'static str>, i32)> {
    fs::write(directory.join("guest.mem"), [1; 65_536]).unwrap();
    let mut dump = corestream();
    dump.current_dir(directory).args(["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    assert!(dump.status().unwrap().success());
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
fn who_has_read_enough_of_a_text_may_go() {
    let directory = tempfile::tempdir().unwrap();
    for (args, code) in texts(directory.path()) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = corestream();
        let output =
            command.current_dir(directory.path()).args(&args).stdout(writer).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.contains("pipe") && said.is_empty() == (code == 0), "{args:?}: {said}");
    }
}

#[test]
fn a_text_that_cannot_be_written_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for (args, _) in texts(directory.path()) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = corestream();
        let command = command.current_dir(directory.path()).args(&args).stdout(Stdio::from(full));
        let output = command.output().unwrap();
        let said = "corestream: standard output: No space left on device (os error 28)\n";
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), said), "{args:?}");
    }
}
