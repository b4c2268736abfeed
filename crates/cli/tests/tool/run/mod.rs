//! `corestream run`.

mod checks;
mod guests;

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::tool::corestream;

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
