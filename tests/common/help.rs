//! What the tool says of itself, taken apart.
#![allow(dead_code, reason = "each test uses its part")]

use std::env;
use std::process::{Command, Output, Stdio};

use crate::tool::stderr;

/// Columns of help.
pub const COLUMNS: usize = 100;

/// Runs the tool.
pub fn corestream(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
    command.args(args).env("COLUMNS", COLUMNS.to_string()).stdin(Stdio::null()).output().unwrap()
}

/// What it prints when it succeeds.
pub fn printed(args: &[&str]) -> String {
    let output = corestream(args);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The subcommands that the help lists, but for `help`.
pub fn subcommands() -> Vec<String> {
    let help = printed(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|l| !l.is_empty());
    let names = list.map(|line| line.split_whitespace().next().unwrap().to_string());
    names.filter(|name| name != "help").collect()
}

/// The tool itself, as no arguments, and each subcommand.
pub fn commands() -> Vec<Vec<String>> {
    let subcommands = subcommands();
    assert!(subcommands.len() >= 8, "{subcommands:?}");
    std::iter::once(vec![]).chain(subcommands.into_iter().map(|name| vec![name])).collect()
}

/// A command with more arguments.
pub fn with<'a>(command: &'a [String], more: &'a [&str]) -> Vec<&'a str> {
    command.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// What is wanted, and the lines that do it.
pub struct Example {
    pub want: String,
    pub lines: Vec<String>,
}

/// The examples at the end of a help.
pub fn examples(help: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let list = help.split("Examples:\n").nth(1).expect("examples");
    for line in list.lines().take_while(|line| !line.is_empty()) {
        match line.strip_prefix("    ") {
            Some(command) => examples.last_mut().unwrap().lines.push(command.into()),
            None => examples.push(Example { want: line.trim().into(), lines: Vec::new() }),
        }
    }
    examples
}

/// Whether there is such a program.
pub fn is_here(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
