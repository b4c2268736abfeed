//! Snapshots of the running guest: `--snapshot-on` and `--snapshot-every`.
//!
//! # Threads
//! - A thread waits for the signals and passes each of them on as a request ([`requests`]).
//! - The snapshot thread ([`Snapshots`]) prepares a snapshot while the guest runs, offers it to the guest's thread, and
//!   dumps the frozen guest while it runs on.
//! - The guest's thread takes the offer ([`Exchange`]) at its next epoch check or in a host call that waits, and freezes
//!   itself.
//!
//! Nothing in a dump needs the guest's thread or its store.
//!
//! # Writes of the guest
//! A write to a page of a snapshot raises SIGBUS in the guest's thread ([`Faults::Signal`]). The condition for that is
//! that no system call writes to the memory of the guest. WASI in `wasmtime-wasi` reads into buffers of its own, because
//! the tool does not turn on `allow_blocking_current_thread`.
#![allow(unsafe_code)]

mod exchange;
mod requests;
mod signals;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corestream::snapshot::{AtLimit, Faults, Preparation, SnapshotOptions, SnapshotStats};
use corestream::{ByteSize, CoreDump, Dumper, ErrorKind, InstanceIndex};
use corestream_wasmtime::{HostMemories, Note};
use rustix::io::Errno;

use self::exchange::{Frozen, Offer, Taken};
use self::requests::Request;
use super::arguments::Run;
use super::cause;
use super::target::{Target, Targets};
use crate::dump;
use crate::progress::{ProgressDisplay, ProgressMode};
use crate::report::{self, Failure};
use crate::signals::Interrupt;

pub use self::exchange::{Exchange, GuestState, SnapshotPoint};
pub use self::requests::Requests;
pub use self::signals::SignalName;

/// How long the guest may take to freeze before a line reports that the snapshot waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// The priority of the threads that dump, so that the guest runs first.
const LOWEST_PRIORITY: i32 = 19;

/// The snapshots of one guest.
pub struct Snapshots {
    requests: Requests,
    exchange: Arc<Exchange>,
    thread: JoinHandle<u64>,
}

/// The part of the options that the snapshot thread needs.
pub struct Setup {
    pub name: String,
    pub targets: Targets,
    pub memories: Arc<HostMemories>,
    pub exchange: Arc<Exchange>,
    pub interrupt: Arc<Interrupt>,
    pub copy_limit: ByteSize,
    pub at_limit: AtLimit,
    pub write_timeout: Option<Duration>,
    /// The index of the first function that the tool has added to the guest, if it is a core module.
    pub first_added: Option<u32>,
}

impl Snapshots {
    /// Receives requests from now on, which are served once the guest runs.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn requests(run: &Run) -> Result<Requests, Failure> {
        Requests::start(&run.snapshot_on, run.snapshot_every).map_err(cannot_start)
    }

    /// Starts the snapshot thread. Requests are served from now on.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started.
    pub fn start(requests: Requests, setup: Setup) -> Result<Self, Failure> {
        requests.begin();
        let exchange = setup.exchange.clone();
        let served = requests.queue();
        let setup = Arc::new(setup);
        let serve = move || SnapshotThread { setup, count: 0, is_copying: false }.run(&served);
        let thread =
            thread::Builder::new().name("snapshots".into()).spawn(serve).map_err(cannot_start)?;
        Ok(Self { requests, exchange, thread })
    }

    /// Waits for a snapshot that has begun, after the guest has ended. Returns the number of snapshots.
    pub fn finish(self) -> u64 {
        let dropped = self.requests.stop();
        self.exchange.end();
        // A panic of the thread was reported by the panic hook.
        let count = self.thread.join().unwrap_or(0);
        if dropped > 0 {
            let requests = report::count(dropped as u64, "request");
            report::line(&format!("no snapshot for {requests}: the guest has ended"));
        }
        count
    }
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::new(format!("cannot start a thread for snapshots: {error}"))
}

/// The thread that takes snapshots.
struct SnapshotThread {
    setup: Arc<Setup>,
    /// The number of snapshots so far.
    count: u64,
    /// Whether the guest is copied, because its memory cannot be protected.
    is_copying: bool,
}

impl SnapshotThread {
    /// Serves requests. Returns the number of snapshots.
    fn run(mut self, requests: &requests::Queue) -> u64 {
        while let Some(Request) = requests.next() {
            self.count += 1;
            match self.take() {
                Ok(line) => report::line(&line),
                Err(failure) => match self.setup.interrupt.failure() {
                    Some(interrupted) => self.exit(&interrupted),
                    None => {
                        report::line(&format!("no snapshot {}: {}", self.count, failure.message))
                    }
                },
            }
        }
        self.count
    }

    /// Exits because a signal has stopped a dump. The dump has removed its output.
    #[allow(clippy::exit, reason = "the guest runs in the main thread")]
    fn exit(&self, interrupted: &Failure) -> ! {
        let (message, code) = match self.setup.interrupt.code_of_guest() {
            Some(code) => (format!("no core dump: {}", interrupted.message), code),
            None => (interrupted.message.clone(), interrupted.code),
        };
        report::line(&message);
        std::process::exit(code.into())
    }

    /// Takes one snapshot. Returns the line to report.
    fn take(&mut self) -> Result<String, Failure> {
        let start = Instant::now();
        let target = self.setup.targets.snapshot(self.count)?;
        let path = target.path.display().to_string();
        let offer = self.prepare();
        let is_copied = matches!(offer, Offer::Copy(_));
        let mut taken = self.offer(offer)?;
        let is_too_large = |error: &corestream::Error| error.kind() == ErrorKind::Guest;
        if is_copied && taken.frozen.as_ref().is_err_and(is_too_large) {
            taken = self.offer(self.stop(target))?;
            let written = match taken.frozen.map_err(Failure::from)? {
                Frozen::Written(written) => self.setup.interrupt.end_clean_up(written)?,
                Frozen::Protected(_) | Frozen::Copied(..) => {
                    return Err(Failure::new("the guest's thread did not dump the guest"));
                }
            };
            return Ok(self.line(&path, taken.pause, "the guest stood still", written, start));
        }
        let frozen = taken.frozen.map_err(Failure::from)?;
        let written = self.write_at_lowest_priority(frozen, &target, taken.host_call);
        let (stats, bytes) = self.setup.interrupt.end_clean_up(written)?;
        let how = match stats {
            Some(stats) => format!("{} copied aside", report::count(stats.copied_pages, "page")),
            None => "all memory copied".into(),
        };
        Ok(self.line(&path, taken.pause, &how, bytes, start))
    }

    fn line(&self, path: &str, pause: Duration, how: &str, bytes: u64, start: Instant) -> String {
        format!(
            "{path}: snapshot {}: pause {:.3} ms, {how}, {} in {:.2} s",
            self.count,
            pause.as_secs_f64() * 1e3,
            report::bytes(bytes),
            start.elapsed().as_secs_f64(),
        )
    }

    /// Offers a way to freeze the guest, and waits until its thread has taken it.
    ///
    /// # Errors
    /// Returns an error if the guest has ended.
    fn offer(&self, offer: Offer) -> Result<Taken, Failure> {
        self.setup.exchange.offer(offer);
        self.wait().ok_or_else(|| Failure::new(format_args!("{} has ended", self.setup.name)))
    }

    /// Protects the memory, or decides that it must be copied.
    fn prepare(&mut self) -> Offer {
        if !self.is_copying {
            match self.protect() {
                Ok(preparation) => return Offer::Protected(preparation),
                Err(error) => {
                    self.is_copying = !is_temporary(&error);
                    report::line(&format!(
                        "the guest stands still while its memory is copied, because the memory cannot be protected: \
                         {error}"
                    ));
                }
            }
        }
        Offer::Copy(self.setup.copy_limit.0)
    }

    /// Returns the offer to dump the guest on its own thread, if it has too much memory to copy.
    fn stop(&self, target: Target) -> Offer {
        let setup = self.setup.clone();
        Offer::Stop(Box::new(move |mut dump, notes, host_call| {
            setup.complete(&mut dump, notes, host_call);
            setup.write(&dump, &target, 0)
        }))
    }

    fn protect(&self) -> corestream::Result<Preparation> {
        let options = SnapshotOptions::new()
            .copy_limit(self.setup.copy_limit.0)
            .at_limit(self.setup.at_limit)
            .faults(Faults::Signal);
        // SAFETY: WASI writes to the memory of the guest only in user mode, and nothing else in this process does. The
        // handler for SIGBUS was installed before the guest was started.
        unsafe { self.setup.memories.prepare(&options) }
    }

    /// Waits until the guest is frozen. Returns `None` if it has ended.
    fn wait(&self) -> Option<Taken> {
        let exchange = &self.setup.exchange;
        match exchange.wait(Some(PATIENCE)) {
            exchange::Wait::Taken(taken) => return Some(taken),
            exchange::Wait::Ended => return None,
            exchange::Wait::TimedOut => report::line(&format!(
                "snapshot {} waits until {} leaves its start function, a host function, or a long memory.fill, \
                 memory.copy or memory.grow",
                self.count, self.setup.name
            )),
        }
        match exchange.wait(None) {
            exchange::Wait::Taken(taken) => Some(taken),
            _ => None,
        }
    }

    /// Dumps the frozen guest in a thread that lets the guest run first. This thread keeps its priority, which the
    /// threads of the next snapshot inherit.
    fn write_at_lowest_priority(
        &self,
        frozen: Frozen,
        target: &Target,
        host_call: Option<&'static str>,
    ) -> Result<(Option<SnapshotStats>, u64), Failure> {
        let (mut dump, snapshot, notes) = match frozen {
            Frozen::Protected(mut frozen) => {
                let dump = std::mem::take(&mut frozen.snapshot.dump);
                (dump, Some(frozen.snapshot), frozen.notes)
            }
            Frozen::Copied(dump, notes) => (dump, None, notes),
            Frozen::Written(written) => return Ok((None, written?)),
        };
        self.setup.complete(&mut dump, notes, host_call);
        let bytes = thread::scope(|scope| {
            let write = || {
                // Without a lower priority, the dump disturbs the guest more.
                let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
                // One core is left to the guest.
                self.setup.write(&dump, target, 1)
            };
            let thread = thread::Builder::new().spawn_scoped(scope, write);
            let failed = |error| Failure::new(format!("cannot start a thread: {error}"));
            let result = thread.map_err(failed)?.join();
            result.unwrap_or_else(|_| Err(Failure::new("the thread that dumps has failed")))
        })?;
        // The dump is complete, even if the snapshot fails now.
        let stats = snapshot.as_ref().map(corestream::snapshot::Snapshot::stats);
        Ok((stats, bytes))
    }
}

/// Returns whether memory may be protected at the next attempt, although this one has failed.
fn is_temporary(error: &corestream::Error) -> bool {
    let temporary = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    let number = error.io_error().and_then(io::Error::raw_os_error);
    number.is_some_and(|number| temporary.contains(&Errno::from_raw_os_error(number)))
}

impl Setup {
    /// Completes the description of a frozen guest. The guest's thread leaves this to the snapshot thread, to keep the
    /// pause short.
    fn complete(
        &self,
        dump: &mut CoreDump<'_>,
        mut notes: Vec<Note>,
        host_call: Option<&'static str>,
    ) {
        if let Some(first_added) = self.first_added {
            self.exchange.place_shared(dump, &mut notes);
            for thread in &mut dump.threads {
                thread.frames.retain(|frame| frame.function < first_added);
                // A core module has only one instance.
                for frame in &mut thread.frames {
                    frame.instance = frame.instance.or(Some(InstanceIndex(0)));
                }
            }
            notes.retain(|note| !matches!(note, Note::FrameInstances { .. }));
        }
        dump.notes.extend(host_call.map(|name| format!("frozen in the host call {name}")));
        dump.notes.extend(notes.iter().map(cause::note));
    }

    /// Writes a dump, with threads for all cores but `spared` ones. Returns its length.
    fn write(&self, dump: &CoreDump<'_>, target: &Target, spared: usize) -> Result<u64, Failure> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let dumper = Dumper::new().threads(cores.saturating_sub(spared).max(1));
        let plan = dumper.cancel(self.interrupt.cancel()).plan(dump)?;
        let progress = ProgressDisplay::start(ProgressMode::Never, target.output.name());
        dump::write(&plan, &target.output, self.write_timeout, &self.interrupt, &progress)?;
        progress.finish();
        Ok(plan.len())
    }
}
