use std::os::unix::net::UnixStream;

use super::*;

fn address(text: &str) -> Peer {
    Peer::to_listen_on(text).unwrap()
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
        assert!(check_loopback("debug", &host, &addresses(allowed)).is_ok(), "{allowed:?}");
    }
    for refused in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[::ffff:192.0.2.1]:1"] {
        let failure =
            check_loopback("debug", &host, &addresses(&["127.0.0.1:1", refused])).unwrap_err();
        let ip = addresses(&[refused])[0].ip();
        let expected = format!("debug: tcp:host:1: {ip} is not a loopback address");
        assert!(failure.message.starts_with(&expected), "{}", failure.message);
    }
}

#[test]
fn accepts_clients_without_blocking() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let unix =
        Listener::bind("debug", &address(&format!("unix:{}", path.display())), false).unwrap();
    let tcp = Listener::bind("debug", &address("tcp:127.0.0.1:0"), false).unwrap();
    for listener in [&unix, &tcp] {
        assert_eq!(listener.accept().err().unwrap().kind(), io::ErrorKind::WouldBlock);
    }
    let _client = UnixStream::connect(&path).unwrap();
    let connection = unix.accept().unwrap();
    assert_eq!((connection.peer.as_str(), connection.is_unix), (unix.name(), true));
    let client = std::net::TcpStream::connect(tcp.name().strip_prefix("tcp:").unwrap()).unwrap();
    let connection = tcp.accept().unwrap();
    let peer = format!("tcp:{}", client.local_addr().unwrap());
    assert_eq!((connection.peer, connection.is_unix), (peer, false));
    // Reading does not block either.
    assert_eq!(rustix::io::read(&connection.socket, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
}
