//! Several stores in one dump: shared memories and modules once, everything else for each store.
#![allow(unsafe_code, reason = "prepares a snapshot of memories by address")]

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use corestream::snapshot::SnapshotOptions;
use corestream::{
    CoreDumpFile, Dumper, FileOptions, GlobalValue, InstanceIndex, MemoryIndex, ModuleIndex, Value,
};
use corestream_wasmtime::{Capture, Captured, FrameRecorder, HostMemories, Note, module_identity};
use wasmtime::component::{self, Component};
use wasmtime::{
    Caller, Engine, Error, Extern, Instance, Linker, MemoryType, Module, SharedMemory, Store,
    UpdateDeadline, WaitResult,
};

use crate::common::{Decoded, decode};
use crate::environment;
use crate::guests::{config, engine};

/// A worker with a memory and a global of its own, which traps after it has written to all of them.
const WORKER: &str = r#"(module $worker
    (import "env" "memory" (memory $shared 1 3 shared))
    (memory $own 1)
    (global $number (mut i32) (i32.const -1))
    (func $stop (param i32)
        (global.set $number (local.get 0))
        (i32.store $own (i32.const 16) (local.get 0))
        (i32.store8 $shared (local.get 0) (i32.const 0xaa))
        unreachable)
    (func (export "run") (param i32) (call $stop (local.get 0))))"#;

/// A store whose guest trapped.
struct Worker {
    name: String,
    store: Store<()>,
    error: Error,
}

impl Worker {
    /// Runs `run` with `number` until it traps.
    fn new(module: &Module, number: i32, imports: &[Extern]) -> Self {
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, module, imports).unwrap();
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, number).unwrap_err();
        Self { name: format!("worker {number}"), store, error }
    }

    fn capture(&mut self, shared: &SharedMemory) -> Captured<'_> {
        let capture = Capture::new("pool").thread(self.name.as_str());
        let capture = capture.define("env", "memory", shared.clone());
        capture.trapped(&mut self.store, &self.error).unwrap()
    }
}

fn merge<'a>(captured: impl IntoIterator<Item = Captured<'a>>) -> Captured<'a> {
    let mut captured = captured.into_iter();
    let mut all = captured.next().unwrap();
    captured.for_each(|other| all.merge(other).unwrap());
    all
}

fn shared_memory(engine: &Engine) -> SharedMemory {
    SharedMemory::new(engine, MemoryType::shared(1, 3)).unwrap()
}

/// Returns the first `len` bytes of a memory.
fn contents(decoded: &Decoded<'_>, memory: u32, len: usize) -> Vec<u8> {
    decoded.contents(memory as usize, len)
}

fn names(decoded: &Decoded<'_>) -> Vec<String> {
    decoded.threads.iter().map(|(name, _)| name.clone()).collect()
}

/// A captured store moves between threads if its data does.
#[test]
fn captured_stores_can_be_sent() {
    fn is_send<T: Send>() {}
    is_send::<Captured<'_>>();
}

#[test]
fn one_dump_has_all_stores_and_the_shared_memory_and_the_module_once() {
    let engine = engine();
    let module = Module::new(&engine, WORKER).unwrap();
    let shared = shared_memory(&engine);
    let start = |number| {
        let (module, shared) = (module.clone(), shared.clone());
        thread::spawn(move || Worker::new(&module, number, &[shared.into()]))
    };
    // The order of the dump is that of the calls, not that of the numbers.
    let workers = [2, 0, 1].map(start);
    let mut workers = workers.map(|worker| worker.join().unwrap());
    let all = merge(workers.iter_mut().map(|worker| worker.capture(&shared)));
    assert_eq!(all.notes, []);

    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "pool");
    assert_eq!(decoded.modules, ["worker"]);
    assert_eq!(names(&decoded), ["worker 2", "worker 0", "worker 1"]);
    assert_eq!((decoded.instances.len(), decoded.memories.len()), (3, 4));
    assert_eq!(decoded.memories.iter().filter(|ty| ty.shared).count(), 1);
    let of_all = decoded.instances[0].memories[0];
    assert_eq!(contents(&decoded, of_all, 65_536)[..4], [0xaa, 0xaa, 0xaa, 0]);
    for (at, number) in [(0_u32, 2_u8), (1, 0), (2, 1)] {
        let instance = &decoded.instances[at as usize];
        assert_eq!((instance.module_index, instance.memories[0]), (0, of_all));
        assert_eq!(contents(&decoded, instance.memories[1], 65_536)[16], number);
        let global = decoded.globals[instance.globals[0] as usize];
        assert_eq!(global, (true, GlobalValue::I32(number.into())));
        let frames: Vec<_> = decoded.threads[at as usize]
            .1
            .iter()
            .map(|frame| (frame.instance, frame.function))
            .collect();
        assert_eq!(frames, [(at, 0), (at, 1)]);
    }
}

#[test]
fn different_shared_memories_and_modules_stay_apart() {
    let engine = engine();
    let text = WORKER.replace("$worker\n", "\n");
    // Compiled twice from the same text: without the bytes nobody knows that they are the same.
    let modules = [&text, &text].map(|text| Module::new(&engine, text).unwrap());
    let shared = [shared_memory(&engine), shared_memory(&engine)];
    let mut workers = [0_u8, 1].map(|i| {
        Worker::new(&modules[usize::from(i)], i.into(), &[shared[usize::from(i)].clone().into()])
    });
    let [one, two] = &mut workers;
    let all = merge([one.capture(&shared[0]), two.capture(&shared[1])]);
    assert_eq!((all.dump.modules.len(), all.dump.memories.len()), (2, 4));
    assert_eq!(all.dump.notes.iter().filter(|note| note.contains("identity")).count(), 1);
    assert!(all.dump.notes.contains(&"no identity was recorded for 2 modules".to_string()));

    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    for (number, instance) in decoded.instances.iter().enumerate() {
        let contents = contents(&decoded, instance.memories[0], 65_536);
        let mut expected = [0; 2];
        expected[number] = 0xaa;
        assert_eq!(contents[..2], expected);
    }

    // With the bytes they are the same.
    let identity = module_identity(&wat::parse_str(&text).unwrap());
    let captured =
        workers.iter_mut().zip(&modules).zip(&shared).map(|((worker, module), shared)| {
            let capture = Capture::new("pool").module_identity(module, identity.clone());
            let capture = capture.define("env", "memory", shared.clone());
            capture.trapped(&mut worker.store, &worker.error).unwrap()
        });
    let all = merge(captured);
    assert_eq!(all.dump.modules.len(), 1);
    assert_eq!(all.dump.modules[0].identity, identity);
    // The traps of others are in notes.
    assert_eq!(
        all.dump.notes,
        ["thread `main` stopped by: wasm trap: wasm `unreachable` instruction executed"]
    );
}

/// The identity of a module can be known in one store only.
#[test]
fn a_merged_dump_has_one_note_on_identities() {
    let engine = engine();
    let module = Module::new(&engine, WORKER).unwrap();
    let other = Module::new(&engine, WORKER.replace("$worker", "$other")).unwrap();
    let shared = shared_memory(&engine);
    let identity = module_identity(&wat::parse_str(WORKER).unwrap());
    let mut workers =
        [&module, &module, &other].map(|module| Worker::new(module, 0, &[shared.clone().into()]));
    let notes = |dump: &corestream::CoreDump<'_>| {
        let notes = dump.notes.iter().filter(|note| note.contains("identity"));
        notes.cloned().collect::<Vec<_>>()
    };
    let [one, two, three] = &mut workers;
    let mut all = one.capture(&shared);
    assert_eq!(notes(&all.dump), ["no identity was recorded for module 0"]);
    let known = Capture::new("pool").module_identity(&module, identity.clone());
    all.merge(known.trapped(&mut two.store, &two.error).unwrap()).unwrap();
    assert_eq!(notes(&all.dump), <[&str; 0]>::default());
    assert_eq!(all.dump.modules[0].identity, identity);
    all.merge(three.capture(&shared)).unwrap();
    assert_eq!(notes(&all.dump), ["no identity was recorded for module 1"]);
}

/// In each store, a user of the memory and the global of another instance.
#[test]
fn instances_of_one_store_share_imports_with_each_other_only() {
    let engine = engine();
    let owner = Module::new(
        &engine,
        r#"(module $owner (memory (export "m") 2) (global (export "g") (mut i64) (i64.const 5))
            (func (export "f") (param i32) (i32.store8 (i32.const 3) (local.get 0))
                (global.set 0 (i64.extend_i32_s (local.get 0))) unreachable))"#,
    );
    let owner = owner.unwrap();
    let user = Module::new(
        &engine,
        r#"(module $user (import "owner" "m" (memory 1)) (import "owner" "g" (global (mut i64)))
            (import "owner" "f" (func $f (param i32)))
            (func (export "run") (param i32) (call $f (local.get 0))))"#,
    );
    let user = user.unwrap();
    let mut stores = [7, 8].map(|number| {
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &owner).unwrap();
        linker.instance(&mut store, "owner", instance).unwrap();
        let instance = linker.instantiate(&mut store, &user).unwrap();
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, number).unwrap_err();
        (store, error)
    });
    let all = merge(
        stores
            .iter_mut()
            .map(|(store, error)| Capture::new("guest").trapped(store, error).unwrap()),
    );
    assert_eq!(all.notes, []);
    assert_eq!((all.dump.modules.len(), all.dump.instances.len()), (2, 4));
    assert_eq!((all.dump.memories.len(), all.dump.globals.len()), (2, 2));
    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    for (store, number) in [(0_u32, 7), (1, 8)] {
        let of_store = &decoded.instances[2 * store as usize..][..2];
        assert_eq!(of_store[0].memories, [store]);
        assert_eq!(of_store[1].memories, [store]);
        assert_eq!(of_store[0].globals, of_store[1].globals);
        assert_eq!(contents(&decoded, store, 131_072)[3], number);
        assert_eq!(decoded.globals[store as usize].1, GlobalValue::I64(number.into()));
        // `f` of the owner, called by `run` of the user.
        let frames: Vec<_> = decoded.threads[store as usize]
            .1
            .iter()
            .map(|frame| (frame.instance, frame.function))
            .collect();
        assert_eq!(frames, [(2 * store, 0), (2 * store + 1, 1)]);
    }
}

#[test]
fn a_memory64_that_has_grown_between_two_captures_is_there_once() {
    let engine = engine();
    let text = r#"(module (memory (export "m") i64 1 4 shared)
        (func (export "run") (param i32)
            (i64.store8 (i64.const 5) (i64.const 1)) unreachable))"#;
    let module = Module::new(&engine, text).unwrap();
    let ty = wasmtime::MemoryTypeBuilder::default()
        .memory64(true)
        .shared(true)
        .min(1)
        .max(Some(4))
        .build()
        .unwrap();
    let shared = SharedMemory::new(&engine, ty).unwrap();
    let importing =
        text.replace(r#"(memory (export "m") i64"#, r#"(memory (import "env" "memory") i64"#);
    let module64 = Module::new(&engine, importing).unwrap();
    let mut workers = [0, 1].map(|number| Worker::new(&module64, number, &[shared.clone().into()]));
    let [one, two] = &mut workers;
    let mut all = one.capture(&shared);
    assert_eq!(all.dump.memories[0].ty.minimum, 1);
    shared.grow(2).unwrap();
    all.merge(two.capture(&shared)).unwrap();
    let memories = &all.dump.memories;
    assert_eq!(memories.len(), 1);
    assert_eq!(
        (memories[0].ty.minimum, memories[0].ty.memory64, memories[0].ty.shared),
        (3, true, true)
    );

    // Each instance of this module has a memory of its own.
    let mut own = Worker::new(&module, 2, &[]);
    all.merge(own.capture(&shared)).unwrap();
    assert_eq!(all.dump.memories.len(), 2);
    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(contents(&decoded, 0, 3 * 65_536)[5], 1);
    assert_eq!(decoded.instances[2].memories, [1]);
}

#[test]
fn a_component_store_merges_with_stores_of_modules() {
    let engine = engine();
    let text = r#"(component
        (core module $code (memory 1) (data (i32.const 9) "component") (func (export "f") unreachable))
        (core instance $one (instantiate $code))
        (core instance $two (instantiate $code))
        (func (export "run") (canon lift (core func $two "f"))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let component = Component::from_binary(&engine, &wasm).unwrap();
    let mut components = [(); 2].map(|()| {
        let mut store = Store::new(&engine, ());
        let linker = component::Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, ()).unwrap_err();
        (store, error)
    });
    let module = Module::new(&engine, WORKER).unwrap();
    let shared = shared_memory(&engine);
    let mut worker = Worker::new(&module, 5, &[shared.clone().into()]);

    let mut all = worker.capture(&shared);
    for (store, error) in &mut components {
        let capture = Capture::new("guest").thread("component").component(&component, &wasm);
        all.merge(capture.trapped(store, error).unwrap()).unwrap();
    }
    // A frame of either core instance. There is one such frame in each store.
    assert_eq!(all.notes, [Note::FrameInstances { module: ModuleIndex(1), frames: 2 }]);
    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    // The two core instances have modules of their own, and the two stores have the same ones.
    assert_eq!(decoded.modules, ["worker", "code", "code(two)"]);
    let modules: Vec<_> = decoded.instances.iter().map(|instance| instance.module_index).collect();
    assert_eq!(modules, [0, 1, 2, 1, 2]);
    assert_eq!((decoded.memories.len(), decoded.threads.len()), (6, 3));
    for instance in &decoded.instances[1..] {
        assert_eq!(contents(&decoded, instance.memories[0], 65_536)[9..18], *b"component");
    }
    let frames = decoded.threads.iter().map(|(_, frames)| frames[0].instance);
    assert_eq!(frames.collect::<Vec<_>>(), [0, u32::MAX, u32::MAX]);
}

#[test]
fn frames_keep_their_locals_with_guest_debugging() {
    let engine = Engine::new(config().guest_debug(true)).unwrap();
    let module = Module::new(&engine, WORKER).unwrap();
    let shared = shared_memory(&engine);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut workers = [3, 4].map(|number| {
        let mut store = Store::new(&engine, ());
        let recorder = FrameRecorder::new();
        store.set_debug_handler(recorder.clone());
        let error = runtime.block_on(async {
            let imports = [shared.clone().into()];
            let instance = Instance::new_async(&mut store, &module, &imports).await.unwrap();
            let run = instance.get_typed_func::<i32, ()>(&mut store, "run").unwrap();
            run.call_async(&mut store, number).await.unwrap_err()
        });
        (store, recorder, error)
    });
    // Guest debugging needs no hints for imports.
    let all = merge(workers.iter_mut().map(|(store, recorder, error)| {
        Capture::new("pool").frames(recorder).trapped(store, error).unwrap()
    }));
    assert_eq!(all.notes, []);
    assert_eq!((all.dump.modules.len(), all.dump.memories.len()), (1, 3));
    for (thread, number) in [(0_u32, 3), (1, 4)] {
        for frame in &all.dump.threads[thread as usize].frames {
            assert_eq!(frame.locals, [Value::I32(number)]);
            assert_eq!(frame.instance, Some(InstanceIndex(thread)));
        }
    }
}

/// The state of a live worker.
struct Host {
    name: &'static str,
    instance: Option<Instance>,
    shared: SharedMemory,
    sender: mpsc::Sender<Captured<'static>>,
    go_on: mpsc::Receiver<()>,
}

impl Host {
    fn capture(&self) -> Capture<'static, Self> {
        let capture = Capture::new("pool").thread(self.name).all_instances(self.instance);
        capture.define("env", "memory", self.shared.clone())
    }
}

/// Workers that are stopped in a host function and at an epoch deadline, are captured there, and go on.
#[test]
fn live_workers_contribute_their_frames_and_go_on() {
    const LIVE: &str = r#"(module $live
        (import "env" "memory" (memory $shared 1 3 shared))
        (import "env" "stop" (func $stop))
        (memory $own (export "own") 1)
        (func (export "host") (result i32)
            (i32.store8 $own (i32.const 1) (i32.const 11)) (call $stop)
            (i32.atomic.store $shared (i32.const 4) (i32.const 1))
            (i32.const 1))
        (func (export "epoch") (result i32)
            (i32.store8 $own (i32.const 1) (i32.const 12))
            (i32.atomic.store $shared (i32.const 0) (i32.const 1))
            (loop $spin (br_if $spin (i32.eqz (i32.atomic.load $shared (i32.const 4)))))
            (i32.const 2)))"#;
    fn stop(host: &Host, captured: Captured<'static>) -> wasmtime::Result<()> {
        host.sender.send(captured).unwrap();
        Ok(host.go_on.recv()?)
    }
    let engine = Engine::new(config().epoch_interruption(true)).unwrap();
    let module = Module::new(&engine, LIVE).unwrap();
    let shared = shared_memory(&engine);
    let mut linker = Linker::<Host>::new(&engine);
    linker
        .func_wrap("env", "stop", |mut caller: Caller<'_, Host>| {
            let captured = caller.data().capture().live(&mut caller).copy(1 << 20)?;
            stop(caller.data(), captured)
        })
        .unwrap();
    let (sender, receiver) = mpsc::channel();
    let start = |name: &'static str| {
        let (go, go_on) = mpsc::channel();
        let (shared, sender) = (shared.clone(), sender.clone());
        let (mut linker, module) = (linker.clone(), module.clone());
        let worker = thread::spawn(move || {
            let host = Host { name, instance: None, shared: shared.clone(), sender, go_on };
            let mut store = Store::new(module.engine(), host);
            linker.define(&store, "env", "memory", shared).unwrap();
            store.set_epoch_deadline(1 << 40);
            let instance = linker.instantiate(&mut store, &module).unwrap();
            store.data_mut().instance = Some(instance);
            if name == "epoch" {
                store.set_epoch_deadline(1);
            }
            store.epoch_deadline_callback(|mut context| {
                let captured = context.data().capture().live(&mut context).copy(1 << 20)?;
                stop(context.data(), captured)?;
                Ok(UpdateDeadline::Continue(1 << 40))
            });
            instance
                .get_typed_func::<(), i32>(&mut store, name)
                .unwrap()
                .call(&mut store, ())
                .unwrap()
        });
        (go, worker)
    };

    let host = start("host");
    let mut all = receiver.recv().unwrap();
    let epoch = start("epoch");
    // Wait until the guest is in its loop.
    let short = Some(Duration::from_millis(1));
    while shared.atomic_wait32(0, 0, short).unwrap() != WaitResult::Mismatch {}
    engine.increment_epoch();
    all.merge(receiver.recv().unwrap()).unwrap();
    assert_eq!(all.notes, []);

    let bytes = all.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(names(&decoded), ["host", "epoch"]);
    assert_eq!((decoded.modules.len(), decoded.memories.len()), (1, 3));
    for (thread, (function, value)) in (0_u32..).zip([(1, 11), (2, 12)]) {
        let frames: Vec<_> = decoded.threads[thread as usize]
            .1
            .iter()
            .map(|frame| (frame.instance, frame.function))
            .collect();
        assert_eq!(frames, [(thread, function)]);
        let own = decoded.instances[thread as usize].memories[1];
        assert_eq!(contents(&decoded, own, 65_536)[1], value);
    }
    let of_all = decoded.instances[0].memories[0];
    assert_eq!(decoded.instances[1].memories[0], of_all);
    assert_eq!(contents(&decoded, of_all, 65_536)[0], 1);

    // They go on. The first one ends the loop of the second.
    for ((go, worker), result) in [(host, 1), (epoch, 2)] {
        go.send(()).unwrap();
        assert_eq!(worker.join().unwrap(), result);
    }
}

/// One snapshot of two stores, which both run on while it is dumped.
#[test]
fn merged_stores_are_frozen_at_one_moment() {
    environment::require!("userfaultfd", crate::snapshot::probe());
    let memories = Arc::new(HostMemories::new());
    let mut config = config();
    config.with_host_memory(memories.clone()).memory_init_cow(false);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, r#"(module $two (memory (export "memory") 1))"#).unwrap();
    let mut stores = [(); 2].map(|()| {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        (instance.get_memory(&mut store, "memory").unwrap(), instance, store)
    });
    for ((memory, _, store), byte) in stores.iter_mut().zip([1, 2]) {
        memory.data_mut(store).fill(byte);
    }
    // SAFETY: the host does not discard the memories, and no system call writes to them.
    let prepared = unsafe { memories.prepare(&SnapshotOptions::new()) }.unwrap();
    let all =
        merge(stores.iter_mut().map(|(_, instance, store)| {
            Capture::new("two").all_instances([*instance]).live(store)
        }));
    assert_eq!(all.notes, []);
    let snapshot = prepared.freeze(all.dump).unwrap();
    for (memory, _, store) in &mut stores {
        memory.data_mut(store).fill(9);
    }
    let bytes = Dumper::new().plan(&snapshot.dump).unwrap().to_vec().unwrap();
    snapshot.finish().unwrap();
    let decoded = decode(&bytes);
    assert_eq!((decoded.modules.len(), decoded.instances.len()), (1, 2));
    assert_eq!(contents(&decoded, 0, 65_536), vec![1; 65_536]);
    assert_eq!(contents(&decoded, 1, 65_536), vec![2; 65_536]);
}

#[test]
fn notes_name_the_instance_the_module_or_the_thread() {
    let engine = engine();
    let module = Module::new(&engine, WORKER).unwrap();
    let recursive = Module::new(
        &engine,
        r#"(module $recursive (func $f (export "run") (param i32) (call $f (local.get 0))))"#,
    );
    let recursive = recursive.unwrap();
    let shared = shared_memory(&engine);
    let mut workers = [
        Worker::new(&module, 0, &[shared.clone().into()]),
        Worker::new(&recursive, 1, &[]),
        Worker::new(&module, 2, &[shared.clone().into()]),
    ];
    let all = merge(workers.iter_mut().map(|worker| {
        let capture = Capture::new("pool").max_frames(2);
        capture.trapped(&mut worker.store, &worker.error).unwrap()
    }));
    let unknown =
        |instance| Note::Memory { instance: InstanceIndex(instance), index: 0, imported: true };
    let truncated = |thread, kept| Note::Thread { thread, note: Box::new(Note::Frames { kept }) };
    let kept = all.dump.threads[1].frames.len();
    assert_eq!(
        all.notes,
        [truncated(0, 2), unknown(0), truncated(1, kept), truncated(2, 2), unknown(2)]
    );
    assert_eq!(
        all.notes[0].to_string(),
        "thread 0: the backtrace is truncated to 2 frames; raise Config::wasm_backtrace_max_frames"
    );

    // Merged results can be merged. Counts of frames are summed.
    let pair = |store: &mut Store<()>| {
        let instance = Instance::new(&mut *store, &recursive, &[]).unwrap();
        instance.get_typed_func::<i32, ()>(&mut *store, "run").unwrap().call(store, 0).unwrap_err()
    };
    let mut stores = [(); 3].map(|()| Store::new(&engine, ()));
    let errors: Vec<_> = stores
        .iter_mut()
        .map(|store| {
            pair(store);
            pair(store)
        })
        .collect();
    let mut captured = stores.iter_mut().zip(&errors).map(|(store, error)| {
        Capture::new("pool").max_frames(1 << 20).trapped(store, error).unwrap()
    });
    let (mut one, mut two) = (captured.next().unwrap(), captured.next().unwrap());
    let frames = one.dump.threads[0].frames.len();
    two.merge(captured.next().unwrap()).unwrap();
    one.merge(two).unwrap();
    let frames =
        one.dump.threads.iter().map(|thread| thread.frames.len()).sum::<usize>().max(frames);
    assert_eq!(one.notes, [Note::FrameInstances { module: ModuleIndex(0), frames }]);
}

/// A shared memory that is not exported is unknown without guest debugging. The note names both remedies, and both help.
#[test]
fn an_unexported_shared_memory_has_a_note_with_the_remedy() {
    let text = r#"(module (memory EXPORT 1 1 shared) (func (export "run") (param i32)
        (i32.store8 (i32.const 7) (i32.const 9)) unreachable))"#;
    let private = text.replace("EXPORT", "");
    let exported = text.replace("EXPORT", r#"(export "memory")"#);
    let trapped =
        |engine: &Engine, text: &str| Worker::new(&Module::new(engine, text).unwrap(), 0, &[]);

    let mut worker = trapped(&engine(), &private);
    let captured = corestream_wasmtime::capture(&mut worker.store, "guest", &worker.error).unwrap();
    assert!(captured.dump.memories.is_empty());
    let note = Note::Memory { instance: InstanceIndex(0), index: 0, imported: false };
    assert_eq!(captured.notes, [note]);
    assert_eq!(
        captured.notes[0].to_string(),
        "memory 0 of instance 0 is unknown; export the memory, or turn on Config::guest_debug"
    );

    let debug = Engine::new(config().guest_debug(true)).unwrap();
    for mut worker in [trapped(&engine(), &exported), trapped(&debug, &private)] {
        let captured =
            corestream_wasmtime::capture(&mut worker.store, "guest", &worker.error).unwrap();
        assert_eq!(captured.notes, []);
        assert_eq!(captured.dump.instances[0].memories, [Some(MemoryIndex(0))]);
        let bytes = captured.to_vec().unwrap();
        assert_eq!(decode(&bytes).contents(0, 65_536)[7], 9);
    }
}

#[test]
fn a_thread_that_could_not_be_captured_is_listed() {
    let engine = engine();
    let module = Module::new(&engine, WORKER).unwrap();
    let shared = shared_memory(&engine);
    let mut workers = [0, 2].map(|number| Worker::new(&module, number, &[shared.clone().into()]));
    let [one, two] = &mut workers;
    let mut all = one.capture(&shared);
    all.dump.add_missing_thread("worker 1", "it is blocked in a host call");
    let mut captured = two.capture(&shared);
    captured.dump.trap = None;
    all.merge(captured).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.core");
    all.write_file_with(&path, FileOptions::new()).unwrap();
    let dump = CoreDumpFile::open(&path).unwrap();
    let threads: Vec<_> = dump
        .threads()
        .map(|thread| {
            let thread = thread.unwrap();
            (thread.name().to_string(), thread.frames().count())
        })
        .collect();
    let threads: Vec<_> = threads.iter().map(|(name, frames)| (name.as_str(), *frames)).collect();
    assert_eq!(threads, [("worker 0", 2), ("worker 1", 0), ("worker 2", 2)]);
    let notes: Vec<_> = dump.notes().map(Result::unwrap).collect();
    assert_eq!(
        notes,
        [
            "thread `worker 1` was not captured: it is blocked in a host call",
            "no identity was recorded for module 0",
        ]
    );
}
