//! What goes wrong in the middle of a dump: signals, images that are cut, full disks. Each time the
//! tool says so in a line and leaves nothing behind.
#![allow(clippy::print_stdout, reason = "a test says what it could not try")]

use crate::{environment, tool, waiting};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tool::{names, stderr};
use waiting::{has_a_file, wait_until};

const MIB: u64 = 1 << 20;

fn corestream(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.current_dir(directory).arg("dump").args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A directory with `guest.mem`, of which only the first and the last byte are not zero: with a budget
/// of one segment everything between them is written, and the disk holds nothing of it.
fn directory(len: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("guest.mem")).unwrap();
    image.write_all_at(b"x", 0).unwrap();
    image.write_all_at(b"x", len - 1).unwrap();
    directory
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether the process has written to a file in the directory, which has no name.
fn has_written(child: &Child, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let is_written = |fd: &Path| {
        let target = fs::read_link(fd).unwrap_or_default();
        let is_output = target.starts_with(directory) && !target.ends_with("guest.mem");
        // Its directory is open as well.
        is_output && fd.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
    };
    fds.filter_map(Result::ok).any(|fd| is_written(&fd.path()))
}

#[test]
fn a_signal_ends_a_dump_to_a_file_and_leaves_nothing() {
    for (kind, name, code) in waiting::stop_signals() {
        let directory = directory(4096 * MIB);
        let directory = directory.path().canonicalize().unwrap();
        let args = ["--memory", "guest.mem,memory64", "-o", "new", "--max-segments", "1"];
        let child = corestream(&directory, &args).spawn().unwrap();
        wait_until(|| has_a_file(&child, &directory));
        signal(&child, kind);
        let output = child.wait_with_output().unwrap();
        let said = format!("corestream: stopped by {name}, the output is incomplete\n");
        assert_eq!((stderr(&output), output.status.code()), (said, Some(code)));
        assert_eq!(names(&directory), ["guest.mem"]);
    }
}

#[test]
fn not_even_sigkill_leaves_anything() {
    let directory = directory(4096 * MIB);
    let directory = directory.path().canonicalize().unwrap();
    let args = ["--memory", "guest.mem,memory64", "-o", "new", "--max-segments", "1"];
    let child = corestream(&directory, &args).spawn().unwrap();
    wait_until(|| has_written(&child, &directory));
    signal(&child, Signal::KILL);
    assert!(!child.wait_with_output().unwrap().status.success());
    assert_eq!(names(&directory), ["guest.mem"]);
}

/// A reader that does not read: the write is stuck in the kernel, and the signal ends it.
#[test]
fn a_signal_ends_a_dump_to_a_stuck_pipe() {
    for (kind, _, code) in waiting::stop_signals() {
        let directory = directory(64 * MIB);
        let args = ["--memory", "guest.mem", "-o", "-", "--max-segments", "1"];
        let mut child = corestream(directory.path(), &args).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        signal(&child, kind);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

/// The image is cut while the scan reads what is mapped: the kernel sends SIGBUS.
#[test]
fn an_image_that_is_cut_while_it_is_scanned_is_an_error() {
    let directory = directory(2048 * MIB);
    let args = ["--memory", "guest.mem", "-o", "new", "--no-trust-holes", "--threads", "2"];
    let child = corestream(directory.path(), &args).spawn().unwrap();
    let maps = format!("/proc/{}/maps", child.id());
    wait_until(|| fs::read_to_string(&maps).unwrap().contains("guest.mem"));
    File::options()
        .write(true)
        .open(directory.path().join("guest.mem"))
        .unwrap()
        .set_len(5)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = "corestream: memory 0: the image file was truncated to 5 bytes while it was dumped; \
                2147483648 bytes are needed\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (said, Some(1)));
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

/// The image is cut while it is written: the kernel does not find the bytes to write.
#[test]
fn an_image_that_is_cut_while_it_is_written_is_an_error() {
    let directory = directory(64 * MIB);
    let args = ["--memory", "guest.mem", "-o", "-", "--max-segments", "1"];
    let mut child = corestream(directory.path(), &args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4096]).unwrap();
    let image = File::options().write(true).open(directory.path().join("guest.mem")).unwrap();
    image.set_len(8 * MIB).unwrap();
    let reader = thread::spawn(move || stdout.read_to_end(&mut Vec::new()).unwrap());
    let output = child.wait_with_output().unwrap();
    let said = "corestream: standard output: memory 0: the image file was truncated to 8388608 bytes while \
                it was dumped; 67108864 bytes are needed\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (said, Some(1)));
    assert!((reader.join().unwrap() as u64) < 64 * MIB);
}

/// Runs a script in which `small` can be mounted, and `$0` is the tool; `None` where nothing can be mounted.
fn with_small_disk(dir: &Path, script: &str) -> Option<Output> {
    fs::create_dir(dir.join("small")).unwrap();
    let tool = assert_cmd::cargo::cargo_bin!("corestream");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(tool)
        .current_dir(dir)
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) => output,
        other => {
            environment::skip("mount", format_args!("{other:?}"));
            return None;
        }
    };
    if stderr(&output).starts_with("unshare: ") {
        environment::skip("mount", stderr(&output));
        return None;
    }
    Some(output)
}

/// The error names the image as it was to be called, and nothing is left.
#[test]
fn a_disk_that_becomes_full_fails_the_extraction() {
    let directory = directory(8 * MIB);
    let script = "mount -t tmpfs -o size=4m none small || exit 77
                  yes | head -c 8388608 >full.mem
                  \"$0\" dump --memory full.mem -o guest.core || exit
                  \"$0\" extract guest.core --all small/out
                  code=$?; ls -A small; exit $code";
    let Some(output) = with_small_disk(directory.path(), script) else { return };
    let said =
        "corestream: small/out/memory-0.mem: cannot write: No space left on device (os error 28)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (said, Some(1)));
    assert!(output.stdout.is_empty(), "nothing is left in the directory");
}

/// A file system with too little room: nothing is written at all.
#[test]
fn a_full_disk_fails_before_the_first_byte() {
    let directory = directory(8 * MIB);
    let script = "mount -t tmpfs -o size=4m none small || exit 77
                  \"$0\" dump --memory guest.mem -o small/new --max-segments 1
                  code=$?; ls small; exit $code";
    let Some(output) = with_small_disk(directory.path(), script) else { return };
    let said = "corestream: small/new: 0 of 8388850 bytes written: No space left on device \
                (os error 28)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (said, Some(1)));
    assert!(output.stdout.is_empty(), "nothing is left in the directory");
}
