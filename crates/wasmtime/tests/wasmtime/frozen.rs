//! Frozen guests: memories with pages of one byte, locals, and dumps that need the guest's own runtime.
#![allow(unsafe_code, reason = "prepares snapshots of memories by address")]

use std::io::{self, Write};
use std::sync::Arc;

use corestream::snapshot::{Preparation, SnapshotOptions};
use corestream::{CoreDumpFile, Dumper, Value};
use corestream_wasmtime::{Capture, Frozen, HostMemories};
use tokio::sync::mpsc;
use tokio::task;
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store};

use crate::common::decode;
use crate::environment;
use crate::guests::config;
use crate::snapshot::probe;

fn with_host_memories() -> (Config, Arc<HostMemories>) {
    let memories = Arc::new(HostMemories::new());
    let mut config = config();
    config.with_host_memory(memories.clone()).memory_init_cow(false);
    (config, memories)
}

fn prepare(memories: &HostMemories, options: &SnapshotOptions) -> Preparation {
    // SAFETY: the host does not discard the memories, and no system call writes to them.
    unsafe { memories.prepare(options) }.unwrap()
}

fn to_vec(frozen: Frozen) -> corestream::Result<Vec<u8>> {
    let core = Dumper::new().plan(&frozen.snapshot.dump)?.to_vec()?;
    frozen.snapshot.finish()?;
    Ok(core)
}

#[test]
fn freezes_a_memory_with_pages_of_one_byte() {
    environment::require!("userfaultfd", probe());
    const LEN: usize = 70_001;
    let (config, memories) = with_host_memories();
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module (memory (export "memory") 70001 80000 (pagesize 1))
        (func (export "grow") (result i32) (memory.grow (i32.const 5000))))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    memory.data_mut(&mut store).fill(7);
    let prepared = prepare(&memories, &SnapshotOptions::new());
    memory.data_mut(&mut store)[LEN - 1] = 8;
    let frozen = Capture::new("bytes").instances([instance]).freeze(&mut store, prepared).unwrap();
    // The memory grows within its last page of the host.
    let grow = instance.get_typed_func::<(), i32>(&mut store, "grow").unwrap();
    assert_eq!(grow.call(&mut store, ()).unwrap(), 70_001);
    memory.data_mut(&mut store).fill(9);
    let core = to_vec(frozen).unwrap();
    let decoded = decode(&core);
    assert_eq!(
        (decoded.memories[0].initial, decoded.memories[0].page_size_log2),
        (70_001, Some(0))
    );
    let (last, others) =
        decoded.contents(0, LEN).split_last().map(|(l, o)| (*l, o.to_vec())).unwrap();
    assert_eq!(last, 8);
    assert!(others.iter().all(|byte| *byte == 7));
}

#[test]
fn a_frozen_dump_has_the_locals_of_the_freeze() {
    environment::require!("userfaultfd", probe());
    let (mut config, memories) = with_host_memories();
    let engine = Engine::new(config.guest_debug(true)).unwrap();
    let text = r#"(module (import "host" "freeze" (func $freeze)) (memory (export "memory") 1)
        (func (export "run") (param i32) (result i32) (local i64)
            (local.set 1 (i64.const 99))
            (call $freeze)
            (local.set 1 (i64.const 0))
            (local.set 0 (i32.add (local.get 0) (i32.const 1)))
            (local.get 0)))"#;
    let mut linker = Linker::new(&engine);
    let freeze = move |mut caller: Caller<'_, Option<Frozen>>| {
        let prepared = prepare(&memories, &SnapshotOptions::new());
        *caller.data_mut() = Some(Capture::new("locals").freeze(&mut caller, prepared).unwrap());
    };
    linker.func_wrap("host", "freeze", freeze).unwrap();
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, None);
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
    assert_eq!(run.call(&mut store, 41).unwrap(), 42);
    let core = to_vec(store.into_data().unwrap()).unwrap();
    let decoded = decode(&core);
    assert_eq!(decoded.threads[0].1[0].locals, [Value::I32(41), Value::I64(99)]);
}

/// Sends the bytes to a task of the guest's runtime, which has only one thread.
struct ToTask(mpsc::Sender<Vec<u8>>);

impl Write for ToTask {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to all pages of the host and yields, again and again.
const YIELDS: &str = r#"(module (import "host" "tick" (func $tick (param i32)))
    (memory (export "memory") 256)
    (func (export "run") (param $rounds i32) (local $round i32) (local $i i32)
        (loop $again
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (local.set $i (i32.const 0))
            (loop $next
                (i32.store (local.get $i) (local.get $round))
                (local.set $i (i32.add (local.get $i) (i32.const 4096)))
                (br_if $next (i32.lt_u (local.get $i) (i32.const 16777216))))
            (call $tick (local.get $round))
            (br_if $again (i32.lt_u (local.get $round) (local.get $rounds))))))"#;

/// The guest, and the task that collects its dump.
#[derive(Default)]
struct Host {
    instance: Option<Instance>,
    collector: Option<task::JoinHandle<Vec<u8>>>,
}

/// Freezes the guest, dumps it on another thread, and collects the bytes in a task.
fn dump_through_a_task(caller: &mut Caller<'_, Host>, prepared: Preparation) {
    let capture = Capture::new("runtime").instances(caller.data().instance);
    let frozen = capture.freeze(caller, prepared).unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    task::spawn_blocking(move || {
        // After a failure, the receiver has only a part of the dump.
        let plan = Dumper::new().plan(&frozen.snapshot.dump);
        let _ = plan.and_then(|plan| plan.write_to(&mut ToTask(sender)));
    });
    caller.data_mut().collector = Some(task::spawn(async move {
        let mut core = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            core.extend(bytes);
        }
        core
    }));
}

/// The thread that dumps waits for the guest's runtime, and the guest's writes do not wait for the thread that dumps.
#[test]
fn a_dump_may_go_through_the_runtime_of_the_guest() {
    environment::require!("userfaultfd", probe());
    for (limit, is_whole) in [(64 << 20, true), (1 << 20, false)] {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let core = runtime.block_on(async {
            let (config, memories) = with_host_memories();
            let engine = Engine::new(&config).unwrap();
            let mut linker = Linker::new(&engine);
            let options = SnapshotOptions::new().copy_limit(limit);
            linker
                .func_wrap_async("host", "tick", move |mut caller, (round,): (i32,)| {
                    if round == 2 {
                        dump_through_a_task(&mut caller, prepare(&memories, &options));
                    }
                    Box::new(task::yield_now())
                })
                .unwrap();
            let module = Module::new(&engine, YIELDS).unwrap();
            let mut store = Store::new(&engine, Host::default());
            let instance = linker.instantiate_async(&mut store, &module).await.unwrap();
            store.data_mut().instance = Some(instance);
            let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
            run.call_async(&mut store, 20).await.unwrap();
            store.into_data().collector.unwrap().await.unwrap()
        });
        if is_whole {
            let decoded = decode(&core);
            let memory = decoded.contents(0, 16 << 20);
            assert!(memory.chunks(4096).all(|page| page[0] == 2));
        } else {
            assert!(CoreDumpFile::from_slice(&core).is_err(), "the limit was reached");
        }
    }
}
