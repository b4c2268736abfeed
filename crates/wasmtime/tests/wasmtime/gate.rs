//! Snapshots of the engine's own memories, which move, end, or are reused for another store.
#![allow(unsafe_code, reason = "prepares snapshots of memories by address")]

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use corestream::Dumper;
use corestream::snapshot::SnapshotOptions;
use corestream_wasmtime::{Capture, Frozen, GatedLimiter, SnapshotGate};
use wasmtime::{
    Config, Engine, Instance, InstanceAllocationStrategy, Module, PoolingAllocationConfig,
    ResourceLimiter, Store, StoreLimits,
};

use crate::common::decode;
use crate::environment;
use crate::guests::config;
use crate::snapshot::probe;

/// A memory of two pages, which `grow` grows.
const GUEST: &str = r#"(module (memory (export "memory") i64 2)
    (data (i64.const 5) "image")
    (func (export "grow") (result i64)
        (i64.store (i64.const 65536) (i64.const -1))
        (memory.grow (i64.const 100))))"#;
const LEN: usize = 131_072;

/// How long a step gets that must not happen yet.
const WHILE: Duration = Duration::from_millis(30);

/// A limiter that announces growth.
struct Announces(Sender<()>);

impl ResourceLimiter for Announces {
    fn memory_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let _ = self.0.send(());
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// A store whose memory moves when it grows.
struct Moving {
    store: Store<GatedLimiter<Announces>>,
    instance: Instance,
    gate: SnapshotGate,
    grows: Receiver<()>,
}

impl Moving {
    fn new() -> Self {
        let mut config = config();
        config.memory_reservation(LEN as u64).memory_reservation_for_growth(0);
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, GUEST).unwrap();
        let (gate, (announce, grows)) = (SnapshotGate::new(), mpsc::channel());
        let mut store = Store::new(&engine, gate.limiter(Announces(announce)));
        store.limiter(|limiter| limiter);
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        memory.data_mut(&mut store)[100..].fill(7);
        // Its creation was announced, too.
        assert_eq!(grows.try_iter().count(), 1);
        Self { store, instance, gate, grows }
    }

    fn start(&mut self) -> *mut u8 {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        memory.data_ptr(&self.store)
    }

    fn grow(&mut self) {
        let grow = self.instance.get_typed_func::<(), i64>(&mut self.store, "grow").unwrap();
        assert_eq!(grow.call(&mut self.store, ()).unwrap(), 2);
    }

    fn prepare(&mut self) {
        prepare(&mut self.store, self.instance, &self.gate);
    }

    fn freeze(&mut self) -> Frozen {
        let prepared = self.gate.take().unwrap();
        capture(self.instance).freeze(&mut self.store, prepared).unwrap()
    }
}

fn capture<T: 'static>(instance: Instance) -> Capture<'static, T> {
    Capture::new("gate").instances([instance])
}

/// Prepares a snapshot of the memories of an instance.
fn prepare<T: 'static>(store: &mut Store<T>, instance: Instance, gate: &SnapshotGate) {
    let closed = gate.close();
    let memories = capture(instance).live_memories(store);
    // SAFETY: the gate was closed when the memories were listed. Their stores own a limiter of it, and no system call
    // writes to the memories. The one test that violates the contract says so.
    unsafe { closed.prepare(&SnapshotOptions::new(), &memories) }.unwrap();
}

/// Dumps and finishes. Waits before the first byte until `grows` has a message, and a while longer.
fn dump(frozen: Frozen, grows: &Receiver<()>) -> corestream::Result<Vec<u8>> {
    let mut sink = Waits { bytes: Vec::new(), grows: Some(grows) };
    let result = Dumper::new().plan(&frozen.snapshot.dump)?.write_to(&mut sink);
    let finished = frozen.snapshot.finish();
    result.and(finished).map(|_| sink.bytes)
}

struct Waits<'r> {
    bytes: Vec<u8>,
    grows: Option<&'r Receiver<()>>,
}

impl Write for Waits<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(grows) = self.grows.take() {
            grows.recv_timeout(Duration::from_secs(60)).unwrap();
            thread::sleep(WHILE);
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the memory of the guest before `grow`.
fn expected() -> Vec<u8> {
    let mut memory = vec![7; LEN];
    memory[..100].fill(0);
    memory[5..10].copy_from_slice(b"image");
    memory
}

#[test]
fn a_memory_that_would_move_waits_for_the_dump() {
    environment::require!("userfaultfd", probe());
    let mut guest = Moving::new();
    guest.prepare();
    let frozen = guest.freeze();
    let before = guest.start();
    let (_, none) = mpsc::channel();
    let grows = std::mem::replace(&mut guest.grows, none);
    let core = thread::scope(|scope| {
        let dumper = scope.spawn(move || dump(frozen, &grows).unwrap());
        guest.grow();
        dumper.join().unwrap()
    });
    assert_ne!(guest.start(), before, "the memory has moved");
    let decoded = decode(&core);
    assert_eq!(decoded.memories[0].initial, 2);
    assert!(decoded.contents(0, LEN) == expected());
}

#[test]
fn growth_ends_a_preparation() {
    environment::require!("userfaultfd", probe());
    let mut guest = Moving::new();
    guest.prepare();
    assert!(guest.gate.is_prepared());
    guest.grow();
    assert!(!guest.gate.is_prepared());
    assert!(guest.gate.take().is_none());
    // The next one has the new memory.
    guest.prepare();
    let frozen = guest.freeze();
    let (announce, now) = mpsc::channel();
    announce.send(()).unwrap();
    let core = dump(frozen, &now).unwrap();
    let mut expected = expected();
    expected.resize(102 * 65_536, 0);
    expected[65_536..][..8].fill(0xff);
    assert!(decode(&core).contents(0, expected.len()) == expected);
}

#[test]
fn growth_waits_while_memories_are_being_prepared() {
    let mut guest = Moving::new();
    let closed = guest.gate.close();
    let has_grown = AtomicBool::new(false);
    thread::scope(|scope| {
        let (guest, has_grown) = (&mut guest, &has_grown);
        let (_, none) = mpsc::channel();
        let grows = std::mem::replace(&mut guest.grows, none);
        scope.spawn(move || {
            guest.grow();
            has_grown.store(true, Ordering::Release);
        });
        grows.recv_timeout(Duration::from_secs(60)).unwrap();
        thread::sleep(WHILE);
        assert!(!has_grown.load(Ordering::Acquire));
        drop(closed);
    });
    assert!(has_grown.into_inner());
}

/// Data of a store that announces its end.
struct Data {
    // Dropped in this order.
    _ends: Announced,
    limiter: GatedLimiter<StoreLimits>,
}

struct Announced(Sender<()>);

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A store with the only slot of a pool, whose memory has one value everywhere.
fn pooled(
    engine: &Engine,
    gate: &SnapshotGate,
    value: u8,
) -> (Store<Data>, Instance, Receiver<()>) {
    let (announce, ends) = mpsc::channel();
    let data = Data { _ends: Announced(announce), limiter: gate.limiter(StoreLimits::default()) };
    let mut store = Store::new(engine, data);
    store.limiter(|data| &mut data.limiter);
    let module = Module::new(engine, GUEST).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    assert_eq!(memory.data(&store)[..10], *b"\0\0\0\0\0image", "the slot is fresh");
    memory.data_mut(&mut store).fill(value);
    (store, instance, ends)
}

/// Returns an engine with a pool of one slot, which keeps `resident` bytes of it when a store ends.
fn pool(resident: usize) -> Engine {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(1).total_core_instances(2).max_memory_size(1 << 24);
    pool.linear_memory_keep_resident(resident);
    let mut config: Config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).unwrap()
}

fn start(store: &mut Store<Data>, instance: Instance) -> usize {
    instance.get_memory(&mut *store, "memory").unwrap().data_ptr(&*store).addr()
}

const TENANT: u8 = 7;
const CANARY: u8 = 0xca;

#[test]
fn the_end_of_a_store_waits_before_its_slot_is_reused() {
    environment::require!("userfaultfd", probe());
    for resident in [0, 1 << 20] {
        let (engine, gate) = (pool(resident), SnapshotGate::new());
        let (mut store, instance, ends) = pooled(&engine, &gate, TENANT);
        prepare(&mut store, instance, &gate);
        let prepared = gate.take().unwrap();
        let frozen = capture(instance).freeze(&mut store, prepared).unwrap();
        let slot = start(&mut store, instance);
        let core = thread::scope(|scope| {
            let dumper = scope.spawn(move || dump(frozen, &ends).unwrap());
            drop(store);
            let (mut other, instance, _) = pooled(&engine, &SnapshotGate::new(), CANARY);
            assert_eq!(start(&mut other, instance), slot, "the slot is reused");
            dumper.join().unwrap()
        });
        assert!(decode(&core).contents(0, LEN) == [TENANT; LEN]);
    }
}

/// `Store::into_data` frees the memories and keeps the data, so nothing can wait, and this test violates the contract.
/// The slot stays mapped.
#[test]
fn a_reused_slot_is_in_no_dump_even_without_a_wait() {
    environment::require!("userfaultfd", probe());
    for resident in [0, 1 << 20] {
        let (engine, gate) = (pool(resident), SnapshotGate::new());
        let (mut store, instance, _) = pooled(&engine, &gate, TENANT);
        prepare(&mut store, instance, &gate);
        let prepared = gate.take().unwrap();
        let frozen = capture(instance).freeze(&mut store, prepared).unwrap();
        let slot = start(&mut store, instance);
        let data = store.into_data();
        let (mut other, instance, _) = pooled(&engine, &SnapshotGate::new(), CANARY);
        assert_eq!(start(&mut other, instance), slot, "the slot is reused");
        let (announce, now) = mpsc::channel();
        announce.send(()).unwrap();
        match dump(frozen, &now) {
            Ok(core) => assert!(decode(&core).contents(0, LEN) == [TENANT; LEN], "{resident}"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("unmapped, moved or discarded"), "{resident}: {message}");
            }
        }
        drop(data);
    }
}
