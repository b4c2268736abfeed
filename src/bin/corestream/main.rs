//! The tool `corestream`: parses its arguments and hands over to one file a subcommand.

mod bench;
mod completions;
mod describe;
mod dump;
mod extract;
mod input;
mod inspect;
mod manifest;
mod output;
mod patient;
mod peer;
mod progress;
mod receive;
mod report;
#[cfg(feature = "run")]
mod run;
mod sigbus;
mod signals;
mod symbols;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Writes WebAssembly core dumps of guests with very large memories, and reads them back
#[derive(Parser)]
#[command(version, name = "corestream", arg_required_else_help = true)]
enum Command {
    Dump(dump::Dump),
    #[cfg(feature = "run")]
    Run(run::Run),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Extract(extract::Extract),
    Receive(receive::Receive),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return report::usage(&error),
    };
    let result = match command {
        Command::Dump(dump) => dump.run().map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "run")]
        Command::Run(run) => run.run(),
        Command::Inspect(inspect) => inspect.run().map(|()| ExitCode::SUCCESS),
        Command::Verify(verify) => verify.run().map(|()| ExitCode::SUCCESS),
        Command::Extract(extract) => extract.run().map(|()| ExitCode::SUCCESS),
        Command::Receive(receive) => receive.run(),
        Command::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Command::Completions(completions) => completions.run().map(|()| ExitCode::SUCCESS),
    };
    signals::end_of_work();
    match result {
        Ok(code) => code,
        Err(failure) => {
            report::line(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}
