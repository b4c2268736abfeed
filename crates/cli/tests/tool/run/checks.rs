//! Checks of a guest before it is compiled, the arguments of `--invoke`, and the cause of a trap.

use std::fs;
use std::path::Path;

use super::{directory, run};
use crate::tool::{names, shell, stderr};

/// Returns the line on standard error of a `run` that fails before the guest starts.
pub fn refused(directory: &Path, args: &[&str]) -> String {
    let output = run(directory, args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(125), "{args:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}");
    message.trim_end().strip_prefix("corestream: ").unwrap().into()
}

/// Returns why `run` refuses a guest.
pub fn refusal(name: &str, guest: impl AsRef<[u8]>) -> String {
    let directory = directory(name, guest);
    let message = refused(directory.path(), &[name]);
    assert_eq!(names(directory.path()), [name]);
    message
}

/// An invalid function body stops the compiler. Another error that is reported instead was found before.
#[test]
fn reports_errors_before_the_guest_is_compiled() {
    let guest =
        |import: &str| format!("(module {import} (func (export \"_start\") (i32.const 1)))");
    let directory = directory("import.wat", guest("(import \"env\" \"foo\" (func))"));
    fs::write(directory.path().join("body.wat"), guest("")).unwrap();
    for limit in [&[][..], &["--time-limit", "1"]] {
        let refused = |args: &[&str]| refused(directory.path(), &[args, limit].concat());
        assert_eq!(
            refused(&["import.wat"]),
            "import.wat: unknown import `env::foo`: `run` provides WASI preview 1 only; --stub-imports makes \
             stubs, which trap when called"
        );
        let message = refused(&["body.wat", "--invoke", "none"]);
        assert_eq!(message, "body.wat: exports no function none, only _start");
        let message = refused(&["body.wat"]);
        assert!(message.starts_with("body.wat:1:35: invalid module: type mismatch: "), "{message}");
    }
}

#[test]
fn lists_every_unknown_import_once() {
    let wasi = "(import \"wasi_snapshot_preview1\" \"fd_close\" (func (param i32) (result i32)))";
    let message = refusal(
        "imports.wat",
        format!(
            "(module {wasi}
               (import \"env\" \"f\" (func)) (import \"env\" \"f\" (func (param i32)))
               (import \"env\" \"memory\" (memory 1)) (import \"env\" \"g\" (global i32))
               (import \"env\" \"t\" (table 1 funcref)) (import \"env\" \"e\" (tag))
               (import \"wasi_snapshot_preview1\" \"none\" (func))
               (func (export \"_start\")))"
        ),
    );
    assert_eq!(
        message,
        "imports.wat: unknown imports `env::e` (tag), `env::f`, `env::g` (global), `env::memory` \
         (memory), `env::t` (table), `wasi_snapshot_preview1::none`: `run` provides WASI preview 1 only"
    );
    // The length of the line is limited, whatever the number of imports and their names.
    let imports: String = (0..500)
        .map(|i| format!("(import \"env\" \"{i:04}{}\" (func))", "\\u{202e}".repeat(500)))
        .collect();
    let message = refusal("many.wat", format!("(module {imports} (func (export \"_start\")))"));
    assert!(message.contains(" and 492 more: `run` provides"), "{message}");
    assert!(message.len() < 10_000 && !message.contains('\u{202e}'), "{message}");
}

#[test]
fn compares_the_types_of_imports() {
    let guest = |ty: &str| {
        format!(
            "(module (import \"wasi_snapshot_preview1\" \"fd_close\" {ty}) (func (export \"_start\")))"
        )
    };
    assert_eq!(
        refusal("type.wat", guest("(func (param i64) (result i32))")),
        "type.wat: import `wasi_snapshot_preview1::fd_close` has the type (i64) -> (i32), but WASI's \
         function has the type (i32) -> (i32)"
    );
    assert_eq!(
        refusal("kind.wat", guest("(memory 1)")),
        "kind.wat: import `wasi_snapshot_preview1::fd_close` is a memory in the guest, but not in WASI"
    );
    let both = "(func (param i32))) (import \"wasi_snapshot_preview1\" \"fd_sync\" (func)";
    let message = refusal("both.wat", guest(both));
    assert!(message.ends_with("; 1 more import does not fit either"), "{message}");
    // A type that is open to subtypes is not the type of a host function, whatever its parameters.
    let open = "(module (type $open (sub (func (param i32) (result i32))))
        (import \"wasi_snapshot_preview1\" \"fd_close\" (func (type $open))) (func (export \"_start\")))";
    assert!(refusal("open.wat", open).contains("fd_close` has the type"));
}

#[test]
fn reports_the_position_of_a_syntax_error() {
    assert_eq!(
        refusal("syntax.wat", "(module\n  (func (export \"_start\")\n    i32.cons 1))"),
        "syntax.wat:3:5: unknown operator or unexpected token"
    );
    let message = refusal("open.wat", "(module\n  (func");
    assert!(message.starts_with("open.wat:2:8: expected `"), "{message}");
}

#[test]
fn reports_why_a_module_is_invalid() {
    let body = "(module (func (export \"_start\") (i32.add (i32.const 1) (i64.const 2)) drop))";
    let wasm = wat(body);
    let message = refusal("bad.wasm", &wasm);
    assert_eq!(
        message,
        "bad.wasm: invalid module: type mismatch: expected i32, found i64 (at offset 0x27)"
    );
    let message = refusal("cut.wasm", &wasm[..wasm.len() - 4]);
    assert!(message.starts_with("cut.wasm: invalid module: unexpected end"), "{message}");
    // A text has lines.
    let text = "(module\n  (func (export \"_start\")\n    (i32.add (i32.const 1)\n      (i64.const 2))\n    drop))";
    assert_eq!(
        refusal("bad.wat", text),
        "bad.wat:3:6: invalid module: type mismatch: expected i32, found i64"
    );
    // Names of the guest that look like names of the engine's API.
    for name in ["run_async", "Store::new", "Config::shared_memory", "compile time"] {
        let text =
            format!("(module (func (export \"_start\") (export \"{name}\") (export \"{name}\")))");
        let wasm = wat(&text);
        // The last export begins with the length of its name.
        let at =
            wasm.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap() - 1;
        assert_eq!(
            refusal("twice.wasm", &wasm),
            format!(
                "twice.wasm: invalid module: duplicate export name `{name}` already defined (at \
                 offset {at:#x})"
            )
        );
    }
    // A proposal is called by its name.
    assert_eq!(
        refusal("legacy.wat", "(module (func (export \"_start\") try catch_all end))"),
        "legacy.wat: uses the proposal legacy-exceptions, which `run` does not support"
    );
    assert_eq!(
        refusal(
            "stacks.wat",
            "(module (type $f (func)) (type (cont $f)) (func (export \"_start\")))"
        ),
        "stacks.wat: uses the proposal stack-switching, which `run` does not support"
    );
}

/// Encodes a text in the binary format.
fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn names_the_contents_of_a_file_that_is_not_a_module() {
    let component = "exports neither wasi:cli/run of WASI 0.2 nor any other function";
    for (guest, expected) in [
        (&b"\0asm\x0d\0\x01\0"[..], component),
        (b"(component)", component),
        (b";; text\n(; (module) ;) (\n component $c)", component),
        (b"\x1f\x8b\x08\0\0\0\0\0", "is compressed with gzip; decompress it with `gzip -d` first"),
        (b"\x28\xb5\x2f\xfd\0", "is compressed with zstd; decompress it with `zstd -d` first"),
        (b"\x7fELF\x02\x01\x01", "is an ELF file, not a WebAssembly module"),
        (b"#!/bin/sh\n", "is a script, not a WebAssembly module"),
        (b"", "is empty, not a WebAssembly module"),
        (b"module", "is not a WebAssembly module, neither in binary nor in text form"),
        (b"\0asm\x01", "truncated: a module has a header of 8 bytes"),
        (b"\0asm\x02\0\0\0", "unknown version 2 of the WebAssembly binary format"),
    ] {
        assert_eq!(refusal("guest", guest), format!("guest: {expected}"));
    }
    // A dump is a module, but not a guest.
    let directory = directory("trap.wat", "(module (func (export \"_start\") unreachable))");
    assert_eq!(run(directory.path(), &["trap.wat"]).status.code(), Some(134));
    assert_eq!(
        refused(directory.path(), &["trap.wat.core"]),
        "trap.wat.core: is a core dump, not a guest; use `corestream inspect`"
    );
}

/// A guest whose functions return their parameters.
const ECHO: &str = r#"(module
    (type $f (func))
    (func (export "i32") (param i32) (result i32) local.get 0)
    (func (export "i64") (param i64) (result i64) local.get 0)
    (func (export "f32") (param f32) (result f32) local.get 0)
    (func (export "f64") (param f64) (result f64) local.get 0)
    (func (export "v128") (param v128) (result v128) local.get 0)
    (func (export "funcref") (param funcref) (result funcref i32)
        local.get 0 (ref.is_null (local.get 0)))
    (func (export "refs") (param externref anyref (ref null $f)) (result externref anyref (ref null $f))
        local.get 0 local.get 1 local.get 2)
    (func (export "strict") (param (ref func)))
    (func (export "concrete") (param (ref null $f) (ref $f)))
    (func $made (export "made") (result (ref func)) ref.func $made)
    (func (export "two") (param i32 v128))
    (global (export "g") i32 (i32.const 1)))"#;

#[test]
fn parses_arguments_in_the_text_format() {
    let directory = directory("echo.wat", ECHO);
    for (function, args, expected) in [
        ("i32", &["-1"][..], "-1\n"),
        ("i32", &["0xff"], "255\n"),
        ("i32", &["4294967295"], "-1\n"),
        ("i32", &["-0x8000_0000"], "-2147483648\n"),
        ("i64", &["0xffff_ffff_ffff_fffe"], "-2\n"),
        ("i64", &["1_000"], "1000\n"),
        ("f32", &["0x1p-3"], "0.125\n"),
        ("f32", &["-inf"], "-inf\n"),
        ("f64", &["nan"], "NaN\n"),
        ("f64", &["1e3"], "1000.0\n"),
        ("f64", &[".5"], "0.5\n"),
        ("v128", &["i32x4:1,2,3,-1"], "0xffffffff000000030000000200000001\n"),
        ("v128", &["i64x2 1 0xff"], "0x00000000000000ff0000000000000001\n"),
        ("v128", &["0x01"], "0x00000000000000000000000000000001\n"),
        ("funcref", &["null"], "null\n1\n"),
        ("refs", &["null", "null", "null"], "null\nnull\nnull\n"),
        ("made", &[], "a reference\n"),
    ] {
        let output =
            run(directory.path(), &[&["echo.wat", "--invoke", function, "--"], args].concat());
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(printed, expected, "{function} {args:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn rejects_arguments_that_do_not_fit() {
    let directory = directory("echo.wat", ECHO);
    for (function, args, expected) in [
        (
            "i32",
            &["4294967296"][..],
            "argument 1 (`4294967296`) is out of range for i32; expected -2147483648 to 4294967295",
        ),
        (
            "i64",
            &["-9223372036854775809"],
            "argument 1 (`-9223372036854775809`) is out of range for i64; expected -9223372036854775808 to \
             18446744073709551615",
        ),
        (
            "i32",
            &["1.5"],
            "argument 1 (`1.5`) is not of type i32; expected an integer such as -1, 42 or 0xff",
        ),
        (
            "f32",
            &["1e39"],
            "argument 1 (`1e39`) is out of range for f32; expected at most 3.4028235e38",
        ),
        (
            "f32",
            &["nan:0x0"],
            "argument 1 (`nan:0x0`) has a NaN payload out of range; expected 0x1 to 0x7fffff",
        ),
        (
            "concrete",
            &["1", "null"],
            "argument 1 (`1`) is not of type (ref null 0); only null is supported",
        ),
        (
            "concrete",
            &["null", "null"],
            "argument 2 (`null`) cannot be null, because (ref 0) is not nullable",
        ),
        (
            "concrete",
            &[],
            "takes 2 parameters ((ref null 0), (ref 0)), but 0 arguments are given after --",
        ),
        (
            "f64",
            &["1)(drop"],
            "argument 1 (`1)(drop`) is not of type f64; expected a number such as -1.5, 1e3, 0x1p-3, inf \
             or nan",
        ),
        (
            "two",
            &["1", "7"],
            "argument 2 (`7`) is not of type v128; expected lanes such as i32x4:1,2,3,4, or 128 bits such \
             as 0xff",
        ),
        ("v128", &["i32x4:1"], "argument 1 (`i32x4:1`) has 1 lane, but its shape has 4"),
        (
            "v128",
            &["i8x16:256,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"],
            "argument 1 (`i8x16:256,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0`) is out of range for v128; expected \
             lanes that fit the shape, signed or unsigned",
        ),
        ("funcref", &["1"], "argument 1 (`1`) is not of type funcref; only null is supported"),
        (
            "strict",
            &["null"],
            "argument 1 (`null`) cannot be null, because (ref func) is not nullable",
        ),
        ("two", &["1"], "takes 2 parameters (i32, v128), but 1 argument is given after --"),
        ("i32", &[], "takes 1 parameter (i32), but 0 arguments are given after --"),
    ] {
        let message =
            refused(directory.path(), &[&["echo.wat", "--invoke", function, "--"], args].concat());
        assert_eq!(message, format!("echo.wat: function {function}: {expected}"));
    }
    let message = refused(directory.path(), &["echo.wat", "--invoke", "g"]);
    assert_eq!(message, "echo.wat: export g is a global, not a function");
    let message = refused(directory.path(), &["echo.wat"]);
    assert_eq!(
        message,
        "echo.wat: exports no function _start; choose one with --invoke: i32, i64, f32, f64, v128, \
         funcref, refs, strict and 3 more"
    );
}

/// The length is checked before the file is read: there is too little memory for it.
#[test]
fn rejects_a_file_that_is_too_large() {
    let directory = directory("trap.wat", "(module (func (export \"_start\") unreachable))");
    fs::File::create(directory.path().join("large")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(run(directory.path(), &["trap.wat"]).status.code(), Some(134));
    for (args, code, expected) in [
        (&["run", "large"][..], 125, "the limit of `run`"),
        (&["inspect", "trap.wat.core", "--symbols", "large"], 1, "the maximum for a symbol file"),
    ] {
        let line = "ulimit -v 800000 && exec \"$0\" \"$@\"";
        let output = shell(directory.path(), line, args);
        let message = format!("corestream: large: is larger than 1073741824 bytes, {expected}\n");
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), message));
    }
}

/// A function with an empty name is shown by its index.
#[test]
fn ignores_an_empty_name() {
    let directory =
        directory("empty.wat", "(module (func (@name \"\") (export \"_start\") unreachable))");
    let message = stderr(&run(directory.path(), &["empty.wat"]));
    assert_eq!(message.lines().nth(1), Some("    0: empty.wat: function 0 + 0x1"), "{message}");
}

/// Returns the first line on standard error of a guest that traps.
fn trap(directory: &Path, args: &[&str]) -> String {
    let output = run(directory, &[&["--force"], args].concat());
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    message.lines().next().unwrap().strip_prefix("corestream: ").unwrap().into()
}

/// The guests are built from `tests/guests/overflow.c`.
#[test]
fn recognizes_a_stack_overflow() {
    let directory = tempfile::tempdir().unwrap();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let out_of_bounds = "wasm trap: out of bounds memory access";
    let unreachable = "wasm trap: wasm `unreachable` instruction executed";
    let below = "stack overflow: the stack pointer is 992 bytes below address 0";
    let left = "likely a stack overflow: the stack has 80 bytes left";
    for (guest, function, expected) in [
        ("stack-first", "deep", format!("{below} ({out_of_bounds})")),
        ("stack-first", "leaf", format!("{left} ({out_of_bounds})")),
        ("stack-first", "wild", out_of_bounds.into()),
        (
            "data-first",
            "deep",
            format!(
                "likely a stack overflow: the stack reaches 992 bytes into the static data \
                 ({unreachable})"
            ),
        ),
        (
            "data-first",
            "leaf",
            format!(
                "likely a stack overflow: the stack reaches 1968 bytes into the static data \
                 ({out_of_bounds})"
            ),
        ),
        ("data-first", "wild", out_of_bounds.into()),
        ("unnamed", "deep", format!("likely a {below} ({out_of_bounds})")),
        ("unnamed", "leaf", format!("{left} ({out_of_bounds})")),
        ("unnamed", "wild", out_of_bounds.into()),
    ] {
        let name = format!("overflow-{guest}.wasm");
        fs::copy(guests.join(&name), directory.path().join(&name)).unwrap();
        for more in [&[][..], &["--locals"]] {
            let args = [&[&name, "--invoke", function][..], more].concat();
            let message = trap(
                directory.path(),
                &args.iter().chain(&["--", "1"]).copied().collect::<Vec<_>>(),
            );
            assert_eq!(message, format!("{name}: {expected}"), "{function} {more:?}");
        }
    }
}

/// A global only looks like a stack pointer, or the trap has another cause.
#[test]
fn does_not_report_other_traps_as_a_stack_overflow() {
    let directory = tempfile::tempdir().unwrap();
    let deep = "(func $f (export \"_start\") (call $f))";
    let stack = "(global $__stack_pointer (mut i32) (i32.const 65536))";
    for (text, expected) in [
        // Global 0 is negative, but no function uses it as a stack.
        (
            "(module (memory 1) (global (mut i32) (i32.const 65536))
               (func (export \"_start\") (global.set 0 (i32.const -16))
                 (drop (i32.load (i32.const 65536)))))"
                .to_string(),
            "wasm trap: out of bounds memory access",
        ),
        // The engine's own stack.
        (format!("(module (memory 1) {stack} {deep})"), "wasm trap: call stack exhausted"),
        // The stack pointer is small, but the trap has another cause.
        (
            format!(
                "(module (memory 1) {stack}
                   (func (export \"_start\") (global.set 0 (i32.const 16)) unreachable))"
            ),
            "wasm trap: wasm `unreachable` instruction executed",
        ),
        // The memory is so large that every pointer is in it.
        (
            format!(
                "(module (memory 65536) {stack}
                   (func (export \"_start\") (global.set 0 (i32.const -16)) unreachable))"
            ),
            "wasm trap: wasm `unreachable` instruction executed",
        ),
    ] {
        fs::write(directory.path().join("guest.wat"), &text).unwrap();
        assert_eq!(
            trap(directory.path(), &["guest.wat"]),
            format!("guest.wat: {expected}"),
            "{text}"
        );
    }
}

#[test]
fn demangles_names_in_the_backtrace() {
    let doubling: String = (0..34)
        .map(|i| {
            let digit = char::from_digit(i, 36).unwrap().to_ascii_uppercase();
            format!("S_IS{digit}_S{digit}_E")
        })
        .collect();
    let text = format!(
        "(module
           (func $_ZN4core6option13unwrap_failed17h0123456789abcdefE unreachable)
           (func $_Z3addii (call $_ZN4core6option13unwrap_failed17h0123456789abcdefE))
           (func $_RNvC5guest4main (call $_Z3addii))
           (func (@name \"_Z1fSt4pairIiiE{doubling}\") (call $_RNvC5guest4main))
           (func (export \"_start\") (call 3)))"
    );
    let directory = directory("names.wat", text);
    let output = run(directory.path(), &["names.wat"]);
    let message = stderr(&output);
    let frames: Vec<_> =
        message.lines().skip(1).filter_map(|line| line.split(": names.wat: ").nth(1)).collect();
    assert!(frames[0].starts_with("core::option::unwrap_failed + 0x"), "{message}");
    assert!(frames[1].starts_with("add(int, int) + 0x"), "{message}");
    assert!(frames[2].starts_with("guest::main + 0x"), "{message}");
    // The demangled name would have gigabytes.
    assert!(frames[3].starts_with("_Z1fSt4pairIiiE"), "{message}");
}

#[test]
fn no_message_names_an_option_of_the_library() {
    let directory = tempfile::tempdir().unwrap();
    let line = |text: &str, args: &[&str]| {
        fs::write(directory.path().join("guest.wat"), text).unwrap();
        let message = stderr(&run(directory.path(), &[&["--force", "guest.wat"], args].concat()));
        assert!(!message.contains("Config::") && !message.contains("tunable"), "{message}");
        let line = message.lines().find(|line| !line.ends_with("out of bounds memory access"));
        line.unwrap().replace("corestream: ", "")
    };
    let start = "(func (export \"_start\"))";
    let message = line(&format!("(module (memory i64 0x1000000000000) {start})"), &[]);
    assert_eq!(
        message,
        "guest.wat: the memory is too large for this machine: its initial size is 281474976710656 pages"
    );
    let message = line(&format!("(module (memory i64 0x800000000) {start})"), &[]);
    assert!(
        message.starts_with("guest.wat: cannot reserve address space for the guest, 0x8"),
        "{message}"
    );
    // A fact that the dump does not have.
    let message = line(&format!("(module (memory 1) (data (i32.const 65536) \"x\") {start})"), &[]);
    assert_eq!(
        message,
        "warning: there is no backtrace: no function was running, or --max-frames is too large for \
         this machine"
    );
    let deep = "(module (func $f (export \"_start\") (call $f)))";
    fs::write(directory.path().join("deep.wat"), deep).unwrap();
    let message = stderr(&run(directory.path(), &["--force", "deep.wat", "--max-frames", "1"]));
    let expected = "warning: the backtrace is truncated to 1 frame; raise \
                    --max-frames\n";
    assert!(message.contains(expected), "{message}");
}
