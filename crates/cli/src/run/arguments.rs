//! The arguments of `corestream run`, and values derived from them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args, ValueEnum};
use corestream::ByteSize;
use corestream::snapshot::AtLimit;

use super::options::{Directory, Variable};
use super::snapshot::SignalName;
use super::target::Targets;
use crate::dump;
use crate::limits::MAX_FRAMES;
use crate::number_option::within;
use crate::peer::Peer;
use crate::progress::ProgressMode;

/// Run a guest with WASI, and dump it if it traps or exceeds the time limit
///
/// The guest is a core module with WASI preview 1, or a component with WASI 0.2. It inherits the standard streams. It has
/// only the environment variables and directories given by `--env` and `--dir`. `--network` adds the network. The tool
/// exits with the guest's exit code. Imports and exports are checked before the guest is compiled. So are the arguments of
/// `--invoke`; those for a component are checked before it starts.
#[derive(Args)]
#[command(group(ArgGroup::new("snapshots").multiple(true)))]
pub struct Run {
    /// The guest: a core module or a component, in the binary or text format
    #[arg(value_name = "GUEST")]
    pub(super) guest: PathBuf,

    /// Call this function instead of `_start` or `wasi:cli/run`. ARGS are the values of its parameters: integers and floats
    /// as in the text format (-1, 0xff, 1_000, 0x1p-3, nan), vectors as i32x4:1,2,3,4, and null. For a component, write the
    /// call with values in WAVE, such as 'add(1, 2)', 'docs:adder/add@0.1.0#add(1, 2)' or 'greet("you")'
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

    /// Let a component use the host's network: TCP, UDP and name lookup
    #[arg(long)]
    pub(super) network: bool,

    /// Write a dump to this file, with %p, %t, %n and %% as in `dump`; the default is the guest's file name with .core,
    /// or with .PID.core if that exists
    ///
    /// With snapshots, %c stands for the number of the dump. Without it, the number of a snapshot is added before the
    /// extension.
    #[arg(short, long, value_name = "DUMP")]
    pub(super) output: Option<PathBuf>,

    /// Connect to a receiver and send it each dump: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "PEER", conflicts_with_all = ["output", "debug"],
          value_parser = OsStringValueParser::new().try_map(Peer::to_connect_to))]
    pub(super) to: Option<Peer>,

    /// Seconds, such as 0.5, to wait for the other side before a dump fails; by default, forever
    #[arg(long, value_name = "S", value_parser = dump::parse_seconds, allow_negative_numbers = true)]
    pub(super) write_timeout: Option<Duration>,

    /// Dump the running guest when the tool receives one of these signals, such as USR1; the guest goes on
    ///
    /// The guest stands still for about a millisecond, and the dump is its state at that moment. It is written while the
    /// guest runs. Signals that the tool or the engine uses are refused. A component then runs as slowly as with
    /// `--locals`.
    #[arg(long, value_name = "SIGNAL", value_delimiter = ',', group = "snapshots")]
    pub(super) snapshot_on: Vec<SignalName>,

    /// Dump the running guest every S seconds; the guest goes on
    #[arg(long, value_name = "S", value_parser = dump::parse_seconds, allow_negative_numbers = true,
          group = "snapshots")]
    pub(super) snapshot_every: Option<Duration>,

    /// Maximum size of the copies of pages to which the guest writes before a snapshot has dumped them
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = dump::parse_nonzero_size,
          allow_negative_numbers = true, requires = "snapshots")]
    pub(super) copy_limit: ByteSize,

    /// What happens when the copies reach their limit
    #[arg(long, value_name = "WHAT", default_value = "fail", requires = "snapshots")]
    pub(super) at_copy_limit: AtCopyLimit,

    /// After a trap, open the dump in LLDB as `debug --lldb` does, and exit with its exit code; implies --locals
    #[arg(long)]
    pub(super) debug: bool,

    /// Replace imported functions that WASI does not provide with stubs that trap when called
    #[arg(long)]
    pub(super) stub_imports: bool,

    /// Keep the compiled guest in Wasmtime's cache, and use it from there the next time
    ///
    /// The cache is a directory of the user, usually `~/.cache/wasmtime`. Wasmtime's configuration file can move and
    /// limit it. The tool `wasmtime` uses the same one.
    #[arg(long)]
    pub(super) cache: bool,

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

/// What happens when the copies of a snapshot reach their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AtCopyLimit {
    /// The snapshot fails, and the guest goes on
    Fail,
    /// The next write of the guest waits until the dump has made progress
    Wait,
}

impl From<AtCopyLimit> for AtLimit {
    fn from(at_limit: AtCopyLimit) -> Self {
        match at_limit {
            AtCopyLimit::Fail => Self::Fail,
            AtCopyLimit::Wait => Self::Wait,
        }
    }
}

impl Run {
    /// Returns whether snapshots can be requested.
    pub(super) fn has_snapshots(&self) -> bool {
        !self.snapshot_on.is_empty() || self.snapshot_every.is_some()
    }

    /// Returns the destinations of the dumps.
    pub(super) fn targets(&self) -> Targets {
        Targets {
            name: self.name(),
            guest: self.guest.clone(),
            pattern: self.output.clone(),
            peer: self.to.clone(),
            force: self.force,
        }
    }

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
