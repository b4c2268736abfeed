//! Blocking reads and writes on streams that may be non-blocking. A parent process can leave standard input and output
//! in that mode.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

/// A stream that waits until it is ready instead of failing with `WouldBlock`.
pub struct BlockingStream<S>(pub S);

impl<S: AsFd> BlockingStream<S> {
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let mut fd = [PollFd::from_borrowed_fd(self.0.as_fd(), flags)];
        rustix::io::retry_on_intr(|| poll(&mut fd, None))?;
        Ok(())
    }
}

impl<S: Read + AsFd> Read for BlockingStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }
}

impl<S: Write + AsFd> Write for BlockingStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.0.flush() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }
}
