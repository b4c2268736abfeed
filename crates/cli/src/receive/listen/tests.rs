use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::peer::Peer;
use crate::receive::test_support::{connect, sent};

/// Reads what a receiver replies, and how it ends the connection.
fn reply(mut sender: UnixStream) -> (String, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = sender.read_to_end(&mut bytes).map(|_| ()).map_err(|error| error.kind());
    (String::from_utf8(bytes).unwrap(), end)
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

    let listener =
        Listener::bind("receive", &Peer::to_listen_on("tcp:127.0.0.1:0").unwrap(), false).unwrap();
    let address = listener.name().strip_prefix("tcp:").unwrap();
    for is_kept in [true, false] {
        let mut sender = std::net::TcpStream::connect(address).unwrap();
        sender.write_all(b"x").unwrap();
        let connection = Connection::accept(&listener).unwrap();
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
