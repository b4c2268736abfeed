//! Options, exit codes and messages of `corestream run`.

use std::ffi::OsStr;
use std::fs::{self};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use super::{EXIT, directory, run};
use crate::common::decode;
use crate::tool::{self, ok, stderr};

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

/// A guest that exports a tag under the name that `run` would give to a shared memory is valid, and runs.
#[test]
fn accepts_any_name_of_an_export() {
    let text = r#"(module (memory 1 1 shared) (tag (export "corestream:memory:0"))
        (func (export "_start") unreachable))"#;
    let directory = directory("tag.wat", text);
    for more in [&[][..], &["--time-limit", "60"], &["--locals"]] {
        let output = run(directory.path(), &[&["tag.wat", "--force"], more].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{message}");
        assert!(message.ends_with("corestream: tag.wat.core: core dumped\n"), "{message}");
    }
    // The time limit stops its waits.
    let wait =
        "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))) unreachable";
    fs::write(directory.path().join("tag.wat"), text.replace("unreachable", wait)).unwrap();
    let output = run(directory.path(), &["tag.wat", "--force", "--time-limit", "0.1"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(124), "{message}");
    assert!(message.contains("stopped after 0.1 s in memory.atomic.wait\n"), "{message}");
}

#[test]
fn escapes_names_of_the_guest() {
    let text = "(module (func (@name \"a\\u{202e}b\\u{1b}c\") (export \"_start\") unreachable))";
    let directory = directory("tricks.wat", text);
    let message = stderr(&run(directory.path(), &["tricks.wat"]));
    assert!(message.contains(r": a\u{202e}b\u{1b}c + 0x"), "{message}");
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
    assert!(stderr(&output).contains("       and 191 more\n"), "{}", stderr(&output));
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
    let message = stderr(&output);
    let path = message.lines().last().unwrap().strip_prefix("corestream: ").unwrap();
    let path = path.strip_suffix(": core dumped").unwrap();
    decode(&fs::read(dir.join(path)).unwrap());

    // An output that is not possible is reported before the guest runs.
    let output = run(dir, &[&fail[..], &["-o", "exit.wat.core"]].concat());
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output), "corestream: exit.wat.core: exists; use --force to overwrite it\n");
    let output = run(dir, &[&fail[..], &["-o", "/dev/full"]].concat());
    assert_eq!(output.status.code(), Some(134));
    let message = stderr(&output);
    let last = message.lines().last().unwrap();
    assert!(last.starts_with("corestream: no core dump: /dev/full: 0 of "), "{message}");
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
            "component.wasm: exports neither wasi:cli/run of WASI 0.2 nor any other function",
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
        (
            vec!["exit.wat", "--dir", "none"],
            125,
            "--dir none: cannot open: No such file or directory (os error 2)",
        ),
        (vec!["exit.wat", "--dir", "exit.wat"], 125, "--dir exit.wat: not a directory"),
        (vec!["-"], 125, "`run` cannot read the guest from standard input; name a file"),
        (
            vec!["exit.wat", "a", "b"],
            2,
            "unexpected argument 'a' found; write -- before the arguments of the guest; see --help",
        ),
        (
            vec!["exit.wat", "--time-limit", "1s"],
            2,
            "invalid value '1s' for '--time-limit <S>': expected seconds without a unit, such as 0.5",
        ),
        (
            vec!["exit.wat", "--time-limit", "-1"],
            2,
            "invalid value '-1' for '--time-limit <S>': expected a number of seconds from 1e-9 to ",
        ),
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
        let message = stderr(&output);
        assert!(message.starts_with(&format!("corestream: {expected}")), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 5);
}

/// Only the name in the guest must be text.
#[test]
fn accepts_a_directory_whose_name_is_not_text() {
    let directory = directory("exit.wat", EXIT);
    let host = OsStr::from_bytes(b"\xff");
    fs::create_dir(directory.path().join(host)).unwrap();
    let with = |value: &OsStr| {
        let args = [OsStr::new("run"), OsStr::new("exit.wat"), OsStr::new("--dir"), value];
        tool::run(directory.path(), args)
    };
    let output = with(OsStr::from_bytes(b"\xff::/data"));
    assert_eq!((output.status.code(), stderr(&output)), (Some(42), String::new()));
    let output = with(host);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is not valid UTF-8; use HOST::GUEST"), "{}", stderr(&output));
}

#[test]
fn help_lists_the_command() {
    let help = ok(Path::new("."), ["--help"]);
    let line = "\n  `run` has other exit codes; see `corestream run --help`\n";
    assert!(help.contains(line) && ok(Path::new("."), ["man"]).contains("has other exit codes"));
    assert!(help.contains("run          Run a guest with WASI, and dump it"), "{help}");
}
