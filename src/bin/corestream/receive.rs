//! `corestream receive`: the other end of `dump --to`. Takes dumps, verifies each while it streams, and
//! gives it its name when it is whole.

mod intake;
mod listen;
mod naming;
mod stop;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use corestream::{FileOptions, UnnamedFile};

use self::intake::{Fault, Received, Terms};
use self::listen::{Connection, Listener};
use self::naming::Naming;
use self::stop::{Ready, Stop};
use crate::dump::seconds;
use crate::peer::Peer;
use crate::report::{self, Failure};
use crate::verify;

/// Bytes of the stack of a thread: what it reads into is not on it.
const STACK: usize = 512 << 10;

/// How long to wait when a sender can't be taken, since there are too many open files.
const BREATH: Duration = Duration::from_secs(1);

/// Takes dumps from `dump --to`, verifies each, and gives it its name when it is whole
///
/// Where it listens is a line of standard output; what became of each sender is one of standard
/// error. Nothing is ever overwritten. Nothing is encrypted and nobody has to prove who they are,
/// so that only addresses of this machine are listened on, unless `--any-host` is given.
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
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    max_senders: u16,

    /// Bytes that a dump may have; by default as many as there is room for
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    max_size: Option<u64>,

    /// Seconds after which a sender that sends nothing is dropped, such as 0.5
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    timeout: Duration,

    /// End after the first sender: 0 if its dump is whole, 3 if it is damaged or cut off, else 1
    #[arg(long)]
    once: bool,

    /// Keep what has come of a dump that is cut off or damaged, under a name that ends in .partial
    #[arg(long)]
    keep_partial: bool,

    /// Take dumps of other tools too, which do not say how long they are: one that is cut off between
    /// two of its sections looks whole
    #[arg(long)]
    any_tool: bool,

    /// Listen on an address that other machines reach; nothing is encrypted, and anybody can send
    #[arg(long)]
    any_host: bool,

    /// Wait until a dump and its name are on disk before it counts as received
    #[arg(long)]
    sync: bool,
}

impl Receive {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let output = self.output.display();
        let naming = Naming::new(&self.output);
        let naming = naming.map_err(|why| Failure::usage(format!("-o {output}: {why}")))?;
        let stop = Stop::watch();
        let stop = stop.map_err(|e| Failure::new(format!("receive: cannot watch signals: {e}")))?;
        // What can't be done is said before anybody sends something.
        drop(UnnamedFile::create_in(naming.folder(), FileOptions::new())?);
        let listener = Listener::bind(&self.address, self.any_host)?;
        report::result(&report::escaped(&format!("listening on {}", listener.name())))?;
        let terms =
            Terms { max_size: self.max_size, timeout: self.timeout, any_tool: self.any_tool };
        let receiver = Receiver { options: &self, naming, terms, listener, stop };
        let served = if self.once { receiver.once() } else { receiver.serve() };
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
}

/// What all threads share.
struct Receiver<'r> {
    options: &'r Receive,
    naming: Naming,
    terms: Terms,
    listener: Listener,
    stop: Stop,
}

impl Receiver<'_> {
    /// Serves senders until a signal comes: a thread for each that may be served at once.
    fn serve(&self) -> Result<bool, Failure> {
        thread::scope(|scope| {
            for i in 1..self.options.max_senders {
                let builder = thread::Builder::new().stack_size(STACK);
                // The other threads go on: a receiver with fewer places is better than none.
                let serve = || {
                    if let Err(failure) = self.serve_in_turn() {
                        report::line(&failure.message);
                    }
                };
                if let Err(error) = builder.spawn_scoped(scope, serve) {
                    report::line(&format!(
                        "warning: receive: no more than {i} senders at once: {error}"
                    ));
                    break;
                }
            }
            self.serve_in_turn()
        })
    }

    /// Serves one sender after the other until a signal comes.
    fn serve_in_turn(&self) -> Result<bool, Failure> {
        while let Some(connection) = self.accept()? {
            match self.take(&connection) {
                Ok(line) => report::line(&line),
                Err(failure) => report::line(&failure.message),
            }
        }
        Ok(false)
    }

    /// Serves one sender, whose dump must be whole; `false` if a signal comes before.
    fn once(&self) -> Result<bool, Failure> {
        let Some(connection) = self.accept()? else { return Ok(false) };
        report::line(&self.take(&connection)?);
        Ok(true)
    }

    /// Waits for the next sender; `None` if a signal comes.
    fn accept(&self) -> Result<Option<Connection>, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(format!("receive: {}: {what}: {error}", self.listener.name()))
        };
        loop {
            match self.stop.wait(self.listener.as_fd(), None) {
                Ok(Ready::Readable) => {}
                Ok(Ready::Stopped | Ready::TimedOut) => return Ok(None),
                Err(error) => return Err(failed("cannot wait", error)),
            }
            match self.listener.accept() {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if is_of_no_matter(&error) => {}
                Err(error) => {
                    report::line(&failed("cannot take a sender", error).message);
                    // An error here is one of the wait above too.
                    let _ = self.stop.pause(BREATH);
                }
            }
        }
    }

    /// Takes a sender's dump; gives the line that says so.
    fn take(&self, connection: &Connection) -> Result<String, Failure> {
        let peer = &connection.peer;
        let at_peer = |failure: Failure| failure.at(format_args!("receive: {peer}"));
        let options = FileOptions::new().sync(self.options.sync);
        let file = UnnamedFile::create_in(self.naming.folder(), options);
        let file = file.map_err(|error| at_peer(error.into()))?;
        let received = intake::take(connection, file.file(), &self.terms, &self.stop);
        let fault = match &received.outcome {
            Ok(whole) => {
                let path = self.name(file, &received, true).map_err(at_peer)?;
                let (path, bytes, notes) = (path.display(), whole.bytes, verify::notes(whole));
                return Ok(format!("receive: {path}: {bytes} bytes from {peer}, whole{notes}"));
            }
            Err(fault) => fault,
        };
        let mut failure = match fault {
            Fault::Broken(why) => Failure::damaged(why),
            Fault::Refused(why) => Failure::new(why),
            Fault::Stopped => Failure::new(format!("dropped after {} bytes", received.bytes)),
        };
        let keep = self.options.keep_partial && !matches!(fault, Fault::Refused(_));
        if keep && received.name.is_some() {
            let kept = match self.name(file, &received, false) {
                Ok(path) => format!("; kept as {}", path.display()),
                Err(failure) => format!("; can't be kept: {}", failure.message),
            };
            failure.message.push_str(&kept);
        }
        Err(at_peer(failure))
    }

    /// Gives a file its name.
    fn name(
        &self,
        file: UnnamedFile,
        received: &Received,
        whole: bool,
    ) -> Result<PathBuf, Failure> {
        let name = received.name.as_deref().unwrap_or_default();
        let names = self.naming.names(name, whole).map_err(Failure::new)?;
        // What was reserved and did not come.
        let cut = if whole { Ok(()) } else { file.file().set_len(received.bytes) };
        cut.map_err(Failure::new)?;
        Ok(file.commit(names)?)
    }
}

/// Whether another thread has taken the sender, or it has gone.
fn is_of_no_matter(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
