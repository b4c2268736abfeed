//! The bytes in a socket that the peer has not received yet: `SIOCOUTQ`, see tcp(7) and unix(7).
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

/// Returns the number of bytes that the peer has not received, or `None` if it is unknown.
///
/// For TCP, these are the bytes that the peer's kernel has not acknowledged. For a Unix socket, these are the bytes
/// that the peer has not read, including the kernel's overhead.
pub fn unsent(socket: BorrowedFd<'_>) -> Option<u64> {
    use std::ffi::c_int;

    use rustix::ioctl::{Getter, ioctl};

    // The request has the same number as `TIOCOUTQ` of terminals.
    #[allow(clippy::cast_possible_truncation, reason = "ioctl numbers have 32 bits")]
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: `SIOCOUTQ` of a socket writes one `int` through its argument, and so does `TIOCOUTQ` of any other file
    // that supports this number. `Getter` passes a pointer to an `int`.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    bytes.ok().and_then(|bytes| u64::try_from(bytes).ok())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn counts_unread_bytes() {
        let (mut socket, mut peer) = UnixStream::pair().unwrap();
        assert_eq!(unsent(socket.as_fd()), Some(0));
        socket.write_all(&[1; 1000]).unwrap();
        assert!(unsent(socket.as_fd()).is_some_and(|bytes| bytes >= 1000));
        peer.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unsent(socket.as_fd()), Some(0));
    }
}
