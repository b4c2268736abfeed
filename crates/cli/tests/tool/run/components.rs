//! Components that `corestream run` runs, and their dumps.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use corestream::{CoreDumpFile, Value};

use super::checks::{refusal, refused};
use super::{directory, run};
use crate::common::{Decoded, decode};
use crate::tool::{names, ok, stderr, tool_path};

/// The imports of a command that writes to standard output, and a module with its memory.
pub(super) const IMPORTS: &str = r#"
    (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
    (alias export $error "error" (type $error-type))
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (export "output-stream" (type $out (sub resource)))
        (export "input-stream" (type $in (sub resource)))
        (alias outer 1 $error-type (type $e))
        (export "error" (type $err (eq $e)))
        (type $v (variant (case "last-operation-failed" (own $err)) (case "closed")))
        (export "stream-error" (type $stream-error (eq $v)))
        (export "[method]input-stream.blocking-read" (func (param "self" (borrow $in)) (param "len" u64)
            (result (result (list u8) (error $stream-error)))))
        (export "[method]output-stream.blocking-write-and-flush"
            (func (param "self" (borrow $out)) (param "contents" (list u8))
                (result (result (error $stream-error)))))))
    (alias export $streams "output-stream" (type $output-stream))
    (alias export $streams "input-stream" (type $input-stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $output-stream (type $o)) (export "output-stream" (type $out (eq $o)))
        (export "get-stdout" (func (result (own $out))))))
    (import "wasi:cli/stdin@0.2.0" (instance $stdin
        (alias outer 1 $input-stream (type $i)) (export "input-stream" (type $in (eq $i)))
        (export "get-stdin" (func (result (own $in))))))
    (import "wasi:cli/environment@0.2.3" (instance $environment
        (export "get-arguments" (func (result (list string))))
        (export "get-environment" (func (result (list (tuple string string)))))))
    (import "wasi:cli/exit@0.2.0" (instance $exit
        (export "exit" (func (param "status" (result))))))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $p)) (export "pollable" (type $pollable (eq $p)))
        (export "now" (func (result u64)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
    (import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-u64" (func (result u64)))))
    (import "wasi:filesystem/types@0.2.0" (instance $files
        (export "descriptor" (type (sub resource)))))
    (alias export $files "descriptor" (type $descriptor))
    (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
        (alias outer 1 $descriptor (type $d)) (export "descriptor" (type $descriptor (eq $d)))
        (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))
    (core module $libc
        (memory (export "memory") 1)
        (global $next (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.get $next)
            (global.set $next (i32.add (global.get $next) (local.get 3)))))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (alias core export $libc "realloc" (core func $realloc))
    (core func $get-stdout (canon lower (func $stdout "get-stdout")))
    (core func $get-stdin (canon lower (func $stdin "get-stdin")))
    (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
        (memory $memory)))
    (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
        (memory $memory) (realloc $realloc)))
    (core func $arguments (canon lower (func $environment "get-arguments")
        (memory $memory) (realloc $realloc)))
    (core func $variables (canon lower (func $environment "get-environment")
        (memory $memory) (realloc $realloc)))
    (core func $directories (canon lower (func $preopens "get-directories")
        (memory $memory) (realloc $realloc)))
    (core func $exit (canon lower (func $exit "exit")))
    (core func $now (canon lower (func $clock "now")))
    (core func $subscribe (canon lower (func $clock "subscribe-duration")))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core func $random (canon lower (func $random "get-random-u64")))"#;

/// Returns a command whose function `run` has this body. `$main` of the core module `main` has it.
fn command(body: &str) -> String {
    format!(
        r#"(component {IMPORTS}
        (core module $main
            (import "libc" "memory" (memory 1))
            (import "wasi" "get-stdout" (func $get-stdout (result i32)))
            (import "wasi" "get-stdin" (func $get-stdin (result i32)))
            (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
            (import "wasi" "read" (func $read (param i32 i64 i32)))
            (import "wasi" "arguments" (func $arguments (param i32)))
            (import "wasi" "variables" (func $variables (param i32)))
            (import "wasi" "directories" (func $directories (param i32)))
            (import "wasi" "exit" (func $exit (param i32)))
            (import "wasi" "now" (func $now (result i64)))
            (import "wasi" "subscribe" (func $subscribe (param i64) (result i32)))
            (import "wasi" "block" (func $block (param i32)))
            (import "wasi" "random" (func $random (result i64)))
            (global $g (mut i32) (i32.const 5))
            (data (i32.const 100) "\n")
            (func $print (param $at i32) (param $len i32)
                (call $write (call $get-stdout) (local.get $at) (local.get $len) (i32.const 64)))
            ;; Prints the string whose address and length are at $at, and a line feed.
            (func $line (param $at i32)
                (call $print (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))
                (call $print (i32.const 100) (i32.const 1)))
            ;; Prints a string of each item of the list at address 0. An item has $size bytes, with the string at $offset.
            (func $lines (param $size i32) (param $offset i32) (local $i i32)
                (block $end (loop $next
                    (br_if $end (i32.eq (local.get $i) (i32.load (i32.const 4))))
                    (call $line (i32.add (i32.load (i32.const 0))
                        (i32.add (local.get $offset) (i32.mul (local.get $i) (local.get $size)))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br $next))))
            (func $main (export "run") (result i32) (local i32) (local.set 0 (i32.const 42)) {body}))
        (core instance $main (instantiate $main
            (with "libc" (instance $libc))
            (with "wasi" (instance
                (export "get-stdout" (func $get-stdout)) (export "get-stdin" (func $get-stdin))
                (export "write" (func $write)) (export "read" (func $read))
                (export "arguments" (func $arguments)) (export "variables" (func $variables))
                (export "directories" (func $directories)) (export "exit" (func $exit))
                (export "now" (func $now)) (export "subscribe" (func $subscribe))
                (export "block" (func $block)) (export "random" (func $random))))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $run (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#
    )
}

/// A command that does nothing.
pub(super) const EMPTY_COMMAND: &str = r#"(component
    (core module $main (func (export "run") (result i32) (i32.const 0)))
    (core instance $main (instantiate $main))
    (func $run (result (result)) (canon lift (core func $main "run")))
    (instance $run (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $run)))"#;

/// Two components, of which the outer one calls the inner one through an adapter.
const COMPOSED: &str = r#"(component
    (component $inner
        (core module $code (memory (export "memory") 1) (data (i32.const 60000) "inner")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (if (result i32) (i32.eq (local.get 3) (i32.const 5)) (then unreachable) (else (i32.const 8))))
            (func (export "f") (param i32 i32) (local i64) (local.set 2 (i64.const 9))
                (if (local.get 1) (then unreachable))))
        (core instance $code (instantiate $code))
        (func (export "f") (param "s" string)
            (canon lift (core func $code "f") (memory (core memory $code "memory"))
                (realloc (core func $code "realloc")))))
    (component $outer
        (import "f" (func $inner (param "s" string)))
        (core module $memory (memory (export "memory") 1) (data (i32.const 4) "string"))
        (core instance $memory (instantiate $memory))
        (core func $f (canon lower (func $inner) (memory (core memory $memory "memory"))))
        (core module $code (import "" "f" (func $f (param i32 i32)))
            (func (export "run") (param i32) (call $f (i32.const 4) (local.get 0))))
        (core instance $code (instantiate $code (with "" (instance (export "f" (func $f))))))
        (func (export "run") (param "len" u32) (canon lift (core func $code "run"))))
    (instance $inner (instantiate $inner))
    (instance $outer (instantiate $outer (with "f" (func $inner "f"))))
    (export "run" (func $outer "run")))"#;

/// Returns the module name, the function and the offset of each frame.
fn frames<'d>(decoded: &'d Decoded<'_>) -> Vec<(&'d str, u32, u32)> {
    let frames = decoded.threads[0].1.iter().map(|frame| {
        let module = decoded.instances[frame.instance as usize].module_index;
        (decoded.modules[module as usize].as_str(), frame.function, frame.offset)
    });
    frames.collect()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn runs_a_command_with_arguments_variables_and_directories() {
    let body = "(call $arguments (i32.const 0)) (call $lines (i32.const 8) (i32.const 0))
        (call $variables (i32.const 0)) (call $lines (i32.const 16) (i32.const 8))
        (call $directories (i32.const 0)) (call $lines (i32.const 12) (i32.const 4))
        (drop (call $random))
        (i64.eqz (call $now))";
    let directory = directory("guest.wat", command(body));
    fs::write(directory.path().join("guest.wasm"), wat::parse_str(command(body)).unwrap()).unwrap();
    for guest in ["guest.wat", "guest.wasm"] {
        let args =
            [guest, "--env", "A=one", "--env", "B=two", "--dir", ".::/data", "--", "x", "--y"];
        let output = run(directory.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("{guest}\nx\n--y\none\ntwo\n/data\n"));
        assert_eq!(stderr(&output), "");
    }
    assert_eq!(names(directory.path()), ["guest.wasm", "guest.wat"]);
}

#[test]
fn exits_with_the_code_of_the_command() {
    for (body, code) in [
        ("(i32.const 0)", 0),
        ("(i32.const 1)", 1),
        ("(call $exit (i32.const 0)) (unreachable)", 0),
        ("(call $exit (i32.const 1)) (unreachable)", 1),
    ] {
        let directory = directory("guest.wat", command(body));
        let output = run(directory.path(), &["guest.wat"]);
        assert_eq!(output.status.code(), Some(code), "{body}: {}", stderr(&output));
        assert_eq!(stderr(&output), "");
        assert_eq!(names(directory.path()), ["guest.wat"]);
    }
}

#[test]
fn dumps_a_command_that_traps() {
    let directory = directory(
        "guest.wat",
        command(
            "(i32.store (i32.const 5000) (i32.const 7)) (global.set $g (i32.const 6)) unreachable",
        ),
    );
    for args in [&["guest.wat"][..], &["guest.wat", "--locals", "--force"]] {
        let output = run(directory.path(), args);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{message}");
        let lines: Vec<_> = message.lines().collect();
        assert_eq!(
            lines[0],
            "corestream: guest.wat: wasm trap: wasm `unreachable` instruction executed"
        );
        assert!(lines[1].starts_with("    0: main: main + 0x"), "{message}");
        assert_eq!(lines[2..], ["corestream: guest.wat.core: core dumped"]);
        let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
        let decoded = decode(&bytes);
        assert_eq!(decoded.name, "guest.wat");
        assert_eq!(decoded.modules, ["libc", "main"]);
        assert_eq!(decoded.instances[0].memories, decoded.instances[1].memories);
        let memory = usize::try_from(decoded.instances[0].memories[0]).unwrap();
        assert_eq!(decoded.contents(memory, 65_536)[5000], 7);
        let global = usize::try_from(decoded.instances[1].globals[0]).unwrap();
        assert_eq!(decoded.globals[global].1, corestream::GlobalValue::I32(6));
        let [(module, function, _)] = frames(&decoded)[..] else { panic!("{message}") };
        assert_eq!((module, function), ("main", 15));
        if args.len() > 1 {
            assert_eq!(decoded.threads[0].1[0].locals, [Value::I32(42)]);
        }
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let identities: Vec<_> = dump.module_identities().map(Result::unwrap).collect();
        assert!(identities.iter().all(|identity| identity.sha256.is_some()));
        assert_eq!(dump.notes().count(), 0);
        ok(directory.path(), ["verify", "guest.wat.core"]);
    }
}

/// The `unreachable` is reported, and not the branch to it.
#[test]
fn corrects_the_offset_of_an_unreachable() {
    let directory = directory("guest.wat", COMPOSED);
    let mut offsets = Vec::new();
    for args in [&["guest.wat"][..], &["guest.wat", "--locals", "--force"]] {
        let output = run(directory.path(), &[args, &["--invoke", "run(6)"]].concat());
        assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
        let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
        offsets.push(frames(&decode(&bytes))[0].2);
    }
    // Locals (3 bytes), `i64.const 9` and `local.set 2` (4), `local.get 1` (2), `if` (2).
    assert_eq!(offsets, [11, 11]);
}

#[test]
fn names_frames_of_composed_components_and_adapters() {
    let directory = directory("guest.wat", COMPOSED);
    for locals in [&[][..], &["--locals"]] {
        // The inner function traps; its allocator traps, called by the adapter.
        for (len, function) in [("6", 1), ("5", 0)] {
            let invoke = format!("run({len})");
            let args = ["guest.wat", "--invoke", &invoke, "--force"];
            let output = run(directory.path(), &[&args[..], locals].concat());
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{message}");
            let lines: Vec<_> = message.lines().collect();
            assert!(lines[1].starts_with("    0: inner:code: "), "{message}");
            assert!(lines[2].starts_with("    1: adapter(inner, outer): "), "{message}");
            assert!(lines[lines.len() - 2].contains(": outer:code: "), "{message}");
            assert!(!message.contains("warning"), "{message}");
            let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
            let decoded = decode(&bytes);
            let frames = frames(&decoded);
            assert_eq!((frames[0].0, frames[0].1), ("inner:code", function));
            assert_eq!(frames[frames.len() - 1].0, "outer:code");
            let adapters = &frames[1..frames.len() - 1];
            assert!(!adapters.is_empty());
            assert!(adapters.iter().all(|frame| frame.0 == "adapter(inner, outer)"), "{frames:?}");
            assert_eq!(
                decoded.modules,
                ["inner:code", "outer:memory", "outer:code", "adapter(inner, outer)"]
            );
        }
    }
    // The adapter itself traps: the string is beyond the memory.
    let output = run(directory.path(), &["guest.wat", "--invoke", "run(65536)", "--force"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    assert!(message.lines().nth(1).unwrap().starts_with("    0: adapter(inner, outer): "));
}

#[test]
fn dumps_a_command_at_the_time_limit() {
    let loops = command("(loop $l (br $l)) unreachable");
    let sleeps = command("(call $block (call $subscribe (i64.const 60000000000))) (i32.const 0)");
    let reads =
        command("(call $read (call $get-stdin) (i64.const 10) (i32.const 0)) (i32.const 0)");
    let input = UnixStream::pair().unwrap();
    for (guest, message, note) in [
        (loops, "stopped after 0.3 s", false),
        (sleeps, "stopped after 0.3 s in the host call pollable.block", true),
        (reads, "stopped after 0.3 s in the host call input-stream.blocking-read", true),
    ] {
        let directory = directory("guest.wat", guest);
        for more in [&[][..], &["--locals", "--force"]] {
            let mut command = Command::new(tool_path());
            command.current_dir(directory.path()).args(["run", "guest.wat", "--time-limit", "0.3"]);
            command.args(more).stdin(std::os::fd::OwnedFd::from(input.0.try_clone().unwrap()));
            let output = command.output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(124), "{text}");
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines[0], format!("corestream: guest.wat: {message}"));
            assert!(lines[1].starts_with("    0: main: main + 0x"), "{text}");
            let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
            let decoded = decode(&bytes);
            let frames = frames(&decoded);
            assert_eq!((frames.len(), frames[0].0, frames[0].1), (1, "main", 15), "{text}");
            let dump = CoreDumpFile::from_slice(&bytes).unwrap();
            assert_eq!(dump.trap(), Some(message));
            assert_eq!(dump.notes().count(), usize::from(note));
        }
    }
}

/// Nobody reads the guest's standard output.
#[test]
fn dumps_a_command_that_waits_for_its_reader() {
    let body = "(loop $next (call $print (i32.const 0) (i32.const 4096)) (br $next)) unreachable";
    let directory = directory("guest.wat", command(body));
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(tool_path());
    command.current_dir(directory.path()).args(["run", "guest.wat", "--time-limit", "0.3"]);
    let output = command.stdout(writer).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{message}");
    let cause = "stopped after 0.3 s in the host call output-stream.blocking-write-and-flush";
    assert!(message.starts_with(&format!("corestream: guest.wat: {cause}\n")), "{message}");
    let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
    let decoded = decode(&bytes);
    let functions: Vec<_> = frames(&decoded).into_iter().map(|(m, f, _)| (m, f)).collect();
    assert_eq!(functions, [("main", 12), ("main", 15)]);
}

#[test]
fn truncates_the_frames_of_a_component() {
    let text = r#"(component (core module $m (func $f (export "f") (call $f)))
        (core instance $i (instantiate $m)) (func (export "f") (canon lift (core func $i "f"))))"#;
    let directory = directory("guest.wat", text);
    let output = run(directory.path(), &["guest.wat", "--invoke", "f()", "--max-frames", "7"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    assert!(
        message.contains("warning: the backtrace is truncated to 7 frames; raise --max-frames")
    );
    let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
    let decoded = decode(&bytes);
    let frames = frames(&decoded);
    assert_eq!(frames.len(), 7);
    assert!(frames.iter().all(|frame| (frame.0, frame.1) == ("m", 0)), "{frames:?}");
}

/// The stack pointer is that of the module that traps.
#[test]
fn recognizes_a_stack_overflow_in_a_core_module() {
    let text = r#"(component
        (core module $other (memory 1) (global $__stack_pointer (mut i32) (i32.const 4096)) (func (export "f")))
        (core instance $other (instantiate $other))
        (core module $m (memory 1) (global $__stack_pointer (mut i32) (i32.const 4096))
            (func (export "f") (global.set $__stack_pointer (i32.const -16)) (drop (i32.load (i32.const -16)))))
        (core instance $m (instantiate $m))
        (func (export "f") (canon lift (core func $m "f"))))"#;
    let directory = directory("guest.wat", text);
    let output = run(directory.path(), &["guest.wat", "--invoke", "f()"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(134), "{message}");
    assert!(
        message.starts_with(
            "corestream: guest.wat: stack overflow: the stack pointer is 16 bytes below address 0 \
             (wasm trap: out of bounds memory access)\n    0: m: "
        ),
        "{message}"
    );
}

#[test]
fn runs_and_dumps_functions_with_the_async_abi() {
    let text = r#"(component
        (core func $return (canon task.return (result u32)))
        (core module $m (import "" "return" (func $return (param i32)))
            (func (export "run") (result i32) (call $return (i32.const 42)) (i32.const 0))
            (func (export "fail") (result i32) unreachable)
            (func (export "callback") (param i32 i32 i32) (result i32) unreachable))
        (core instance $m (instantiate $m (with "" (instance (export "return" (func $return))))))
        (func (export "run") async (result u32)
            (canon lift (core func $m "run") async (callback (core func $m "callback"))))
        (func (export "fail") async (result u32)
            (canon lift (core func $m "fail") async (callback (core func $m "callback")))))"#;
    let directory = directory("guest.wat", text);
    let output = run(directory.path(), &["guest.wat", "--invoke", "run()"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "42\n"), "{}", stderr(&output));
    for locals in [&[][..], &["--locals"]] {
        let args = [&["guest.wat", "--invoke", "fail()", "--force"], locals].concat();
        let output = run(directory.path(), &args);
        assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
        let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
        assert_eq!(frames(&decode(&bytes)), [("m", 2, 1)]);
    }
}

/// Several instances of one module: the instances of the frames are known with `--locals` only.
#[test]
fn says_how_to_record_the_instances_of_frames() {
    let text = r#"(component
        (core module $stop (func (export "f") unreachable))
        (core module $m (import "" "f" (func $f)) (func (export "f") (call $f)))
        (core instance $stop (instantiate $stop))
        (core instance $a (instantiate $m (with "" (instance $stop))))
        (core instance $b (instantiate $m (with "" (instance $a))))
        (func (export "f") (canon lift (core func $b "f"))))"#;
    let directory = directory("guest.wat", text);
    let output = run(directory.path(), &["guest.wat", "--invoke", "f()"]);
    let message = stderr(&output);
    let warning = "warning: the instances of 2 frames are unknown, because their module has several; \
                   run the guest with --locals to record them\n";
    assert!(message.contains(warning), "{message}");
    assert!(message.contains("    1: m: "), "{message}");
    let output = run(directory.path(), &["guest.wat", "--invoke", "f()", "--locals", "--force"]);
    let message = stderr(&output);
    assert!(!message.contains("warning"), "{message}");
    let bytes = fs::read(directory.path().join("guest.wat.core")).unwrap();
    let decoded = decode(&bytes);
    let names: Vec<_> = frames(&decoded).into_iter().map(|(module, ..)| module).collect();
    assert_eq!(names, ["stop", "m", "m(b)"]);
}

/// A component whose functions return their parameters.
const ECHO: &str = r#"(component
    (core module $m
        (memory (export "memory") 1)
        (global $next (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $next) (global.set $next (i32.add (global.get $next) (local.get 3))))
        (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func (export "text") (param i32 i32) (result i32)
            (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0))
        (func (export "nothing"))
        (func (export "option") (param i32 i32) (result i32)
            (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0)))
    (core instance $m (instantiate $m))
    (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $m "add")))
    (export "add" (func $add))
    (func (export "text") (param "text" string) (result string)
        (canon lift (core func $m "text") (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))
    (func (export "numbers") (param "list" (list (tuple u8 bool))) (result (list (tuple u8 bool)))
        (canon lift (core func $m "text") (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))
    (func (export "nothing") (canon lift (core func $m "nothing")))
    (func (export "option") (param "x" (option u32)) (result (option u32))
        (canon lift (core func $m "option") (memory (core memory $m "memory"))))
    (instance $math (export "add" (func $add)) (export "sum" (func $add)))
    (export "docs:math/add@1.0.0" (instance $math)))"#;

#[test]
fn calls_functions_with_wave_values() {
    let directory = directory("echo.wat", ECHO);
    for (invoke, expected) in [
        ("text(\"a\\u{e4} \\\"b\\\"\")", "\"aä \\\"b\\\"\"\n"),
        ("numbers([(1, true), (255, false)])", "[(1, true), (255, false)]\n"),
        ("nothing()", ""),
        ("nothing", ""),
        ("option(some(7))", "some(7)\n"),
        ("option(none)", "none\n"),
        ("sum(4000000000, 5)", "4000000005\n"),
        ("docs:math/add@1.0.0#add( 1 , 2 )", "3\n"),
    ] {
        let output = run(directory.path(), &["echo.wat", "--invoke", invoke]);
        assert_eq!(output.status.code(), Some(0), "{invoke}: {}", stderr(&output));
        assert_eq!(stdout(&output), expected, "{invoke}");
    }
}

#[test]
fn refuses_wrong_calls_of_functions() {
    let directory = directory("echo.wat", ECHO);
    let refused = |invoke: &str| refused(directory.path(), &["echo.wat", "--invoke", invoke]);
    for (invoke, expected) in [
        (
            "none()",
            "exports no function none, only add, docs:math/add@1.0.0#add, docs:math/add@1.0.0#sum, text, numbers, nothing, option",
        ),
        (
            "sum",
            "function sum: takes (a: u32, b: u32), but --invoke has no arguments; write 'FUNC(ARGS)'",
        ),
    ] {
        assert_eq!(refused(invoke), format!("echo.wat: {expected}"));
    }
    for (invoke, expected) in [
        (
            "sum(1)",
            "function sum: takes (a: u32, b: u32), but the arguments are wrong: invalid params",
        ),
        ("sum(1, -1)", "the arguments are wrong: invalid value"),
        ("sum(1, \"x\")", "the arguments are wrong: "),
        ("sum(1, 2", "the arguments are wrong: unexpected end of input"),
        ("sum(1, 2) 3", "the arguments are wrong: "),
    ] {
        let message = refused(invoke);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(names(directory.path()), ["echo.wat"]);
}

#[test]
fn refuses_components_that_it_cannot_run() {
    let import = |name: &str| {
        format!(
            r#"(component (import "{name}" (instance (export "f" (func))))
               (core module $m (func (export "f") (i32.const 1))) (core instance (instantiate $m)))"#
        )
    };
    for name in ["docs:adder/add@0.1.0", "wasi:http/types@0.2.0"] {
        assert_eq!(
            refusal("guest.wat", import(name)),
            format!(
                "guest.wat: unknown import `{name}` (instance): `run` provides WASI 0.2 only; compose the component \
                 with one that exports it, or use --stub-imports"
            )
        );
    }
    assert_eq!(
        refusal("guest.wat", "(component)"),
        "guest.wat: exports neither wasi:cli/run of WASI 0.2 nor any other function"
    );
    assert_eq!(
        refusal("guest.wat", ECHO),
        "guest.wat: does not export wasi:cli/run of WASI 0.2; choose a function with --invoke \
         'FUNC(ARGS)': add, docs:math/add@1.0.0#FUNC, text, numbers, nothing, option"
    );
    let wasm = wat::parse_str(command("(i32.const 0)")).unwrap();
    for len in [9, 100, wasm.len() / 2, wasm.len() - 1] {
        let message = refusal("guest.wasm", &wasm[..len]);
        assert!(message.starts_with("guest.wasm: invalid component: "), "{len}: {message}");
        assert!(
            message.ends_with("; the file may be damaged: build or copy it again"),
            "{message}"
        );
    }
    let text = "(component (core module $m (func (export \"f\") (i32.const 1))) (core instance $i (instantiate $m))
        (func (export \"f\") (canon lift (core func $i \"f\"))))";
    let directory = directory("guest.wat", text);
    let message = refused(directory.path(), &["guest.wat", "--invoke", "f()"]);
    let expected = "guest.wat: invalid component: failed to compile: wasm[0]::function[0]: ";
    assert!(message.starts_with(expected) && message.contains("type mismatch"), "{message}");
    let message =
        refusal("guest.wat", "(component (core module (func (i32.const 1))) (export \"f\"))");
    assert!(message.starts_with("guest.wat:1:"), "{message}");
}

/// WAVE has no resources. A function outside of interfaces is called by its own name.
#[test]
fn calls_functions_with_resources() {
    let text = r#"(component
        (type $r' (resource (rep i32)))
        (export $r "r" (type $r'))
        (core func $new (canon resource.new $r'))
        (core module $m (import "" "new" (func $new (param i32) (result i32)))
            (func (export "make") (result i32) (call $new (i32.const 5)))
            (func (export "take") (param i32)))
        (core instance $m (instantiate $m (with "" (instance (export "new" (func $new))))))
        (func (export "make") (result (own $r)) (canon lift (core func $m "make")))
        (func (export "take") (param "r" (borrow $r)) (canon lift (core func $m "take"))))"#;
    let directory = directory("guest.wat", text);
    let output = run(directory.path(), &["guest.wat", "--invoke", "make()"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "a result that WAVE does not have, such as a resource\n");
    let message = refused(directory.path(), &["guest.wat", "--invoke", "take(1)"]);
    let expected = "guest.wat: function take: takes (r: a type that WAVE does not have), but";
    assert!(message.starts_with(expected), "{message}");
}

/// The guest may create a socket. `.ci/components` checks that it can use an address only with `--network`.
#[test]
fn provides_sockets_and_refuses_a_network_to_core_modules() {
    let text = r#"(component
        (import "wasi:sockets/network@0.2.0" (instance $network
            (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory"
                "timeout" "concurrency-conflict" "not-in-progress" "would-block" "invalid-state"
                "new-socket-limit" "address-not-bindable" "address-in-use" "remote-unreachable"
                "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
                "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
            (export "error-code" (type (eq $codes)))
            (type $family (enum "ipv4" "ipv6"))
            (export "ip-address-family" (type (eq $family)))))
        (alias export $network "error-code" (type $error))
        (alias export $network "ip-address-family" (type $family))
        (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
        (alias export $tcp "tcp-socket" (type $socket))
        (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
            (alias outer 1 $error (type $e)) (export "error-code" (type $error (eq $e)))
            (alias outer 1 $family (type $f)) (export "ip-address-family" (type $family (eq $f)))
            (alias outer 1 $socket (type $s)) (export "tcp-socket" (type $socket (eq $s)))
            (export "create-tcp-socket" (func (param "address-family" $family)
                (result (result (own $socket) (error $error)))))))
        (core module $memory (memory (export "memory") 1))
        (core instance $memory (instantiate $memory))
        (core func $create (canon lower (func $create "create-tcp-socket") (memory (core memory $memory "memory"))))
        (core module $m (import "" "create" (func $create (param i32 i32)))
            (func (export "run") (result i32) (call $create (i32.const 0) (i32.const 8)) (i32.const 0)))
        (core instance $m (instantiate $m (with "" (instance (export "create" (func $create))))))
        (func (export "run") (result u32) (canon lift (core func $m "run"))))"#;
    let directory = directory("guest.wat", text);
    for more in [&[][..], &["--network"]] {
        let args = [&["guest.wat", "--invoke", "run()"], more].concat();
        let output = run(directory.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), "0\n");
    }
    fs::write(directory.path().join("core.wat"), "(module (func (export \"_start\")))").unwrap();
    let message = refused(directory.path(), &["core.wat", "--network"]);
    assert!(
        message.starts_with("core.wat: is a core module; WASI preview 1 has no network"),
        "{message}"
    );
}

/// `inspect` shows the names of the core instances.
#[test]
fn names_the_dump_as_for_core_modules() {
    let directory = directory("a b.wat", COMPOSED);
    let args = ["a b.wat", "--invoke", "run(6)", "-o", "%n.%%.core"];
    let output = run(directory.path(), &args);
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    assert!(directory.path().join("a b.wat.%.core").exists(), "{:?}", names(directory.path()));
    let output = run(directory.path(), &args);
    // An existing dump is refused before the guest runs.
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    let text = ok(Path::new(directory.path()), ["inspect", "a b.wat.%.core"]);
    assert!(text.contains("inner:code") && text.contains("adapter(inner, outer)"), "{text}");
}
