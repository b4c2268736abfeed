//! Writes to sockets with `sendmsg`.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::held_signal::without_sigpipe;
use crate::sink::transport::Transport;

/// The transport of sockets: `sendmsg`.
#[derive(Debug)]
pub(in crate::sink) struct SocketTransport;

impl Transport for SocketTransport {
    const MIN_LEND_BYTES: usize = 64 << 10;

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        may_block: bool,
    ) -> Result<usize, Errno> {
        let flags = if may_block { SendFlags::empty() } else { SendFlags::DONTWAIT };
        without_sigpipe(|| sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags))
    }

    fn lend(&self, _: BorrowedFd<'_>, _: &File, _: u64, _: usize, _: bool) -> Result<usize, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn capacity(&self, _: BorrowedFd<'_>) -> Option<u64> {
        None
    }
}
