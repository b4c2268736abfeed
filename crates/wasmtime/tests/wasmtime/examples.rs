//! The examples run and write valid dumps.

use std::io::Read;
use std::net::TcpListener;
use std::thread;

use corestream::GlobalValue;

use crate::common::{Decoded, decode};
use crate::environment;

#[path = "../../examples/dump_on_trap.rs"]
mod dump_on_trap;
#[path = "../../examples/dump_to_socket.rs"]
mod dump_to_socket;
#[path = "../../examples/live_dump.rs"]
mod live_dump;
#[path = "../../examples/snapshot.rs"]
mod snapshot;
#[path = "../../examples/thread_pool.rs"]
mod thread_pool;

/// Checks a dump of `orders.wat`.
fn check_orders(decoded: &Decoded<'_>) {
    assert_eq!(decoded.name, "orders.wat");
    let functions: Vec<_> = decoded.threads[0].1.iter().map(|f| f.function).collect();
    // The last order is out of bounds. `amount` reads its count first and traps, so `price` is never called.
    assert_eq!(functions, [1, 2, 2, 2, 2, 3]);
    assert_eq!(decoded.globals[0], (true, GlobalValue::I32(3)));
    assert_eq!(decoded.contents(0, 131_072)[0x1000c..0x10012], *b"cheese");
}

#[test]
fn dumps_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.core");
    dump_on_trap::dump_on_trap(&path).unwrap();
    check_orders(&decode(&std::fs::read(path).unwrap()));
}

#[test]
fn dumps_to_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes
    });
    dump_to_socket::dump_to_socket(address).unwrap();
    check_orders(&decode(&receiver.join().unwrap()));
}

#[test]
fn dumps_a_live_guest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.core");
    assert_eq!(live_dump::live_dump(&path).unwrap(), 5050);
    let bytes = std::fs::read(&path).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.contents(0, 65_536)[8..12], 1275_i32.to_le_bytes());
    // The file exists now, so the second dump fails. The guest still runs to its end.
    assert_eq!(live_dump::live_dump(&path).unwrap(), 5050);
}

#[test]
fn dumps_a_running_guest() {
    environment::require!("userfaultfd", crate::snapshot::probe());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("count.core");
    snapshot::snapshot(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(decode(&bytes).contents(0, 65_536)[8..12], 50_i32.to_le_bytes());
}

/// The program checks its dump. It has all threads, so no note says that one is missing.
#[test]
fn dumps_a_thread_pool() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.core");
    thread_pool::thread_pool(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.modules, ["worker"]);
    assert_eq!((decoded.threads.len(), decoded.memories.len()), (4, 5));
    assert!(decoded.threads.iter().all(|(_, frames)| !frames.is_empty()));
    assert_eq!(corestream::CoreDumpFile::from_slice(&bytes).unwrap().notes().count(), 0);
}
