//! A host with a thread pool. Each worker has a store and an instance of its own, and all use one shared memory. When
//! one of them traps, the host stops the others and writes one dump of all.
//!
//! `cargo run -p corestream-wasmtime --example thread_pool -- pool.core`
#![allow(dead_code, reason = "a test includes this file and does not call main")]

use std::error::Error;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use corestream_wasmtime::corestream::read::{Verdict, Verifier};
use corestream_wasmtime::corestream::{self, CoreDumpFile, GlobalValue};
use corestream_wasmtime::{Capture, module_identity};
use wasmtime::{
    Config, Engine, Global, GlobalType, Linker, MemoryType, Module, Mutability, SharedMemory,
    Store, Val, ValType,
};

/// The code of the workers. They take the numbers of jobs from the shared memory, and wait there when none are left. The
/// job with number 20 is broken.
const WORKER: &str = r#"(module $worker
    (import "env" "memory" (memory $shared 1 1 shared))
    (import "env" "worker" (global $worker i32))
    (memory $own 1)
    (global $done (mut i32) (i32.const 0))
    ;; In the shared memory: the next job at 0, the sum of the results at 4, and the address to wait on at 8. In a
    ;; worker's own memory: its last job at 0.
    (func $work (param $job i32)
        (i32.store $own (i32.const 0) (local.get $job))
        (drop (i32.atomic.rmw.add $shared (i32.const 4)
            (i32.div_u (i32.const 1000) (i32.sub (i32.const 20) (local.get $job)))))
        (global.set $done (i32.add (global.get $done) (i32.const 1))))
    (func $run (export "run") (local $job i32)
        (block $empty
            (loop $next
                (local.set $job (i32.atomic.rmw.add $shared (i32.const 0) (i32.const 1)))
                (br_if $empty (i32.gt_u (local.get $job) (i32.const 20)))
                (call $work (local.get $job))
                (br $next)))
        (loop $wait
            (drop (memory.atomic.wait32 $shared (i32.const 8) (i32.const 0) (i64.const -1)))
            (br $wait))))"#;

const WORKERS: u8 = 4;

/// How long the host waits for the workers to stop. One that hangs in a host call would not.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A worker whose call has ended.
struct Stopped {
    worker: u8,
    store: Store<()>,
    error: wasmtime::Error,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    thread_pool(path.as_ref())
}

/// Runs the pool until a worker traps, writes the dump to `path`, and checks it.
pub fn thread_pool(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = Config::new();
    config.coredump_on_trap(true).epoch_interruption(true).shared_memory(true);
    let engine = Engine::new(&config)?;
    let wasm = wat::parse_str(WORKER)?;
    let module = Module::new(&engine, &wasm)?;
    let shared = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;

    let (sender, receiver) = mpsc::channel();
    for worker in 0..WORKERS {
        let (engine, module, shared) = (engine.clone(), module.clone(), shared.clone());
        let sender = sender.clone();
        thread::spawn(move || {
            let stopped = work(worker, &engine, &module, &shared);
            sender.send(stopped) // fails if the host no longer waits
        });
    }
    drop(sender);

    // The first worker that stops is the one that traps. Stop the others: at a loop or a function entry by the epoch,
    // and in a wait by waking them. A worker may begin to wait after a notification, so there are several.
    let mut stopped = vec![receiver.recv()??];
    // A worker may also begin to run after the epoch has changed.
    let deadline = Instant::now() + STOP_TIMEOUT;
    while stopped.len() < WORKERS.into() && Instant::now() < deadline {
        engine.increment_epoch();
        shared.atomic_notify(8, u32::MAX)?;
        match receiver.recv_timeout(Duration::from_millis(1)) {
            Ok(worker) => stopped.push(worker?),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }

    dump(&mut stopped, &module, &wasm, &shared, path)?;
    check(path)
}

/// Runs a worker until it traps.
fn work(
    worker: u8,
    engine: &Engine,
    module: &Module,
    shared: &SharedMemory,
) -> wasmtime::Result<Stopped> {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1);
    let mut linker = Linker::new(engine);
    linker.define(&store, "env", "memory", shared.clone())?;
    let number = GlobalType::new(ValType::I32, Mutability::Const);
    let number = Global::new(&mut store, number, Val::I32(worker.into()))?;
    linker.define(&store, "env", "worker", number)?;
    let instance = linker.instantiate(&mut store, module)?;
    let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    match run.call(&mut store, ()) {
        Err(error) => Ok(Stopped { worker, store, error }),
        Ok(()) => Err(wasmtime::Error::msg("a worker ended")),
    }
}

/// Writes one dump of all workers, beginning with the one that stopped first.
fn dump(
    stopped: &mut [Stopped],
    module: &Module,
    wasm: &[u8],
    shared: &SharedMemory,
    path: &Path,
) -> Result<(), Box<dyn Error>> {
    let identity = module_identity(wasm);
    let mut missing: Vec<u8> = (0..WORKERS).collect();
    let mut pool = None;
    for Stopped { worker, store, error } in stopped {
        missing.retain(|missing| missing != worker);
        let capture = Capture::new("thread pool")
            .thread(format!("worker {worker}"))
            .define("env", "memory", shared.clone())
            .module_identity(module, identity.clone());
        let mut captured = capture.trapped(store, error)?;
        match &mut pool {
            None => pool = Some(captured),
            Some(pool) => {
                // The host has stopped this worker, so its trap says nothing.
                captured.dump.trap = None;
                pool.merge(captured)?;
            }
        }
    }
    let mut pool = pool.ok_or("no worker has stopped")?;
    for worker in missing {
        pool.dump.add_missing_thread(format!("worker {worker}"), "it did not stop in time");
    }
    pool.write_file(path)?;
    Ok(())
}

/// Checks that the dump has all workers, and everything once.
fn check(path: &Path) -> Result<(), Box<dyn Error>> {
    assert!(matches!(Verifier::new().verify_file(path)?, Verdict::Intact(_)));
    let dump = CoreDumpFile::open(path)?;
    assert_eq!(dump.trap(), Some("wasm trap: integer divide by zero"));
    assert_eq!(dump.modules().len(), 1);
    assert_eq!(dump.instances().len(), usize::from(WORKERS));
    assert_eq!(dump.threads().len(), usize::from(WORKERS));

    // The first thread is in `work`, and the others are where the host stopped them.
    let first: Vec<_> = dump.thread(0)?.frames().collect::<Result<_, _>>()?;
    assert_eq!(first.iter().map(|frame| frame.function).collect::<Vec<_>>(), [0, 1]);

    // All workers use the same shared memory. Each has a memory of its own, and its number in a global.
    let globals = dump.globals().collect::<Result<Vec<_>, _>>()?;
    let (mut shared, mut own, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for instance in dump.instances() {
        let instance = instance?;
        let ([Some(first), Some(second)], [Some(number), Some(_)]) =
            (&instance.memories[..], &instance.globals[..])
        else {
            return Err("a memory or a global is unknown".into());
        };
        shared.push(*first);
        own.push(*second);
        numbers.push(globals[number.0 as usize].value);
    }
    let read = |memory, address| -> corestream::Result<u32> {
        let mut number = [0; 4];
        dump.memory(memory)?.read(address, &mut number)?;
        Ok(u32::from_le_bytes(number))
    };
    // The next job in the shared memory, and the last job of the worker that trapped.
    assert!(read(shared[0], 0)? > 20);
    assert_eq!(read(own[0], 0)?, 20);
    shared.dedup();
    own.sort_unstable();
    own.dedup();
    assert_eq!((shared.len(), own.len()), (1, usize::from(WORKERS)));
    assert_eq!(dump.memories().len(), usize::from(WORKERS) + 1);

    // A thread has the name of its worker.
    for (thread, number) in dump.threads().zip(numbers) {
        let GlobalValue::I32(number) = number else { return Err("not a number".into()) };
        assert_eq!(thread?.name(), format!("worker {number}"));
    }
    Ok(())
}
