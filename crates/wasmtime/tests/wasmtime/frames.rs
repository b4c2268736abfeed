//! Captures with guest debugging: locals, operand stacks, the instances of frames, complete index spaces.

use std::future::Future;

use corestream::{Frame, InstanceIndex, MemoryIndex, Value};
use corestream_wasmtime::{Capture, Captured, FrameRecorder};
use wasmtime::{Engine, Error, Extern, Func, Instance, Linker, Module, Store};

use crate::common::decode;
use crate::guests::config;

#[allow(non_snake_case, reason = "looks like a variant of Value")]
fn I(x: i32) -> Value {
    Value::I32(x)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

struct Guest {
    store: Store<()>,
    recorder: FrameRecorder<()>,
    instances: Vec<Instance>,
}

impl Guest {
    fn new(config: &mut wasmtime::Config) -> Self {
        let engine = Engine::new(config.guest_debug(true)).unwrap();
        let mut store = Store::new(&engine, ());
        let recorder = FrameRecorder::new();
        store.set_debug_handler(recorder.clone());
        Self { store, recorder, instances: Vec::new() }
    }

    fn instantiate(&mut self, text: &str, imports: &[Extern]) -> Instance {
        let module = Module::new(self.store.engine(), text).unwrap();
        let instance = wait(Instance::new_async(&mut self.store, &module, imports)).unwrap();
        self.instances.push(instance);
        instance
    }

    fn export(&mut self, name: &str) -> Extern {
        self.instances.last().unwrap().get_export(&mut self.store, name).unwrap()
    }

    fn run(&mut self) -> Error {
        let run = self.export("run").into_func().unwrap();
        wait(run.call_async(&mut self.store, &[], &mut [])).unwrap_err()
    }

    fn capture(&mut self, error: &Error) -> Captured<'_> {
        Capture::new("guest").frames(&self.recorder).trapped(&mut self.store, error).unwrap()
    }

    /// Runs `text` until it traps and returns its frames. Asserts that nothing is missing from the capture.
    fn trap_frames(text: &str) -> Vec<Frame> {
        let mut guest = Self::new(&mut config());
        guest.instantiate(text, &[]);
        let error = guest.run();
        let recorder = guest.recorder.clone();
        let Captured { dump, notes, .. } =
            Capture::new("guest").frames(&recorder).trapped(&mut guest.store, &error).unwrap();
        assert_eq!(notes, []);
        // The positions must equal those in Wasmtime's backtrace.
        let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>().unwrap();
        for (ours, theirs) in dump.threads[0].frames.iter().zip(backtrace.frames()) {
            assert_eq!(ours.function, theirs.func_index());
            assert_eq!(Some(ours.offset as usize), theirs.func_offset());
        }
        dump.threads[0].frames.clone()
    }
}

/// Returns the locals and the operand stack of a frame.
fn values(frame: &Frame) -> (&[Value], &[Value]) {
    (&frame.locals, &frame.stack)
}

#[test]
fn captures_values_of_all_types() {
    let frames = Guest::trap_frames(
        r#"(module
            (func $leaf (param i32 i64 f32 f64) (local i32 i64 f32 f64 v128 funcref externref)
                (local.set 4 (i32.const -2)) (local.set 5 (i64.const 0x8000000000000000))
                (local.set 6 (f32.const nan:0x200001)) (local.set 7 (f64.const -0.0))
                (i32.const 10) (i64.const -11) (f32.const 1.5) (f64.const nan:0x4000000000001)
                (v128.const i64x2 1 2) (ref.null func) (i32.const 12)
                (drop (i32.div_u (local.get 0) (i32.const 0)))
                unreachable)
            (func (export "run")
                (call $leaf (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4))))"#,
    );
    let three = Value::F32(3_f32.to_bits());
    let four = Value::F64(4_f64.to_bits());
    let locals = [
        I(1),
        Value::I64(2),
        three,
        four,
        I(-2),
        Value::I64(i64::MIN),
        Value::F32(0x7fa0_0001),
        Value::F64(1 << 63),
        Value::Missing,
        Value::Missing,
        Value::Missing,
    ];
    // The division has already popped its operands.
    let stack = [
        I(10),
        Value::I64(-11),
        Value::F32(1.5_f32.to_bits()),
        Value::F64(0x7ff4_0000_0000_0001),
        Value::Missing,
        Value::Missing,
        I(12),
    ];
    assert_eq!(values(&frames[0]), (&locals[..], &stack[..]));
    // The arguments of the call are still on the caller's stack.
    assert_eq!(values(&frames[1]), (&[][..], &[I(1), Value::I64(2), three, four][..]));
    assert_eq!(frames.len(), 2);
}

#[test]
fn captures_frames_beyond_the_backtrace_limit() {
    let frames = Guest::trap_frames(
        r#"(module
            (func $down (param $n i64) (result i64) (local $twice f64)
                (local.set $twice (f64.convert_i64_s (i64.mul (local.get $n) (i64.const 2))))
                (if (i64.eqz (local.get $n)) (then unreachable))
                (i64.add (i64.const 100) (call $down (i64.sub (local.get $n) (i64.const 1)))))
            (func (export "run") (drop (call $down (i64.const 99)))))"#,
    );
    assert_eq!(frames.len(), 101);
    for (n, frame) in (0..).zip(&frames[..100]) {
        let twice = Value::F64(f64::from(2 * n).to_bits());
        assert_eq!(frame.locals, [Value::I64(i64::from(n)), twice]);
        let stack = [Value::I64(100), Value::I64(i64::from(n) - 1)];
        assert_eq!(frame.stack, if n == 0 { &[][..] } else { &stack[..] });
    }
}

/// The values below the trapping instruction's operands are always captured. The operands themselves are captured if
/// the engine has not popped them.
#[test]
fn captures_the_operand_stack_of_every_trap() {
    let mut different = Vec::new();
    for (body, operands) in [
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", vec![]),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", vec![]),
        ("(drop (i32.trunc_f64_s (f64.const nan)))", vec![]),
        ("(drop (i32.load (i32.const -1)))", vec![]),
        ("(drop (i32.atomic.load (i32.const 1)))", vec![I(1)]),
        ("(memory.fill (i32.const -1) (i32.const 0) (i32.const 9))", vec![]),
        ("(memory.init 0 (i32.const 0) (i32.const 0) (i32.const 9))", vec![]),
        ("(drop (table.get (i32.const 9)))", vec![]),
        ("(call_indirect (i32.const 9))", vec![]),
        ("(call_indirect (i32.const 0))", vec![]),
        ("(call_ref $f (ref.null $f))", vec![]),
        ("(drop (ref.as_non_null (ref.null func)))", vec![]),
        ("(drop (struct.get $s 0 (ref.null $s)))", vec![]),
        ("(throw $e (i32.const 5))", vec![I(5)]),
        (
            "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 1) (i64.const 2)))",
            vec![I(0), I(1), Value::I64(2)],
        ),
        ("unreachable", vec![]),
    ] {
        let frames = Guest::trap_frames(&format!(
            r#"(module (type $f (func)) (type $s (struct (field i32))) (memory 1) (table 2 funcref)
                (tag $e (param i32)) (data "x")
                (func (export "run") (local i64) (local.set 0 (i64.const 6))
                    (i32.const 77) {body} drop))"#
        ));
        let stack = [vec![I(77)], operands].concat();
        if values(&frames[0]) != (&[Value::I64(6)][..], &stack[..]) {
            different.push(format!("{body}: {:?}", values(&frames[0])));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

/// The function that overflows the stack has its parameters, but its frame does not hold an instance yet.
#[test]
fn captures_a_stack_overflow() {
    let mut guest = Guest::new(&mut config());
    let text = r#"(module
        (func $f (param i64) (call $f (i64.add (local.get 0) (i64.const 1))))
        (func (export "run") (call $f (i64.const 1))))"#;
    guest.instantiate(text, &[]);
    // The first run leaves stale values on the stack. The second run must not take one of them for an instance.
    for _ in 0..2 {
        let error = guest.run();
        assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::StackOverflow));
        let captured = guest.capture(&error);
        assert_eq!(captured.notes, []);
        let frames = &captured.dump.threads[0].frames;
        assert!(frames.len() > 1000, "{}", frames.len());
        assert_eq!((frames[0].function, frames[0].offset), (0, 0));
        assert_eq!(frames[0].instance, Some(InstanceIndex(0)), "there is only one");
        let deepest = i64::try_from(frames.len() - 2).unwrap();
        let (n, next) = ([Value::I64(deepest)], [Value::I64(deepest + 1)]);
        assert_eq!(values(&frames[0]), (&next[..], &[][..]));
        assert_eq!(values(&frames[1]), (&n[..], &next[..]));
        assert_eq!(frames.last().unwrap().stack, [Value::I64(1)]);
        captured.to_vec().unwrap();
    }
}

/// An epoch interrupts the guest in a loop or at the entry of a function. The frames agree with the backtrace.
#[test]
fn captures_an_interrupted_guest() {
    for (text, inner, locals) in [
        ("(local.set 0 (i32.const 5)) (call $tick) (i32.const 6) (loop (br 0)) drop", false, 5),
        ("(local.set 0 (i32.const 7)) (call $tick) (call $inner (i32.const 3))", true, 7),
    ] {
        let mut guest = Guest::new(config().epoch_interruption(true));
        guest.store.set_epoch_deadline(1);
        let engine = guest.store.engine().clone();
        let tick = Func::wrap(&mut guest.store, move || engine.increment_epoch());
        let text = format!(
            r#"(module (import "" "tick" (func $tick))
                (func $inner (param i32) (local i64) (drop (local.get 0)))
                (func (export "run") (local i32) {text}))"#
        );
        guest.instantiate(&text, &[tick.into()]);
        let error = guest.run();
        assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::Interrupt));
        let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>().unwrap();
        let theirs: Vec<_> =
            backtrace.frames().iter().map(|f| (f.func_index(), f.func_offset())).collect();
        let captured = guest.capture(&error);
        let frames = &captured.dump.threads[0].frames;
        let ours: Vec<_> = frames.iter().map(|f| (f.function, Some(f.offset as usize))).collect();
        assert_eq!(ours, theirs);
        assert_eq!(frames.len(), if inner { 2 } else { 1 });
        assert_eq!(frames.last().unwrap().locals, [I(locals)]);
        // An interrupted frame has locals but no operands.
        assert_eq!(values(&frames[0]).1, []);
    }
}

/// The store has two instances of one module and one instance of another. Each frame gets the right instance, and each
/// index space is complete, whether its items are exported or not.
#[test]
fn assigns_frames_to_instances() {
    let leaf = r#"(module $leaf (memory 1) (global (mut i32) (i32.const 5))
        (func (export "leaf") (param i32) (local i32)
            (local.set 1 (i32.const 9)) (global.set 0 (local.get 0)) unreachable))"#;
    let mut guest = Guest::new(&mut config());
    guest.instantiate(leaf, &[]);
    let first = guest.export("leaf");
    guest.instantiate(leaf, &[]);
    let user = r#"(module $user (import "" "leaf" (func $leaf (param i32))) (memory 2)
        (func $middle (param f32) (call $leaf (i32.const 77)))
        (func (export "run") (call $middle (f32.const 2))))"#;
    guest.instantiate(user, &[first]);
    let error = guest.run();
    let captured = guest.capture(&error);
    assert_eq!(captured.notes, []);
    let frames = &captured.dump.threads[0].frames;
    let instances: Vec<_> = frames.iter().map(|f| f.instance.unwrap().0).collect();
    assert_eq!(instances, [0, 2, 2]);
    assert_eq!(values(&frames[0]), (&[I(77), I(9)][..], &[][..]));
    assert_eq!(values(&frames[1]), (&[Value::F32(2_f32.to_bits())][..], &[I(77)][..]));
    for (i, instance) in captured.dump.instances.iter().enumerate() {
        let index = MemoryIndex(u32::try_from(i).unwrap());
        assert_eq!(instance.memories, [Some(index)]);
    }
    assert_eq!(captured.dump.globals[0].value, corestream::GlobalValue::I32(77));
    let bytes = captured.to_vec().unwrap();
    assert_eq!(decode(&bytes).threads[0].1[0].locals, [I(77), I(9)]);
}

/// Wasm calls the host, which calls wasm, which traps. Both activations are captured.
#[test]
fn captures_frames_on_both_sides_of_a_host_call() {
    let mut guest = Guest::new(&mut config());
    let inner = r#"(module $inner (func (export "inner") (param i64) (drop (i32.const 3))
        (i32.const 4) (drop (i64.load (i32.const -1))) unreachable) (memory 1))"#;
    guest.instantiate(inner, &[]);
    let inner = guest.export("inner").into_func().unwrap().typed::<i64, ()>(&guest.store).unwrap();
    let host = Func::wrap_async(&mut guest.store, move |mut caller, (x,): (i32,)| {
        let inner = inner.clone();
        Box::new(async move { inner.call_async(&mut caller, i64::from(x) + 1).await })
    });
    let outer = r#"(module $outer (import "" "host" (func $host (param i32)))
        (func (export "run") (local f32) (i32.const 41) (i32.const 42) (call $host) drop))"#;
    guest.instantiate(outer, &[host.into()]);
    let error = guest.run();
    let captured = guest.capture(&error);
    let frames = &captured.dump.threads[0].frames;
    assert_eq!(frames.len(), 2, "{}", captured.dump);
    assert_eq!(frames[0].instance, Some(InstanceIndex(0)));
    assert_eq!(values(&frames[0]), (&[Value::I64(43)][..], &[I(4)][..]));
    assert_eq!(frames[1].instance, Some(InstanceIndex(1)));
    assert_eq!(values(&frames[1]), (&[Value::F32(0)][..], &[I(41), I(42)][..]));
}

/// The youngest frame is the caller of the failing host function.
#[test]
fn captures_the_caller_of_a_failing_host_function() {
    let mut guest = Guest::new(&mut config());
    let host = Func::wrap(&mut guest.store, |_: i32| -> wasmtime::Result<()> {
        Err(Error::msg("the host says no"))
    });
    let text = r#"(module (import "" "" (func (param i32)))
        (func (export "run") (local i32) (local.set 0 (i32.const 6)) (call 0 (i32.const 5))))"#;
    guest.instantiate(text, &[host.into()]);
    let error = guest.run();
    let frames = &guest.capture(&error).dump.threads[0].frames;
    assert_eq!(values(&frames[0]), (&[I(6)][..], &[I(5)][..]));
}

/// Wasmtime panics when it reads a continuation reference, so the capture checks the type first.
#[test]
fn reports_continuation_references_as_missing() {
    let mut guest = Guest::new(config().wasm_stack_switching(true));
    guest.instantiate(
        r#"(module (type $f (func)) (type $c (cont $f))
            (func (export "run") (local (ref null $c)) (local i32) (local exnref)
                (local.set 1 (i32.const 8))
                (ref.null $c) (i32.const 9) (ref.null $c) (i64.const 10) unreachable))"#,
        &[],
    );
    let error = guest.run();
    let frames = &guest.capture(&error).dump.threads[0].frames;
    let locals = [Value::Missing, I(8), Value::Missing];
    let stack = [Value::Missing, I(9), Value::Missing, Value::I64(10)];
    assert_eq!(values(&frames[0]), (&locals[..], &stack[..]));
}

/// A record is used for an error only if it matches the error's backtrace.
#[test]
fn ignores_the_record_of_another_error() {
    let mut guest = Guest::new(&mut config());
    let text = r#"(module (func (export "run") (local i32) unreachable)
        (func (export "other") (local i64) unreachable))"#;
    guest.instantiate(text, &[]);
    let error = guest.run();
    let other = guest.export("other").into_func().unwrap();
    wait(other.call_async(&mut guest.store, &[], &mut [])).unwrap_err();
    let frames = &guest.capture(&error).dump.threads[0].frames;
    assert_eq!((frames[0].function, &frames[0].locals[..]), (0, &[][..]));
}

/// With guest debugging, the embedder need not name any instance or import.
#[test]
fn captures_complete_index_spaces() {
    let mut guest = Guest::new(&mut config());
    let owner = r#"(module $owner (memory (export "a") 1) (memory (export "b") 1)
        (global (export "g") (mut i32) (i32.const 1)) (global (mut i32) (i32.const 2)))"#;
    guest.instantiate(owner, &[]);
    let (b, g) = (guest.export("b"), guest.export("g"));
    let user = r#"(module $user (import "" "b" (memory 1)) (import "" "g" (global (mut i32)))
        (memory 1 1 shared) (memory 3) (global f32 (f32.const 0))
        (func (export "run") unreachable))"#;
    guest.instantiate(user, &[b, g]);
    let error = guest.run();
    let captured = guest.capture(&error);
    assert_eq!(captured.notes, []);
    let user = &captured.dump.instances[1];
    let memories: Vec<_> = user.memories.iter().map(|m| m.unwrap().0).collect();
    assert_eq!(memories, [1, 3, 2]);
    let globals: Vec<_> = user.globals.iter().map(|g| g.unwrap().0).collect();
    assert_eq!(globals, [0, 2]);
    assert!(captured.dump.memories[3].ty.shared);
}

/// A store between two calls is captured completely. A linker is accepted although none is needed.
#[test]
fn captures_all_instances_without_a_trap() {
    let mut guest = Guest::new(&mut config());
    guest.instantiate(r#"(module $quiet (memory 1) (global i64 (i64.const 3)))"#, &[]);
    let linker = Linker::new(guest.store.engine());
    let captured = Capture::new("guest").linker(&linker).live(&mut guest.store);
    assert_eq!(captured.notes, []);
    let dump = &captured.dump;
    assert_eq!((dump.instances.len(), dump.memories.len(), dump.globals.len()), (1, 1, 1));
    assert!(dump.threads[0].frames.is_empty());
}
