//! A receiver under test: `corestream receive` as a process, and dumps to send to it.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
use rustix::process::{Pid, Signal, kill_process};

use super::common;

pub const MIB: usize = 1 << 20;

/// How long a receiver may take for anything: what hangs fails its test instead of all tests.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn corestream(directory: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.current_dir(directory);
    command
}

/// A receiver that listens.
pub struct Receiver {
    pub child: Child,
    /// Where, as it says.
    pub address: String,
    /// The lines that it says, with their ends.
    said: mpsc::Receiver<String>,
}

impl Receiver {
    /// One in `directory`, which listens on `address`.
    pub fn start(directory: &Path, address: &str, args: &[&str]) -> Self {
        let mut command = corestream(directory);
        command.args(["receive", address]).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            let mut why = String::new();
            said.read_to_string(&mut why).unwrap();
            panic!("{line:?}, {why}");
        };
        let (lines, received) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while said.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                // Nobody may want it any more.
                let _ = lines.send(std::mem::take(&mut line));
            }
        });
        Self { address: address.into(), child, said: received }
    }

    pub fn tcp(directory: &Path, args: &[&str]) -> Self {
        Self::start(directory, "tcp:127.0.0.1:0", args)
    }

    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.strip_prefix("tcp:").unwrap()).unwrap()
    }

    /// Sends bytes and closes the connection, which the receiver may do before.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.connect().write_all(bytes);
    }

    /// The next lines that it says.
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// The next line that it says, without what is before all of them.
    pub fn line(&mut self) -> String {
        let line = self.said.recv_timeout(PATIENCE).expect("it says no more");
        without_port(line.strip_prefix("corestream: receive: ").expect(&line).trim_end())
    }

    /// Waits until it has so many connections.
    pub fn wait_for_connections(&self, count: usize) {
        let fds = format!("/proc/{}/fd", self.child.id());
        let is_socket = |fd: &fs::DirEntry| {
            fd.path().read_link().is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        let start = Instant::now();
        // And the one that it listens on.
        while fs::read_dir(&fds).unwrap().filter(|fd| is_socket(fd.as_ref().unwrap())).count()
            < count + 1
        {
            assert!(start.elapsed() < PATIENCE, "it takes no connection");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Bytes of a kind in `/proc/PID/status`.
    pub fn memory(&self, kind: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
        let kib = line.trim_start_matches(':').trim().strip_suffix(" kB").unwrap();
        kib.parse::<usize>().unwrap() << 10
    }

    /// The bytes that it has read, of whatever.
    pub fn has_read(&self) -> usize {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Its exit code and what it has said since the last line.
    pub fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let mut rest = String::new();
        // The lines end with the process.
        loop {
            match self.said.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) => rest.push_str(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("it does not end: {rest}");
                }
            }
        }
        (self.child.wait().unwrap().code(), without_port(&rest))
    }

    /// Stops it while nothing is under way.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        let said = "corestream: receive: stopped by SIGTERM\n";
        assert_eq!(self.end(), (Some(143), said.into()));
    }
}

/// `text` with `PEER` for each address of a sender.
pub fn without_port(text: &str) -> String {
    let mut parts = text.split("tcp:127.0.0.1:");
    let first = parts.next().unwrap().to_string();
    parts.fold(first, |text, part| {
        text + "PEER" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// A dump with a dense memory of so many pages.
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
