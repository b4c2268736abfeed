//! The time limit of `corestream run`, and guests that wait.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use corestream::{GlobalValue, Value};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{EXIT, directory, run};
use crate::common::{self, decode};
use crate::environment::require;
use crate::tool::{stderr, tool_path};
use crate::{strace, waiting};

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
    let message = "corestream: block.wat: stopped after 0.1 s, but it cannot be dumped, because it is blocked in a host call\n";
    assert_eq!((output.status.code(), stderr(&output)), (Some(124), message.into()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn dumps_a_guest_that_hangs() {
    let directory = directory("exit.wat", EXIT);
    let mut offsets = Vec::new();
    for more in [&[][..], &["--locals"]] {
        let args = ["exit.wat", "--invoke", "hang", "--time-limit", "0.3", "--force"];
        let output = run(directory.path(), &[&args[..], more].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(124), "{message}");
        assert!(
            message.starts_with(
                "corestream: exit.wat: stopped after 0.3 s\n    0: exit.wat: function 5 + 0x"
            ),
            "{message}"
        );
        let bytes = fs::read(directory.path().join("exit.wat.core")).unwrap();
        let decoded = decode(&bytes);
        assert_eq!(decoded.threads[0].1[0].function, 5, "{more:?}");
        offsets.push(decoded.threads[0].1[0].offset);
    }
    // The loop, with and without locals.
    assert_eq!(offsets, [1, 1]);
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
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(124), "{call}: {message}");
            let first = format!(
                "corestream: wait.wat: stopped after 0.3 s in the host call {call}\n    0: wait.wat: work + 0x"
            );
            assert!(message.starts_with(&first), "{message}");
            assert!(!message.contains("warning"), "{message}");
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
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{message}");
    assert!(message.contains("stopped after 0.3 s in the host call poll_oneoff\n"), "{message}");
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
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(124), "{message}");
            let first = "corestream: block.wat: stopped after 0.3 s in memory.atomic.wait\n    \
                         0: block.wat: w + 0x";
            assert!(message.starts_with(first), "{message}");
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
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{message}");
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(lines[0], "corestream: dense.wat: stopped after 1 s in memory.atomic.wait");
    assert!(lines[1].starts_with("    0: dense.wat: wait + 0x"), "{message}");
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
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{message}");
            assert_eq!(
                message.lines().next(),
                Some(&*format!("corestream: trap.wat: wasm trap: {cause}"))
            );
            let bytes = fs::read(directory.path().join("trap.wat.core")).unwrap();
            let decoded = decode(&bytes);
            let [frame] = &decoded.threads[0].1[..] else { panic!("{message}") };
            offsets.push((frame.function, frame.offset));
        }
        assert_eq!(offsets[0], offsets[1], "{wait}");
    }
}
