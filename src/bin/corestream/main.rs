//! The tool `corestream`: parses its arguments and hands over to one file a subcommand.

mod completions;
mod dump;
mod manifest;
mod report;
mod sigbus;
mod signals;

use std::process::ExitCode;

use clap::Parser;

/// Writes WebAssembly core dumps of guests with very large memories.
#[derive(Parser)]
#[command(version, name = "corestream", arg_required_else_help = true)]
enum Command {
    Dump(dump::Dump),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return report::usage(&error),
    };
    let result = match command {
        Command::Dump(dump) => dump.run(),
        Command::Completions(completions) => completions.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::line(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}
