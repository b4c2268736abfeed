//! A program that does not ignore SIGPIPE, such as one in another language that embeds the library: if the reader is
//! gone, writing returns an error. The program's handling of the signal does not change.
#![allow(unsafe_code, reason = "sets the action of a signal")]

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, PipeSink, Sink, SocketSink};

/// Writes to readers that are gone, first through the library, and then by itself, which ends the process.
fn embedder() {
    // SAFETY: sets the default action, which is no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(&vec![1; 16 << 20]).unwrap();
    let bytes = vec![1; 16 << 20];
    for image in [MemoryImage::open(file.path()).unwrap(), MemoryImage::from_slice(&bytes)] {
        let mut dump = CoreDump::new("guest");
        dump.add_memory(Memory::new(MemoryType::wasm32(256), image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let (_, pipe) = io::pipe().unwrap();
        let (_, socket) = UnixStream::pair().unwrap();
        let sinks: [&mut dyn Sink; 2] = [&mut PipeSink::new(&pipe), &mut SocketSink::new(&socket)];
        for sink in sinks {
            let error = plan.write_to(sink).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
        }
    }
    // The signal would leave the file behind.
    file.close().unwrap();
    io::stderr().write_all(b"alive\n").unwrap();
    let (_, mut pipe) = io::pipe().unwrap();
    let _ = pipe.write(b"x");
    unreachable!("SIGPIPE ends the process");
}

#[test]
fn sigpipe_does_not_end_an_embedder() {
    if std::env::var_os("EMBEDDER").is_some() {
        return embedder();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sigpipe::sigpipe_does_not_end_an_embedder", "--nocapture"]);
    let output = command.env("EMBEDDER", "1").stdout(Stdio::null()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.ends_with("alive\n"), "{message}");
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
}
