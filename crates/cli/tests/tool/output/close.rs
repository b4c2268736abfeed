//! Errors that only `close` and `fsync` report, as on NFS and CIFS, with FUSE and with quotas. The command fails, and an
//! existing file stays as it was.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Output;

use corestream::{
    CoreDump, CoreDumpFile, Dumper, ErrorKind, FileOptions, FileSink, Memory, MemoryImage,
    MemoryIndex, MemoryType, UnnamedFile,
};
use rustix::io::Errno;

use super::guest;
use crate::environment::require;
use crate::fuse::{Faults, Fuse};
use crate::receiver::Receiver;
use crate::tool::{self, names, run, stderr};

const LEN: usize = 300_000;

/// Runs a line of the shell in which the tool is `$0` and the file system is `$1`.
fn shell(directory: &Path, fuse: &Fuse, line: &str) -> Output {
    tool::shell(directory, line, [fuse.path()])
}

fn full() -> Faults {
    Faults { flush: Some(Errno::NOSPC), ..Faults::default() }
}

/// Every command that writes a file.
const WRITERS: [&str; 10] = [
    "dump --memory guest.mem -o $1/new",
    "dump --memory guest.mem -o $1/new --force",
    "dump --memory guest.mem -o $1/new --force --sync",
    "dump --memory guest.mem -o - > $1/out",
    "dump --memory guest.mem -o /dev/fd/3 3> $1/out",
    "dump --memory guest.mem --fd 3 3> $1/out",
    "extract guest.core --memory 0 -o $1/new --force",
    "extract guest.core --memory 0 > $1/out",
    "extract guest.core --all $1/all",
    "man --all $1/man",
];

#[test]
fn an_error_of_close_fails_every_command_that_writes_a_file() {
    let guest = guest(LEN);
    for line in WRITERS {
        for tmpfile in [false, true] {
            let fuse = require!("fuse", Fuse::new(Faults { tmpfile, ..Faults::default() }));
            let new = fuse.path().join("new");
            let old = line.contains("--force");
            if old {
                fs::write(&new, "old").unwrap();
            }
            fuse.set(Faults { tmpfile, ..full() });
            let output = shell(guest.path(), &fuse, &format!("exec \"$0\" {line}"));
            fuse.set(Faults::default());
            let message = stderr(&output);
            assert_eq!(
                (output.status.code(), message.lines().count()),
                (Some(1), 1),
                "{line}: {message}"
            );
            assert!(message.starts_with("corestream: "), "{line}: {message}");
            assert!(
                message.ends_with("No space left on device (os error 28)\n"),
                "{line}: {message}"
            );
            // The shell made `out`, and `man` its directory.
            let mut left = names(&fuse.path());
            left.retain(|name| name != "out" && name != "man");
            assert_eq!(left, if old { &["new"][..] } else { &[] }, "{line}");
            if old {
                assert_eq!(fs::read(&new).unwrap(), b"old", "{line}");
            }
        }
    }
}

#[test]
fn a_receiver_does_not_keep_a_dump_whose_file_cannot_be_closed() {
    let guest = guest(LEN);
    let fuse = require!("fuse", Fuse::new(full()));
    let name = fuse.path().join("%n.core");
    let mut receiver = Receiver::tcp(guest.path(), &["-o", name.to_str().unwrap(), "--once"]);
    let address = receiver.address.clone();
    let sent = run(guest.path(), ["dump", "--memory", "guest.mem", "--to", &address]);
    let message = receiver.line();
    let is_of_sender = message.starts_with("PEER: ");
    assert!(is_of_sender && message.contains("No space left on device"), "{message}");
    assert_eq!(receiver.end().0, Some(1));
    assert_eq!(sent.status.code(), Some(1), "the sender learns it: {}", stderr(&sent));
    assert!(names(&fuse.path()).is_empty());
}

#[test]
fn the_library_reports_an_error_of_close() {
    let fuse = require!("fuse", Fuse::new(full()));
    let path = fuse.path().join("new");
    let bytes = vec![7; 65_536];
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let is_full = |error: &corestream::Error| {
        assert_eq!(error.kind(), ErrorKind::Output);
        assert!(error.kept_file().is_none());
        Errno::from_io_error(error.io_error().unwrap()) == Some(Errno::NOSPC)
    };
    assert!(is_full(&plan.write_file(&path).unwrap_err()));
    let dumped = plan.to_vec().unwrap();
    let reader = CoreDumpFile::from_slice(&dumped).unwrap();
    let memory = reader.memory(MemoryIndex(0)).unwrap();
    let error = memory.restore(&path, FileOptions::new()).unwrap_err();
    assert!(is_full(&error));
    let unnamed = UnnamedFile::create_in(fuse.path(), FileOptions::new()).unwrap();
    unnamed.file().write_all(&bytes).unwrap();
    assert!(is_full(&unnamed.commit([path.clone()]).unwrap_err()));
    assert!(names(&fuse.path()).is_empty());
    let file = File::create(&path).unwrap();
    assert!(is_full(&plan.write_to(&mut FileSink::new(&file)).unwrap_err()));
    (&file).write_all(&bytes).unwrap();
    let error = corestream::check_close(&file).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
}

#[test]
fn a_dump_that_cannot_be_synced_harms_no_file() {
    let guest = guest(LEN);
    let faults = Faults { fsync: Some(Errno::IO), ..Faults::default() };
    let fuse = require!("fuse", Fuse::new(faults));
    for force in ["", "--force"] {
        let new = fuse.path().join("new");
        if !force.is_empty() {
            fs::write(&new, "old").unwrap();
        }
        let line = format!("exec \"$0\" dump --memory guest.mem -o $1/new --sync {force}");
        let output = shell(guest.path(), &fuse, &line);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.ends_with("cannot finish the dump: Input/output error (os error 5)\n"),
            "{message}"
        );
        match force.is_empty() {
            true => assert!(names(&fuse.path()).is_empty()),
            false => assert_eq!(fs::read(&new).unwrap(), b"old"),
        }
    }
    assert_eq!(names(&fuse.path()), ["new"]);
}

/// The dump is then on disk under its name. Only the name may not be on disk.
#[test]
fn reports_a_directory_that_cannot_be_synced_and_keeps_the_dump() {
    let guest = guest(LEN);
    let whole = fs::read(guest.path().join("guest.core")).unwrap();
    let faults = Faults { fsync_directory: Some(Errno::IO), ..Faults::default() };
    let fuse = require!("fuse", Fuse::new(faults));
    for force in ["", "--force"] {
        let line = format!("exec \"$0\" dump --memory guest.mem -o $1/new --sync {force}");
        let output = shell(guest.path(), &fuse, &line);
        let message = stderr(&output);
        let new = fuse.path().join("new");
        let expected = format!(
            "corestream: {}: the dump is complete, but its directory cannot be synced: a power cut may still remove \
             the name: Input/output error (os error 5)\n",
            new.display()
        );
        assert_eq!((output.status.code(), message), (Some(1), expected));
        assert!(fs::read(new).unwrap() == whole);
        assert_eq!(names(&fuse.path()), ["new"]);
    }
}

/// A quota or a server refuses more bytes in the middle.
#[test]
fn a_failed_write_leaves_nothing() {
    let guest = guest(LEN);
    for (limit, errno) in [(0, Errno::IO), (150_000, Errno::DQUOT), (299_999, Errno::NOSPC)] {
        let faults = Faults { write: Some((limit, errno)), ..Faults::default() };
        let fuse = require!("fuse", Fuse::new(faults));
        for line in WRITERS.iter().filter(|line| !line.starts_with("man")) {
            let output = shell(guest.path(), &fuse, &format!("exec \"$0\" {line}"));
            let message = stderr(&output);
            assert_eq!(
                (output.status.code(), message.lines().count()),
                (Some(1), 1),
                "{line}: {message}"
            );
            let expected = format!("(os error {})\n", errno.raw_os_error());
            assert!(message.ends_with(&expected), "{line}: {message}");
            let mut left = names(&fuse.path());
            left.retain(|name| name != "out");
            assert!(left.is_empty(), "{line}: {left:?}");
        }
    }
}
