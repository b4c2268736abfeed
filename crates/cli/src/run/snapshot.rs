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

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corestream::snapshot::{AtLimit, Faults, Preparation, SnapshotOptions, SnapshotStats};
use corestream::{ByteSize, CoreDump, Dumper, InstanceIndex};
use corestream_wasmtime::HostMemories;

use self::exchange::{Frozen, Offer, Taken};
use self::requests::{Request, Requests};
use super::arguments::Run;
use super::target::{Target, Targets};
use crate::dump;
use crate::progress::{ProgressDisplay, ProgressMode};
use crate::report::{self, Failure};
use crate::signals::Interrupt;

pub use self::exchange::Exchange;
pub use self::signals::SignalName;

/// How long the guest may take to freeze before a line says that it does not.
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
    /// The index of the first function that the tool has added to the guest.
    pub first_added: u32,
}

impl Snapshots {
    /// Starts the threads. Requests are served from now on.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn start(run: &Run, setup: Setup) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("cannot start a thread for snapshots: {error}"));
        let requests = Requests::start(&run.snapshot_on, run.snapshot_every).map_err(failed)?;
        let exchange = setup.exchange.clone();
        let served = requests.queue();
        let serve = move || SnapshotThread { setup, count: 0, is_copying: false }.run(&served);
        let thread =
            thread::Builder::new().name("snapshots".into()).spawn(serve).map_err(failed)?;
        Ok(Self { requests, exchange, thread })
    }

    /// Waits for a snapshot that has begun, after the guest has ended. Returns the number of snapshots.
    pub fn finish(self) -> u64 {
        self.requests.stop();
        self.exchange.end();
        // A panic of the thread was reported by the panic hook.
        self.thread.join().unwrap_or(0)
    }
}

/// The thread that takes snapshots.
struct SnapshotThread {
    setup: Setup,
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
        report::line(&interrupted.message);
        std::process::exit(interrupted.code.into())
    }

    /// Takes one snapshot. Returns the line to report.
    fn take(&mut self) -> Result<String, Failure> {
        let start = Instant::now();
        let target = self.setup.targets.snapshot(self.count)?;
        let offer = self.prepare()?;
        self.setup.exchange.offer(offer);
        let Some(Taken { frozen, pause, host_call }) = self.wait() else {
            return Err(Failure::new(format_args!("{} has ended", self.setup.name)));
        };
        let frozen = frozen.map_err(Failure::from)?;
        let place = host_call.map(|name| format!("frozen in the host call {name}"));
        let written = self.write_at_lowest_priority(frozen, &target, place);
        let Written { stats, bytes } = self.setup.interrupt.end_clean_up(written)?;
        let copied = match stats {
            Some(stats) => format!("{} copied aside", report::count(stats.copied_pages, "page"),),
            None => "memory copied".into(),
        };
        Ok(format!(
            "{}: snapshot {}: pause {:.3} ms, {copied}, {} in {:.2} s",
            target.path.display(),
            self.count,
            pause.as_secs_f64() * 1e3,
            report::bytes(bytes),
            start.elapsed().as_secs_f64(),
        ))
    }

    /// Protects the memory, or decides that it must be copied.
    fn prepare(&mut self) -> Result<Offer, Failure> {
        if !self.is_copying {
            match self.protect() {
                Ok(preparation) => return Ok(Offer::Protected(preparation)),
                Err(error) => {
                    self.is_copying = true;
                    report::line(&format!(
                        "snapshots stop the guest while its memory is copied, because the memory cannot be protected: \
                         {error}"
                    ));
                }
            }
        }
        Ok(Offer::Copy(self.setup.copy_limit.0))
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
        place: Option<String>,
    ) -> Result<Written, Failure> {
        thread::scope(|scope| {
            let write = move || {
                // Without a lower priority, the dump disturbs the guest more.
                let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
                self.write(frozen, target, place)
            };
            let thread = thread::Builder::new().spawn_scoped(scope, write);
            let failed = |error| Failure::new(format!("cannot start a thread: {error}"));
            let result = thread.map_err(failed)?.join();
            result.unwrap_or_else(|_| Err(Failure::new("the thread that dumps has failed")))
        })
    }

    fn write(
        &self,
        frozen: Frozen,
        target: &Target,
        place: Option<String>,
    ) -> Result<Written, Failure> {
        let (mut dump, snapshot) = match frozen {
            Frozen::Protected(mut frozen) => {
                let dump = std::mem::take(&mut frozen.snapshot.dump);
                (dump, Some(frozen.snapshot))
            }
            Frozen::Copied(dump) => (dump, None),
        };
        self.complete(&mut dump, place);
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get());
        let dumper = Dumper::new().threads(threads.saturating_sub(1).max(1));
        let plan = dumper.cancel(self.setup.interrupt.cancel()).plan(&dump)?;
        let progress = ProgressDisplay::start(ProgressMode::Never, target.output.name());
        let (timeout, interrupt) = (self.setup.write_timeout, &self.setup.interrupt);
        dump::write(&plan, &target.output, timeout, interrupt, &progress)?;
        progress.finish();
        let bytes = plan.len();
        let stats = snapshot.map(corestream::snapshot::Snapshot::finish).transpose()?;
        Ok(Written { stats, bytes })
    }

    /// Adds what the guest's thread had no time for.
    fn complete(&self, dump: &mut CoreDump<'_>, place: Option<String>) {
        for thread in &mut dump.threads {
            thread.frames.retain(|frame| frame.function < self.setup.first_added);
            // `run` has only one instance.
            for frame in &mut thread.frames {
                frame.instance = frame.instance.or(Some(InstanceIndex(0)));
            }
        }
        dump.notes.extend(place);
    }
}

/// A written dump.
struct Written {
    /// The cost of the snapshot, or `None` if the memory was copied.
    stats: Option<SnapshotStats>,
    /// The length of the dump.
    bytes: u64,
}
