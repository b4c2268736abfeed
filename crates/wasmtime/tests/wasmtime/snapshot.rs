//! Snapshots of guests that keep running while another thread dumps them.
#![allow(unsafe_code, reason = "prepares snapshots of memories by address")]

use std::sync::{Arc, mpsc};
use std::thread;

use corestream::snapshot::{Preparation, SnapshotOptions};
use corestream::{Dumper, GlobalValue};
use corestream_wasmtime::{Capture, Frozen, HostMemories};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store};

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
    Frozen(Frozen),
    /// The guest has overwritten the memory since the freeze.
    Overwritten,
}

/// Returns an error if this machine cannot take snapshots.
fn probe() -> corestream::Result<()> {
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
fn snapshot(config: &mut Config, memories: Arc<HostMemories>, prepare: Prepare) {
    let engine = Engine::new(config).unwrap();
    let mut linker = Linker::new(&engine);
    let tick = |mut caller: Caller<'_, Host>| {
        caller.data_mut().round += 1;
        let round = caller.data().round;
        if round == FROZEN_ROUND {
            let prepare = caller.data().prepare;
            let prepared = prepare(&mut caller).unwrap();
            let frozen = capture(caller.data()).freeze(&mut caller, prepared).unwrap();
            caller.data().to_dumper.send(Message::Frozen(frozen)).unwrap();
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
    snapshot(&mut config, memories, prepare_host_memories);
}

#[test]
fn dumps_memories_of_the_engine_while_the_guest_runs_and_grows() {
    environment::require!("userfaultfd", probe());
    snapshot(&mut config(), Arc::default(), prepare_live_memories);
}
