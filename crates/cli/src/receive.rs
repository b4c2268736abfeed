//! `corestream receive`, the receiver for `dump --to`. It verifies each dump while it streams, and gives it its name
//! once it is complete and intact.

mod intake;
mod keep;
mod last_byte;
mod listen;
mod naming;
mod pace;
mod room;
mod serve;
#[cfg(test)]
mod test_support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use corestream::{ByteSize, FileOptions, UnnamedFile};

use self::intake::Terms;
use self::keep::Keeper;
use self::naming::Naming;
use self::pace::Limits;
use self::serve::Receiver;
use crate::dump::{parse_nonzero_size, parse_seconds};
use crate::limits::MAX_SENDERS;
use crate::listener::Listener;
use crate::log;
use crate::number_option::within;
use crate::peer::Peer;
use crate::report::{self, Failure};
use crate::stop::Stop;

/// Receive dumps from `dump --to`, verify each, and keep the intact ones
///
/// Prints the address that it listens on to standard output, and one line for each sender to standard error. Each
/// sender gets a reply: `ok`, or the reason why its dump was not kept. Existing files are never overwritten.
/// Connections are neither encrypted nor authenticated, so only local addresses are allowed unless `--any-host` is
/// given.
#[derive(Args)]
pub struct Receive {
    /// Listen on tcp:HOST:PORT or unix:PATH; port 0 means any free port
    #[arg(value_name = "ADDRESS",
          value_parser = OsStringValueParser::new().try_map(Peer::to_listen_on))]
    address: Peer,

    /// Write each dump to a file named by this pattern: %p is the process id of the receiver, %t the Unix time, %n the
    /// sanitized name of the guest's process, and %% a percent sign. If the name exists, .1, .2 and so on is appended
    #[arg(short, long, value_name = "PATTERN")]
    output: PathBuf,

    /// Maximum number of senders served at once; others wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = within(1..=MAX_SENDERS),
          allow_negative_numbers = true)]
    max_senders: u16,

    /// Maximum size of a dump, such as 8GiB; by default the free space of the disk
    #[arg(long, value_name = "SIZE", value_parser = parse_nonzero_size)]
    max_size: Option<ByteSize>,

    /// Drop a sender that sends nothing for this many seconds, such as 0.5
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_seconds,
          allow_negative_numbers = true)]
    timeout: Duration,

    /// Minimum rate of a sender in bytes per second, averaged over --timeout; 0 means any rate
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(1024))]
    min_rate: ByteSize,

    /// Maximum seconds for a whole dump; unlimited by default
    #[arg(long, value_name = "S", value_parser = parse_seconds, allow_negative_numbers = true)]
    max_time: Option<Duration>,

    /// Exit after the first sender that sends any bytes: with 0 if its dump is intact, 3 if it is damaged or truncated,
    /// otherwise 1
    #[arg(long)]
    once: bool,

    /// Keep the received part of a truncated or damaged dump, under a name that ends in .partial
    #[arg(long)]
    keep_partial: bool,

    /// Maximum number of .partial files in the directory
    #[arg(long, value_name = "N", default_value_t = 100, requires = "keep_partial",
          value_parser = within(0..=usize::MAX), allow_negative_numbers = true)]
    max_partials: usize,

    /// Accept dumps of other tools too. They do not state their length, so a dump that is truncated between two
    /// sections looks intact
    #[arg(long)]
    any_tool: bool,

    /// Allow an address that other machines can reach, with --max-size; connections are neither encrypted nor
    /// authenticated
    #[arg(long)]
    any_host: bool,

    /// Sync each dump and its name to disk before replying `ok`
    #[arg(long)]
    sync: bool,
}

impl Receive {
    pub fn run(self) -> Result<ExitCode, Failure> {
        if self.any_host && self.max_size.is_none() {
            return Err(Failure::usage(
                "receive: with --any-host one sender from anywhere could fill the disk: say how large \
                 a dump may be with --max-size, such as 8GiB",
            ));
        }
        let output = self.output.display();
        let naming = Naming::new(&self.output);
        let naming = naming.map_err(|why| Failure::usage(format!("-o {output}: {why}")))?;
        let stop = Stop::watch("receive");
        let stop = stop.map_err(|e| Failure::new(format!("receive: cannot watch signals: {e}")))?;
        // Fails before the first sender if files cannot be created in the directory.
        drop(UnnamedFile::create_in(naming.directory(), FileOptions::new())?);
        let listener = Listener::bind("receive", &self.address, self.any_host)?;
        log::never_wait().map_err(|e| {
            Failure::new(format!("receive: cannot start a thread for standard error: {e}"))
        })?;
        let max_partials = self.keep_partial.then_some(self.max_partials);
        let receiver = Receiver {
            terms: self.terms(),
            keeper: Keeper::new(naming, FileOptions::new().sync(self.sync), max_partials),
            listener,
            stop,
            turn: Mutex::new(()),
            is_short: AtomicBool::new(false),
        };
        receiver.check_descriptors()?;
        receiver.listener.announce("receive")?;
        let served = if self.once { receiver.once() } else { receiver.serve(self.max_senders) };
        match (served, receiver.stop.failure()) {
            (Ok(true), _) | (Ok(false), None) => Ok(ExitCode::SUCCESS),
            (Ok(false), Some(stopped)) => Err(stopped),
            (Err(failure), None) => Err(failure),
            (Err(failure), Some(stopped)) => {
                report::line(&failure.message);
                Err(stopped)
            }
        }
    }

    /// Returns the limits on senders.
    fn terms(&self) -> Terms {
        let min_rate = self.min_rate.into();
        let pace = Limits { timeout: self.timeout, min_rate, max_time: self.max_time };
        let (max_size, any_tool) = (self.max_size.map(u64::from), self.any_tool);
        Terms { max_size, pace, any_tool, keep_damaged: self.keep_partial }
    }
}
