//! Components: the names of their core instances, the instances of frames, adapters, and imports.

use corestream::{CoreDumpFile, GlobalValue, Value};
use corestream_wasmtime::{Capture, Captured, FrameRecorder, Note, module_identity};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Error, Store};

use crate::guests::config;

/// Two components of which the outer one calls the inner one through an adapter, which copies a string. `TRAP` is the
/// code of the inner function, and `REALLOC` that of its allocator.
const COMPOSED: &str = r#"(component $top
    (component $callee
        (core module $memory (memory (export "memory") 1) (global (export "g") (mut i32) (i32.const 11)))
        (core instance $memory (instantiate $memory))
        (core module $code
            (import "env" "memory" (memory 1)) (import "env" "g" (global $g (mut i32)))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) REALLOC (i32.const 8))
            (func (export "f") (param i32 i32) (global.set $g (i32.const 12)) TRAP))
        (core instance $code (instantiate $code (with "env" (instance $memory))))
        (func (export "f") (param "s" string)
            (canon lift (core func $code "f") (memory (core memory $memory "memory"))
                (realloc (core func $code "realloc")))))
    (component $caller
        (import "f" (func $callee (param "s" string)))
        (core module $memory (memory (export "memory") 2) (data (i32.const 4) "string"))
        (core instance $memory (instantiate $memory))
        (core func $f (canon lower (func $callee) (memory (core memory $memory "memory"))))
        (alias core export $memory "memory" (core memory $m))
        (core module $code
            (import "" "f" (func $f (param i32 i32)))
            (import "libc" "memory" (memory 1))
            (func (export "run") (local i32) (local.set 0 (i32.const 7)) (call $f (i32.const 4) (i32.const 6))))
        (core instance $code (instantiate $code
            (with "" (instance (export "f" (func $f))))
            (with "libc" (instance (export "memory" (memory $m))))))
        (func (export "run") (canon lift (core func $code "run"))))
    (instance $one (instantiate $callee))
    (instance $two (instantiate $caller (with "f" (func $one "f"))))
    (export "run" (func $two "run")))"#;

fn composed(realloc: &str, trap: &str) -> String {
    COMPOSED.replace("REALLOC", realloc).replace("TRAP", trap)
}

/// A component that trapped.
struct Trapped {
    store: Store<()>,
    component: Component,
    wasm: Vec<u8>,
    recorder: FrameRecorder<()>,
    error: Error,
}

impl Trapped {
    /// Instantiates the component `times` times, and calls `run` of the last instance. An instantiation may trap.
    fn new(text: &str, debug: bool, times: usize) -> Self {
        let wasm = wat::parse_str(text).unwrap();
        let engine = Engine::new(config().guest_debug(debug)).unwrap();
        let component = Component::from_binary(&engine, &wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let recorder = FrameRecorder::new();
        if debug {
            store.set_debug_handler(recorder.clone());
        }
        let linker = Linker::new(&engine);
        let call = async {
            let mut instance = linker.instantiate_async(&mut store, &component).await?;
            for _ in 1..times {
                instance = linker.instantiate_async(&mut store, &component).await?;
            }
            let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
            run.call_async(&mut store, ()).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(call).unwrap_err();
        Self { store, component, wasm, recorder, error }
    }

    fn capture(&mut self) -> Captured<'_> {
        let capture = Capture::new("guest").component(&self.component, &self.wasm);
        capture.frames(&self.recorder).trapped(&mut self.store, &self.error).unwrap()
    }
}

/// Returns the name of the module of each instance.
fn instance_names(captured: &Captured<'_>) -> Vec<String> {
    let dump = &captured.dump;
    let name = |module: Option<corestream::ModuleIndex>| {
        dump.modules[module.unwrap().0 as usize].name.clone().unwrap()
    };
    dump.instances.iter().map(|instance| name(instance.module)).collect()
}

/// Returns the name of the module of each frame, youngest first.
fn frame_names(captured: &Captured<'_>) -> Vec<String> {
    let names = instance_names(captured);
    let frames = &captured.dump.threads[0].frames;
    frames.iter().map(|frame| names[frame.instance.unwrap().0 as usize].clone()).collect()
}

#[test]
fn names_every_core_instance_by_its_path() {
    for debug in [false, true] {
        let mut trapped = Trapped::new(&composed("", "unreachable"), debug, 1);
        let captured = trapped.capture();
        assert_eq!(captured.notes, []);
        let expected = ["one:memory", "one:code", "two:memory", "adapter(one, two)", "two:code"];
        assert_eq!(instance_names(&captured), expected);
        assert_eq!(frame_names(&captured), ["one:code", "adapter(one, two)", "two:code"]);
        if debug {
            assert_eq!(captured.dump.threads[0].frames[2].locals, [Value::I32(7)]);
        }
    }
}

#[test]
fn finds_imported_memories_and_globals() {
    for debug in [false, true] {
        let mut trapped = Trapped::new(&composed("", "unreachable"), debug, 1);
        let captured = trapped.capture();
        let dump = &captured.dump;
        let [memory, code, caller_memory, _, caller] = &dump.instances[..] else { panic!() };
        assert_eq!(memory.memories, code.memories);
        assert_eq!(memory.globals, code.globals);
        assert_eq!(caller_memory.memories, caller.memories);
        assert_ne!(memory.memories, caller.memories);
        let global = memory.globals[0].unwrap();
        assert_eq!(dump.globals[global.0 as usize].value, GlobalValue::I32(12));
        let bytes = captured.to_vec().unwrap();
        let file = CoreDumpFile::from_slice(&bytes).unwrap();
        let mut read = [0; 6];
        // The adapter copied the string to the address that `realloc` returned.
        file.memory(memory.memories[0].unwrap()).unwrap().read(8, &mut read).unwrap();
        assert_eq!(&read, b"string");
    }
}

/// The adapter calls the allocator of the callee, which traps.
#[test]
fn names_adapters_that_call_an_allocator() {
    for debug in [false, true] {
        let mut trapped = Trapped::new(&composed("unreachable", ""), debug, 1);
        let names = frame_names(&trapped.capture());
        // The adapter calls the allocator from a function of its own or directly.
        assert_eq!((&names[0][..], &names[names.len() - 1][..]), ("one:code", "two:code"));
        assert!(names[1..names.len() - 1].iter().all(|name| name == "adapter(one, two)"));
        assert!(names.len() > 2, "{names:?}");
    }
}

/// The allocator returns an address beyond the memory, which the adapter rejects.
#[test]
fn names_adapters_that_trap_themselves() {
    for debug in [false, true] {
        let text = composed("(return (i32.const -8))", "");
        let mut trapped = Trapped::new(&text, debug, 1);
        let names = frame_names(&trapped.capture());
        assert_eq!(names.last().unwrap(), "two:code");
        assert!(names.len() > 1 && names[0] == "adapter(one, two)", "{names:?}");
    }
}

#[test]
fn records_the_identities_of_core_modules() {
    let mut trapped = Trapped::new(&composed("", "unreachable"), false, 1);
    let expected = wasmparser::Parser::new(0).parse_all(&trapped.wasm).filter_map(|payload| {
        let wasmparser::Payload::ModuleSection { unchecked_range, .. } = payload.unwrap() else {
            return None;
        };
        let range = usize::try_from(unchecked_range.start).unwrap()
            ..usize::try_from(unchecked_range.end).unwrap();
        Some(module_identity(&trapped.wasm[range]))
    });
    let expected: Vec<_> = expected.collect();
    let captured = trapped.capture();
    let dump = &captured.dump;
    let identity = |instance: &corestream::Instance| {
        &dump.modules[instance.module.unwrap().0 as usize].identity
    };
    let identities: Vec<_> = dump.instances.iter().map(identity).collect();
    assert_eq!(identities[0], &expected[0]);
    assert_eq!(identities[1], &expected[1]);
    assert_eq!(identities[2], &expected[2]);
    assert!(!identities[3].is_known(), "an adapter has no bytes");
    assert_eq!(identities[4], &expected[3]);
    assert_eq!(dump.notes, [] as [String; 0]);
}

/// A module with several instances is listed once for each. Without guest debugging, the instance of its frame is
/// unknown.
#[test]
fn tells_instances_of_one_module_apart() {
    let text = r#"(component
        (component $c
            (core module $m (import "" "f" (func $f (param i32))) (memory 1)
                (func (export "f") (param i32)
                    (if (local.get 0) (then (call $f (i32.const 0))) (else unreachable))))
            (core module $stop (func (export "f") (param i32) unreachable))
            (core instance $stop (instantiate $stop))
            (core instance $a (instantiate $m (with "" (instance $stop))))
            (core instance $b (instantiate $m (with "" (instance $a))))
            (core instance (instantiate $m (with "" (instance $b))))
            (core module $go (import "" "f" (func $f (param i32))) (func (export "run") (call $f (i32.const 1))))
            (core instance $go (instantiate $go (with "" (instance $b))))
            (func (export "run") (canon lift (core func $go "run"))))
        (instance (instantiate $c))
        (instance $second (instantiate $c))
        (export "run" (func $second "run")))"#;
    let names = [
        "c:stop",
        "c:m",
        "c:m(b)",
        "c:m(2)",
        "c:go",
        "second:stop",
        "second:m",
        "second:m(b)",
        "second:m(2)",
        "second:go",
    ];
    let mut trapped = Trapped::new(text, true, 1);
    let captured = trapped.capture();
    assert_eq!(captured.notes, []);
    assert_eq!(instance_names(&captured), names);
    assert_eq!(frame_names(&captured), ["second:m", "second:m(b)", "second:go"]);

    let mut trapped = Trapped::new(text, false, 1);
    let captured = trapped.capture();
    assert_eq!(instance_names(&captured), names);
    let instances: Vec<_> =
        captured.dump.threads[0].frames.iter().map(|frame| frame.instance).collect();
    assert_eq!(instances, [None, None, None]);
    assert!(captured.notes.iter().all(|note| matches!(note, Note::FrameInstances { .. })));
}

#[test]
fn numbers_further_instantiations_in_one_store() {
    for debug in [false, true] {
        let mut trapped = Trapped::new(&composed("", "unreachable"), debug, 2);
        let captured = trapped.capture();
        let names = instance_names(&captured);
        assert_eq!(names[..2], ["one:memory", "one:code"]);
        assert_eq!(names[5..7], ["one:memory[2]", "one:code[2]"]);
        assert_eq!(names[8], "adapter(one, two)[2]");
        if debug {
            assert_eq!(
                frame_names(&captured),
                ["one:code[2]", "adapter(one, two)[2]", "two:code[2]"]
            );
        }
    }
}

/// A start function traps during the instantiation, so the later instances do not exist.
#[test]
fn names_the_instances_of_an_unfinished_instantiation() {
    let text = r#"(component
        (component $c
            (core module $a (func (export "f")))
            (core module $b (memory 1) (func $start unreachable) (start $start))
            (core instance (instantiate $a))
            (core instance (instantiate $b))
            (core instance (instantiate $a)))
        (instance $i (instantiate $c)))"#;
    let mut trapped = Trapped::new(text, false, 1);
    let captured = trapped.capture();
    assert_eq!(instance_names(&captured), ["i:a", "i:b"]);
    assert_eq!(frame_names(&captured), ["i:b"]);
}

/// Modules and components come from outer scopes, arguments and exports of other instances.
#[test]
fn follows_aliases_arguments_and_exports() {
    let text = r#"(component
        (core module $outer (func (export "f") unreachable))
        (component $library
            (core module $inside (func (export "g")))
            (export "inside" (core module $inside))
            (component $nested
                (alias outer 2 $outer (core module $again))
                (core instance $o (instantiate $again))
                (func (export "run") (canon lift (core func $o "f"))))
            (export "nested" (component $nested)))
        (instance $library (instantiate $library))
        (alias export $library "inside" (core module $inside))
        (component $user
            (import "code" (core module $code (export "g" (func))))
            (import "library" (instance $lib
                (export "nested" (component (export "run" (func))))))
            (core instance (instantiate $code))
            (alias export $lib "nested" (component $n))
            (instance $n (instantiate $n))
            (export "run" (func $n "run")))
        (instance $user (instantiate $user
            (with "code" (core module $inside)) (with "library" (instance $library))))
        (export "run" (func $user "run")))"#;
    let mut trapped = Trapped::new(text, false, 1);
    let captured = trapped.capture();
    assert_eq!(captured.notes, []);
    assert_eq!(instance_names(&captured), ["user:inside", "user/n:outer"]);
    assert_eq!(frame_names(&captured), ["user/n:outer"]);
}

/// A core module that the embedder supplies keeps its name.
#[test]
fn names_instances_next_to_those_of_imported_modules() {
    let text = r#"(component
        (import "m" (core module $m (export "memory" (memory 1))))
        (core instance $m (instantiate $m))
        (core module $own (import "" "memory" (memory 1)) (func (export "f") unreachable))
        (core instance $own (instantiate $own (with "" (instance $m))))
        (func (export "run") (canon lift (core func $own "f"))))"#;
    for debug in [false, true] {
        let wasm = wat::parse_str(text).unwrap();
        let engine = Engine::new(config().guest_debug(debug)).unwrap();
        let component = Component::from_binary(&engine, &wasm).unwrap();
        let supplied = r#"(module $supplied (memory (export "memory") 1))"#;
        let supplied = wasmtime::Module::new(&engine, supplied).unwrap();
        let mut linker = Linker::new(&engine);
        linker.root().module("m", &supplied).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, ()).unwrap_err();
        let capture = Capture::new("guest").component(&component, &wasm);
        let captured = capture.trapped(&mut store, &error).unwrap();
        assert_eq!(captured.notes, []);
        assert_eq!(instance_names(&captured), ["supplied", "own"]);
        assert_eq!(frame_names(&captured), ["own"]);
        let [supplied, own] = &captured.dump.instances[..] else { panic!() };
        assert_eq!(supplied.memories, own.memories);
        assert!(own.memories[0].is_some());
    }
}

/// The host captures its guest in a call, and the guest goes on.
#[test]
fn captures_a_component_that_goes_on() {
    let text = r#"(component
        (import "dump" (func $dump))
        (core func $dump (canon lower (func $dump)))
        (core module $m (import "" "dump" (func $dump)) (func (export "f") (call $dump)))
        (core instance $m (instantiate $m (with "" (instance (export "dump" (func $dump))))))
        (func (export "run") (canon lift (core func $m "f"))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let engine = Engine::new(config().guest_debug(true)).unwrap();
    let component = Component::from_binary(&engine, &wasm).unwrap();
    let mut linker = Linker::new(&engine);
    let captured = component.clone();
    let dump = move |mut store: wasmtime::StoreContextMut<'_, ()>, (): ()| {
        let capture = Capture::new("guest").component(&captured, &wasm);
        let captured = capture.live(&mut store);
        assert_eq!(frame_names(&captured), ["m"]);
        Ok(())
    };
    linker.root().func_wrap("dump", dump).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    run.call(&mut store, ()).unwrap();
}

/// Bytes of another component are noticed. The dump is what it would be without them.
#[test]
fn notes_bytes_that_do_not_fit() {
    let mut trapped = Trapped::new(&composed("", "unreachable"), false, 1);
    for wasm in [&b"\0asm\x0d\0\x01\0\x01"[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"] {
        trapped.wasm = wasm.to_vec();
        let captured = trapped.capture();
        assert!(captured.notes.contains(&Note::Component), "{:?}", captured.notes);
        assert_eq!(captured.dump.instances.len(), 5);
    }
    let other = composed("", "unreachable").replace("\"realloc\"", "\"other\"");
    trapped.wasm = wat::parse_str(other).unwrap();
    assert!(trapped.capture().notes.contains(&Note::Component));
}

/// The destructor of a resource, called by another component. Wasmtime has a frame of its own between the two.
#[test]
fn destructors_have_frames_with_guest_debugging() {
    let text = r#"(component
        (component $provider
            (core module $dtor (func (export "dtor") (param i32) unreachable))
            (core instance $dtor (instantiate $dtor))
            (type $r' (resource (rep i32) (dtor (core func $dtor "dtor"))))
            (export $r "r" (type $r'))
            (core func $new (canon resource.new $r'))
            (core module $make (import "" "new" (func $new (param i32) (result i32)))
                (func (export "make") (result i32) (call $new (i32.const 5))))
            (core instance $make (instantiate $make (with "" (instance (export "new" (func $new))))))
            (func (export "make") (result (own $r)) (canon lift (core func $make "make"))))
        (instance $provider (instantiate $provider))
        (component $user
            (import "r" (type $r (sub resource)))
            (import "make" (func $make (result (own $r))))
            (core func $make (canon lower (func $make)))
            (core func $drop (canon resource.drop $r))
            (core module $main
                (import "" "make" (func $make (result i32))) (import "" "drop" (func $drop (param i32)))
                (func (export "run") (call $drop (call $make))))
            (core instance $main (instantiate $main
                (with "" (instance (export "make" (func $make)) (export "drop" (func $drop))))))
            (func (export "run") (canon lift (core func $main "run"))))
        (instance $user (instantiate $user
            (with "r" (type $provider "r")) (with "make" (func $provider "make"))))
        (export "run" (func $user "run")))"#;
    for debug in [false, true] {
        let mut trapped = Trapped::new(text, debug, 1);
        let captured = trapped.capture();
        assert_eq!(frame_names(&captured), ["provider:dtor", "user:main"], "{debug}");
    }
}
