//! Bytes that a socket has sent and its peer has not taken: `SIOCOUTQ`, see tcp(7) and unix(7).
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

/// Returns the number of bytes that are still on the way: by TCP those that the peer's kernel has not
/// acknowledged, by a Unix socket those that the peer has not read, with what the kernel needs for them.
/// `None` where that cannot be found out.
pub fn unsent(socket: BorrowedFd<'_>) -> Option<u64> {
    use std::ffi::c_int;

    use rustix::ioctl::{Getter, ioctl};

    // The same number as of the terminals' `TIOCOUTQ`.
    #[allow(clippy::cast_possible_truncation, reason = "the numbers of ioctls have 32 bits")]
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: `SIOCOUTQ` of a socket writes one `int` through its argument, and so does `TIOCOUTQ` of
    // anything else that knows this number; `Getter` passes a pointer to one.
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
    fn counts_what_the_peer_has_not_read() {
        let (mut socket, mut peer) = UnixStream::pair().unwrap();
        assert_eq!(unsent(socket.as_fd()), Some(0));
        socket.write_all(&[1; 1000]).unwrap();
        assert!(unsent(socket.as_fd()).is_some_and(|bytes| bytes >= 1000));
        peer.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unsent(socket.as_fd()), Some(0));
    }
}
