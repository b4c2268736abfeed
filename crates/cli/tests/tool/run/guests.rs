//! Guests that `corestream run` runs: exit codes, dumps, time limits and host calls.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use corestream::{CoreDumpFile, GlobalValue, ModuleIndex, UnixTime, Value};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};
use rustix::process::Signal;

use super::{directory, run};
use crate::common::{self, Decoded, decode};
use crate::environment::require;
use crate::tool::{json, ok, signal, stderr, tool_path};
use crate::{strace, waiting};

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
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{said}");
    assert_eq!(output.stdout, b"381594 words\n");
    let lines: Vec<_> = said.lines().collect();
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
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{said}");
    assert!(said.starts_with("corestream: orders.wat: wasm trap: out of bounds memory access\n    0: orders: amount + 0x"), "{said}");
    assert!(said.ends_with("corestream: orders.core: core dumped\n"), "{said}");
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

const EXIT: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $exit (i32.const 42)))
    (func (export "nothing"))
    (func (export "add") (param i32 i64 f32 f64) (result f64 i32)
        (f64.add
            (f64.add (f64.convert_i32_s (local.get 0)) (f64.convert_i64_s (local.get 1)))
            (f64.add (f64.promote_f32 (local.get 2)) (local.get 3)))
        (i32.const -1))
    (func (export "fail") unreachable)
    (func (export "hang") (loop (br 0))))"#;

#[test]
fn passes_on_exit_codes_and_results() {
    let directory = directory("exit.wat", EXIT);
    let code = |args: &[&str]| run(directory.path(), args).status.code();
    assert_eq!(code(&["exit.wat"]), Some(42));
    assert_eq!(code(&["exit.wat", "--invoke", "nothing"]), Some(0));
    let output =
        run(directory.path(), &["exit.wat", "--invoke", "add", "--", "-1", "2", "0.5", "1e3"]);
    assert_eq!(output.stdout, b"1001.5\n-1\n", "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(0));
    // A time limit past the end of the clock never ends the guest.
    for limit in ["1e10", "9.3e18", "1e19", "1.8e19"] {
        let output = run(directory.path(), &["exit.wat", "--time-limit", limit]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(42), String::new()), "{limit}");
    }
    // No dump was made.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// As for any process, only the low byte of a code is left. It is never 0 for another code.
#[test]
fn passes_on_every_exit_code() {
    let codes = [(0, 0), (125, 125), (126, 126), (200, 200), (255, 255), (-1, 255), (257, 1)];
    for (code, expected) in codes {
        let text = EXIT.replace("i32.const 42", &format!("i32.const {code}"));
        let directory = directory("exit.wat", &text);
        for more in [&[][..], &["--locals"]] {
            let output = run(directory.path(), &[&["exit.wat"], more].concat());
            assert_eq!(output.status.code(), Some(expected), "{code}: {}", stderr(&output));
            assert_eq!(stderr(&output), "");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_guest_that_fails_never_has_exit_code_0() {
    for code in [256_u32, 0xff00, 0x8000_0000] {
        let text = EXIT.replace("i32.const 42", &format!("i32.const {code}"));
        let directory = directory("exit.wat", &text);
        for more in [&[][..], &["--locals"]] {
            let output = run(directory.path(), &[&["exit.wat"], more].concat());
            let said = format!(
                "corestream: exit.wat: the guest's exit code {code} does not fit in 8 bits; exiting with 1\n"
            );
            assert_eq!((output.status.code(), stderr(&output)), (Some(1), said));
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
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{said}");
            let line = format!("    0: place.wat: f + {offset:#x}");
            assert_eq!(said.lines().nth(1), Some(line.as_str()), "{body} {more:?}");
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
                let said = stderr(&output);
                assert_eq!(output.status.code(), Some(134), "{said}");
                assert!(!said.contains("is unknown"), "{memories} {more:?}: {said}");
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

/// A guest that exports a tag under the name that `run` would give to a shared memory is valid, and runs.
#[test]
fn accepts_any_name_of_an_export() {
    let text = r#"(module (memory 1 1 shared) (tag (export "corestream:memory:0"))
        (func (export "_start") unreachable))"#;
    let directory = directory("tag.wat", text);
    for more in [&[][..], &["--time-limit", "60"], &["--locals"]] {
        let output = run(directory.path(), &[&["tag.wat", "--force"], more].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{said}");
        assert!(said.ends_with("corestream: tag.wat.core: core dumped\n"), "{said}");
    }
    // The time limit stops its waits.
    let wait =
        "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))) unreachable";
    fs::write(directory.path().join("tag.wat"), text.replace("unreachable", wait)).unwrap();
    let output = run(directory.path(), &["tag.wat", "--force", "--time-limit", "0.1"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{said}");
    assert!(said.contains("stopped after 0.1 s in memory.atomic.wait\n"), "{said}");
}

/// The write blocks although `poll` reports room: the counter of an eventfd is full.
#[test]
fn stops_without_a_dump_if_a_write_blocks_the_thread() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\08\00\00\00")
        (data (i32.const 16) "\fe\ff\ff\ff\ff\ff\ff\ff")
        (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let directory = directory("block.wat", text);
    let full = rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap();
    let mut command = Command::new(tool_path());
    command.current_dir(directory.path()).args(["run", "block.wat", "--time-limit", "0.1"]);
    let output = command.stdout(full).output().unwrap();
    let said = "corestream: block.wat: stopped after 0.1 s, but it cannot be dumped, because it is blocked in a host call\n";
    assert_eq!((output.status.code(), stderr(&output)), (Some(124), said.into()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
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
            let mut said = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert!(line.starts_with("corestream: trap.wat: "), "{line}");
            let reader = reads.then(|| {
                let mut fifo = fs::File::open(&fifo).unwrap();
                fifo.read_exact(&mut [0; 1000]).unwrap();
                fifo
            });
            signal(&child, Signal::INT);
            waiting::exit(&mut child);
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            let last = "corestream: no core dump: stopped by SIGINT, the output is incomplete";
            assert_eq!(rest.lines().last(), Some(last), "{rest}");
            assert_eq!(child.wait().unwrap().code(), Some(code), "{reads}");
            drop(reader);
        }
    }
}

#[test]
fn dumps_a_guest_that_hangs() {
    let directory = directory("exit.wat", EXIT);
    let mut offsets = Vec::new();
    for more in [&[][..], &["--locals"]] {
        let args = ["exit.wat", "--invoke", "hang", "--time-limit", "0.3", "--force"];
        let output = run(directory.path(), &[&args[..], more].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(124), "{said}");
        assert!(
            said.starts_with(
                "corestream: exit.wat: stopped after 0.3 s\n    0: exit.wat: function 5 + 0x"
            ),
            "{said}"
        );
        let bytes = fs::read(directory.path().join("exit.wat.core")).unwrap();
        let decoded = decode(&bytes);
        assert_eq!(decoded.threads[0].1[0].function, 5, "{more:?}");
        offsets.push(decoded.threads[0].1[0].offset);
    }
    // The loop, with and without locals.
    assert_eq!(offsets, [1, 1]);
}

/// Nothing is written to the frame of the deepest function.
#[test]
fn dumps_a_guest_that_exhausts_the_call_stack() {
    let directory = directory("deep.wat", r#"(module (func $f (export "_start") (call $f)))"#);
    for more in [&[][..], &["--locals"], &["--locals", "--time-limit", "60"]] {
        let output = run(directory.path(), &[&["deep.wat", "--force"], more].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{said}");
        assert!(
            said.starts_with("corestream: deep.wat: wasm trap: call stack exhausted\n"),
            "{said}"
        );
        let bytes = fs::read(directory.path().join("deep.wat.core")).unwrap();
        assert!(decode(&bytes).threads[0].1.len() > 1000, "{more:?}");
    }
}

/// Returns a guest that calls `call` in `work`, called by `_start`, when its memory and its global are 42.
fn in_a_host_call(import: &str, data: &str, call: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" {import})
        (memory (export "memory") 1)
        (global $g (mut i32) (i32.const 0))
        (data (i32.const 0) "{data}")
        (func $work (param i32)
            (i32.store (i32.const 1000) (local.get 0))
            (global.set $g (local.get 0))
            (loop (drop {call}) (br 0)))
        (func (export "_start") (call $work (i32.const 42))))"#
    )
}

/// Checks that the dump of such a guest has its state at the entry into the host call.
fn check_host_call(directory: &Path, name: &str, locals: bool, arguments: &[i32]) {
    let bytes = fs::read(directory.join(format!("{name}.core"))).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.contents(0, 65_536)[1000], 42);
    assert_eq!(decoded.globals[0].1, GlobalValue::I32(42));
    let frames = &decoded.threads[0].1;
    let functions: Vec<_> = frames.iter().map(|f| (f.instance, f.function)).collect();
    assert_eq!(functions, [(0, 1), (0, 2)]);
    // The call: after the store, `global.set`, `loop` and the arguments.
    assert!(frames[0].offset > 10, "{}", frames[0].offset);
    if locals {
        assert_eq!(frames[0].locals, [Value::I32(42)]);
        let arguments: Vec<_> = arguments.iter().copied().map(Value::I32).collect();
        assert_eq!(frames[0].stack, arguments);
        assert_eq!(frames[1].stack, [Value::I32(42)]);
    }
}

/// The guest sleeps for a minute, reads from a pipe without data, or writes to a full pipe. No epoch interrupts it
/// there.
#[test]
fn dumps_a_guest_that_waits_in_a_host_call() {
    // A subscription to a clock; a buffer of 256 bytes at 2000.
    let clock = r"\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\58\47\f8\0d\00\00\00";
    let buffer = r"\d0\07\00\00\00\01\00\00";
    let poll = in_a_host_call(
        r#""poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32))"#,
        clock,
        "(call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200))",
    );
    let read = in_a_host_call(
        r#""fd_read" (func $read (param i32 i32 i32 i32) (result i32))"#,
        buffer,
        "(call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 200))",
    );
    let write = in_a_host_call(
        r#""fd_write" (func $write (param i32 i32 i32 i32) (result i32))"#,
        buffer,
        "(call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 200))",
    );
    for (call, text, arguments) in [
        ("poll_oneoff", poll, [0, 100, 1, 200]),
        ("fd_read", read, [0, 0, 1, 200]),
        ("fd_write", write, [1, 0, 1, 200]),
    ] {
        for locals in [false, true] {
            let directory = directory("wait.wat", &text);
            let mut command = Command::new(tool_path());
            command.current_dir(directory.path()).args(["run", "wait.wat", "--time-limit", "0.3"]);
            if locals {
                command.arg("--locals");
            }
            // Both pipes stay open, and are not used.
            let (_reader, output) = std::io::pipe().unwrap();
            let (input, _writer) = std::io::pipe().unwrap();
            command.stdin(input).stdout(output).stderr(std::process::Stdio::piped());
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(124), "{call}: {said}");
            let first = format!(
                "corestream: wait.wat: stopped after 0.3 s in the host call {call}\n    0: wait.wat: work + 0x"
            );
            assert!(said.starts_with(&first), "{said}");
            assert!(!said.contains("warning"), "{said}");
            check_host_call(directory.path(), "wait.wat", locals, &arguments);
        }
    }
}

/// A real program: `sleep` of wasi-libc, called by `work`, called by `main`.
#[test]
fn dumps_a_c_program_that_sleeps() {
    let text = "#include <unistd.h>\n\
        __attribute__((noinline)) int work(int n) { sleep(n); return n; }\n\
        int main(void) { return work(100); }\n";
    let directory = directory("sleeps.c", text);
    let compile = |clang: &str| {
        Command::new(clang)
            .current_dir(directory.path())
            .args(["--target=wasm32-wasi", "-g", "-O1", "-o", "sleeps.wasm", "sleeps.c"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let is_compiled = ["clang-22", "clang"].into_iter().any(compile);
    require!("clang", is_compiled.then_some(()).ok_or("no clang compiles for WASI"));
    let output = run(directory.path(), &["sleeps.wasm", "--locals", "--time-limit", "0.3"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{said}");
    assert!(said.contains("stopped after 0.3 s in the host call poll_oneoff\n"), "{said}");
    let bytes = fs::read(directory.path().join("sleeps.wasm.core")).unwrap();
    // At least `sleep`, `work`, `main` and `_start`. Several of them have the argument as a value.
    let frames = &decode(&bytes).threads[0].1;
    assert!(frames.len() >= 4, "{frames:?}");
    let seconds = |frame: &&common::DecodedFrame| {
        frame.locals.iter().chain(&frame.stack).any(|value| *value == Value::I32(100))
    };
    assert!(frames.iter().filter(seconds).count() >= 2, "{frames:?}");
}

/// With a time limit, the output of the guest takes another path.
#[test]
fn output_with_a_time_limit_is_complete() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (func (export "_start") (local i32)
            (i32.store (i32.const 0) (i32.const 1000)) (i32.store (i32.const 4) (i32.const 100000))
            (loop (i32.store8 (i32.add (i32.const 1000) (local.get 0)) (i32.rem_u (local.get 0) (i32.const 251)))
                (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get 0) (i32.const 100000))))
            (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
            (if (i32.ne (i32.load (i32.const 8)) (i32.const 100000)) (then unreachable))))"#;
    let directory = directory("write.wat", text);
    let expected: Vec<_> = (0..100_000_u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let output = run(directory.path(), &["write.wat", "--time-limit", "60"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == expected);
    let path = directory.path().join("output");
    let mut command = Command::new(tool_path());
    command.current_dir(directory.path()).args(["run", "write.wat", "--time-limit", "60"]);
    assert!(command.stdout(fs::File::create(&path).unwrap()).status().unwrap().success());
    assert!(fs::read(&path).unwrap() == expected);
}

/// Copies standard input to standard output. An error is its exit code.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 2)
    (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
    (func (export "_start") (local $end i32)
        (i32.store (i32.const 0) (i32.const 1024))
        (loop $next
            (i32.store (i32.const 4) (i32.const 65536))
            (call $check (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (i32.store (i32.const 16) (i32.const 1024))
            (local.set $end (i32.add (i32.const 1024) (i32.load (i32.const 8))))
            (loop $rest
                (i32.store (i32.const 20) (i32.sub (local.get $end) (i32.load (i32.const 16))))
                (call $check (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 12)))
                (i32.store (i32.const 16)
                    (i32.add (i32.load (i32.const 16)) (i32.load (i32.const 12))))
                (br_if $rest (i32.lt_u (i32.load (i32.const 16)) (local.get $end))))
            (br_if $next (i32.load (i32.const 8))))))"#;

/// A parent process can leave the streams in non-blocking mode.
#[test]
fn waits_for_non_blocking_streams() {
    let directory = directory("echo.wat", ECHO);
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i / 3).to_le_bytes()[0]).collect();
    for is_socket in [false, true] {
        for limit in [&[][..], &["--time-limit", "60"]] {
            let ((stdin, mut input), (mut output, stdout)): ((OwnedFd, File), (File, OwnedFd)) =
                if is_socket {
                    let (stdin, input) = UnixStream::pair().unwrap();
                    let (output, stdout) = UnixStream::pair().unwrap();
                    let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
                    ((stdin.into(), input.into()), (output.into(), stdout.into()))
                } else {
                    let (stdin, input) = std::io::pipe().unwrap();
                    let (output, stdout) = std::io::pipe().unwrap();
                    let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
                    ((stdin.into(), input.into()), (output.into(), stdout.into()))
                };
            for fd in [&stdin, &stdout] {
                fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
            }
            let mut command = Command::new(tool_path());
            command.current_dir(directory.path()).args(["run", "echo.wat"]).args(limit);
            let kept = stdin.try_clone().unwrap();
            let mut child = command.stdin(stdin).stdout(stdout).spawn().unwrap();
            drop(command);
            let sent = bytes.clone();
            let sending = std::thread::spawn(move || {
                // The guest waits for it.
                std::thread::sleep(Duration::from_millis(200));
                input.write_all(&sent).unwrap();
            });
            // The guest waits until the pipe is read.
            std::thread::sleep(Duration::from_millis(600));
            let mut received = Vec::new();
            output.read_to_end(&mut received).unwrap();
            sending.join().unwrap();
            assert_eq!(waiting::exit(&mut child).code(), Some(0));
            assert!(received == bytes, "{} bytes", received.len());
            // Other processes share the flag, so it must not change.
            assert!(fcntl_getfl(&kept).unwrap().contains(OFlags::NONBLOCK));
        }
    }
}

/// No other thread can be started.
#[test]
fn compiles_and_runs_a_guest_in_one_thread() {
    require!(strace);
    let directory =
        directory("trap.wat", "(module (func $f unreachable) (export \"_start\" (func $f)))");
    let log = directory.path().join("log");
    let mut command = strace::traced(&log, "clone3,clone", &["clone3:error=EAGAIN".into()]);
    command.arg(tool_path()).args(["run", "trap.wat"]);
    let output = command.current_dir(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    assert!(directory.path().join("trap.wat.core").exists());
}

/// `memory.atomic.wait` blocks the thread of the guest: in an exported memory or not, in the start function, without a
/// timeout or with one of 1000 seconds.
#[test]
fn dumps_a_guest_that_waits_for_a_notification() {
    const FOREVER: i64 = -1;
    const LONG: i64 = 1_000_000_000_000;
    for (memory, start, wait, timeout) in [
        (
            r#"(memory (export "memory") 1 10 shared)"#,
            "",
            "wait32 (i32.const 8) (i32.const 0)",
            FOREVER,
        ),
        ("(memory 1 10 shared)", "", "wait32 (i32.const 65528) (i32.const 0)", LONG),
        ("(memory 1 10 shared)", "", "wait64 (i32.const 65528) (i64.const 0)", FOREVER),
        ("(memory i64 1 10 shared)", "", "wait64 (i64.const 65528) (i64.const 0)", LONG),
        ("(memory 1 10 shared)", "(start $s)", "wait32 (i32.const 8) (i32.const 0)", FOREVER),
    ] {
        let text = format!(
            r#"(module {memory} (global (mut i32) (i32.const 0))
            (func $w (param i32) (result i32)
                (global.set 0 (local.get 0))
                (i32.const 7)
                (drop (memory.atomic.{wait} (i64.const {timeout})))
                (global.set 0 (i32.const 0)))
            (func $s (drop (call $w (i32.const 42)))) {start}
            (func (export "_start") (call $s)))"#
        );
        let directory = directory("block.wat", &text);
        for locals in [false, true] {
            let args = ["block.wat", "--time-limit", "0.3", "--force"];
            let output = run(
                directory.path(),
                &[&args[..], if locals { &["--locals"] } else { &[] }].concat(),
            );
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(124), "{said}");
            let first = "corestream: block.wat: stopped after 0.3 s in memory.atomic.wait\n    \
                         0: block.wat: w + 0x";
            assert!(said.starts_with(first), "{said}");
            let bytes = fs::read(directory.path().join("block.wat.core")).unwrap();
            let decoded = decode(&bytes);
            // The guest has run no instruction after the wait.
            assert_eq!(decoded.globals[0].1, GlobalValue::I32(42));
            let functions: Vec<_> = decoded.threads[0].1.iter().map(|f| f.function).collect();
            assert_eq!(functions, if start.is_empty() { &[0, 1, 2][..] } else { &[0, 1] });
            // Locals, `local.get`, `global.set`, and four constants of at most 12 bytes.
            assert!((12..=20).contains(&decoded.threads[0].1[0].offset));
            if locals {
                let frame = &decoded.threads[0].1[0];
                assert_eq!(frame.locals, [Value::I32(42)]);
                assert_eq!(frame.stack[0], Value::I32(7));
                assert_eq!(frame.stack[3], Value::I64(timeout));
            }
        }
    }
}

/// The time limit does not search the memory for the address that the guest waits at. All 768 MiB have data.
#[test]
fn stops_a_guest_that_waits_in_a_large_memory() {
    let text = r#"(module (memory 12288 12288 shared) (func $wait (export "_start")
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x30000000))
        (drop (memory.atomic.wait32 (i32.const 0x2ffffffc) (i32.const 0x01010101) (i64.const -1)))))"#;
    let directory = directory("dense.wat", text);
    let output = run(directory.path(), &["dense.wat", "--time-limit", "1", "-o", "/dev/null"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "corestream: dense.wat: stopped after 1 s in memory.atomic.wait");
    assert!(lines[1].starts_with("    0: dense.wat: wait + 0x"), "{said}");
    assert_eq!(lines[2..], ["corestream: /dev/null: core dumped"]);
}

/// Waits shorter than a slice, waits of several slices, and waits for a value that already differs.
#[test]
fn waits_have_the_same_results_with_a_time_limit() {
    const ATOMIC: &str = "memory.atomic.wait";
    let waits = [
        ("32 (i32.const 0) (i32.const 0) (i64.const 0)", 2),
        ("32 (i32.const 0) (i32.const 0) (i64.const 1000)", 2),
        ("32 (i32.const 0) (i32.const 0) (i64.const 50_000_000)", 2),
        ("32 (i32.const 0) (i32.const 0) (i64.const 120_000_000)", 2),
        ("64 offset=8 (i32.const 0) (i64.const 0) (i64.const 150_000_000)", 2),
        ("32 (i32.const 0) (i32.const 1) (i64.const -1)", 1),
        ("64 offset=8 (i32.const 0) (i64.const 1) (i64.const -1)", 1),
        ("64 offset=8 (i32.const 0) (i64.const 1) (i64.const 1000)", 1),
        ("64 offset=8 (i32.const 0) (i64.const 1) (i64.const 120_000_000)", 1),
    ];
    let checks: String = waits
        .iter()
        .map(|(wait, result)| {
            format!("(if (i32.ne ({ATOMIC}{wait}) (i32.const {result})) (then unreachable))")
        })
        .collect();
    let text = format!(r#"(module (memory 1 1 shared) (func (export "_start") {checks}))"#);
    let directory = directory("wait.wat", text.as_str());
    for more in [&[][..], &["--locals"], &["--time-limit", "60"]] {
        let start = Instant::now();
        let output = run(directory.path(), &[&["wait.wat"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{more:?}: {}", stderr(&output));
        // The sum of all timeouts of waits that expire.
        assert!(start.elapsed() >= Duration::from_nanos(320_001_000), "{more:?}");
    }
}

/// A wait that traps has the guest's own function as its frame.
#[test]
fn a_wait_traps_in_the_function_of_the_guest() {
    for (wait, cause) in
        [("i32.const 2", "unaligned atomic"), ("i32.const 65536", "out of bounds memory access")]
    {
        let text = format!(
            r#"(module (memory 1 1 shared) (func $wait (export "_start")
            (drop (memory.atomic.wait32 ({wait}) (i32.const 0) (i64.const -1)))))"#
        );
        let directory = directory("trap.wat", &text);
        let mut offsets = Vec::new();
        for limit in [&[][..], &["--time-limit", "60"]] {
            let output = run(directory.path(), &[&["trap.wat", "--force"], limit].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{said}");
            assert_eq!(
                said.lines().next(),
                Some(&*format!("corestream: trap.wat: wasm trap: {cause}"))
            );
            let bytes = fs::read(directory.path().join("trap.wat.core")).unwrap();
            let decoded = decode(&bytes);
            let [frame] = &decoded.threads[0].1[..] else { panic!("{said}") };
            offsets.push((frame.function, frame.offset));
        }
        assert_eq!(offsets[0], offsets[1], "{wait}");
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
    let said =
        "corestream: start.wat: only has a start function, which takes no arguments; remove x\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(125), said));
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
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{text} {more:?}: {said}");
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

#[test]
fn escapes_names_of_the_guest() {
    let text = "(module (func (@name \"a\\u{202e}b\\u{1b}c\") (export \"_start\") unreachable))";
    let directory = directory("tricks.wat", text);
    let said = stderr(&run(directory.path(), &["tricks.wat"]));
    assert!(said.contains(r": a\u{202e}b\u{1b}c + 0x"), "{said}");
}

/// Gets its arguments, its environment and the name of its directory.
const WORLD: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $dir (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $args_sizes (i32.const 0) (i32.const 4)))
        (drop (call $args (i32.const 1000) (i32.const 2000)))
        (drop (call $env_sizes (i32.const 8) (i32.const 12)))
        (drop (call $env (i32.const 3000) (i32.const 4000)))
        (i32.store (i32.const 16) (call $dir (i32.const 3) (i32.const 5000) (i32.const 6)))
        unreachable))"#;

#[test]
fn a_guest_sees_only_what_it_was_given() {
    let directory = directory("world.wat", WORLD);
    let memory = |args: &[&str]| {
        let output = run(directory.path(), &[&["--force", "world.wat"], args].concat());
        assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
        let bytes = fs::read(directory.path().join("world.wat.core")).unwrap();
        decode(&bytes).contents(0, 65_536)
    };
    let plain = memory(&[]);
    assert_eq!(plain[2000..2010], *b"world.wat\0");
    assert_eq!(plain[8..12], [0; 4], "no variable");
    assert_ne!(plain[16..20], [0; 4], "no directory");
    let all = memory(&["--env", "A=b", "--dir", ".::/world", "--", "-x", "two"]);
    assert_eq!(all[2000..2017], *b"world.wat\0-x\0two\0");
    assert_eq!(all[4000..4004], *b"A=b\0");
    assert_eq!((&all[16..20], &all[5000..5006]), (&[0; 4][..], &b"/world"[..]));
}

#[test]
fn limits_the_number_of_frames() {
    let directory = directory(
        "deep.wat",
        r#"(module (func $down (export "down") (param i32)
        (if (i32.eqz (local.get 0)) (then unreachable))
        (call $down (i32.sub (local.get 0) (i32.const 1)))))"#,
    );
    let run = |args: &[&str]| {
        run(
            directory.path(),
            &[args, &["--force", "deep.wat", "--invoke", "down", "--", "200"]].concat(),
        )
    };
    let frames = |_: &Output| {
        decode(&fs::read(directory.path().join("deep.wat.core")).unwrap()).threads[0].1.len()
    };
    let output = run(&[]);
    assert_eq!(frames(&output), 201);
    assert!(stderr(&output).contains("       and 151 more\n"), "{}", stderr(&output));
    let output = run(&["--max-frames", "10"]);
    assert_eq!(frames(&output), 10);
    assert!(stderr(&output).contains("warning: the backtrace is truncated to 10 frames"));
    // With locals, the frames come from the stack itself.
    let output = run(&["--max-frames", "10", "--locals"]);
    assert_eq!(frames(&output), 201);
}

/// An existing dump is kept. The exit code of a trap does not depend on the dump.
#[test]
fn keeps_existing_dumps() {
    let directory = directory("exit.wat", EXIT);
    let dir = directory.path();
    let fail = ["exit.wat", "--invoke", "fail"];
    fs::write(dir.join("exit.wat.core"), "old").unwrap();
    let output = run(dir, &fail);
    assert_eq!(output.status.code(), Some(134));
    assert_eq!(fs::read(dir.join("exit.wat.core")).unwrap(), b"old");
    let said = stderr(&output);
    let path = said.lines().last().unwrap().strip_prefix("corestream: ").unwrap();
    let path = path.strip_suffix(": core dumped").unwrap();
    decode(&fs::read(dir.join(path)).unwrap());

    // An output that is not possible is reported before the guest runs.
    let output = run(dir, &[&fail[..], &["-o", "exit.wat.core"]].concat());
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output), "corestream: exit.wat.core: exists; use --force to overwrite it\n");
    let output = run(dir, &[&fail[..], &["-o", "/dev/full"]].concat());
    assert_eq!(output.status.code(), Some(134));
    let said = stderr(&output);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("corestream: no core dump: /dev/full: 0 of "), "{said}");
}

#[test]
fn reports_usage_errors_in_one_line() {
    let directory = directory("exit.wat", EXIT);
    let dir = directory.path();
    fs::write(dir.join("bad.wat"), "(module (func (export \"_start\") (i32.const 1)))").unwrap();
    fs::write(dir.join("component.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    fs::write(
        dir.join("import.wat"),
        r#"(module (import "a" "b" (func)) (func (export "_start")))"#,
    )
    .unwrap();
    fs::write(dir.join("library.wat"), "(module)").unwrap();
    for (args, code, expected) in [
        (vec!["none.wasm"], 125, "none.wasm: cannot read: No such file or directory (os error 2)"),
        (vec!["bad.wat"], 125, "bad.wat:1:34: invalid module: type mismatch: "),
        (
            vec!["component.wasm"],
            125,
            "component.wasm: is a component; `run` supports core modules only",
        ),
        (
            vec!["import.wat"],
            125,
            "import.wat: unknown import `a::b`: `run` provides WASI preview 1",
        ),
        (vec!["library.wat"], 125, "library.wat: exports no function _start and no other function"),
        (vec!["exit.wat", "--invoke", "x"], 125, "exit.wat: exports no function x"),
        (
            vec!["exit.wat", "--invoke", "add"],
            125,
            "exit.wat: function add: takes 4 parameters (i32, i64, f32, f64), but 0 arguments are given",
        ),
        (
            vec!["exit.wat", "--invoke", "add", "--", "x", "1", "1", "1"],
            125,
            "exit.wat: function add: argument 1 (`x`) is not of type i32",
        ),
        (vec!["exit.wat", "--dir", "none"], 125, "none: "),
        (vec!["exit.wat", "-o", "-"], 125, "-o -: the guest uses this stream; give a file name"),
        (
            vec!["exit.wat", "-o", "/dev/stdout"],
            125,
            "-o /dev/stdout: the guest uses this stream; give a file name",
        ),
        (vec!["exit.wat", "-o", "%x"], 125, "-o %x: unknown pattern %x"),
        (vec!["exit.wat", "-o", "exit.wat", "--force"], 125, "exit.wat: is an input (exit.wat)"),
        (
            vec!["exit.wat", "--env", "A"],
            2,
            "invalid value 'A' for '--env <K=V>': expected NAME=VALUE",
        ),
        (vec!["exit.wat", "--time-limit", "0"], 2, "invalid value '0' for '--time-limit <S>'"),
        (vec!["exit.wat", "--max-frames", "0"], 2, "invalid value '0' for '--max-frames <N>'"),
        (
            vec!["exit.wat", "--max-frames", "1000001"],
            2,
            "invalid value '1000001' for '--max-frames <N>'",
        ),
    ] {
        let output = run(dir, &args);
        let said = stderr(&output);
        assert!(said.starts_with(&format!("corestream: {expected}")), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 5);
}

#[test]
fn help_lists_the_command() {
    let help = ok(Path::new("."), ["--help"]);
    assert!(help.contains("run          Run a guest with WASI preview 1"), "{help}");
}
