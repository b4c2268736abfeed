//! Snapshots of guests that keep running while another thread dumps them.
#![allow(unsafe_code, reason = "prepares snapshots of memories by address")]

use std::sync::{Arc, mpsc};
use std::thread;

use corestream::snapshot::{Preparation, SnapshotOptions};
use corestream::{Dumper, ErrorKind, GlobalValue, snapshot};
use corestream_wasmtime::{Capture, Frozen, HostMemories};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store, UpdateDeadline};

use crate::common::decode;
use crate::environment;
use crate::guests::config;

/// Stores the number of the round in each cell of the first memory and at the start of the second one, and calls
/// `tick`. Grows the first memory in round 4.
const GUEST: &str = r#"(module
    (import "host" "tick" (func $tick))
    (memory $a (export "a") 1 9) (memory $b (export "b") 2 9)
    (global $round (export "round") (mut i32) (i32.const 0))
    (func $fill (local $i i32)
        (loop $next
            (i32.store $a (local.get $i) (global.get $round))
            (local.set $i (i32.add (local.get $i) (i32.const 4)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 65536))))
        (i32.store $b (i32.const 70000) (global.get $round)))
    (func (export "run") (result i32)
        (loop $next
            (global.set $round (i32.add (global.get $round) (i32.const 1)))
            (if (i32.eq (global.get $round) (i32.const 4))
                (then (drop (memory.grow $a (i32.const 3)))))
            (call $fill)
            (call $tick)
            (br_if $next (i32.lt_u (global.get $round) (i32.const 50))))
        (global.get $round)))"#;

/// The round at whose end the guest is frozen.
const FROZEN_ROUND: i32 = 3;

/// Prepares a snapshot of the guest. The memories of the tests outlive the snapshots.
type Prepare = fn(&mut Caller<'_, Host>) -> corestream::Result<Preparation>;

/// The host's state.
struct Host {
    instance: Option<Instance>,
    memories: Arc<HostMemories>,
    prepare: Prepare,
    round: i32,
    to_dumper: mpsc::Sender<Message>,
}

/// A message to the thread that dumps.
enum Message {
    Frozen(Box<Frozen>),
    /// The guest has overwritten the memory since the freeze.
    Overwritten,
}

/// Returns an error if this machine cannot take snapshots.
pub fn probe() -> corestream::Result<()> {
    // SAFETY: there is no memory.
    unsafe { SnapshotOptions::new().prepare(&[]) }.map(drop)
}

fn capture(host: &Host) -> Capture<'static, Host> {
    Capture::new("snapshot").instances(host.instance)
}

fn prepare_host_memories(caller: &mut Caller<'_, Host>) -> corestream::Result<Preparation> {
    // SAFETY: the host does not discard the memories, and no system call writes to them.
    unsafe { caller.data().memories.prepare(&SnapshotOptions::new()) }
}

fn prepare_live_memories(caller: &mut Caller<'_, Host>) -> corestream::Result<Preparation> {
    let live = capture(caller.data()).live_memories(caller);
    assert_eq!(live.iter().map(|memory| memory.len()).collect::<Vec<_>>(), [65_536, 131_072]);
    // SAFETY: the engine reserves the addresses of the memories, so they grow in place. The store is dropped after the
    // snapshot, and no system call writes to the memories.
    unsafe { SnapshotOptions::new().prepare(&live) }
}

/// Freezes the guest at the end of a round, and dumps it on another thread once the guest has overwritten its memory.
fn take(config: &mut Config, memories: Arc<HostMemories>, prepare: Prepare) {
    let engine = Engine::new(config).unwrap();
    let mut linker = Linker::new(&engine);
    let tick = |mut caller: Caller<'_, Host>| {
        caller.data_mut().round += 1;
        let round = caller.data().round;
        if round == FROZEN_ROUND {
            let prepare = caller.data().prepare;
            let prepared = prepare(&mut caller).unwrap();
            let frozen = capture(caller.data()).freeze(&mut caller, prepared).unwrap();
            caller.data().to_dumper.send(Message::Frozen(Box::new(frozen))).unwrap();
        } else if round == FROZEN_ROUND + 1 {
            caller.data().to_dumper.send(Message::Overwritten).unwrap();
        }
    };
    linker.func_wrap("host", "tick", tick).unwrap();
    let (to_dumper, from_guest) = mpsc::channel();
    let host = Host { instance: None, memories, prepare, round: 0, to_dumper };
    let mut store = Store::new(&engine, host);
    let module = Module::new(&engine, GUEST).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    store.data_mut().instance = Some(instance);
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
    let dumper = thread::spawn(move || dump(&from_guest));
    let rounds = run.call(&mut store, ()).unwrap();
    let core = dumper.join().unwrap();
    assert_eq!(rounds, 50, "the guest runs to its end");
    check(&core);
}

/// Dumps the snapshot after the guest has overwritten its memory.
fn dump(from_guest: &mpsc::Receiver<Message>) -> Vec<u8> {
    let Message::Frozen(frozen) = from_guest.recv().unwrap() else {
        panic!("the guest was not frozen")
    };
    assert!(matches!(from_guest.recv().unwrap(), Message::Overwritten));
    let core = Dumper::new().plan(&frozen.snapshot.dump).unwrap().to_vec().unwrap();
    frozen.snapshot.finish().unwrap();
    core
}

/// Checks that the dump shows the end of the frozen round: its memories, their lengths, the global and the frame.
fn check(core: &[u8]) {
    let decoded = decode(core);
    let cells = decoded.contents(0, 65_536);
    assert!(cells.as_chunks::<4>().0.iter().all(|cell| i32::from_le_bytes(*cell) == FROZEN_ROUND));
    assert_eq!(decoded.contents(1, 131_072)[70_000..70_004], FROZEN_ROUND.to_le_bytes());
    assert_eq!(decoded.globals[0].1, GlobalValue::I32(FROZEN_ROUND));
    let functions: Vec<_> = decoded.threads[0].1.iter().map(|frame| frame.function).collect();
    assert_eq!(functions, [2], "`run` has called the host");
}

#[test]
fn dumps_host_memories_while_the_guest_runs_and_grows() {
    environment::require!("userfaultfd", probe());
    let memories = Arc::new(HostMemories::new());
    let mut config = config();
    config.with_host_memory(memories.clone()).memory_init_cow(false);
    take(&mut config, memories, prepare_host_memories);
}

#[test]
fn dumps_memories_of_the_engine_while_the_guest_runs_and_grows() {
    environment::require!("userfaultfd", probe());
    take(&mut config(), Arc::default(), prepare_live_memories);
}

#[test]
fn freezes_at_an_epoch_deadline() {
    environment::require!("userfaultfd", probe());
    let memories = Arc::new(HostMemories::new());
    let mut config = config();
    config.with_host_memory(memories.clone()).memory_init_cow(false).epoch_interruption(true);
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module (memory (export "memory") 1)
        (func (export "run") (param i32)
            (loop $wait (br_if $wait (i32.eqz (i32.load8_u (i32.const 12)))))
            (i32.store (i32.const 8) (local.get 0))))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, None::<Frozen>);
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut context| {
        // SAFETY: no system call writes to the memories, and nothing discards them.
        let prepared = unsafe { memories.prepare(&SnapshotOptions::new()) }?;
        let capture = Capture::new("epoch").instances([instance]);
        let frozen = capture.freeze(&mut context, prepared)?;
        *context.data_mut() = Some(frozen);
        // The guest leaves its loop when it reads this number.
        let memory = instance.get_memory(&mut context, "memory").unwrap();
        memory.write(&mut context, 12, &[1])?;
        Ok(UpdateDeadline::Continue(1_000_000))
    });
    engine.increment_epoch();
    let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
    run.call(&mut store, 7).unwrap();
    let frozen = store.data_mut().take().unwrap();
    let core = thread::spawn(move || Dumper::new().plan(&frozen.snapshot.dump).unwrap().to_vec());
    let core = core.join().unwrap().unwrap();
    let decoded = decode(&core);
    // The host and the guest wrote after the freeze.
    assert_eq!(decoded.contents(0, 65_536)[8..13], [0; 5]);
    assert_eq!(decoded.threads[0].1.len(), 1);
}

#[test]
fn the_dump_outlives_a_trap_and_the_store() {
    environment::require!("userfaultfd", probe());
    let memories = Arc::new(HostMemories::new());
    let mut config = config();
    config.with_host_memory(memories.clone()).memory_init_cow(false);
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module (memory (export "memory") 1) (data (i32.const 5) "old")
        (func (export "run") (i32.store (i32.const 5) (i32.const 0)) unreachable))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    // SAFETY: no system call writes to the memories, and nothing discards them.
    let prepared = unsafe { memories.prepare(&SnapshotOptions::new()) }.unwrap();
    let capture = Capture::new("trap").instances([instance]);
    let frozen = capture.freeze(&mut store, prepared).unwrap();
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    run.call(&mut store, ()).unwrap_err();
    store.into_data();
    let core = Dumper::new().plan(&frozen.snapshot.dump).unwrap().to_vec().unwrap();
    frozen.snapshot.finish().unwrap();
    assert_eq!(decode(&core).contents(0, 65_536)[5..8], *b"old");
}

#[test]
fn refuses_a_memory_that_is_mapped_from_a_file_and_copies_it() {
    environment::require!("userfaultfd", probe());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("module.cwasm");
    let engine = Engine::new(&config()).unwrap();
    let data = "x".repeat(65_536);
    let text = format!(r#"(module (memory (export "memory") 2) (data (i32.const 0) "{data}"))"#);
    let module = Module::new(&engine, text).unwrap();
    std::fs::write(&path, module.serialize().unwrap()).unwrap();
    // SAFETY: the file was serialized by this engine, and does not change.
    let of_file = unsafe { Module::deserialize_file(&engine, &path) }.unwrap();
    for (module, is_refused) in [(module, false), (of_file, true)] {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let capture = Capture::new("image").instances([instance]);
        let live = capture.live_memories(&mut store);
        // SAFETY: the store outlives the preparation, and the guest does not run.
        let result = unsafe { SnapshotOptions::new().prepare(&live) };
        assert_eq!(result.is_err(), is_refused);
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Image);
            let message = error.to_string();
            assert!(message.contains("a private mapping of a file on disk"), "{message}");
        }
        let copy = snapshot::copy(capture.live(&mut store).dump, 1 << 20).unwrap();
        let core = Dumper::new().plan(&copy).unwrap().to_vec().unwrap();
        assert_eq!(decode(&core).contents(0, 131_072)[..65_536], *data.as_bytes());
    }
}

#[test]
fn shared_memories_are_not_frozen() {
    environment::require!("userfaultfd", probe());
    let engine = Engine::new(&config()).unwrap();
    let text = r#"(module (memory (export "shared") 1 1 shared) (memory (export "own") 1))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let capture = Capture::new("shared").instances([instance]);
    let live = capture.live_memories(&mut store);
    assert_eq!(live.len(), 1);
    // SAFETY: the store outlives the snapshot, and no system call writes to its memories.
    let prepared = unsafe { SnapshotOptions::new().prepare(&live) }.unwrap();
    let frozen = capture.freeze(&mut store, prepared).unwrap();
    for (name, number) in [("shared", 2), ("own", 0)] {
        let item = instance.get_export(&mut store, name).unwrap();
        match item.into_shared_memory() {
            Some(shared) => {
                // SAFETY: no other thread uses the memory.
                unsafe { shared.data()[0].get().write(number) }
            }
            None => instance.get_memory(&mut store, name).unwrap().data_mut(&mut store)[0] = 2,
        }
    }
    let core = Dumper::new().plan(&frozen.snapshot.dump).unwrap().to_vec().unwrap();
    frozen.snapshot.finish().unwrap();
    let decoded = decode(&core);
    let first: Vec<u8> = (0..2).map(|i| decoded.contents(i, 65_536)[0]).collect();
    let expected: Vec<u8> =
        decoded.memories.iter().map(|ty| if ty.shared { 2 } else { 0 }).collect();
    assert_eq!(first, expected);
}
