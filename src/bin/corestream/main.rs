//! The tool `corestream`: parses its arguments and hands over to one file a subcommand.

mod dump;
mod manifest;
mod report;

use std::process::ExitCode;

use clap::Parser;

/// Writes WebAssembly core dumps of guests with very large memories.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
enum Command {
    Dump(dump::Dump),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Dump(dump) => dump.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::line(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}
