//! The help of the tool, and its examples.
#![allow(dead_code, reason = "each test uses its part")]

use std::env;
use std::path::Path;
use std::process::Output;

use crate::tool::{self, stderr};

/// The width of the help.
pub const COLUMNS: usize = 100;

/// Runs the tool with help in a known width.
pub fn corestream(args: &[&str]) -> Output {
    let mut command = tool::corestream(Path::new("."), args);
    command.env("COLUMNS", COLUMNS.to_string()).output().unwrap()
}

/// Runs the tool, which must succeed, and returns its output.
pub fn printed(args: &[&str]) -> String {
    let output = corestream(args);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the subcommands in the help, without `help`.
pub fn subcommands() -> Vec<String> {
    let help = printed(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|l| !l.is_empty());
    let names = list.map(|line| line.split_whitespace().next().unwrap().to_string());
    names.filter(|name| name != "help").collect()
}

/// Returns the arguments for the help of the tool itself, which are none, and of each subcommand.
pub fn commands() -> Vec<Vec<String>> {
    let subcommands = subcommands();
    assert!(subcommands.len() >= 8, "{subcommands:?}");
    std::iter::once(vec![]).chain(subcommands.into_iter().map(|name| vec![name])).collect()
}

/// Appends arguments to a command.
pub fn with<'a>(command: &'a [String], more: &'a [&str]) -> Vec<&'a str> {
    command.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// An example of the help: its purpose, and the lines that a user types.
pub struct Example {
    pub purpose: String,
    pub lines: Vec<String>,
}

/// Returns the examples at the end of a help text.
pub fn examples(help: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let list = help.split("Examples:\n").nth(1).expect("examples");
    for line in list.lines().take_while(|line| !line.is_empty()) {
        match line.strip_prefix("    ") {
            Some(command) => examples.last_mut().unwrap().lines.push(command.into()),
            None => examples.push(Example { purpose: line.trim().into(), lines: Vec::new() }),
        }
    }
    examples
}

/// Returns whether a program is on the `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
