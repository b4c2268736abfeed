//! The command-line tool `corestream`: parses the arguments and runs a subcommand. Each subcommand has a module.
//!
//! This library exists for the binary and its tests, and its API follows no semantic versioning. To write and read
//! dumps in a program, use the crate [`corestream`].

#![cfg_attr(docsrs, feature(doc_cfg))]

mod bar;
mod bench;
mod blocking_stream;
mod completions;
mod debug;
mod dump;
mod extract;
mod help;
mod image;
mod inherited;
mod input;
mod inspect;
mod json;
mod limits;
mod listener;
mod log;
mod man;
mod mapped;
mod module_file;
mod number_option;
mod output;
mod peer;
mod placeholder;
mod platform;
mod progress;
mod receive;
mod report;
#[cfg(feature = "run")]
mod run;
mod sigbus;
mod signals;
mod stop;
mod stop_signals;
mod symbol_files;
mod usage;
mod verify;
#[cfg(feature = "run")]
mod wat_text;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

/// Writes WebAssembly core dumps of guests with very large memories, and reads them back
///
/// A core dump holds the state of a stopped guest: its threads with their frames, its globals, and the
/// contents of its memories. A dump is itself a WebAssembly module. `dump` turns memory images of any
/// size into a dump and writes it to a file, a pipe or a socket. `receive` accepts dumps on a socket.
/// `inspect`, `verify` and `extract` read dumps, including dumps written by other tools. `debug` opens a dump in
/// LLDB or VS Code.
#[derive(Parser)]
#[command(version, name = "corestream", arg_required_else_help = true, max_term_width = 100)]
enum Command {
    Dump(dump::Dump),
    #[cfg(feature = "run")]
    Run(run::Run),
    Inspect(inspect::Inspect),
    Debug(debug::Debug),
    Verify(verify::Verify),
    Extract(extract::Extract),
    Receive(receive::Receive),
    Bench(bench::Bench),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    signals::ignore_file_size_limit();
    let tool = help::with_examples(Command::command());
    let matches = tool.clone().try_get_matches();
    let command = match matches.and_then(|matches| Command::from_arg_matches(&matches)) {
        Ok(command) => command,
        Err(error) => return usage::report(&error),
    };
    let result = match command {
        Command::Dump(dump) => dump.run().map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "run")]
        Command::Run(run) => run.run(),
        Command::Inspect(inspect) => inspect.run().map(|()| ExitCode::SUCCESS),
        Command::Debug(debug) => debug.run(),
        Command::Verify(verify) => verify.run().map(|()| ExitCode::SUCCESS),
        Command::Extract(extract) => extract.run().map(|()| ExitCode::SUCCESS),
        Command::Receive(receive) => receive.run(),
        Command::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Command::Completions(completions) => completions.run(tool).map(|()| ExitCode::SUCCESS),
        Command::Man(man) => man.run(tool).map(|()| ExitCode::SUCCESS),
    };
    signals::finish_work();
    let code = match result {
        Ok(code) => code,
        Err(failure) => {
            report::line(&failure.message);
            ExitCode::from(failure.code)
        }
    };
    log::flush(log::exit_timeout());
    code
}

/// The items that tests and fuzz targets use.
#[doc(hidden)]
pub mod internals {
    pub use crate::json::{Inspection, Manifest};
    pub use crate::limits::MAX_REASON_BYTES;
    pub use crate::peer::reply::{Answer, OK, Reply, refusal};
}
