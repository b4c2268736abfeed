//! Writes to sockets with `sendmsg`, and lends them pages with `sendfile`.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, fcntl_getfl, sendfile};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_send_buffer_size};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, sendmsg};

use crate::sink::transport::Transport;

/// The transport of sockets: `sendmsg` and `sendfile`.
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
        sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags | SendFlags::NOSIGNAL)
    }

    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        mut at: u64,
        len: usize,
        may_block: bool,
    ) -> Result<usize, Errno> {
        // `sendfile` has no flag like `MSG_DONTWAIT`.
        if !may_block && !fcntl_getfl(fd)?.contains(OFlags::NONBLOCK) {
            return Err(Errno::OPNOTSUPP);
        }
        sendfile(fd, file, Some(&mut at), len)
    }

    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64> {
        if socket_domain(fd) != Ok(AddressFamily::UNIX) {
            return None;
        }
        // A socket accepts another buffer while it is not full.
        (socket_send_buffer_size(fd).ok()? as u64).checked_mul(2)
    }
}
