//! The tool `corestream`: parses its arguments and hands over to one file a subcommand.

mod completions;
mod describe;
mod dump;
mod extract;
mod input;
mod inspect;
mod manifest;
mod output;
mod peer;
mod report;
mod sigbus;
mod signals;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Writes WebAssembly core dumps of guests with very large memories, and reads them back
#[derive(Parser)]
#[command(version, name = "corestream", arg_required_else_help = true)]
enum Command {
    Dump(dump::Dump),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Extract(extract::Extract),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return report::usage(&error),
    };
    let result = match command {
        Command::Dump(dump) => dump.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Verify(verify) => verify.run(),
        Command::Extract(extract) => extract.run(),
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
