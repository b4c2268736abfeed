//! A host of the engine wasmer: it describes a guest that trapped with the model of corestream. The program runs the
//! same guests in Wasmtime, and checks that both dumps are equal except for what wasmer does not know.
//!
//! wasmer tells
//! - the frames, by `RuntimeError::trace`: the index of the function, and the offset of the instruction in the module,
//!   from which `wasm::Exposed::code_offset` makes the code offset of a dump;
//! - the contents and the types of exported memories and globals. The others are hidden, so the host adds exports for
//!   all of them before it compiles the guest (`wasm::expose`). That changes no index and no code;
//! - the name of the module.
//!
//! wasmer does not tell
//! - the instance of a frame. This host has only one;
//! - locals and operand stacks. Wasmtime tells them with guest debugging only, which is off here;
//! - which memory or global an instance imports. The guests here import none;
//! - the words `wasm trap: ` before a trap;
//! - the offset of a trap that its compiler Singlepass checks out of line, such as a wrong type of an indirect call. It
//!   reports the end of the function, where nothing can trap, so the offset is unknown in the dump. The list of guests
//!   says which one that is. Offsets of calling frames and of memory accesses are right.

mod compare;
mod in_wasmer;
mod in_wasmtime;
mod wasm;

use std::error::Error;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A guest, and what wasmer knows about it.
struct Guest {
    name: &'static str,
    text: &'static str,
    /// The export that traps.
    start: &'static str,
    /// Whether wasmer knows the offset of the trap.
    knows_offset: bool,
}

const GUESTS: &[Guest] = &[
    Guest {
        name: "orders",
        text: include_str!("../../../examples/orders.wat"),
        start: "_start",
        knows_offset: true,
    },
    Guest { name: "every kind of value", text: VALUES, start: "run", knows_offset: true },
    Guest { name: "an indirect call", text: INDIRECT, start: "run", knows_offset: false },
    Guest { name: "a loop", text: LOOP, start: "run", knows_offset: true },
];

/// Globals of every type of numbers, one of them exported, and a memory that has grown. Nothing has a name.
const VALUES: &str = r#"(module
    (memory 1 5)
    (data (i32.const 65530) "edge")
    (global (mut i32) (i32.const -7))
    (global (export "total") (mut i64) (i64.const 0x123456789abcdef))
    (global f32 (f32.const nan:0x200000))
    (global (mut f64) (f64.const -0.5))
    (global (mut v128) (v128.const i64x2 1 2))
    (func $store (param i32)
        (i32.store8 (local.get 0) (i32.const 200))
        (global.set 1 (i64.add (global.get 1) (i64.const 1)))
        (global.set 0 (i32.load8_u offset=1 (local.get 0))))
    (func (export "run")
        (drop (memory.grow (i32.const 1)))
        (call $store (i32.const 9))
        (call $store (i32.const 131071))))"#;

/// A call through a table with a wrong type, below frames with locals.
const INDIRECT: &str = r#"(module $indirect
    (import "host" "log" (func $log (param i32)))
    (type $wrong (func (param i64)))
    (table funcref (elem $target))
    (global $steps (mut i32) (i32.const 0))
    (memory 1)
    (func $target (param i32))
    (func $step (param $left i32) (local i64 f64)
        (global.set $steps (i32.add (global.get $steps) (i32.const 1)))
        (call $log (local.get $left))
        (if (local.get $left)
            (then (call $step (i32.sub (local.get $left) (i32.const 1))))
            (else (call_indirect (type $wrong) (i64.const 3) (i32.const 0)))))
    (func (export "run") (call $step (i32.const 3))))"#;

/// A trap in a loop and nested blocks, after many bytes of code.
const LOOP: &str = r#"(module $loop
    (memory (export "memory") 1)
    (global $i (mut i32) (i32.const 0))
    (func $fill (param $at i32) (param $byte i32)
        (i32.store8 offset=300 (local.get $at) (local.get $byte)))
    (func (export "run")
        (loop $next
            (block $out
                (call $fill (global.get $i) (i32.const 33))
                (global.set $i (i32.add (global.get $i) (i32.const 1000)))
                (br_if $out (i32.lt_u (global.get $i) (i32.const 64000)))
                (call $fill (global.get $i) (i32.const 34)))
            (br $next))))"#;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for Guest { name, text, start, knows_offset } in GUESTS {
        let wasm = wat::parse_str(text)?;
        let [wasmer, wasmtime] =
            ["wasmer", "wasmtime"].map(|engine| directory.path().join(format!("{name}.{engine}")));
        in_wasmer::dump(name, &wasm, start, &wasmer)?;
        in_wasmtime::dump(name, &wasm, start, &wasmtime)?;
        compare::equal(&wasmer, &wasmtime, *knows_offset)
            .map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}
