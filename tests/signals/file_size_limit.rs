//! A limit on the size of files (`RLIMIT_FSIZE`) in a program that embeds the library: writing returns an error, and
//! does not raise SIGXFSZ, which ends the process by default. The program's handling of the signal does not change.
#![allow(unsafe_code, reason = "sets the action of a signal")]

use std::fs::{self, File};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use corestream::{
    CoreDump, CoreDumpFile, Dumper, Error, ErrorKind, FileOptions, FileSink, Memory, MemoryImage,
    MemoryIndex, MemoryType, Sink,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LEN: usize = 4 << 20;
const LIMIT: u64 = 1 << 20;

/// A writer that hides errors of its file.
struct Hides<'f>(&'f File);

impl Write for Hides<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(slices.first().map_or(&[], |slice| slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_too_large(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Output, "{error}");
    assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::FileTooLarge, "{error}");
}

/// Writes files over the limit in every way of the library, and then one by itself.
fn embedder(directory: &Path) {
    // SAFETY: sets the default action, which is no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
    let bytes = vec![1; LEN];
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(64), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump).unwrap();
    let dumped = plan.to_vec().unwrap();
    let reader = CoreDumpFile::from_slice(&dumped).unwrap();
    let limit = Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, limit).unwrap();

    let new = directory.join("new");
    is_too_large(&plan.write_file(&new).unwrap_err());
    let memory = reader.memory(MemoryIndex(0)).unwrap();
    is_too_large(&memory.restore(&new, FileOptions::new()).unwrap_err());
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);

    let mut file = File::create(&new).unwrap();
    is_too_large(&plan.write_to(&mut FileSink::new(&file)).unwrap_err());
    assert_eq!(file.metadata().unwrap().len(), 0, "before the first byte");
    is_too_large(&plan.write_to(&mut file).unwrap_err());
    assert_eq!(file.metadata().unwrap().len(), LIMIT);
    file.seek(SeekFrom::Start(0)).unwrap();
    is_too_large(&memory.write_to(&mut file).unwrap_err());
    assert!(FileSink::new(&file).begin(LEN as u64, true).is_err());
    plan.write_to(&mut Hides(&file)).unwrap();

    // A small file is no error.
    let small = CoreDump::new("small");
    Dumper::new().plan(&small).unwrap().write_file(directory.join("small")).unwrap();
    io::stderr().write_all(b"alive\n").unwrap();
    let _ = file.write_all(&bytes);
    unreachable!("SIGXFSZ ends the process");
}

#[test]
fn a_limit_on_the_size_of_files_does_not_end_an_embedder() {
    if let Some(directory) = std::env::var_os("EMBEDDER") {
        return embedder(directory.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "file_size_limit::a_limit_on_the_size_of_files_does_not_end_an_embedder";
    command.args(["--exact", name, "--nocapture"]).env("EMBEDDER", directory.path());
    let output = command.stdout(Stdio::null()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.ends_with("alive\n"), "{message}");
    assert_eq!(output.status.signal(), Some(libc::SIGXFSZ));
}
