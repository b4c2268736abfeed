//! The destinations of measured dumps: nothing, a new file, or a pipe or socket with a reader. Also measures the plain
//! copy of the same bytes to the same destination.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use clap::ValueEnum;
use corestream::{FileSink, Piece, PipeSink, Plan, Sink, SocketSink, UnnamedFile};

use super::row::Measurement;
use crate::platform;
use crate::report::Failure;

/// The buffer size in bytes of the reader of a pipe or socket.
const READ_BYTES: usize = 1 << 20;
/// The capacity in bytes of the pipe for the plain copy, the same as for a dump.
const PIPE_BYTES: usize = 1 << 20;
/// The name of the TCP socket in messages.
const LOOPBACK: &str = "tcp:127.0.0.1";

/// The kind of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetKind {
    /// Nothing: the bytes are only counted
    Null,
    /// A new file in --dir, preallocated as `dump` does
    File,
    /// A pipe, with a thread that reads and discards the bytes
    Pipe,
    /// A TCP socket on this machine, with a thread that reads and discards the bytes
    Tcp,
}

impl TargetKind {
    /// Returns the value of `--to`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::File => "file",
            Self::Pipe => "pipe",
            Self::Tcp => "tcp",
        }
    }

    /// Describes the destination. `directory` is the one for files.
    pub fn describe(self, directory: &Path) -> String {
        match self {
            Self::Null => "null: bytes are counted and discarded".into(),
            Self::File => format!("file: a new one for each run in {}", directory.display()),
            Self::Pipe => "pipe: a thread of this process reads it".into(),
            Self::Tcp => "tcp: a thread of this process reads from 127.0.0.1".into(),
        }
    }
}

/// A destination of dumps.
#[derive(Clone, Copy)]
pub struct Target<'t> {
    pub kind: TargetKind,
    /// The directory for files.
    pub directory: &'t Path,
}

/// A destination that is prepared for one dump. Files are not created yet, because that is part of the measured time.
pub enum Destination<'t> {
    Null,
    File(&'t Path),
    Pipe(Stream),
    Tcp(Stream),
}

/// The arrival of the bytes at the destination.
pub struct Arrival {
    /// When the sink got the first byte.
    pub first: Instant,
    /// When the last byte had arrived.
    pub done: Instant,
    pub bytes: u64,
    /// Keeps the file open: freeing its pages is not part of the measured time.
    _file: Option<File>,
}

impl<'t> Target<'t> {
    /// Prepares the destination: opens pipes and sockets.
    pub fn prepare(&self) -> Result<Destination<'t>, Failure> {
        let stream = match self.kind {
            TargetKind::Null => return Ok(Destination::Null),
            TargetKind::File => return Ok(Destination::File(self.directory)),
            TargetKind::Pipe => pipe().and_then(Stream::new).map(Destination::Pipe),
            TargetKind::Tcp => tcp().and_then(Stream::new).map(Destination::Tcp),
        };
        stream.map_err(|error| self.failure(error))
    }

    /// Measures the machine's limits: plain copies of `bytes` to the same destination.
    pub fn copies(&self, bytes: &[u8]) -> Result<Vec<Measurement>, Failure> {
        let mut measurements = Vec::new();
        let mut copy = |key, label, preallocated| {
            let destination = self.prepare()?;
            let start = Instant::now();
            let copied = destination.copy(bytes, preallocated);
            let copied = copied.map_err(|error| self.failure(error))?;
            measurements.push(Measurement::new(key, label, copied.done - start));
            match copied.bytes == bytes.len() as u64 {
                true => Ok(()),
                false => Err(self.failure(format!("only {} bytes arrived", copied.bytes))),
            }
        };
        match self.kind {
            TargetKind::Null => {}
            TargetKind::File => {
                copy("write_all", "write_all", false)?;
                copy("write_all_preallocated", "write_all, preallocated", true)?;
            }
            TargetKind::Pipe => copy("write_all", "write_all, pipe of 1 MiB", false)?,
            TargetKind::Tcp => copy("write_all", "write_all", false)?,
        }
        Ok(measurements)
    }

    fn failure(&self, cause: impl std::fmt::Display) -> Failure {
        match self.kind {
            TargetKind::Null => Failure::new(cause),
            TargetKind::File => Failure::new(format!("{}: {cause}", self.directory.display())),
            TargetKind::Pipe => Failure::new(format!("a pipe: {cause}")),
            TargetKind::Tcp => Failure::new(format!("{LOOPBACK}: {cause}")),
        }
    }
}

impl Destination<'_> {
    /// Writes a dump as `corestream dump` does.
    pub fn dump(self, plan: &Plan<'_>) -> Result<Arrival, Failure> {
        match self {
            Self::Null => {
                let mut sink = TimedSink::new(NullSink);
                plan.write_to(&mut sink)?;
                Ok(sink.into_arrival())
            }
            Self::File(directory) => {
                let at = |failure: Failure| failure.at(directory.display());
                let file = scratch_file(directory)?;
                let mut sink = TimedSink::new(FileSink::new(&file));
                plan.write_to(&mut sink).map_err(|error| at(error.into()))?;
                let arrival = sink.into_arrival();
                let len = file.metadata().map_err(|error| at(Failure::new(error)))?.len();
                Ok(Arrival { bytes: len, _file: Some(file), ..arrival })
            }
            Self::Pipe(stream) => {
                let mut sink = TimedSink::new(PipeSink::new(&stream.writer));
                plan.write_to(&mut sink).map_err(|error| Failure::from(error).at("a pipe"))?;
                let arrival = sink.into_arrival();
                stream.finish(arrival)
            }
            Self::Tcp(stream) => {
                let mut sink = TimedSink::new(SocketSink::new(&stream.writer));
                plan.write_to(&mut sink).map_err(|error| Failure::from(error).at(LOOPBACK))?;
                let arrival = sink.into_arrival();
                stream.finish(arrival)
            }
        }
    }

    /// Writes all of `bytes` with one call of `write_all`.
    fn copy(self, bytes: &[u8], preallocated: bool) -> io::Result<Arrival> {
        let first = Instant::now();
        let (bytes, file) = match self {
            Self::Null => (bytes.len() as u64, None),
            Self::File(directory) => {
                let mut file =
                    scratch_file(directory).map_err(|failure| io::Error::other(failure.message))?;
                if preallocated {
                    FileSink::new(&file).begin(bytes.len() as u64, true)?;
                }
                file.write_all(bytes)?;
                (file.metadata()?.len(), Some(file))
            }
            Self::Pipe(Stream { mut writer, reader }) => {
                platform::enlarge_pipe(&writer, PIPE_BYTES);
                writer.write_all(bytes)?;
                drop(writer);
                (join(reader)?, None)
            }
            Self::Tcp(Stream { mut writer, reader }) => {
                writer.write_all(bytes)?;
                drop(writer);
                (join(reader)?, None)
            }
        };
        Ok(Arrival { first, done: Instant::now(), bytes, _file: file })
    }
}

/// The write end of a pipe or socket, and the thread that reads from the other end.
pub struct Stream {
    writer: File,
    reader: JoinHandle<io::Result<u64>>,
}

impl Stream {
    fn new((reader, writer): (OwnedFd, OwnedFd)) -> io::Result<Self> {
        let mut reader = File::from(reader);
        // Allocate the buffer here, before anything is timed, so that a failure is an error.
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(READ_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.resize(READ_BYTES, 0);
        let drain = move || {
            let mut bytes = 0;
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => return Ok(bytes),
                    Ok(n) => bytes += n as u64,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(Self { writer: writer.into(), reader: thread::Builder::new().spawn(drain)? })
    }

    /// Closes the write end and waits until the reader has all bytes.
    fn finish(self, arrival: Arrival) -> Result<Arrival, Failure> {
        drop(self.writer);
        let bytes = join(self.reader)
            .map_err(|error| Failure::new(format!("the reader failed: {error}")))?;
        Ok(Arrival { done: Instant::now(), bytes, ..arrival })
    }
}

fn join(reader: JoinHandle<io::Result<u64>>) -> io::Result<u64> {
    reader.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn tcp() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let writer = TcpStream::connect(listener.local_addr()?)?;
    loop {
        // Another process on this machine may have connected first.
        let (reader, from) = listener.accept()?;
        if from == writer.local_addr()? {
            return Ok((reader.into(), writer.into()));
        }
    }
}

/// Creates a file without a name, which disappears when it is closed, however the process ends. On a file system without
/// `O_TMPFILE`, the file has a name for a moment. It stays if the process is killed in this moment.
pub fn scratch_file(directory: &Path) -> Result<File, Failure> {
    UnnamedFile::scratch(directory)
        .map_err(|error| Failure::from(error).with_hint("use --dir to choose another directory"))
}

/// A sink that records when it gets the first byte, and how many bytes it accepts.
struct TimedSink<S> {
    sink: S,
    first: Option<Instant>,
    bytes: u64,
}

impl<S: Sink> TimedSink<S> {
    fn new(sink: S) -> Self {
        Self { sink, first: None, bytes: 0 }
    }

    /// Returns the arrival of the bytes, once all are written.
    fn into_arrival(self) -> Arrival {
        let done = Instant::now();
        Arrival { first: self.first.unwrap_or(done), done, bytes: self.bytes, _file: None }
    }
}

impl<S: Sink> Sink for TimedSink<S> {
    fn begin(&mut self, len: u64, may_block: bool) -> io::Result<()> {
        self.sink.begin(len, may_block)
    }

    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        self.first.get_or_insert_with(Instant::now);
        let taken = self.sink.put(pieces)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.sink.waits_on()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.sink.finish()
    }
}

/// A sink that discards all bytes.
struct NullSink;

impl Sink for NullSink {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
    }
}
