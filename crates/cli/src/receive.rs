//! `corestream receive`: the other end of `dump --to`. Takes dumps, verifies each while it streams, and
//! gives it its name when it is whole.

mod intake;
mod keep;
mod last_byte;
mod listen;
mod naming;
mod pace;
mod room;
mod serve;
mod socket_file;
mod stop;
#[cfg(test)]
mod test_support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use clap::Args;
use corestream::{ByteSize, FileOptions, UnnamedFile, Visible};

use self::intake::Terms;
use self::keep::Keeper;
use self::listen::Listener;
use self::naming::Naming;
use self::pace::Limits;
use self::serve::Receiver;
use self::stop::Stop;
use crate::dump::{seconds, some_bytes};
use crate::limits::MAX_SENDERS;
use crate::log;
use crate::peer::Peer;
use crate::report::{self, Failure};

/// Takes dumps from `dump --to`, verifies each, and gives it its name when it is whole
///
/// Prints the address it listens on to standard output, and one line for each sender to standard error. Each
/// sender gets a reply: `ok`, or the reason why its dump was not kept. Nothing is ever overwritten. There is no
/// encryption and no authentication, so it listens only on addresses of this machine, unless `--any-host` is given.
#[derive(Args)]
pub struct Receive {
    /// Where to listen: tcp:HOST:PORT or unix:PATH; port 0 is any that is free
    #[arg(value_name = "ADDRESS", value_parser = Peer::to_listen_on)]
    address: Peer,

    /// Files that the dumps become; %p, %t, %n and %% in it are the process id of this receiver, the
    /// Unix time, the name of the guest's process, made harmless, and a percent sign. A name that is
    /// taken gets .1, .2 and so on
    #[arg(short, long, value_name = "PATTERN")]
    output: PathBuf,

    /// Senders that are served at once; more of them wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SENDERS)))]
    max_senders: u16,

    /// Size that a dump may have, such as 8GiB; by default it may take all the room there is
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    max_size: Option<ByteSize>,

    /// Seconds after which a sender that sends nothing is dropped, such as 0.5
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    timeout: Duration,

    /// Bytes that a sender must send per second at least, over the time of --timeout; 0 is any
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(1024))]
    min_rate: ByteSize,

    /// Seconds that a sender may take for all of its dump; by default as many as it needs
    #[arg(long, value_name = "S", value_parser = seconds)]
    max_time: Option<Duration>,

    /// End after the first sender that sends anything: 0 if its dump is whole, 3 if it is damaged or cut
    /// off, else 1
    #[arg(long)]
    once: bool,

    /// Keep what has come of a dump that is cut off or damaged, under a name that ends in .partial
    #[arg(long)]
    keep_partial: bool,

    /// Most .partial files to keep in the directory
    #[arg(long, value_name = "N", default_value_t = 100, requires = "keep_partial")]
    max_partials: usize,

    /// Take dumps of other tools too, which do not say how long they are: one that is cut off between
    /// two of its sections looks whole
    #[arg(long)]
    any_tool: bool,

    /// Listen on an address that other machines reach, with --max-size; nothing is encrypted, and anybody
    /// can send
    #[arg(long)]
    any_host: bool,

    /// Wait until a dump and its name are on disk before it counts as received
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
        let stop = Stop::watch();
        let stop = stop.map_err(|e| Failure::new(format!("receive: cannot watch signals: {e}")))?;
        // What can't be done is said before anybody sends something.
        drop(UnnamedFile::create_in(naming.directory(), FileOptions::new())?);
        let listener = Listener::bind(&self.address, self.any_host)?;
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
        announce(receiver.listener.name())?;
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

    /// What a sender may do.
    fn terms(&self) -> Terms {
        let min_rate = self.min_rate.into();
        let pace = Limits { timeout: self.timeout, min_rate, max_time: self.max_time };
        let (max_size, any_tool) = (self.max_size.map(u64::from), self.any_tool);
        Terms { max_size, pace, any_tool, keep_damaged: self.keep_partial }
    }
}

/// How long standard output may take for the line that says where the receiver listens.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// Says on standard output where the receiver listens. If standard output is not read, a thread keeps trying:
/// the receiver serves its senders meanwhile, and a signal can end it.
fn announce(name: &str) -> Result<(), Failure> {
    let line = format!("listening on {}\n", Visible(name));
    let (done, is_done) = mpsc::channel();
    thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || {
            // Nobody waits any more when it took too long.
            let _ = done.send(report::result(&line));
        })
        .map_err(|e| Failure::new(format!("receive: cannot start a thread: {e}")))?;
    match is_done.recv_timeout(ANNOUNCEMENT) {
        Ok(announced) => announced,
        Err(_) => {
            report::line(&format!(
                "warning: receive: standard output is not read, listening on {name} all the same"
            ));
            Ok(())
        }
    }
}
