//! What signals do to a process that writes dumps. These tests set handlers and limits of the process, or end it.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ends.rs"]
mod ends;
#[path = "../common/environment.rs"]
mod environment;
#[path = "../common/mapped.rs"]
mod mapped;

mod file_size_limit;
mod interrupted_calls;
mod sigpipe;
