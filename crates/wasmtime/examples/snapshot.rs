//! A host that dumps its guest on another thread while the guest keeps running.
//!
//! `cargo run -p corestream-wasmtime --example snapshot -- guest.core`
#![allow(dead_code, reason = "a test includes this file and does not call main")]
#![allow(unsafe_code, reason = "the host promises not to discard the memories of the guest")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use corestream_wasmtime::corestream::snapshot::SnapshotOptions;
use corestream_wasmtime::corestream::{self, Dumper};
use corestream_wasmtime::{Capture, HostMemories};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store};

/// Counts to 100 in its memory, and requests a dump at 50.
const GUEST: &str = r#"(module $count
    (import "host" "dump" (func $dump))
    (memory (export "memory") 1)
    (func (export "run") (local $i i32)
        (loop $next
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (i32.store (i32.const 8) (local.get $i))
            (if (i32.eq (local.get $i) (i32.const 50)) (then (call $dump)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 100))))))"#;

/// The host's state: the guest's instance and memories, the path of the dump, and the thread that writes it.
struct Host {
    instance: Option<Instance>,
    memories: Arc<HostMemories>,
    path: PathBuf,
    dumper: Option<JoinHandle<corestream::Result<()>>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    snapshot(path.as_ref())
}

/// Runs the guest to its end. Dumps to `path` on the guest's request.
pub fn snapshot(path: &Path) -> Result<(), Box<dyn Error>> {
    let memories = Arc::new(HostMemories::new());
    let mut config = Config::new();
    config.with_host_memory(memories.clone()).memory_init_cow(false);
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "dump", |mut caller: Caller<'_, Host>| {
        let host = caller.data();
        let (capture, path) = (Capture::new("count").instances(host.instance), host.path.clone());
        // SAFETY: this host does not discard the memories, and no system call writes to them.
        let prepared = unsafe { host.memories.prepare(&SnapshotOptions::new()) }?;
        let frozen = capture.freeze(&mut caller, prepared)?;
        caller.data_mut().dumper = Some(thread::spawn(move || {
            Dumper::new().plan(&frozen.snapshot.dump)?.write_file(path)?;
            frozen.snapshot.finish().map(|_| ())
        }));
        Ok(()) // the guest continues
    })?;
    let host = Host { instance: None, memories, path: path.into(), dumper: None };
    let mut store = Store::new(&engine, host);
    let instance = linker.instantiate(&mut store, &Module::new(&engine, GUEST)?)?;
    store.data_mut().instance = Some(instance);
    instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    if let Some(dumper) = store.data_mut().dumper.take() {
        dumper.join().map_err(|_| "the thread that dumps panicked")??;
    }
    Ok(())
}
