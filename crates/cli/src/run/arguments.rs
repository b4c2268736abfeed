//! The arguments of `corestream run`, and what follows from them alone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::options::{Directory, Variable};
use crate::dump;
use crate::limits::MAX_FRAMES;
use crate::progress::ProgressMode;

/// Runs a guest with WASI preview 1, and dumps it where it traps or hangs
///
/// The guest has the tool's standard streams, and of the environment and of the directories only what
/// `--env` and `--dir` give it. Its exit code is the tool's. Imports, exports and the arguments of
/// `--invoke` are checked before the guest is compiled.
#[derive(Args)]
pub struct Run {
    /// The guest: a core module, binary or text
    #[arg(value_name = "GUEST")]
    pub(super) guest: PathBuf,

    /// Function to call instead of `_start`; if it has parameters, ARGS are their values: integers and
    /// floats as in WebAssembly text (-1, 0xff, 1_000, 0x1p-3, nan), vectors as i32x4:1,2,3,4, and null
    #[arg(long, value_name = "FUNC")]
    pub(super) invoke: Option<String>,

    /// Dump locals and operand stacks too; the guest is slower
    #[arg(long)]
    pub(super) locals: bool,

    // Wasmtime gives no backtrace if it cannot allocate room for this many frames.
    /// Frames that are dumped at most; with --locals all are
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FRAMES)))]
    pub(super) max_frames: u32,

    /// Dump the guest and stop it after S seconds of running; compiling it does not count. The trap that the dump
    /// records is then "stopped after S s"
    #[arg(long, value_name = "S", value_parser = dump::seconds)]
    pub(super) time_limit: Option<Duration>,

    /// Environment variable of the guest; it has no others
    #[arg(long = "env", value_name = "K=V")]
    pub(super) env: Vec<Variable>,

    /// Directory that the guest may use, under the same name or as GUEST
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    pub(super) dirs: Vec<Directory>,

    /// Where a dump goes, with %p, %t, %n and %% as in `dump`; by default the guest's file name with
    /// .core, or .PID.core where that exists
    #[arg(short, long, value_name = "DUMP")]
    pub(super) output: Option<PathBuf>,

    /// Replace a dump that exists
    #[arg(long)]
    pub(super) force: bool,

    /// Show on standard error how far a dump has come that takes more than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) progress: ProgressMode,

    /// Arguments of the guest
    #[arg(last = true, value_name = "ARGS")]
    pub(super) args: Vec<String>,
}

impl Run {
    /// The guest's file name: its process's name and argv[0].
    pub(super) fn name(&self) -> String {
        self.guest.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn limit(&self) -> String {
        format!("stopped after {} s", self.time_limit.unwrap_or_default().as_secs_f64())
    }

    /// Returns the message for a guest whose thread is blocked in the host.
    pub(super) fn blocked(&self) -> String {
        let (name, limit) = (self.name(), self.limit());
        format!("{name}: {limit}, blocked in a host call, cannot be dumped")
    }
}

/// Returns the moment at which a limit that starts now ends; `None` if the clock ends before.
pub(super) fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}
