//! `corestream receive` as a process, and dumps to send to it.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
use rustix::process::Signal;

use super::common;
use super::tool::{corestream, signal};

pub const MIB: usize = 1 << 20;

/// How long a receiver may take for anything. A receiver that hangs fails its test instead of all tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running receiver.
pub struct Receiver {
    pub child: Child,
    /// The address that it prints, as `tcp:HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// The lines that it prints to standard error, with their ends.
    printed: mpsc::Receiver<String>,
}

impl Receiver {
    /// Starts a receiver in `directory`, which listens on `address`.
    pub fn start(directory: &Path, address: &str, args: &[&str]) -> Self {
        let mut command = corestream(directory, ["receive", address]);
        command.args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            let mut why = String::new();
            stderr.read_to_string(&mut why).unwrap();
            panic!("{line:?}, {why}");
        };
        let (lines, received) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                // The test may have ended.
                let _ = lines.send(std::mem::take(&mut line));
            }
        });
        Self { address: address.into(), child, printed: received }
    }

    pub fn tcp(directory: &Path, args: &[&str]) -> Self {
        Self::start(directory, "tcp:127.0.0.1:0", args)
    }

    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.strip_prefix("tcp:").unwrap()).unwrap()
    }

    /// Sends bytes and closes the connection. The receiver may close it first.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.connect().write_all(bytes);
    }

    /// Returns the next lines, like [`line`](Self::line).
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Returns the next line without the prefix of all lines, and with `PEER` for the address of a TCP sender.
    pub fn line(&mut self) -> String {
        without_port(&self.line_with_port())
    }

    /// Returns the next line without the prefix of all lines.
    pub fn line_with_port(&mut self) -> String {
        let line = self.printed.recv_timeout(PATIENCE).expect("the receiver prints no more");
        line.strip_prefix("corestream: receive: ").expect(&line).trim_end().into()
    }

    /// Waits until the receiver has `count` connections.
    pub fn wait_for_connections(&self, count: usize) {
        let fds = format!("/proc/{}/fd", self.child.id());
        let is_socket = |fd: &fs::DirEntry| {
            fd.path().read_link().is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        let start = Instant::now();
        // It also has the socket that it listens on.
        while fs::read_dir(&fds).unwrap().filter(|fd| is_socket(fd.as_ref().unwrap())).count()
            < count + 1
        {
            assert!(start.elapsed() < PATIENCE, "the receiver takes no connection");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns an amount of memory in bytes from `/proc/PID/status`.
    pub fn memory(&self, kind: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
        let kib = line.trim_start_matches(':').trim().strip_suffix(" kB").unwrap();
        kib.parse::<usize>().unwrap() << 10
    }

    /// Returns the number of bytes that the receiver has read from any file.
    pub fn bytes_read(&self) -> usize {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse().unwrap()
    }

    pub fn signal(&self, number: Signal) {
        signal(&self.child, number);
    }

    /// Waits for the end of the receiver. Returns its exit code, and what it has printed since the last line.
    pub fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let mut rest = String::new();
        // The lines end with the process.
        loop {
            match self.printed.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) => rest.push_str(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("the receiver does not end: {rest}");
                }
            }
        }
        (self.child.wait().unwrap().code(), without_port(&rest))
    }

    /// Stops a receiver that serves no sender.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        let expected = "corestream: receive: stopped by SIGTERM\n";
        assert_eq!(self.end(), (Some(143), expected.into()));
    }
}

/// Replaces each address of a TCP sender by `PEER`.
pub fn without_port(text: &str) -> String {
    let mut parts = text.split("tcp:127.0.0.1:");
    let first = parts.next().unwrap().to_string();
    parts.fold(first, |text, part| {
        text + "PEER" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// Returns a dump of a guest called `name` with a dense memory.
pub fn dump_of(name: &str, pages: u64, seed: u64) -> Vec<u8> {
    let mut random = common::Random(seed);
    let image: Vec<u8> =
        (0..pages * 65_536 / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
    let mut dump = CoreDump::new(name);
    dump.add_memory(Memory::new(MemoryType::wasm32(pages), MemoryImage::from_slice(&image)));
    Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
}

pub fn read(directory: &Path, name: &str) -> Vec<u8> {
    fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
