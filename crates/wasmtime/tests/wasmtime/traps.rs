//! Captures of traps at every place where a guest can trap, with and without guest debugging.
//!
//! The frames are the same in both cases, locals are present where they are known, and the process never ends.

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use corestream::Value;
use corestream_wasmtime::{Capture, FrameRecorder};
use wasmtime::{
    Caller, DebugEvent, DebugHandler, Engine, Error, Instance, Linker, Module, Store,
    StoreContextMut, UpdateDeadline, WasmBacktrace,
};

use crate::common::decode;
use crate::guests::config;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The frames of a dump, and the backtrace of the error.
#[derive(Debug)]
struct CapturedFrames {
    functions: Vec<u32>,
    offsets: Vec<u32>,
    locals: Vec<Vec<Value>>,
    /// The function index and the offset of each frame in the error's backtrace.
    backtrace: Vec<(u32, u32)>,
}

/// The limits that stop a guest.
#[derive(Clone, Copy, Default)]
struct Limits {
    /// Fuel for the call of `run`. The instantiation before it has practically unlimited fuel.
    fuel: Option<u64>,
    /// The number of epochs that may pass.
    epochs: Option<u64>,
}

/// Instantiates `modules` and calls `run` of the last one if it exports this function. Dumps the guest after it fails.
///
/// A module can import from the modules before it, by their number.
fn run_and_capture(modules: &[&str], limits: Limits, debug: bool) -> CapturedFrames {
    let mut config = config();
    config.guest_debug(debug).wasm_backtrace_max_frames(NonZeroUsize::new(100_000));
    config.epoch_interruption(limits.epochs.is_some()).consume_fuel(limits.fuel.is_some());
    let engine = Engine::new(&config).unwrap();
    let mut store = Store::new(&engine, ());
    if limits.fuel.is_some() {
        store.set_fuel(1 << 40).unwrap();
    }
    if let Some(epochs) = limits.epochs {
        store.set_epoch_deadline(epochs);
    }
    let recorder = FrameRecorder::new();
    if debug {
        store.set_debug_handler(recorder.clone());
    }
    let mut linker = Linker::new(&engine);
    let fails = || -> wasmtime::Result<()> { Err(Error::msg("the host says no")) };
    linker.func_wrap("host", "fail", fails).unwrap();
    let ticks = engine.clone();
    linker.func_wrap("host", "tick", move || ticks.increment_epoch()).unwrap();
    // Calls back into the guest.
    linker
        .func_wrap_async(
            "host",
            "call",
            |mut caller: Caller<'_, ()>, (f,): (Option<wasmtime::Func>,)| {
                Box::new(async move { f.unwrap().call_async(&mut caller, &[], &mut []).await })
            },
        )
        .unwrap();
    // Each function instantiates a module that traps at start-up.
    for (name, text) in [
        ("segment", r#"(module (memory 1) (data (i32.const 65536) "x"))"#),
        (
            "segment_and_function",
            r#"(module (memory 1) (data (i32.const 65536) "x") (func (param i64 i64)))"#,
        ),
        (
            "start",
            "(module (func $s (local i32) (local.set 0 (i32.const 3)) unreachable) (start $s))",
        ),
    ] {
        let module = Module::new(&engine, text).unwrap();
        linker
            .func_wrap_async("instantiate", name, move |mut caller: Caller<'_, ()>, (): ()| {
                let module = module.clone();
                Box::new(
                    async move { Instance::new_async(&mut caller, &module, &[]).await.map(drop) },
                )
            })
            .unwrap();
    }
    let result: wasmtime::Result<()> = wait(async {
        for (i, text) in modules.iter().enumerate() {
            let module = Module::new(&engine, text).unwrap();
            let instance = linker.instantiate_async(&mut store, &module).await?;
            linker.instance(&mut store, &i.to_string(), instance)?;
            if i + 1 == modules.len()
                && let Some(run) = instance.get_func(&mut store, "run")
            {
                if let Some(fuel) = limits.fuel {
                    store.set_fuel(fuel)?;
                }
                run.call_async(&mut store, &[], &mut []).await?;
            }
        }
        Ok(())
    });
    let error = result.unwrap_err();
    let capture = Capture::new("guest").max_frames(100_000);
    let capture = if debug { capture.frames(&recorder) } else { capture };
    let captured = capture.trapped(&mut store, &error).unwrap();
    decode(&captured.to_vec().unwrap());
    let frames = &captured.dump.threads[0].frames;
    let backtrace = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    // Without guest debugging, a function prologue has no offset.
    let offset = |offset: Option<usize>| u32::try_from(offset.unwrap_or(0)).unwrap();
    CapturedFrames {
        functions: frames.iter().map(|frame| frame.function).collect(),
        offsets: frames.iter().map(|frame| frame.offset).collect(),
        locals: frames.iter().map(|frame| frame.locals.clone()).collect(),
        backtrace: backtrace.iter().map(|f| (f.func_index(), offset(f.func_offset()))).collect(),
    }
}

/// Captures with and without guest debugging. Asserts that the frames are the same and agree with the backtrace.
fn capture_both(modules: &[&str], limits: Limits) -> CapturedFrames {
    let plain = run_and_capture(modules, limits, false);
    let debugged = run_and_capture(modules, limits, true);
    assert_eq!(debugged.functions, plain.functions, "{modules:?}");
    let positions = debugged.functions.iter().copied().zip(debugged.offsets.iter().copied());
    assert_eq!(positions.collect::<Vec<_>>(), debugged.backtrace, "{modules:?}");
    debugged
}

const I: fn(i32) -> Value = Value::I32;

/// Traps in start functions, segments and initializers. Start-up code on the stack has no debug slots. If the dump has
/// frames, the locals of the youngest one are known.
#[test]
fn captures_traps_at_start_up() {
    let none: &[u32] = &[];
    for (modules, functions, locals) in [
        (&["(module (func $s unreachable) (start $s))"][..], &[0][..], vec![]),
        (
            &[
                "(module (memory 1) (func $s (local i32) (local.set 0 (i32.const 9)) unreachable) (start $s))",
            ],
            &[0],
            vec![I(9)],
        ),
        (
            &[
                "(module (func $f (param i32) unreachable) (func $s (call $f (i32.const 4))) (start $s) (func (param i64)))",
            ],
            &[0, 1],
            vec![I(4)],
        ),
        // The start function belongs to another module. This module has no functions and so no debug points.
        (
            &[
                r#"(module (func (export "s") (local i32) (local.set 0 (i32.const 8)) unreachable))"#,
                r#"(module (import "0" "s" (func $s)) (start $s))"#,
            ],
            &[0],
            vec![I(8)],
        ),
        (&[r#"(module (import "host" "fail" (func $s)) (start $s))"#], none, vec![]),
        (
            &[
                r#"(module (import "host" "fail" (func $s)) (start $s) (func (param i32 i64 externref)))"#,
            ],
            none,
            vec![],
        ),
        (
            &[
                r#"(module (import "host" "fail" (func $f)) (func $s (local i32) (local.set 0 (i32.const 5)) (call $f)) (start $s))"#,
            ],
            &[1],
            vec![I(5)],
        ),
        (
            &[r#"(module (import "host" "fail" (func $f)) (func $s (return_call $f)) (start $s))"#],
            none,
            vec![],
        ),
        (&[r#"(module (memory 1) (data (i32.const 65535) "ab"))"#], none, vec![]),
        (
            &[
                r#"(module (memory 1) (data (i32.const 65535) "ab") (func (param i32 i64)) (func (result anyref) (ref.null any)))"#,
            ],
            none,
            vec![],
        ),
        (
            &[r#"(module (memory i64 1) (data (i64.const -1) "ab") (func unreachable))"#],
            none,
            vec![],
        ),
        (
            &[
                "(module (table 1 funcref) (elem (i32.const 1) $f) (func $f (param i32) (local externref)))",
            ],
            none,
            vec![],
        ),
        (&["(module (table 1 funcref) (elem (i32.const 2)))"], none, vec![]),
        (
            &[
                "(module (type $a (array i64)) (global (ref $a) (array.new_default $a (i32.const -1))) (func (param i32)))",
            ],
            none,
            vec![],
        ),
        (
            &[
                "(module (type $a (array i64)) (table 9 (ref $a) (array.new_default $a (i32.const -1))))",
            ],
            none,
            vec![],
        ),
        (&["(module (tag $e) (func $s (throw $e)) (start $s))"], &[0], vec![]),
        (
            &[
                "(module (memory 1) (func $s (local i32) (local.set 0 (memory.grow (i32.const 1))) unreachable) (start $s))",
            ],
            &[0],
            vec![I(1)],
        ),
    ] {
        let seen = capture_both(modules, Limits::default());
        assert_eq!(seen.functions, functions, "{modules:?}");
        assert_eq!(seen.locals.first().cloned().unwrap_or_default(), locals, "{modules:?}");
    }
}

/// Traps in calls of every kind, tail calls, references, exceptions and GC objects.
#[test]
fn captures_traps_in_functions() {
    let types = "(type $f (func)) (type $g (func (param i32))) (type $s (struct (field (mut i32))))
        (type $a (array (mut i64))) (tag $e (param i32)) (memory 1) (table 3 funcref) (elem (i32.const 1) $g)
        (func $trap (param i64) unreachable) (func $g (param i32))";
    for (body, functions) in [
        ("unreachable", &[2][..]),
        ("(call_indirect (type $f) (i32.const 0))", &[2]),
        ("(call_indirect (type $f) (i32.const 1))", &[2]),
        ("(call_indirect (type $f) (i32.const 3))", &[2]),
        ("(call_ref $f (ref.null $f))", &[2]),
        ("(call $trap (i64.const 1))", &[0, 2]),
        ("(return_call $trap (i64.const 1))", &[0]),
        ("(return_call_indirect (type $f) (i32.const 1))", &[2]),
        ("(return_call_ref $f (ref.null $f))", &[2]),
        ("(throw $e (i32.const 1))", &[2]),
        ("(throw_ref (ref.null exn))", &[2]),
        ("(drop (block $h (result i32) (try_table (catch $e $h) (throw $e (i32.const 2))) (i32.const 0))) unreachable", &[2]),
        ("(drop (array.get $a (array.new_default $a (i32.const 2)) (i32.const 2)))", &[2]),
        ("(drop (array.new_default $a (i32.const -1)))", &[2]),
        ("(drop (struct.get $s 0 (ref.null $s)))", &[2]),
        ("(drop (ref.cast (ref $s) (array.new_default $a (i32.const 2))))", &[2]),
        ("(drop (i31.get_s (ref.null i31)))", &[2]),
        ("(drop (i32.load (i32.const -1)))", &[2]),
        ("(drop (table.get (i32.const 9)))", &[2]),
        ("(table.copy (i32.const 9) (i32.const 0) (i32.const 9))", &[2]),
        ("(drop (memory.grow (i32.const 1))) (drop (i32.div_s (i32.const 1) (i32.const 0)))", &[2]),
        ("(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const 0)))", &[2]),
        ("(loop $l (local.set $r (array.new_default $a (i32.const 9999)))
            (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2000))))
            unreachable", &[2]),
    ] {
        let text = format!(
            r#"(module {types} (func (export "run")
                (local $i i32) (local $v v128) (local $r anyref) (local $x externref) (local $n i32)
                (local.set $i (i32.const 6)) {body}))"#
        );
        let seen = capture_both(&[&text], Limits::default());
        assert_eq!(seen.functions, functions, "{body}");
        if functions == [2] {
            let locals = &seen.locals[0];
            assert_eq!(locals[..4], [I(6), Value::Missing, Value::Missing, Value::Missing], "{body}");
        } else {
            assert_eq!(seen.locals[0], [Value::I64(1)], "{body}");
        }
    }
}

/// The deepest frame has its parameters and zeroed locals, but no instance yet. Its function is the first of the
/// module, so no debug points precede it.
#[test]
fn captures_stack_overflows() {
    let body = "(param i32 externref) (local i64 f32 v128 anyref f64)
        (call $f (i32.add (local.get 0) (i32.const 1)) (local.get 1))";
    let called = format!(
        r#"(module (func $f {body}) (func (export "run") (call $f (i32.const 1) (ref.null extern))))"#
    );
    let started = format!(
        "(module (func $f {body}) (func $s (call $f (i32.const 1) (ref.null extern))) (start $s))"
    );
    for text in [called, started] {
        // Only with guest debugging: without it frames are smaller, so the stack holds more of them.
        let seen = run_and_capture(&[&text], Limits::default(), true);
        assert!(seen.functions.len() > 1000);
        assert!(seen.backtrace.iter().map(|(function, _)| function).eq(&seen.functions));
        for (depth, frame) in (1..).zip(seen.locals.iter().rev().skip(1)) {
            let zeros =
                [Value::I64(0), Value::F32(0), Value::Missing, Value::Missing, Value::F64(0)];
            assert_eq!(frame[..2], [I(depth), Value::Missing]);
            assert_eq!(frame[2..], zeros);
        }
    }
}

/// The engine checks the epoch in start-up code, at the entry of functions and in loops.
#[test]
fn captures_epoch_interrupts() {
    let epochs = |epochs| Limits { epochs: Some(epochs), fuel: None };
    let none: &[u32] = &[];
    let tick = r#"(import "host" "tick" (func $tick))"#;
    for (text, limit, functions, locals) in [
        ("(module (func $s) (start $s))".to_string(), 0, none, vec![]),
        ("(module (memory 1) (table 1 funcref) (elem (table 0) (i32.const 0) func $s) (func $s (param i32)) (func $t) (start $t))".into(), 0, none, vec![]),
        (format!("(module {tick} (func $f (param i64) (local i32)) (func $s (call $tick) (call $f (i64.const 3))) (start $s))"), 1, &[1, 2], vec![Value::I64(3), I(0)]),
        (format!("(module {tick} (func $s (local i32) (local.set 0 (i32.const 2)) (call $tick) (loop (br 0))) (start $s))"), 1, &[1], vec![I(2)]),
        (r#"(module (func (export "run") (local i32 i64)))"#.into(), 0, &[0], vec![I(0), Value::I64(0)]),
        (r#"(module (func (export "run")))"#.into(), 0, &[0], vec![]),
        (format!(r#"(module {tick} (func $f (param f32)) (func (export "run") (call $tick) (call $f (f32.const 1))))"#), 1, &[1, 2], vec![Value::F32(1_f32.to_bits())]),
    ] {
        let seen = capture_both(&[&text], epochs(limit));
        assert_eq!(seen.functions, functions, "{text}");
        assert_eq!(seen.locals.first().cloned().unwrap_or_default(), locals, "{text}");
    }
}

/// The guest runs out of fuel at each possible place, including the entry of the first function, which no debug point
/// precedes.
#[test]
fn captures_exhausted_fuel() {
    let text = r#"(module
        (func $f (param i32) (local i64 externref) (loop (br_if 0 (local.get 0))))
        (func $g (param i64) (call $f (i32.const 1)))
        (func (export "run") (local f32) (nop) (nop) (call $g (i64.const 5))))"#;
    let mut places = Vec::new();
    for fuel in 0..30 {
        let seen = capture_both(&[text], Limits { fuel: Some(fuel), epochs: None });
        places.push((seen.functions[0], seen.locals[0].is_empty()));
    }
    // Without values at the entry of the first function, and with values in its loop.
    assert!(places.contains(&(0, true)), "{places:?}");
    assert!(places.contains(&(0, false)), "{places:?}");
    // Here the first function is `run`.
    let text = r#"(module (func (export "run") (local i32) (loop (br 0))))"#;
    for fuel in 0..5 {
        assert_eq!(capture_both(&[text], Limits { fuel: Some(fuel), epochs: None }).functions, [0]);
    }
}

/// Wasm calls the host, which calls wasm. If start-up code is in one of the activations, frames are known but values
/// are not.
#[test]
fn captures_traps_across_activations() {
    let call = r#"(import "host" "call" (func $call (param funcref))) (elem declare func $t)"#;
    let trap = "(func $t (local i32) (local.set 0 (i32.const 4)) unreachable)";
    let outer = "(local i64) (local.set 0 (i64.const 9)) (call $call (ref.func $t))";
    let run = format!(r#"(module {call} {trap} (func (export "run") {outer}))"#);
    let seen = capture_both(&[&run], Limits::default());
    assert_eq!(seen.functions, [1, 2]);
    assert_eq!(seen.locals, [[I(4)], [Value::I64(9)]]);
    // The outer call is in a start function.
    let start = format!("(module {call} {trap} (func $s {outer}) (start $s))");
    assert_eq!(capture_both(&[&start], Limits::default()).functions, [1, 2]);
    // The start function is imported, and the module has no functions.
    let other = r#"(module (import "host" "call" (func $call (param funcref))) (elem declare func $t)
        (func $t unreachable) (func (export "go") (call $call (ref.func $t))))"#;
    let empty = r#"(module (import "0" "go" (func $go)) (start $go))"#;
    assert_eq!(capture_both(&[other, empty], Limits::default()).functions, [1, 2]);
    for (name, functions) in
        [("segment", &[1][..]), ("segment_and_function", &[1]), ("start", &[0, 1])]
    {
        for (head, tail) in [(r#"(func (export "run")"#, ""), ("(func $s", "(start $s)")] {
            let text = format!(
                r#"(module (import "instantiate" "{name}" (func $i)) {head} (local i32) (call $i)) {tail})"#
            );
            assert_eq!(capture_both(&[&text], Limits::default()).functions, functions, "{text}");
        }
    }
}

/// A debug handler that captures the guest at every event and records the functions of its frames.
#[derive(Clone, Default)]
struct CapturingHandler(Arc<Mutex<Vec<Vec<u32>>>>);

impl DebugHandler for CapturingHandler {
    type Data = ();

    fn handle(
        &self,
        mut store: StoreContextMut<'_, ()>,
        _: DebugEvent<'_>,
    ) -> impl Future<Output = ()> + Send {
        let captured = Capture::new("live").live(&mut store);
        captured.to_vec().unwrap();
        let frames = captured.dump.threads[0].frames.iter().map(|frame| frame.function).collect();
        self.0.lock().unwrap().push(frames);
        std::future::ready(())
    }
}

/// `Capture::live` does not know which event occurred. It must read only values that exist.
#[test]
fn captures_live_at_every_debug_event() {
    for (text, functions) in [
        (
            "(module (func $s (param i32) (local externref) (call $s (i32.const 1))) (func $t (call $s (i32.const 1))) (start $t))",
            None,
        ),
        ("(module (func $s unreachable) (start $s))", Some(vec![0])),
        (r#"(module (memory 1) (data (i32.const 65536) "x"))"#, Some(vec![])),
        (
            r#"(module (memory 1) (data (i32.const 65536) "x") (func (param i32 i64 anyref)))"#,
            Some(vec![]),
        ),
        ("(module (tag $e) (func $s (throw $e)) (start $s))", Some(vec![0])),
    ] {
        let engine = Engine::new(config().guest_debug(true)).unwrap();
        let mut store = Store::new(&engine, ());
        let handler = CapturingHandler::default();
        store.set_debug_handler(handler.clone());
        let module = Module::new(&engine, text).unwrap();
        wait(Instance::new_async(&mut store, &module, &[])).unwrap_err();
        let seen = handler.0.lock().unwrap();
        assert!(!seen.is_empty(), "{text}");
        match functions {
            Some(functions) => assert_eq!(seen[0], functions, "{text}"),
            None => assert!(seen[0].len() > 10, "{text}"),
        }
    }
}

/// The epoch callback runs at the entry of the first function, of a start function, and of start-up code.
#[test]
fn captures_live_at_an_epoch_deadline() {
    for text in [
        r#"(module (func (export "run") (param) (local i32 anyref)))"#,
        "(module (func $s (local i32)) (start $s))",
        "(module (table 1 funcref) (elem (i32.const 0) $s) (func $s) (start $s))",
    ] {
        let engine = Engine::new(config().guest_debug(true).epoch_interruption(true)).unwrap();
        let mut store = Store::new(&engine, 0);
        store.set_epoch_deadline(0);
        store.epoch_deadline_callback(|mut store: StoreContextMut<'_, i32>| {
            Capture::new("live").live(&mut store).to_vec()?;
            *store.data_mut() += 1;
            Ok(UpdateDeadline::Continue(0))
        });
        let module = Module::new(&engine, text).unwrap();
        let instance = wait(Instance::new_async(&mut store, &module, &[])).unwrap();
        if let Some(run) = instance.get_func(&mut store, "run") {
            wait(run.call_async(&mut store, &[], &mut [])).unwrap();
        }
        assert!(*store.data() > 0, "{text}");
    }
}

/// A panic of a host function unwinds through the guest. The store can be captured afterwards.
#[test]
fn captures_after_a_panic_of_the_host() {
    let engine = Engine::new(config().guest_debug(true)).unwrap();
    let mut store = Store::new(&engine, ());
    let recorder = FrameRecorder::new();
    store.set_debug_handler(recorder.clone());
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "panic", || -> () { panic!("the host has a bug") }).unwrap();
    let text = r#"(module (import "host" "panic" (func $p)) (memory 1)
        (func $s (i32.store8 (i32.const 1) (i32.const 5)) (call $p)) (start $s))"#;
    let module = Module::new(&engine, text).unwrap();
    let call = AssertUnwindSafe(|| wait(linker.instantiate_async(&mut store, &module)).map(drop));
    catch_unwind(call).unwrap_err();
    let captured = Capture::new("guest").frames(&recorder).live(&mut store);
    assert_eq!(captured.dump.threads[0].frames.len(), 0);
    assert_eq!(decode(&captured.to_vec().unwrap()).contents(0, 65_536)[1], 5);
}

/// The traps are in a start function and in a call through an adapter.
#[test]
fn captures_traps_in_components() {
    use wasmtime::component::{Component, Linker as ComponentLinker};
    let started = r#"(component
        (core module $m (func $s (local i32) unreachable) (start $s))
        (core instance (instantiate $m)))"#;
    let adapted = r#"(component
        (component $a
            (core module $m (memory (export "m") 1) (data (i32.const 0) "x")
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export "f") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "f") (param "x" string) (canon lift (core func $i "f")
                (memory (core memory $i "m")) (realloc (core func $i "realloc")))))
        (component $b
            (import "f" (func $f (param "x" string)))
            (core module $memory (memory (export "m") 1) (data (i32.const 0) "text"))
            (core instance $memory (instantiate $memory))
            (core func $f (canon lower (func $f) (memory (core memory $memory "m"))))
            (core module $m (import "" "f" (func $f (param i32 i32)))
                (func (export "run") (local i64) (call $f (i32.const 0) (i32.const 4))))
            (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
            (func (export "run") (canon lift (core func $i "run"))))
        (instance $a (instantiate $a))
        (instance $b (instantiate $b (with "f" (func $a "f"))))
        (export "run" (func $b "run")))"#;
    for (text, min_frames) in [(started, 1), (adapted, 2)] {
        let mut frame_counts = Vec::new();
        for debug in [false, true] {
            let engine = Engine::new(config().guest_debug(debug)).unwrap();
            let component = Component::new(&engine, text).unwrap();
            let mut store = Store::new(&engine, ());
            let recorder = FrameRecorder::new();
            if debug {
                store.set_debug_handler(recorder.clone());
            }
            let error = wait(async {
                let linker = ComponentLinker::new(&engine);
                let instance = linker.instantiate_async(&mut store, &component).await?;
                let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
                run.call_async(&mut store, ()).await
            })
            .unwrap_err();
            let capture = Capture::new("guest");
            let capture = if debug { capture.frames(&recorder) } else { capture };
            let captured = capture.trapped(&mut store, &error).unwrap();
            frame_counts.push(captured.dump.threads[0].frames.len());
        }
        assert!(frame_counts[0] >= min_frames, "{text}");
        assert_eq!(frame_counts[0], frame_counts[1], "{text}");
    }
}
