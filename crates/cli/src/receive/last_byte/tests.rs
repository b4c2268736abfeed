use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;

/// Returns both ends of a connection, the first of which does not block.
fn pair() -> (OwnedFd, UnixStream) {
    let (socket, sender) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    (socket.into(), sender)
}

/// Reads into a buffer of 10 bytes.
fn read(last_byte: &mut LastByte, socket: &OwnedFd, left: Option<u64>) -> Result<Vec<u8>> {
    let mut buffer = [0; 10];
    last_byte.read(socket, left, &mut buffer).map(|n| buffer[..n].to_vec())
}

#[test]
fn leaves_the_last_byte_in_the_socket() {
    let (socket, mut sender) = pair();
    let mut last_byte = LastByte::new(true);
    sender.write_all(b"abc").unwrap();
    assert_eq!(read(&mut last_byte, &socket, Some(3)).unwrap(), b"ab");
    assert!(!last_byte.is_held());
    assert_eq!(read(&mut last_byte, &socket, Some(1)).unwrap(), b"c");
    assert!(last_byte.is_held());
    assert!(!last_byte.has_more(&socket));
    // The sender may still send more.
    assert_eq!(read(&mut last_byte, &socket, Some(0)), Err(Errno::AGAIN));
    drop(sender);
    assert_eq!(read(&mut last_byte, &socket, Some(0)).unwrap(), b"");
    // It is still there.
    let mut byte = [0];
    assert_eq!(rustix::io::read(&socket, &mut byte), Ok(1));
    assert_eq!(byte, *b"c");
}

#[test]
fn sees_a_byte_after_the_last() {
    let (socket, mut sender) = pair();
    let mut last_byte = LastByte::new(true);
    sender.write_all(b"ab").unwrap();
    assert_eq!(read(&mut last_byte, &socket, Some(2)).unwrap(), b"a");
    assert_eq!(read(&mut last_byte, &socket, Some(1)).unwrap(), b"b");
    sender.write_all(b"c").unwrap();
    assert!(last_byte.has_more(&socket));
    // Even if the sender has closed its half by then.
    drop(sender);
    assert_eq!(read(&mut last_byte, &socket, Some(0)).unwrap(), b"c");
}

#[test]
fn does_not_read_past_the_last_byte() {
    let (socket, mut sender) = pair();
    let mut last_byte = LastByte::new(true);
    sender.write_all(b"abcdef").unwrap();
    // Three of the six bytes belong to the dump.
    assert_eq!(read(&mut last_byte, &socket, Some(3)).unwrap(), b"ab");
    assert_eq!(read(&mut last_byte, &socket, Some(1)).unwrap(), b"cdef");
    assert!(last_byte.is_held());
}

#[test]
fn leaves_a_byte_while_the_length_is_unknown() {
    let (socket, mut sender) = pair();
    let mut last_byte = LastByte::new(true);
    sender.write_all(b"abc").unwrap();
    assert_eq!(read(&mut last_byte, &socket, None).unwrap(), b"ab");
    // A single byte is not the last of a dump whose length is still to come.
    assert_eq!(read(&mut last_byte, &socket, None).unwrap(), b"c");
    assert_eq!(read(&mut last_byte, &socket, None), Err(Errno::AGAIN));
    assert!(!last_byte.is_held());
}

#[test]
fn reads_everything_if_no_byte_has_to_stay() {
    let (socket, mut sender) = pair();
    let mut tcp = LastByte::new(false);
    sender.write_all(b"abc").unwrap();
    assert_eq!(read(&mut tcp, &socket, Some(3)).unwrap(), b"abc");
    let mut without_length = LastByte::new(true);
    without_length.forget();
    sender.write_all(b"abc").unwrap();
    assert_eq!(read(&mut without_length, &socket, Some(3)).unwrap(), b"abc");
    assert!(!tcp.is_held() && !without_length.is_held());
}

#[test]
fn reports_the_end_of_a_connection() {
    let (socket, sender) = pair();
    drop(sender);
    for left in [None, Some(1), Some(5)] {
        let mut last_byte = LastByte::new(true);
        assert_eq!(read(&mut last_byte, &socket, left).unwrap(), b"", "{left:?}");
        assert!(!last_byte.is_held());
    }
}
