//! Tests of the tool: one module per subcommand, and modules for what several subcommands share. Tests that need a
//! process of their own are separate crates.
#![cfg(target_os = "linux")]

#[path = "../../../../tests/common/mod.rs"]
mod common;
#[path = "../../../../tests/common/ends.rs"]
mod ends;
#[path = "../../../../tests/common/environment.rs"]
mod environment;
#[path = "../../../../tests/common/foreign.rs"]
mod foreign;
#[path = "../../../../tests/common/fuse.rs"]
mod fuse;
#[path = "../../../../tests/common/help.rs"]
mod help;
#[path = "../../../../tests/common/huge_pages.rs"]
mod huge_pages;
#[path = "../../../../tests/common/mapped.rs"]
mod mapped;
#[path = "../../../../tests/common/process_memory.rs"]
mod process_memory;
#[path = "../../../../tests/common/receiver.rs"]
mod receiver;
#[path = "../../../../tests/common/repeated.rs"]
mod repeated;
#[path = "../../../../tests/common/strace.rs"]
mod strace;
#[path = "../../../../tests/common/terminal.rs"]
mod terminal;
#[path = "../../../../tests/common/tool.rs"]
mod tool;
#[path = "../../../../tests/common/userfaultfd.rs"]
mod userfaultfd;
#[path = "../../../../tests/common/waiting.rs"]
mod waiting;
#[path = "../../../../tests/common/writers.rs"]
mod writers;

mod bench;
mod debug;
mod dump;
mod examples;
mod extract;
mod guest;
mod guide;
mod help_and_man;
mod inspect;
mod output;
mod receive;
#[cfg(feature = "run")]
mod run;
mod standard_error;
mod standard_output;
mod terminal_output;
mod verify;
