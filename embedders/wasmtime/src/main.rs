//! A host whose guest traps. It dumps the guest to a file, and over a socket to a receiver.

use std::error::Error;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use corestream_wasmtime::corestream::read::{Verdict, Verifier};
use corestream_wasmtime::corestream::{CoreDumpFile, Dumper, MemoryIndex, SocketSink};
use wasmtime::{Config, Engine, Instance, Module, Store};

const GUEST: &str = r#"(module $guest
    (memory 100)
    (data (i32.const 70000) "what was in memory")
    (func $inner unreachable)
    (func (export "run") call $inner))"#;

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    let module = Module::new(&engine, GUEST)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).err().ok_or("it did not trap")?;
    let captured = corestream_wasmtime::capture(&mut store, "guest.wat", &error)?;

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("guest.core");
    captured.write_file(&path)?;
    assert!(matches!(Verifier::new().threads(2).verify_file(&path)?, Verdict::Intact(_)));
    let dump = CoreDumpFile::open(&path)?;
    let frames = dump.thread(0)?.frames().collect::<Result<Vec<_>, _>>()?;
    let functions: Vec<_> = frames.iter().map(|frame| frame.function).collect();
    assert_eq!(functions, [0, 1]);
    let mut buffer = [0; 18];
    dump.memory(MemoryIndex(0))?.read(70_000, &mut buffer)?;
    assert_eq!(buffer, *b"what was in memory");

    // A receiver that hangs makes the dump fail instead of blocking the host.
    let (mut peer, socket) = UnixStream::pair()?;
    let receiver = thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).map(|_| bytes)
    });
    let plan = Dumper::new().plan(&captured.dump)?;
    let writer = plan.writer().stall_timeout(Some(Duration::from_secs(10)));
    writer.write_to(&mut SocketSink::new(socket))?;
    let bytes = receiver.join().map_err(|_| "the receiver has panicked")??;
    assert!(Verifier::new().threads(2).verify(&bytes)?.is_intact());
    assert_eq!(bytes, std::fs::read(&path)?);
    Ok(())
}
