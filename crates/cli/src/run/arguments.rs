//! The arguments of `corestream run`, and values derived from them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::options::{Directory, Variable};
use crate::dump;
use crate::limits::MAX_FRAMES;
use crate::number_option::within;
use crate::progress::ProgressMode;

/// Run a guest with WASI preview 1, and dump it if it traps or exceeds the time limit
///
/// The guest inherits the standard streams. It has only the environment variables and directories given by `--env` and
/// `--dir`. The tool exits with the guest's exit code. Imports, exports and the arguments of `--invoke` are checked
/// before the guest is compiled.
#[derive(Args)]
pub struct Run {
    /// The guest: a core module in the binary or text format
    #[arg(value_name = "GUEST")]
    pub(super) guest: PathBuf,

    /// Call this function instead of `_start`. ARGS are the values of its parameters: integers and floats as in the
    /// text format (-1, 0xff, 1_000, 0x1p-3, nan), vectors as i32x4:1,2,3,4, and null
    #[arg(long, value_name = "FUNC")]
    pub(super) invoke: Option<String>,

    /// Dump locals and operand stacks too; this makes the guest slower
    #[arg(long)]
    pub(super) locals: bool,

    // Wasmtime returns no backtrace if it cannot allocate space for this many frames.
    /// Maximum number of frames to dump; with --locals all frames are dumped
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = within(1..=MAX_FRAMES), allow_negative_numbers = true)]
    pub(super) max_frames: u32,

    /// Stop and dump the guest after it has run for S seconds, not counting compilation. The dump records "stopped
    /// after S s" as its trap
    #[arg(long, value_name = "S", value_parser = dump::parse_seconds,
          allow_negative_numbers = true)]
    pub(super) time_limit: Option<Duration>,

    /// Set an environment variable of the guest, which has no others
    #[arg(long = "env", value_name = "K=V")]
    pub(super) env: Vec<Variable>,

    /// Let the guest use this directory, under the same name or as GUEST
    #[arg(long = "dir", value_name = "HOST[::GUEST]",
          value_parser = OsStringValueParser::new().try_map(Directory::parse))]
    pub(super) dirs: Vec<Directory>,

    /// Write a dump to this file, with %p, %t, %n and %% as in `dump`; the default is the guest's file name with .core,
    /// or with .PID.core if that exists
    #[arg(short, long, value_name = "DUMP")]
    pub(super) output: Option<PathBuf>,

    /// After a trap, open the dump in LLDB as `debug --lldb` does, and exit with its exit code; implies --locals
    #[arg(long)]
    pub(super) debug: bool,

    /// Overwrite an existing dump
    #[arg(long)]
    pub(super) force: bool,

    /// Show progress on standard error while a dump takes more than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) progress: ProgressMode,

    /// Arguments for the guest
    #[arg(last = true, value_name = "ARGS")]
    pub(super) args: Vec<String>,
}

impl Run {
    /// Returns the guest's file name, which is the process name and argv[0].
    pub(super) fn name(&self) -> String {
        self.guest.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn limit_message(&self) -> String {
        format!("stopped after {} s", self.time_limit.unwrap_or_default().as_secs_f64())
    }

    /// Returns the message for a guest whose thread is blocked in a host call.
    pub(super) fn blocked_message(&self) -> String {
        let (name, limit) = (self.name(), self.limit_message());
        format!("{name}: {limit}, but it cannot be dumped, because it is blocked in a host call")
    }
}

/// Returns the end of a time limit that starts now, or `None` if it is beyond the range of the clock.
pub(super) fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}
