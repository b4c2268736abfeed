//! Where measured dumps go: nowhere, a fresh file, or a pipe or socket with a reader; and the bare copy
//! of the same bytes to the same place.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use clap::ValueEnum;
use corestream::{FileSink, Piece, PipeSink, Plan, Sink, SocketSink, UnnamedFile};

use super::row::Row;
use crate::platform;
use crate::report::Failure;

/// Bytes that the reader of a pipe or socket takes at once.
const READ_BYTES: usize = 1 << 20;
/// Bytes that a pipe is made to hold for the bare copy: as many as the product does.
const PIPE_BYTES: usize = 1 << 20;
/// What a socket of this machine is called.
const LOOPBACK: &str = "tcp:127.0.0.1";

/// The kind of place that dumps go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// Nowhere: the bytes are only counted
    Null,
    /// A fresh file in --dir, preallocated as those of `dump` are
    File,
    /// A pipe, whose reader is a thread that drops what it gets
    Pipe,
    /// A TCP socket of this machine, with such a reader
    Tcp,
}

impl To {
    /// As it is given.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::File => "file",
            Self::Pipe => "pipe",
            Self::Tcp => "tcp",
        }
    }
}

/// Where dumps go.
#[derive(Clone, Copy)]
pub struct Target<'t> {
    pub to: To,
    /// The directory of files.
    pub directory: &'t Path,
}

/// What there is before a dump begins: a file is only made by the dump itself.
pub enum Ready<'t> {
    Null,
    File(&'t Path),
    Pipe(Stream),
    Tcp(Stream),
}

/// Bytes that have arrived.
pub struct Written {
    /// When the sink was given the first one.
    pub first: Instant,
    /// When the last one had arrived.
    pub done: Instant,
    pub bytes: u64,
    /// Its pages are given back when it is dropped, which is no part of a dump.
    _file: Option<File>,
}

impl<'t> Target<'t> {
    /// Opens pipes and sockets.
    pub fn ready(&self) -> Result<Ready<'t>, Failure> {
        let stream = match self.to {
            To::Null => return Ok(Ready::Null),
            To::File => return Ok(Ready::File(self.directory)),
            To::Pipe => pipe().and_then(Stream::new).map(Ready::Pipe),
            To::Tcp => tcp().and_then(Stream::new).map(Ready::Tcp),
        };
        stream.map_err(|error| self.failed(error))
    }

    /// The machine's limits for these bytes: bare copies to the same place.
    pub fn copies(&self, bytes: &[u8]) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let mut copy = |key, label, preallocated| {
            let ready = self.ready()?;
            let start = Instant::now();
            let copied = ready.copy(bytes, preallocated).map_err(|error| self.failed(error))?;
            rows.push(Row::new(key, label, copied.done - start));
            match copied.bytes == bytes.len() as u64 {
                true => Ok(()),
                false => Err(self.failed(format!("only {} bytes arrived", copied.bytes))),
            }
        };
        match self.to {
            To::Null => {}
            To::File => {
                copy("write_all", "write_all", false)?;
                copy("write_all_preallocated", "write_all, preallocated", true)?;
            }
            To::Pipe => copy("write_all", "write_all, pipe of 1 MiB", false)?,
            To::Tcp => copy("write_all", "write_all", false)?,
        }
        Ok(rows)
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        match self.to {
            To::Null => Failure::new(why),
            To::File => Failure::new(format!("{}: {why}", self.directory.display())),
            To::Pipe => Failure::new(format!("a pipe: {why}")),
            To::Tcp => Failure::new(format!("{LOOPBACK}: {why}")),
        }
    }
}

impl Ready<'_> {
    /// Writes a dump as `corestream dump` does.
    pub fn dump(self, plan: &Plan<'_>) -> Result<Written, Failure> {
        match self {
            Self::Null => {
                let mut sink = Noted::new(Null);
                plan.write_to(&mut sink)?;
                Ok(sink.done())
            }
            Self::File(directory) => {
                let at = |failure: Failure| failure.at(directory.display());
                let file = fresh_file(directory)?;
                let mut sink = Noted::new(FileSink::new(&file));
                plan.write_to(&mut sink).map_err(|error| at(error.into()))?;
                let written = sink.done();
                let len = file.metadata().map_err(|error| at(Failure::new(error)))?.len();
                Ok(Written { bytes: len, _file: Some(file), ..written })
            }
            Self::Pipe(stream) => {
                let mut sink = Noted::new(PipeSink::new(&stream.writer));
                plan.write_to(&mut sink).map_err(|error| Failure::from(error).at("a pipe"))?;
                let written = sink.done();
                stream.finish(written)
            }
            Self::Tcp(stream) => {
                let mut sink = Noted::new(SocketSink::new(&stream.writer));
                plan.write_to(&mut sink).map_err(|error| Failure::from(error).at(LOOPBACK))?;
                let written = sink.done();
                stream.finish(written)
            }
        }
    }

    /// Writes all of `bytes` by one call.
    fn copy(self, bytes: &[u8], preallocated: bool) -> io::Result<Written> {
        let first = Instant::now();
        let (bytes, file) = match self {
            Self::Null => (bytes.len() as u64, None),
            Self::File(directory) => {
                let mut file =
                    fresh_file(directory).map_err(|why| io::Error::other(why.message))?;
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
                (joined(reader)?, None)
            }
            Self::Tcp(Stream { mut writer, reader }) => {
                writer.write_all(bytes)?;
                drop(writer);
                (joined(reader)?, None)
            }
        };
        Ok(Written { first, done: Instant::now(), bytes, _file: file })
    }
}

/// The writer's end of a pipe or socket, and the thread at the other one.
pub struct Stream {
    writer: File,
    reader: JoinHandle<io::Result<u64>>,
}

impl Stream {
    fn new((reader, writer): (OwnedFd, OwnedFd)) -> io::Result<Self> {
        let mut reader = File::from(reader);
        // Not by the thread: before anything is timed, and where it can't be had, that is an error.
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

    /// Closes the writer's end: it is done when the reader has all of it.
    fn finish(self, written: Written) -> Result<Written, Failure> {
        drop(self.writer);
        let bytes =
            joined(self.reader).map_err(|why| Failure::new(format!("the reader: {why}")))?;
        Ok(Written { done: Instant::now(), bytes, ..written })
    }
}

fn joined(reader: JoinHandle<io::Result<u64>>) -> io::Result<u64> {
    reader.join().unwrap_or_else(|_| Err(io::Error::other("it has panicked")))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn tcp() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let writer = TcpStream::connect(listener.local_addr()?)?;
    loop {
        // Anybody on this machine may have connected before.
        let (reader, from) = listener.accept()?;
        if from == writer.local_addr()? {
            return Ok((reader.into(), writer.into()));
        }
    }
}

/// A new file without a name, which is gone when it is closed, in whatever way the process ends; on file
/// systems that have no such files, unless it ends right between making one and taking its name away.
pub fn fresh_file(directory: &Path) -> Result<File, Failure> {
    UnnamedFile::scratch(directory)
        .map_err(|error| Failure::from(error).with_hint("--dir names a directory"))
}

/// Notes when the first byte comes, and is the sink in it otherwise.
struct Noted<S> {
    sink: S,
    first: Option<Instant>,
    bytes: u64,
}

impl<S: Sink> Noted<S> {
    fn new(sink: S) -> Self {
        Self { sink, first: None, bytes: 0 }
    }

    /// All has been written.
    fn done(self) -> Written {
        let done = Instant::now();
        Written { first: self.first.unwrap_or(done), done, bytes: self.bytes, _file: None }
    }
}

impl<S: Sink> Sink for Noted<S> {
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

/// Counts the bytes and lets them go.
struct Null;

impl Sink for Null {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
    }
}
