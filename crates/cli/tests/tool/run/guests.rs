//! Guests that `corestream run` runs, and their dumps.

use std::fs::{self};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corestream::{CoreDumpFile, ModuleIndex, UnixTime, Value};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::{EXIT, directory, run};
use crate::common::{Decoded, decode};
use crate::tool::{json, signal, stderr, tool_path};
use crate::waiting;

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests")
}

/// Computes the CRC-32 (IEEE) bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Checks that the dump of wordcount has the memory and the frames of `wordcount.json`.
fn check_wordcount(decoded: &Decoded<'_>) {
    assert_eq!(decoded.name, "wordcount.wasm");
    assert_eq!(decoded.memories[0].initial, 759);
    let memory = decoded.contents(0, 759 * 65_536);
    assert_eq!(crc32(&memory), 0x0efe_183b);
    let frames: Vec<_> =
        decoded.threads[0].1.iter().map(|f| (f.instance, f.function, f.offset)).collect();
    let report = (0, 49, 23);
    assert_eq!(
        frames,
        [
            // The `unreachable`, and not the branch to it.
            (0, 49, 56),
            report,
            report,
            report,
            report,
            report,
            (0, 48, 851),
            (0, 10, 111),
            (0, 8, 35),
        ]
    );
}

#[test]
fn dumps_a_real_guest() {
    let directory = tempfile::tempdir().unwrap();
    let guest = guests().join("wordcount.wasm");
    let output = run(directory.path(), &[guest.to_str().unwrap()]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    assert_eq!(output.stdout, b"381594 words\n");
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(
        lines[0],
        "corestream: wordcount.wasm: wasm trap: wasm `unreachable` instruction executed"
    );
    assert_eq!(lines[1], "    0: wordcount.wasm: report + 0x38");
    assert_eq!(lines[9], "    8: wordcount.wasm: _start + 0x23");
    assert_eq!(lines[10..], ["corestream: wordcount.wasm.core: core dumped"]);
    check_wordcount(&decode(&fs::read(directory.path().join("wordcount.wasm.core")).unwrap()));

    // The same with locals.
    let output = run(directory.path(), &["--locals", guest.to_str().unwrap(), "-o", "%n.locals"]);
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    let bytes = fs::read(directory.path().join("wordcount.wasm.locals")).unwrap();
    let decoded = decode(&bytes);
    check_wordcount(&decoded);
    // `depth` counts down from 5 to 0.
    let depths: Vec<_> = decoded.threads[0].1[..6].iter().map(|f| f.locals[1]).collect();
    assert_eq!(depths, [0, 1, 2, 3, 4, 5].map(Value::I32));
}

/// The SHA-256 is the hash of the guest's file, although `run` instruments the guest.
#[test]
fn a_dump_has_the_trap_the_time_and_the_identity_of_the_guest() {
    let directory = tempfile::tempdir().unwrap();
    let guest = guests().join("wordcount.wasm");
    let before = UnixTime::now();
    let output = run(directory.path(), &[guest.to_str().unwrap(), "-o", "guest.core"]);
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    let dump = CoreDumpFile::open(directory.path().join("guest.core")).unwrap();
    assert_eq!(dump.trap(), Some("wasm trap: wasm `unreachable` instruction executed"));
    let captured_at = dump.captured_at();
    assert!(before <= captured_at && captured_at <= UnixTime::now(), "{captured_at:?}");
    let identity = dump.module_identity(ModuleIndex(0)).unwrap();
    let sha256 = identity.sha256.unwrap().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(sha256, "59aa652189f23bc3e21cb6b18ebbc0639a40b2f3aa1cafb59bf4d72d84210b1f");
    assert_eq!(identity.build_id, None);
    assert_eq!(dump.notes().len(), 0);

    let text = r#"(module (@custom "build_id" "\02\12\34") (memory 1 1 shared)
        (func (export "_start") (loop br 0)))"#;
    fs::write(directory.path().join("guest.wat"), text).unwrap();
    let output = run(directory.path(), &["--time-limit", "0.3", "guest.wat", "-o", "loop.core"]);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
    let dump = CoreDumpFile::open(directory.path().join("loop.core")).unwrap();
    assert_eq!(dump.trap(), Some("stopped after 0.3 s"));
    let identity = dump.module_identity(ModuleIndex(0)).unwrap();
    assert_eq!(identity.build_id.as_deref(), Some(&[0x12, 0x34][..]));
}

#[test]
fn runs_the_example_of_the_readme() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/orders.wat");
    let output = run(directory.path(), &["--locals", guest.to_str().unwrap(), "-o", "orders.core"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    assert!(message.starts_with("corestream: orders.wat: wasm trap: out of bounds memory access\n    0: orders: amount + 0x"), "{message}");
    assert!(message.ends_with("corestream: orders.core: core dumped\n"), "{message}");
    let bytes = fs::read(directory.path().join("orders.core")).unwrap();
    let decoded = decode(&bytes);
    let orders: Vec<_> = decoded.threads[0].1[..5].iter().map(|f| f.locals[0]).collect();
    let damaged = Value::I32(0xdead_beef_u32.cast_signed());
    assert_eq!(
        orders,
        [damaged, damaged, Value::I32(0x10000), Value::I32(0x1020), Value::I32(0x1000)]
    );

    // Each frame is at the instruction of its line in the text.
    let text = fs::read_to_string(&guest).unwrap();
    let dump = directory.path().join("orders.core");
    let args = ["inspect", dump.to_str().unwrap(), "--symbols", guest.to_str().unwrap(), "--json"];
    let json = json(directory.path(), args);
    let frames = json["threads"][0]["frames"].as_array().unwrap();
    let of = |frame: &serde_json::Value| {
        let number = |what: &str| usize::try_from(frame[what].as_u64().unwrap()).unwrap();
        let line = text.lines().nth(number("line") - 1).unwrap();
        let word = &line[number("column") - 1..];
        let name = frame["name"].as_str().unwrap().to_string();
        (name, word.split(' ').next().unwrap().trim_start_matches('(').to_string())
    };
    let calls = [("amount", "i32.load"), ("add_up", "call"), ("add_up", "call")];
    let seen: Vec<_> = frames.iter().take(3).map(of).collect();
    assert_eq!(seen, calls.map(|(name, word)| (name.to_string(), word.to_string())));
}

#[test]
fn a_guest_that_fails_never_has_exit_code_0() {
    for code in [256_u32, 0xff00, 0x8000_0000] {
        let text = EXIT.replace("i32.const 42", &format!("i32.const {code}"));
        let directory = directory("exit.wat", &text);
        for more in [&[][..], &["--locals"]] {
            let output = run(directory.path(), &[&["exit.wat"], more].concat());
            let message = format!(
                "corestream: exit.wat: the guest's exit code {code} does not fit in 8 bits; exiting with 1\n"
            );
            assert_eq!((output.status.code(), stderr(&output)), (Some(1), message));
        }
    }
}

/// The offset of an `unreachable` is its own, whatever branch the compiler makes of it.
#[test]
fn an_unreachable_has_its_own_offset() {
    // The first byte of a body is the number of locals, 0.
    for (body, offset) in [
        ("unreachable", 1),
        ("loop unreachable end", 3),
        ("i32.const 1 drop unreachable", 4),
        ("global.get 0 if unreachable end", 5),
        ("global.get 0 i32.eqz if nop else unreachable end", 8),
        ("global.get 0 i32.eqz if nop end unreachable", 8),
        ("block global.get 0 br_if 0 return end unreachable", 9),
        ("block global.get 0 i32.eqz br_if 0 unreachable end", 8),
        ("global.get 0 drop call 0 unreachable", 6),
    ] {
        let text = format!(
            r#"(module (func) (global (mut i32) (i32.const 1))
            (func $f {body}) (func (export "_start") (call $f)))"#
        );
        let directory = directory("place.wat", &text);
        for more in [&[][..], &["--locals"], &["--time-limit", "60"]] {
            let output = run(directory.path(), &[&["place.wat", "--force"], more].concat());
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{message}");
            let line = format!("    0: place.wat: f + {offset:#x}");
            assert_eq!(message.lines().nth(1), Some(line.as_str()), "{body} {more:?}");
            let bytes = fs::read(directory.path().join("place.wat.core")).unwrap();
            let frame = &decode(&bytes).threads[0].1[0];
            assert_eq!((frame.function, frame.offset), (1, offset), "{body} {more:?}");
        }
    }
}

/// Shared memories are dumped whether they are exported or not, under their own indices.
#[test]
fn dumps_shared_memories() {
    for (memories, shared) in [
        ("(memory 1 10 shared)", &[0][..]),
        ("(memory 1) (memory 1 10 shared)", &[1]),
        ("(memory 1 10 shared) (memory 1) (memory 1 10 shared)", &[0, 2]),
        (r#"(memory 1 10 shared) (memory (export "m") 1 10 shared)"#, &[0, 1]),
    ] {
        for start in ["", "(start $f)"] {
            let stores: String = (shared.iter())
                .map(|i| format!("(i32.atomic.store {i} (i32.const 16) (i32.const {}))", i + 7))
                .collect();
            let text = format!(
                r#"(module {memories} (func $f {stores} unreachable) {start}
                (func (export "_start") (call $f)))"#
            );
            let directory = directory("shared.wat", &text);
            for more in [&[][..], &["--locals"], &["--time-limit", "60"]] {
                let output = run(directory.path(), &[&["shared.wat", "--force"], more].concat());
                let message = stderr(&output);
                assert_eq!(output.status.code(), Some(134), "{message}");
                assert!(!message.contains("is unknown"), "{memories} {more:?}: {message}");
                let bytes = fs::read(directory.path().join("shared.wat.core")).unwrap();
                let decoded = decode(&bytes);
                assert_eq!(decoded.memories.len(), memories.matches("(memory").count());
                let instance = &decoded.instances[0];
                for index in shared {
                    let memory = usize::try_from(instance.memories[*index]).unwrap();
                    let byte = decoded.contents(memory, 65_536)[16];
                    assert_eq!(usize::from(byte), index + 7, "{memories} {more:?}");
                }
                let frames = &decoded.threads[0].1;
                assert_eq!(frames[0].function, 0);
                assert_eq!(frames.len(), if start.is_empty() { 2 } else { 1 }, "{frames:?}");
            }
        }
    }
}

/// The exit code of a trap stays even if a signal stops the dump.
#[test]
fn a_signal_that_stops_the_dump_keeps_the_exit_code_of_the_guest() {
    for (limit, code) in [(&[][..], 134), (&["--time-limit", "0.3"][..], 124)] {
        let body = if limit.is_empty() { "unreachable" } else { "(loop (br 0))" };
        let text = format!(
            r#"(module (memory 40) (func (export "_start")
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 2621440)) {body}))"#
        );
        for reads in [false, true] {
            let directory = directory("trap.wat", &text);
            let fifo = directory.path().join("fifo");
            mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let mut command = Command::new(tool_path());
            command
                .current_dir(directory.path())
                .args(["run", "trap.wat", "-o", "fifo"])
                .args(limit);
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            // The dump waits for its reader, or its reader stalls.
            let mut message = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            message.read_line(&mut line).unwrap();
            assert!(line.starts_with("corestream: trap.wat: "), "{line}");
            let reader = reads.then(|| {
                let mut fifo = fs::File::open(&fifo).unwrap();
                fifo.read_exact(&mut [0; 1000]).unwrap();
                fifo
            });
            signal(&child, Signal::INT);
            waiting::exit(&mut child);
            let mut rest = String::new();
            message.read_to_string(&mut rest).unwrap();
            let last = "corestream: no core dump: stopped by SIGINT, the output is incomplete";
            assert_eq!(rest.lines().last(), Some(last), "{rest}");
            assert_eq!(child.wait().unwrap().code(), Some(code), "{reads}");
            drop(reader);
        }
    }
}

/// Nothing is written to the frame of the deepest function.
#[test]
fn dumps_a_guest_that_exhausts_the_call_stack() {
    let directory = directory("deep.wat", r#"(module (func $f (export "_start") (call $f)))"#);
    for more in [&[][..], &["--locals"], &["--locals", "--time-limit", "60"]] {
        let output = run(directory.path(), &[&["deep.wat", "--force"], more].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{message}");
        assert!(
            message.starts_with("corestream: deep.wat: wasm trap: call stack exhausted\n"),
            "{message}"
        );
        let bytes = fs::read(directory.path().join("deep.wat.core")).unwrap();
        assert!(decode(&bytes).threads[0].1.len() > 1000, "{more:?}");
    }
}

/// If a guest exports no function, its start function runs.
#[test]
fn runs_a_start_function_alone() {
    for locals in [&[][..], &["--locals"]] {
        let directory =
            directory("trap.wat", "(module (memory 1) (func $s unreachable) (start $s))");
        let output = run(directory.path(), &[&["trap.wat"], locals].concat());
        assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
        let bytes = fs::read(directory.path().join("trap.wat.core")).unwrap();
        let decoded = decode(&bytes);
        assert_eq!(decoded.threads[0].1[0].function, 0);
        assert_eq!(decoded.memories.len(), 1);
    }
    let directory = directory("start.wat", "(module (func $s) (start $s))");
    assert_eq!(run(directory.path(), &["start.wat"]).status.code(), Some(0));
    let output = run(directory.path(), &["start.wat", "--", "x"]);
    let message =
        "corestream: start.wat: only has a start function, which takes no arguments; remove x\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(125), message));
}

/// The guest traps before its first call: in its start function, in segments, at the time limit, or in a host call. The
/// dump with locals has the same frames.
#[test]
fn dumps_a_guest_that_traps_during_its_start() {
    let exits = r#"(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))"#;
    for (text, limit, code, functions) in [
        ("(func $s unreachable) (start $s)", false, 134, &[0][..]),
        (
            "(memory 1) (func $s (i32.store (i32.const 4) (i32.const 9)) unreachable) (start $s) (func)",
            false,
            134,
            &[0],
        ),
        ("(func $f unreachable) (func $s (call $f)) (start $s)", false, 134, &[0, 1]),
        (r#"(memory 1) (data (i32.const 65535) "ab")"#, false, 134, &[]),
        (
            r#"(memory 1) (data (i32.const 65535) "ab") (func unreachable) (func (param i32 i64))"#,
            false,
            134,
            &[],
        ),
        (
            "(table 1 funcref) (elem (i32.const 1) $f) (func $f (param i32 funcref) (local i64))",
            false,
            134,
            &[],
        ),
        ("(func $s (loop (br 0))) (start $s)", true, 124, &[0]),
        (
            "(func $s (param i32) (result i32) (loop (br 0)) unreachable) (func $t (drop (call $s (i32.const 1)))) (start $t)",
            true,
            124,
            &[0, 1],
        ),
    ] {
        let text = format!(r#"(module {text} (func (export "_start")))"#);
        let directory = directory("start.wat", &text);
        let mut dumps = Vec::new();
        for more in [&[][..], &["--locals"]] {
            let limit = if limit { &["--time-limit", "0.3"][..] } else { &[] };
            let args = [&["start.wat", "--force"], more, limit].concat();
            let output = run(directory.path(), &args);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{text} {more:?}: {message}");
            let bytes = fs::read(directory.path().join("start.wat.core")).unwrap();
            let decoded = decode(&bytes);
            let found: Vec<_> = decoded.threads[0].1.iter().map(|f| f.function).collect();
            assert_eq!(found, functions, "{text} {more:?}");
            dumps.push((decoded.instances.len(), decoded.memories.len(), decoded.globals.len()));
        }
        assert_eq!(dumps[0], dumps[1], "{text}");
    }
    // A host call that is pending in the start function.
    let text = format!(
        r#"(module {exits} (memory (export "memory") 1) (func $s (drop
            (call $read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 200)))
            (loop (br 0))) (start $s) (func (export "_start")))"#
    );
    let directory = directory("start.wat", &text);
    let output = run(directory.path(), &["start.wat", "--locals", "--time-limit", "0.3"]);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
}

/// The dump has locals, and LLDB shows them. Without commands, LLDB ends at the end of its input.
#[test]
fn a_trap_opens_the_dump_in_lldb() {
    if crate::debug::program("lldb").is_none() {
        return;
    }
    let guest = std::fs::canonicalize("tests/guests/values/recursive.wasm").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let output =
        crate::tool::corestream(directory.path(), ["run", "--debug"]).arg(&guest).output().unwrap();
    let (text, message) = (String::from_utf8_lossy(&output.stdout), crate::tool::stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("recursive.wasm.core: core dumped\n"), "{message}");
    assert!(text.contains("stop reason = wasm trap: "), "{text}");
    assert!(text.contains("walk(depth=4, name=\"es\""), "{text}");
    // A guest that ends well starts no debugger.
    let guest = directory.path().join("fine.wat");
    std::fs::write(&guest, "(module (func (export \"_start\")))").unwrap();
    let output = crate::tool::corestream(directory.path(), ["run", "--debug", "fine.wat"]).output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
}

/// Wasmtime's own dump has no locals. LLDB shows its backtrace, and reads its memory.
#[test]
fn a_dump_of_wasmtime_has_a_backtrace_in_lldb() {
    use std::fs;

    let Some(lldb) = crate::debug::program("lldb") else { return };
    let wasm = fs::read("tests/guests/values/recursive.wasm").unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("recursive.wasm"), &wasm).unwrap();
    let mut config = wasmtime::Config::new();
    config.coredump_on_trap(true);
    let engine = wasmtime::Engine::new(&config).unwrap();
    let module = wasmtime::Module::new(&engine, &wasm).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
    let error = start.call(&mut store, ()).unwrap_err();
    let dump: &wasmtime::WasmCoreDump = error.downcast_ref().unwrap();
    fs::write(directory.path().join("theirs.core"), dump.serialize(&mut store, "theirs")).unwrap();
    let args = ["theirs.core", "--symbols", "recursive.wasm"];
    let commands = ["bt", "memory read -c 5 0x10008"];
    let output = crate::debug::session(&directory, &lldb, &args, &commands);
    let backtrace = output.split("(lldb) bt").nth(1).unwrap();
    // Wasmtime places the trap of an `unreachable` at the condition before it.
    for frame in [
        "walk(depth=<unavailable>, name=<unavailable>, above=<unavailable>) at recursive.c:12:15",
        "_start at recursive.c:20:5",
    ] {
        assert!(backtrace.contains(frame), "{output}");
    }
    assert_eq!(backtrace.matches(" at recursive.c:14:17").count(), 3, "{output}");
    assert!(backtrace.contains("names") || backtrace.contains("6e 61 6d 65 73"), "{output}");
    assert!(!backtrace.contains("depth=0"), "{output}");
}
