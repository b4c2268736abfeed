//! `corestream run`.

mod checks;
mod command_line;
mod component_symbols;
mod components;
mod guests;
mod load;
mod snapshots;
mod time_limit;

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::tool::corestream;

/// A guest that exits with 42, and has exports that add, trap and hang.
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

/// Runs a guest in an environment with only the variable `SECRET`.
fn run(directory: &Path, args: &[&str]) -> Output {
    let mut command = corestream(directory, ["run"]);
    command.args(args).env_clear().env("SECRET", "host").output().unwrap()
}

/// Returns a directory with a guest.
fn directory(name: &str, guest: impl AsRef<[u8]>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), guest).unwrap();
    directory
}
