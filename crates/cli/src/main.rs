//! The binary `corestream`.

use std::process::ExitCode;

fn main() -> ExitCode {
    corestream_cli::main()
}
