//! `corestream completions`: what a shell needs to complete the tool's arguments.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::report::{self, Failure};

/// Prints the completions for a shell
///
/// They complete subcommands, options and their values.
#[derive(Args)]
pub struct Completions {
    /// The shell that they are for
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut tool: clap::Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut tool, "corestream", &mut script);
        report::printed(std::io::stdout().write_all(&script))
    }
}
