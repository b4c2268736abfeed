use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::receive::test_support::{connect, sent};

fn address(text: &str) -> Peer {
    Peer::to_listen_on(text).unwrap()
}

/// Reads what a receiver replies, and how it ends the connection.
fn reply(mut sender: UnixStream) -> (String, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = sender.read_to_end(&mut bytes).map(|_| ()).map_err(|error| error.kind());
    (String::from_utf8(bytes).unwrap(), end)
}

#[test]
fn only_loopback_addresses_are_listened_on() {
    let addresses = |text: &[&str]| -> Vec<SocketAddr> {
        text.iter().map(|address| address.parse().unwrap()).collect()
    };
    let host = address("tcp:host:1");
    for allowed in [
        &["127.0.0.1:1"][..],
        &["[::1]:1"],
        &["127.9.9.9:1", "[::1]:1"],
        &["[::ffff:127.0.0.1]:1"],
        &[],
    ] {
        assert!(check_loopback(&host, &addresses(allowed)).is_ok(), "{allowed:?}");
    }
    for refused in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[::ffff:192.0.2.1]:1"] {
        let failure = check_loopback(&host, &addresses(&["127.0.0.1:1", refused])).unwrap_err();
        let ip = addresses(&[refused])[0].ip();
        let expected = format!("receive: tcp:host:1: {ip} is not a loopback address");
        assert!(failure.message.starts_with(&expected), "{}", failure.message);
    }
}

#[test]
fn accepts_senders_without_blocking() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let unix = Listener::bind(&address(&format!("unix:{}", path.display())), false).unwrap();
    let tcp = Listener::bind(&address("tcp:127.0.0.1:0"), false).unwrap();
    for listener in [&unix, &tcp] {
        assert_eq!(listener.accept().err().unwrap().kind(), io::ErrorKind::WouldBlock);
    }
    let _sender = UnixStream::connect(&path).unwrap();
    let connection = unix.accept().unwrap();
    assert_eq!((connection.peer.as_str(), connection.is_unix), (unix.name(), true));
    let sender = std::net::TcpStream::connect(tcp.name().strip_prefix("tcp:").unwrap()).unwrap();
    let connection = tcp.accept().unwrap();
    let peer = format!("tcp:{}", sender.local_addr().unwrap());
    assert_eq!((connection.peer, connection.is_unix), (peer, false));
    // Reading does not block either.
    assert_eq!(rustix::io::read(&connection.socket, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
}

/// Over a Unix socket the byte that is left unread breaks the connection, unless `confirm` takes it.
#[test]
fn confirms_by_an_ordinary_end() {
    let (connection, sender) = sent(b"x");
    connection.confirm();
    drop(connection);
    assert_eq!(reply(sender), ("ok\n".into(), Ok(())));
}

#[test]
fn refuses_by_breaking_the_connection() {
    let (connection, sender) = sent(b"x");
    connection.refuse("disk full", &Stop::without_signal());
    drop(connection);
    assert_eq!(reply(sender), ("disk full\n".into(), Err(io::ErrorKind::ConnectionReset)));

    let listener = Listener::bind(&address("tcp:127.0.0.1:0"), false).unwrap();
    let address = listener.name().strip_prefix("tcp:").unwrap();
    for is_kept in [true, false] {
        let mut sender = std::net::TcpStream::connect(address).unwrap();
        sender.write_all(b"x").unwrap();
        let connection = listener.accept().unwrap();
        let expected = if is_kept {
            connection.confirm();
            // Unread bytes would break the connection.
            while rustix::io::read(&connection.socket, &mut [0; 1]) == Err(rustix::io::Errno::AGAIN)
            {
            }
            ("ok\n", Ok(()))
        } else {
            connection.refuse("disk full", &Stop::without_signal());
            ("disk full\n", Err(io::ErrorKind::ConnectionReset))
        };
        drop(connection);
        let mut bytes = Vec::new();
        let end = sender.read_to_end(&mut bytes).map(|_| ()).map_err(|error| error.kind());
        assert_eq!((String::from_utf8(bytes).unwrap().as_str(), end), expected);
    }
}

#[test]
fn a_sender_that_has_gone_does_not_matter() {
    let (connection, sender) = connect();
    drop(sender);
    connection.confirm();
    connection.refuse("disk full", &Stop::without_signal());
}
