//! Clients that are not LLDB: idle ones, hostile ones, and many of them.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::{GUESTS, Server};
use crate::tool::{corestream, stderr};

/// Sends a packet, and returns the payload of the reply.
fn ask(client: &mut (impl Read + Write), packet: &str) -> String {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    write!(client, "${packet}#{sum:02x}").unwrap();
    let mut reply = Vec::new();
    loop {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        reply.push(byte[0]);
        if reply.len() > 3 && reply[reply.len() - 3] == b'#' {
            break;
        }
    }
    let text = String::from_utf8(reply).unwrap();
    text.trim_start_matches('+').trim_start_matches('$').split('#').next().unwrap().to_owned()
}

fn server() -> Server {
    Server::of_guest("recursive", &["recursive.wasm"])
}

#[test]
fn an_idle_client_does_not_hold_up_the_next() {
    let server = server();
    let idle = server.connect();
    let mut half = server.connect();
    half.write_all(b"$qWasmCall").unwrap();
    for _ in 0..3 {
        let mut client = server.connect();
        assert!(ask(&mut client, "?").starts_with("T05thread:1;"));
        assert_eq!(ask(&mut client, "D"), "OK");
    }
    drop((idle, half));
    assert_eq!(server.stop().0, Some(143));
}

/// The server cannot send more than the socket holds, and only this client waits.
#[test]
fn a_client_that_never_reads_holds_up_no_other() {
    let server = server();
    let mut client = server.connect();
    client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let packet = b"$m0,10000#1e";
    while client.write_all(packet).is_ok() {}
    let mut other = server.connect();
    assert!(ask(&mut other, "?").starts_with("T05"));
    // It ends although the client still does not read.
    assert_eq!(server.stop().0, Some(143));
}

#[test]
fn garbage_ends_a_session_and_not_the_server() {
    let server = server();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"$x#00$x#00", &[0xff; 70_000], b"$"] {
        let mut client = server.connect();
        let _ = client.write_all(garbage);
        let _ = client.write_all(&[b'a'; 300_000]);
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut reply = Vec::new();
        let _ = client.take(1 << 20).read_to_end(&mut reply);
        assert!(reply.len() < 1 << 20);
    }
    // Clients that leave in the middle of every packet.
    let packet = b"$qXfer:libraries:read::0,1ffff#9a";
    for end in 0..packet.len() {
        server.connect().write_all(&packet[..end]).unwrap();
    }
    assert!(ask(&mut server.connect(), "?").starts_with("T05"));
    let (code, message) = server.stop();
    assert_eq!(code, Some(143));
    assert!(message.ends_with("corestream: debug: stopped by SIGTERM\n"), "{message}");
}

/// Neither files nor the platform can be reached, and nothing can be written.
#[test]
fn gives_no_access_to_files() {
    let server = server();
    let mut client = server.connect();
    for packet in [
        "vFile:open:2f6574632f706173737764,0,0",
        "qPlatform_shell:6964",
        "qPlatform_mkdir:1ff,2f746d70",
        "qLaunchGDBServer",
        "vRun;2f62696e2f7368",
        "vAttach;1",
        "M100,1:00",
        "X100,1:a",
        "G00",
        "P0=00",
    ] {
        assert_eq!(ask(&mut client, packet), "", "{packet}");
    }
    assert_eq!(server.stop().0, Some(143));
}

/// Only this user can connect to the socket, and nothing is left of it.
#[test]
fn the_socket_is_in_a_private_directory() {
    let server = server();
    let directory = server.socket.parent().unwrap().to_path_buf();
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let (_, message) = server.stop();
    assert!(!directory.exists());
    let socket = directory.join("lldb.sock");
    let command = format!("process connect --plugin wasm unix-connect://{}", socket.display());
    assert!(message.contains(&format!("  lldb -o '{command}'\n")), "{message}");
    let entry = message.split_once("LLDB DAP:\n").unwrap().1.split("corestream: ").next().unwrap();
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
    assert_eq!(entry["attachCommands"][0], command);
    assert_eq!(
        (&entry["type"], &entry["name"]),
        (&"lldb-dap".into(), &"core dump recursive.core".into())
    );
}

#[test]
fn usage_errors_name_the_way_out() {
    for (args, code, expected) in [
        (
            &["recursive.core", "--listen", "tcp:0.0.0.0:0"][..],
            2,
            "0.0.0.0 is not a loopback address, so other machines can reach it; use --any-host",
        ),
        (&["recursive.core", "--lldb=/no/lldb"], 125, "apt install lldb-22"),
        (&["recursive.core", "--thread", "7"], 1, "thread 7"),
        (&["no.core"], 1, "no.core: cannot open: No such file"),
        (&["recursive.wasm"], 3, "recursive.wasm: "),
        (&["recursive.core", "--symbols", "no.wasm"], 1, "no.wasm: "),
    ] {
        let output = corestream(Path::new(GUESTS), ["debug"]).args(args).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}
