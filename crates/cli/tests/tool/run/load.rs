//! How `corestream run` loads a guest: `--stub-imports` and `--cache`.

use std::fs;
use std::path::Path;
use std::process::Output;

use corestream::CoreDumpFile;

use super::checks::refused;
use super::{directory, run};
use crate::tool::{corestream, stderr};

/// Imports a function that `_start` does not call, and one that `call` does.
const STUBS: &str = r#"(module
    (import "env" "unused" (func (param i64)))
    (import "env" "missing" (func $missing (param i32) (result f32)))
    (func (export "_start"))
    (func $caller (export "call") (drop (call $missing (i32.const 3)))))"#;

/// Needs WASI 0.2.0 as well, which the linker provides in a later version.
const COMPONENT_STUBS: &str = r#"(component
    (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (core func $random (canon lower (func $random "get-random-u64")))
    (import "docs:host/log@0.1.0" (instance $log
        (export "logger" (type $logger (sub resource)))
        (export "log" (func (param "n" u32)))))
    (core func $log (canon lower (func $log "log")))
    (core module $main
        (import "host" "log" (func $log (param i32)))
        (import "host" "random" (func $random (result i64)))
        (func (export "unused") (drop (call $random)))
        (func $call (export "call") (call $log (i32.const 3))))
    (core instance $main (instantiate $main
        (with "host" (instance (export "log" (func $log)) (export "random" (func $random))))))
    (func (export "unused") (canon lift (core func $main "unused")))
    (func (export "call") (canon lift (core func $main "call"))))"#;

fn succeeded(output: &Output) {
    assert_eq!((output.status.code(), stderr(output)), (Some(0), String::new()));
}

#[test]
fn stubs_trap_when_they_are_called() {
    for (guest, unused, call, expected, frame) in [
        (STUBS, &[][..], "call", "called the import `env::missing`, a stub", "caller"),
        (
            COMPONENT_STUBS,
            &["--invoke", "unused()"],
            "call()",
            "called the import `docs:host/log@0.1.0#log`, a stub",
            "call",
        ),
    ] {
        let directory = directory("guest.wat", guest);
        for more in [&[][..], &["--time-limit", "60"], &["--snapshot-every", "60"]] {
            let args = [&["guest.wat", "--stub-imports"], more].concat();
            succeeded(&run(directory.path(), &[&args[..], unused].concat()));
            let args = [&args[..], &["--invoke", call, "--force"]].concat();
            let output = run(directory.path(), &args);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(134), "{message}");
            assert!(
                message.starts_with(&format!("corestream: guest.wat: {expected}\n")),
                "{message}"
            );
            assert!(message.lines().nth(1).unwrap().contains(frame), "{message}");
            let dump = CoreDumpFile::open(directory.path().join("guest.wat.core")).unwrap();
            assert_eq!(dump.trap(), Some(expected));
        }
    }
}

/// The other functions of an interface stay those of WASI.
#[test]
fn stubs_replace_single_functions_of_an_interface() {
    let guest = |ty: &str| {
        format!(
            r#"(component
            (import "wasi:random/random@0.2.0" (instance $random
                (export "get-random-u64" (func (result {ty}))) (export "get-magic" (func (result u64)))))
            (core func $random (canon lower (func $random "get-random-u64")))
            (core module $main (import "" "f" (func $f (result i64))) (func (export "f") (drop (call $f))))
            (core instance $main (instantiate $main (with "" (instance (export "f" (func $random))))))
            (func (export "f") (canon lift (core func $main "f"))))"#
        )
    };
    let directory = directory("guest.wat", guest("u64"));
    let args = ["guest.wat", "--stub-imports", "--invoke", "f()"];
    succeeded(&run(directory.path(), &args));
    fs::write(directory.path().join("guest.wat"), guest("s64")).unwrap();
    let message = refused(directory.path(), &args);
    assert!(
        message.starts_with("guest.wat: unknown import `wasi:random/random@0.2.0`"),
        "{message}"
    );
}

/// A stub has to be a function, and WASI's own functions keep their types.
#[test]
fn stubs_replace_unknown_functions_only() {
    let guest = r#"(module (import "env" "f" (func)) (import "env" "memory" (memory 1)) (func (export "_start")))"#;
    let directory = directory("guest.wat", guest);
    let message = refused(directory.path(), &["guest.wat", "--stub-imports"]);
    assert_eq!(
        message,
        "guest.wat: unknown import `env::memory` (memory): `run` provides WASI preview 1 only"
    );
    let guest = r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param f32))) (func (export "_start")))"#;
    fs::write(directory.path().join("guest.wat"), guest).unwrap();
    let message = refused(directory.path(), &["guest.wat", "--stub-imports"]);
    assert!(
        message.contains("`wasi_snapshot_preview1::fd_close` has the type (f32) -> ()"),
        "{message}"
    );
}

/// Runs a guest of a user whose home is `home`.
fn run_at_home(directory: &Path, home: &Path, args: &[&str]) -> Output {
    let mut command = corestream(directory, ["run", "guest.wat"]);
    command.args(args).env_clear().env("HOME", home).output().unwrap()
}

/// Returns the paths of all files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

#[test]
fn the_cache_keeps_compiled_guests() {
    for guest in ["(module (func (export \"_start\")))", super::components::EMPTY_COMMAND] {
        let directory = directory("guest.wat", guest);
        let home = tempfile::tempdir().unwrap();
        succeeded(&run_at_home(directory.path(), home.path(), &["--cache"]));
        let is_code = |path: &std::path::PathBuf| path.extension().is_none();
        let code: Vec<_> = files(home.path()).into_iter().filter(is_code).collect();
        let [cached] = &code[..] else { panic!("{code:?}") };
        // The second run reads the file: its content decides whether the guest runs.
        let modified = fs::metadata(cached).unwrap().modified().unwrap();
        succeeded(&run_at_home(directory.path(), home.path(), &["--cache"]));
        assert_eq!(fs::metadata(cached).unwrap().modified().unwrap(), modified);
        // Another guest, run without the option, is not added.
        let other = guest.replace("(func (export", "(memory 1) (func (export");
        fs::write(directory.path().join("guest.wat"), other).unwrap();
        succeeded(&run_at_home(directory.path(), home.path(), &[]));
        assert_eq!(files(home.path()).into_iter().filter(is_code).count(), 1);
        succeeded(&run_at_home(directory.path(), home.path(), &["--cache"]));
        assert_eq!(files(home.path()).into_iter().filter(is_code).count(), 2);
    }
}

#[test]
fn reports_an_unusable_cache() {
    let directory = directory("guest.wat", "(module (func (export \"_start\")))");
    let config = directory.path().join(".config/wasmtime");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "[cache]\ndirectory = 7\n").unwrap();
    let output = run_at_home(directory.path(), directory.path(), &["--cache"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.starts_with("corestream: --cache: failed to parse config file"), "{message}");
    assert_eq!(message.lines().count(), 1);
}
