//! Captures of live guests in a host function, at an epoch deadline and at a breakpoint. The guests continue
//! afterwards.

use std::future::{Future, ready};
use std::io;
use std::sync::{Arc, Mutex};

use corestream::{CoreDump, Dumper, InstanceIndex, ModuleIndex, Value};
use corestream_wasmtime::{Capture, Note};
use wasmtime::{
    Caller, DebugEvent, DebugHandler, Engine, Instance, Linker, Module, Store, StoreContextMut,
    UpdateDeadline,
};

use crate::common::{Decoded, decode};
use crate::guests::config;

/// Counts to 100, calls `dump` at 42, and stores the count in its memory.
const COUNTER: &str = r#"(module $counter
    (import "host" "dump" (func $dump))
    (memory (export "memory") 1) (global (export "count") (mut i32) (i32.const 0))
    (global (mut i64) (i64.const 9)) (memory 1)
    (func $step (param i32)
        (i32.store8 (i32.const 7) (local.get 0))
        (if (i32.eq (local.get 0) (i32.const 42)) (then (call $dump))))
    (func (export "run") (result i32)
        (loop $next
            (global.set 0 (i32.add (global.get 0) (i32.const 1)))
            (call $step (global.get 0))
            (br_if $next (i32.lt_u (global.get 0) (i32.const 100))))
        (global.get 0)))"#;

/// The host's state.
#[derive(Default)]
struct Host {
    instance: Option<Instance>,
    dumps: Vec<Vec<u8>>,
    errors: Vec<String>,
}

fn run(engine: &Engine, text: &str, dump: fn(Caller<'_, Host>)) -> Store<Host> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "dump", dump).unwrap();
    let mut store = Store::new(engine, Host::default());
    let module = Module::new(engine, text).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    store.data_mut().instance = Some(instance);
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
    assert_eq!(run.call(&mut store, ()).unwrap(), 100, "the guest runs to its end");
    store
}

fn capture(host: &Host) -> Capture<'static, Host> {
    Capture::new("live").instances(host.instance)
}

#[test]
fn dumps_the_named_instances_from_a_host_function() {
    let store = run(&Engine::new(&config()).unwrap(), COUNTER, |mut caller| {
        let captured = capture(caller.data()).live(&mut caller);
        let instance = InstanceIndex(0);
        // The second memory is not exported, so it cannot be reached. The module may have other instances, so the
        // frames cannot be assigned.
        let frames = Note::FrameInstances { module: ModuleIndex(0), frames: 2 };
        assert_eq!(captured.notes, [Note::Memory { instance, index: 1, imported: false }, frames]);
        let bytes = captured.to_vec().unwrap();
        caller.data_mut().dumps.push(bytes);
    });
    let decoded = decode(&store.data().dumps[0]);
    check(&decoded, u32::MAX);
    assert_eq!(decoded.instances[0].memories, [0, u32::MAX]);
}

/// Checks that the dump shows the moment of the capture: the count is 42, and `run` has called `step`.
fn check(decoded: &Decoded<'_>, instance: u32) {
    assert_eq!(decoded.contents(0, 65_536)[7], 42);
    assert_eq!(decoded.globals[0].1, corestream::GlobalValue::I32(42));
    let functions: Vec<_> = decoded.threads[0].1.iter().map(|f| (f.instance, f.function)).collect();
    assert_eq!(functions, [(instance, 1), (instance, 2)]);
}

/// A capture copies no byte of a memory.
#[test]
fn borrows_memories_in_place() {
    run(&Engine::new(&config()).unwrap(), COUNTER, |mut caller| {
        let memory = caller.get_export("memory").unwrap().into_memory().unwrap();
        let bytes = memory.data(&caller).as_ptr_range();
        let captured = capture(caller.data()).live(&mut caller);
        let image = captured.dump.memories[0].image.as_slice().unwrap();
        assert_eq!(image.as_ptr_range(), bytes);
    });
}

#[test]
fn continues_the_guest_after_a_failed_dump() {
    let store = run(&Engine::new(&config()).unwrap(), COUNTER, |mut caller| {
        let captured = capture(caller.data()).live(&mut caller);
        let error = captured.write_to(&mut &mut [0; 100][..]).unwrap_err().to_string();
        let path = std::env::temp_dir().join("no such directory").join("dump");
        let file_error = captured.write_file(path).unwrap_err().to_string();
        caller.data_mut().errors.extend([error, file_error]);
    });
    let errors = &store.data().errors;
    assert!(errors[0].starts_with("100 of "), "{errors:?}");
    assert!(errors[1].contains("cannot create"), "{errors:?}");
}

#[test]
fn notes_that_no_instances_are_named() {
    run(&Engine::new(&config()).unwrap(), COUNTER, |mut caller| {
        let captured = Capture::new("live").live(&mut caller);
        assert_eq!(captured.notes[0], Note::NoInstances);
        // The frames and their module are known even so.
        assert_eq!(captured.dump.threads[0].frames.len(), 2);
        assert_eq!(captured.dump.modules[0].name.as_deref(), Some("counter"));
        captured.write_to(&mut io::sink()).unwrap();
    });
}

#[test]
fn captures_everything_with_guest_debugging() {
    let engine = Engine::new(config().guest_debug(true)).unwrap();
    let store = run(&engine, COUNTER, |mut caller| {
        let captured = Capture::new("live").live(&mut caller);
        assert_eq!(captured.notes, []);
        let frames = &captured.dump.threads[0].frames;
        assert_eq!(frames[0].locals, [Value::I32(42)]);
        assert_eq!(frames[1].stack, [Value::I32(42)]);
        let bytes = captured.to_vec().unwrap();
        caller.data_mut().dumps.push(bytes);
    });
    let decoded = decode(&store.data().dumps[0]);
    check(&decoded, 0);
    assert_eq!(decoded.instances[0].memories, [0, 1]);
    assert_eq!(decoded.instances[0].globals, [0, 1]);
}

#[test]
fn dumps_at_an_epoch_deadline() {
    let engine = Engine::new(config().epoch_interruption(true)).unwrap();
    let mut store = Store::new(&engine, Host::default());
    let module = Module::new(&engine, COUNTER.replace("(call $dump)", "(nop)")).unwrap();
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "dump", || {}).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    store.data_mut().instance = Some(instance);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store: StoreContextMut<'_, Host>| {
        let captured = capture(store.data()).live(&mut store);
        let bytes = captured.to_vec()?;
        store.data_mut().dumps.push(bytes);
        Ok(UpdateDeadline::Continue(1))
    });
    engine.increment_epoch();
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
    assert_eq!(run.call(&mut store, ()).unwrap(), 100);
    let decoded = decode(&store.data().dumps[0]);
    assert!(!decoded.threads[0].1.is_empty());
}

/// The offset and the locals of the youngest frame at a breakpoint.
type Seen = (u32, Vec<Value>);

/// A debug handler that dumps at each breakpoint.
#[derive(Clone, Default)]
struct Debugger {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl DebugHandler for Debugger {
    type Data = ();

    fn handle(
        &self,
        mut store: StoreContextMut<'_, ()>,
        event: DebugEvent<'_>,
    ) -> impl Future<Output = ()> + Send {
        if matches!(event, DebugEvent::Breakpoint) {
            let captured = Capture::new("breakpoint").live(&mut store);
            let dump: &CoreDump<'_> = &captured.dump;
            Dumper::new().plan(dump).unwrap().write_to(&mut io::sink()).unwrap();
            let frame = &dump.threads[0].frames[0];
            self.seen.lock().unwrap().push((frame.offset, frame.locals.clone()));
        }
        ready(())
    }
}

#[test]
fn dumps_at_a_breakpoint() {
    let engine = Engine::new(config().guest_debug(true)).unwrap();
    let text = r#"(module (func (export "run") (result i32) (local i32)
        (local.set 0 (i32.const 5)) (local.set 0 (i32.const 6)) (local.get 0)))"#;
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let debugger = Debugger::default();
    store.set_debug_handler(debugger.clone());
    // Find the module offset of the second `local.set`.
    let bytes = module.debug_bytecode().unwrap();
    let set: Vec<_> = (0..bytes.len()).filter(|i| bytes[*i..].starts_with(&[0x21, 0])).collect();
    let position = wasmtime::ModulePC::new(u32::try_from(set[1]).unwrap());
    store.edit_breakpoints().unwrap().add_breakpoint(&module, position).unwrap();
    let result = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let instance = Instance::new_async(&mut store, &module, &[]).await.unwrap();
        let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
        run.call_async(&mut store, ()).await.unwrap()
    });
    assert_eq!(result, 6);
    // The declarations of locals take 3 bytes, and the three instructions before the breakpoint 2 bytes each.
    assert_eq!(*debugger.seen.lock().unwrap(), [(9, vec![Value::I32(5)])]);
}
