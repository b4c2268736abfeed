use std::os::unix::net::UnixStream;

use super::*;

const SHORT: Option<Duration> = Some(Duration::from_millis(5));

#[test]
fn waits_for_a_socket_until_the_timeout() {
    let stop = Stop::without_signal();
    let (reader, sender) = UnixStream::pair().unwrap();
    assert_eq!(stop.wait(reader.as_fd(), SHORT).unwrap(), Ready::TimedOut);
    drop(sender);
    // The end of a connection can be read.
    assert_eq!(stop.wait(reader.as_fd(), None).unwrap(), Ready::Readable);
    assert_eq!(stop.pause(Duration::from_millis(5)).unwrap(), Ready::TimedOut);
    assert!(!stop.is_requested() && stop.failure().is_none());
}

#[test]
fn every_wait_sees_a_signal() {
    let stop = Stop::with_signal(15);
    let (reader, sender) = UnixStream::pair().unwrap();
    drop(sender);
    for _ in 0..3 {
        // A signal comes before what can be read.
        assert_eq!(stop.wait(reader.as_fd(), None).unwrap(), Ready::Stopped);
        assert_eq!(stop.pause(Duration::from_secs(60)).unwrap(), Ready::Stopped);
    }
    assert!(stop.is_requested());
    assert_eq!(stop.failure().unwrap().message, "receive: stopped by SIGTERM");
}

#[test]
fn a_signal_ends_a_wait() {
    let stop = Stop::without_signal();
    let (reader, _sender) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stop.wait(reader.as_fd(), None).unwrap());
        stop.request(2);
        assert_eq!(waiting.join().unwrap(), Ready::Stopped);
    });
}

#[test]
fn a_timeout_that_the_clock_cannot_hold_is_none() {
    let stop = Stop::with_signal(15);
    let (reader, _sender) = UnixStream::pair().unwrap();
    assert_eq!(stop.wait(reader.as_fd(), Some(Duration::MAX)).unwrap(), Ready::Stopped);
}
