//! The guest's standard output and error. A write to a full pipe waits until the time limit.
//!
//! Wasmtime's own streams fail on a non-blocking descriptor, and otherwise block the thread in `write`, where no limit
//! reaches it. These streams ask the kernel not to wait (`RWF_NOWAIT`), which costs no extra system call, and wait for
//! space themselves.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::host_call::{self, Pending};

/// The number of bytes that a pipe accepts without waiting after `poll` reported it writable.
const PIPE_BUF: usize = 4096;
/// The maximum number of bytes that a guest may write at once, as with Wasmtime's own streams.
const PERMIT: usize = 64 << 10;

/// A standard stream of the process.
#[derive(Clone, Copy)]
pub enum Standard {
    Output,
    Error,
}

/// An output stream of a guest.
struct Stream {
    standard: Standard,
    mode: WriteMode,
}

/// The way to write without waiting beyond the limit.
#[derive(Clone, Copy)]
enum WriteMode {
    /// Plain writes, for files and for devices such as `/dev/null`, which always accept bytes.
    Plain,
    /// Non-blocking writes (`RWF_NOWAIT`), for pipes and sockets.
    NoWait,
    /// Polling before each write, for terminals, and for kernels without non-blocking writes.
    Ask,
}

impl WriteMode {
    fn of(standard: Standard, fd: BorrowedFd<'_>) -> Self {
        let file_type = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match file_type {
            Ok(FileType::Fifo | FileType::Socket) => Self::NoWait,
            Ok(FileType::CharacterDevice) if standard.is_terminal() => Self::Ask,
            _ => Self::Plain,
        }
    }
}

impl Stream {
    fn new(standard: Standard) -> Self {
        let (output, error) = (io::stdout(), io::stderr());
        let fd = match standard {
            Standard::Output => output.as_fd(),
            Standard::Error => error.as_fd(),
        };
        Self { standard, mode: WriteMode::of(standard, fd) }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> StreamResult<()> {
        let (output, error) = (io::stdout(), io::stderr());
        let fd = match self.standard {
            Standard::Output => output.as_fd(),
            Standard::Error => error.as_fd(),
        };
        while !bytes.is_empty() {
            let written = match self.mode {
                WriteMode::Plain => rustix::io::write(fd, bytes),
                // -1 means the file's cursor.
                WriteMode::NoWait => {
                    pwritev2(fd, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT)
                }
                WriteMode::Ask => {
                    wait_for_room(fd)?;
                    rustix::io::write(fd, &bytes[..bytes.len().min(PIPE_BUF)])
                }
            };
            match written {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_for_room(fd)?,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE)
                    if matches!(self.mode, WriteMode::NoWait) =>
                {
                    self.mode = WriteMode::Ask;
                }
                Err(error) => {
                    let error = io::Error::from(error);
                    return Err(StreamError::LastOperationFailed(error.into()));
                }
            }
        }
        Ok(())
    }
}

/// Waits until a stream accepts more bytes, or until the time limit.
fn wait_for_room(fd: BorrowedFd<'_>) -> Result<(), StreamError> {
    loop {
        let left = host_call::limit().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                return Err(StreamError::Trap(Pending("fd_write").into()));
            }
            Ok(0) | Err(Errno::INTR) => {}
            // The next write reports an error of the stream.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

impl IsTerminal for Standard {
    fn is_terminal(&self) -> bool {
        match self {
            Self::Output => io::stdout().is_terminal(),
            Self::Error => io::stderr().is_terminal(),
        }
    }
}

impl StdoutStream for Standard {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream::new(*self))
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Stream::new(*self))
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_all(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

/// Preview 1 does not use this implementation, but it writes correctly.
impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.write_all(bytes).map_err(io::Error::other);
        Poll::Ready(written.map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
