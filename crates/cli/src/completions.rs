//! `corestream completions`: scripts with which a shell completes the tool's arguments.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::report::{self, Failure};

/// Print the completion script for a shell
///
/// The script completes subcommands, options and their values in bash, zsh, fish, elvish and PowerShell.
#[derive(Args)]
pub struct Completions {
    /// Shell to print the script for
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut tool: clap::Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut tool, "corestream", &mut script);
        report::ignore_broken_pipe(std::io::stdout().write_all(&script))
    }
}
