//! Dumps that fail: signals, truncated images, full disks. The tool prints one line, and leaves nothing.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::environment::require;
use crate::fuse::{Faults, Fuse};
use crate::tool::{corestream, drop_caches, names, run, signal, stderr, tool_path, write_image};
use crate::waiting::{self, has_a_file, wait_until};

const MIB: u64 = 1 << 20;

fn start(directory: &Path, args: &[&str]) -> Child {
    let mut command = corestream(directory, ["dump"]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns a directory with `guest.mem`, of which only the first and the last byte are not zero. With a budget of one
/// segment, a dump has everything between them, although the image occupies only two blocks.
fn directory(len: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("guest.mem")).unwrap();
    image.write_all_at(b"x", 0).unwrap();
    image.write_all_at(b"x", len - 1).unwrap();
    directory
}

/// Returns whether the process has written to a file in the directory that has no name.
fn has_written(child: &Child, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let is_written = |fd: &Path| {
        let target = fs::read_link(fd).unwrap_or_default();
        let is_output = target.starts_with(directory) && !target.ends_with("guest.mem");
        // The directory is open too.
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
        let child = start(&directory, &args);
        wait_until(|| has_a_file(&child, &directory));
        signal(&child, kind);
        let output = child.wait_with_output().unwrap();
        let message = format!("corestream: stopped by {name}, the output is incomplete\n");
        assert_eq!((stderr(&output), output.status.code()), (message, Some(code)));
        assert_eq!(names(&directory), ["guest.mem"]);
    }
}

#[test]
fn sigkill_leaves_nothing() {
    let directory = directory(4096 * MIB);
    let directory = directory.path().canonicalize().unwrap();
    let args = ["--memory", "guest.mem,memory64", "-o", "new", "--max-segments", "1"];
    let child = start(&directory, &args);
    wait_until(|| has_written(&child, &directory));
    signal(&child, Signal::KILL);
    assert!(!child.wait_with_output().unwrap().status.success());
    assert_eq!(names(&directory), ["guest.mem"]);
}

/// The pipe is full, so the write blocks in the kernel until the signal comes.
#[test]
fn a_signal_ends_a_dump_to_a_stuck_pipe() {
    for (kind, _, code) in waiting::stop_signals() {
        let directory = directory(64 * MIB);
        let args = ["--memory", "guest.mem", "-o", "-", "--max-segments", "1"];
        let mut child = start(directory.path(), &args);
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        signal(&child, kind);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

/// The image is cut while the scan reads its mapping: the kernel sends SIGBUS.
#[test]
fn reports_an_image_that_is_cut_during_the_scan() {
    let directory = directory(2048 * MIB);
    let args = ["--memory", "guest.mem", "-o", "new", "--no-trust-holes", "--threads", "2"];
    let child = start(directory.path(), &args);
    let maps = format!("/proc/{}/maps", child.id());
    wait_until(|| fs::read_to_string(&maps).unwrap().contains("guest.mem"));
    File::options()
        .write(true)
        .open(directory.path().join("guest.mem"))
        .unwrap()
        .set_len(5)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let message = "corestream: memory 0: the image file was truncated to 5 bytes while it was dumped; \
                2147483648 bytes are needed\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(1)));
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

/// The image is cut while the dump is written: the kernel does not find the bytes to write.
#[test]
fn reports_an_image_that_is_cut_during_the_write() {
    let directory = directory(64 * MIB);
    let args = ["--memory", "guest.mem", "-o", "-", "--max-segments", "1"];
    let mut child = start(directory.path(), &args);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4096]).unwrap();
    let image = File::options().write(true).open(directory.path().join("guest.mem")).unwrap();
    image.set_len(8 * MIB).unwrap();
    let reader = thread::spawn(move || stdout.read_to_end(&mut Vec::new()).unwrap());
    let output = child.wait_with_output().unwrap();
    let message = "corestream: standard output: memory 0: the image file was truncated to 8388608 bytes while \
                it was dumped; 67108864 bytes are needed\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(1)));
    assert!((reader.join().unwrap() as u64) < 64 * MIB);
}

/// Runs a script in which `small` can be mounted, and `$0` is the tool.
///
/// # Errors
/// Returns the reason if nothing can be mounted here.
fn with_small_disk(dir: &Path, script: &str) -> Result<Output, String> {
    fs::create_dir(dir.join("small")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(tool_path()).current_dir(dir);
    let output = command.output().map_err(|error| error.to_string())?;
    let is_unmounted = output.status.code() == Some(77);
    if is_unmounted || stderr(&output).starts_with("unshare: ") {
        Err(stderr(&output))
    } else {
        Ok(output)
    }
}

/// The error has the final name of the image, and nothing is left.
#[test]
fn reports_a_disk_that_becomes_full_during_an_extraction() {
    let directory = directory(8 * MIB);
    let script = "mount -t tmpfs -o size=4m none small || exit 77
                  yes | head -c 8388608 >full.mem
                  \"$0\" dump --memory full.mem -o guest.core || exit
                  \"$0\" extract guest.core --all small/out
                  code=$?; ls -A small; exit $code";
    let output = require!("mount", with_small_disk(directory.path(), script));
    let message =
        "corestream: small/out/memory-0.mem: cannot write: No space left on device (os error 28)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(1)));
    assert!(output.stdout.is_empty(), "nothing is left in the directory");
}

/// The file system has too little room, so nothing is written.
#[test]
fn reports_a_full_disk_before_the_first_byte() {
    let directory = directory(8 * MIB);
    let script = "mount -t tmpfs -o size=4m none small || exit 77
                  \"$0\" dump --memory guest.mem -o small/new --max-segments 1
                  code=$?; ls small; exit $code";
    let output = require!("mount", with_small_disk(directory.path(), script));
    let message = "corestream: small/new: 0 of 8388850 bytes written: No space left on device \
                (os error 28)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(1)));
    assert!(output.stdout.is_empty(), "nothing is left in the directory");
}

/// The error has the path and the offset, and there is no dump.
#[test]
fn reports_an_unreadable_sector_of_an_image() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    write_image(dir.join("other.mem"), vec![7; 1 << 20]);
    let path = fuse.path().join("guest.mem");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    fuse.set(Faults { read: std::iter::once(0x5_0000..0x5_0001).collect(), ..Faults::default() });
    drop_caches(&path);
    let name = path.to_str().unwrap();
    let output = run(dir, ["dump", "--memory", "other.mem", "--memory", name, "-o", "new.core"]);
    let expected = format!(
        "corestream: {name}: cannot read bytes 0x50000..0x51000: Input/output error (os error 5)\n"
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
    assert_eq!(names(dir), ["other.mem"]);
}
