//! `corestream bench --live`: measures how long a running guest stands still for a snapshot, and how much of its speed it
//! keeps while the snapshot is dumped.

mod gaps;
mod guest;
mod results;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use corestream::snapshot::{Faults, SnapshotOptions};
use corestream::{ByteSize, CoreDump, Dumper};

use self::guest::{Round, Setup, Touched, WASM_PAGE, Writes};
use self::results::LiveResults;
use super::target::Target;
use super::{Bench, is_enough};
use crate::dump;
use crate::report::Failure;
use crate::sigbus;
use crate::signals::Interrupt;

/// How long the guest runs before and after each snapshot.
const ALONE: Duration = Duration::from_millis(300);
/// The number of bytes that the machine must have in addition to the guest.
const SPARE_BYTES: u64 = 512 << 20;

/// The options of the guest.
#[derive(Args)]
pub struct LiveOptions {
    /// Measure snapshots of a running guest with SIZE bytes of memory, all of which are touched
    ///
    /// The guest looks at the clock and writes to its memory, again and again. A gap is the time between two of these
    /// iterations. The largest gap of each phase shows how the guest experiences a snapshot.
    #[arg(long, value_name = "SIZE", value_parser = dump::parse_nonzero_size,
          allow_negative_numbers = true)]
    live: Option<ByteSize>,

    /// Pages that the guest writes per second, or `unlimited`, or `sequential` for one page after the other
    #[arg(
        long,
        value_name = "RATE",
        default_value = "1000",
        requires = "live",
        conflicts_with = "image",
        allow_negative_numbers = true
    )]
    writes: Writes,

    /// The way in which writes to memory that is not dumped yet are handled
    #[arg(
        long,
        value_name = "WAY",
        default_value = "thread",
        requires = "live",
        conflicts_with = "image"
    )]
    faults: FaultsOption,

    /// Use huge pages for the guest
    #[arg(long, requires = "live", conflicts_with = "image")]
    huge_pages: bool,

    /// Maximum size of the copies of pages to which the guest writes before a snapshot has dumped them
    #[arg(long, value_name = "SIZE", default_value = "256MiB", requires = "live", conflicts_with = "image",
          value_parser = dump::parse_nonzero_size, allow_negative_numbers = true)]
    copy_limit: ByteSize,
}

/// The way in which faults are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FaultsOption {
    /// By a thread, as by default in the library
    Thread,
    /// By SIGBUS in the writing thread, as `run` does
    Signal,
}

impl FaultsOption {
    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Signal => "signal",
        }
    }
}

impl LiveOptions {
    /// Returns the size of the guest in bytes, in whole pages of WebAssembly, or `None` if an image is measured.
    ///
    /// # Errors
    /// Returns an error if the machine has too little memory.
    fn len(&self) -> Result<Option<usize>, Failure> {
        let Some(ByteSize(size)) = self.live else { return Ok(None) };
        let rounded = size.checked_next_multiple_of(WASM_PAGE as u64);
        let len = rounded.and_then(|len| usize::try_from(len).ok().filter(|_| len <= 1 << 46));
        let Some(len) = len else {
            return Err(Failure::new(format!("--live {size}: no machine has that much memory")));
        };
        let needed = (len as u64).saturating_add(SPARE_BYTES);
        match available_memory() {
            Some(available) if available < needed => Err(Failure::new(format!(
                "a guest of {len} bytes needs {needed} bytes of memory, and {available} are available; choose a \
                 smaller --live"
            ))),
            _ => Ok(Some(len)),
        }
    }

    fn options(&self) -> SnapshotOptions {
        let faults = match self.faults {
            FaultsOption::Thread => Faults::Thread,
            FaultsOption::Signal => Faults::Signal,
        };
        SnapshotOptions::new().faults(faults).copy_limit(self.copy_limit.0)
    }
}

/// Returns the number of bytes that the system can give to a new process, if it says so.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

impl Bench {
    /// Measures snapshots of a running guest. Returns `None` if an image is to be measured.
    ///
    /// # Errors
    /// Returns an error if the machine cannot take snapshots, if a dump fails, or if it is wrong.
    pub(super) fn run_live(&self, interrupt: &Interrupt) -> Result<Option<String>, Failure> {
        let Some(len) = self.live.len()? else { return Ok(None) };
        let cancel: Arc<AtomicBool> = interrupt.cancel();
        sigbus::install(std::iter::empty(), Some(cancel.clone()));
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        // One core is left to the guest, as `run` does.
        let threads = if self.plan.has_threads() { None } else { Some((cores - 1).max(1)) };
        let dumper = self.plan.dumper().cancel(cancel);
        let dumper = match threads {
            Some(threads) => dumper.threads(threads),
            None => dumper,
        };
        let results = self.measure_live(len, &dumper, interrupt);
        let results = results.map_err(|failure| interrupt.failure().unwrap_or(failure))?;
        Ok(Some(if self.json { results.json() } else { results.text() }))
    }

    fn measure_live(
        &self,
        len: usize,
        dumper: &Dumper,
        interrupt: &Interrupt,
    ) -> Result<LiveResults<'_>, Failure> {
        let options = self.live.options();
        let target = Target { kind: self.to, directory: &self.dir };
        if !guest::is_dump_right(&options, |dump| Ok::<_, Failure>(dumper.plan(dump)?.to_vec()?))? {
            let message = "the dump differs from the memory of the guest at the freeze";
            return Err(Failure::new(message));
        }
        let failed = |error| Failure::new(format!("cannot map the memory of the guest: {error}"));
        let mut guest = Touched::new(len, self.live.huge_pages).map_err(failed)?;
        let setup = Setup {
            writes: self.live.writes,
            options: &options,
            alone: ALONE,
            keeps_contents: false,
        };
        let mut results = LiveResults::new(self, len);
        let mut start = Instant::now();
        for number in 0.. {
            let round: Round<Failure> = guest.round(&setup, |dump| {
                let plan = dumper.plan(dump)?;
                let arrival = target.prepare()?.dump(&plan)?;
                whole(arrival.bytes, plan.len())
            })?;
            if let Some(failure) = interrupt.failure() {
                return Err(failure);
            }
            let stopped = stop_and_dump(&guest, &target, dumper)?;
            // The first round warms up.
            if number == 0 {
                start = Instant::now();
                continue;
            }
            results.add(round, stopped);
            if is_enough(number, self.runs, start) {
                break;
            }
        }
        results.checked()
    }
}

/// Returns how long a guest stands still that is dumped without a snapshot.
fn stop_and_dump(
    guest: &Touched,
    target: &Target<'_>,
    dumper: &Dumper,
) -> Result<Duration, Failure> {
    let destination = target.prepare()?;
    let start = Instant::now();
    let dump: CoreDump<'_> = guest.describe();
    let plan = dumper.plan(&dump)?;
    let arrival = destination.dump(&plan)?;
    let time = arrival.done - start;
    whole(arrival.bytes, plan.len())?;
    Ok(time)
}

fn whole(arrived: u64, len: u64) -> Result<(), Failure> {
    if arrived == len {
        return Ok(());
    }
    Err(Failure::new(format!("{arrived} of {len} bytes of the dump arrived")))
}

#[cfg(test)]
mod tests {
    use super::gaps::Gaps;
    use super::*;

    #[test]
    fn percentiles_are_exact_to_an_eighth_of_an_octave() {
        let mut gaps = Gaps::new();
        assert_eq!(gaps.percentile(50), Duration::ZERO);
        for nanos in 1..=1000 {
            gaps.add(Duration::from_nanos(nanos));
        }
        for (percent, exact) in [(1, 10), (50, 500), (95, 950), (100, 1000)] {
            let found = u64::try_from(gaps.percentile(percent).as_nanos()).unwrap();
            assert!(found <= exact && found * 9 >= exact * 8, "{percent}: {found}");
        }
        assert_eq!(gaps.largest(), Duration::from_micros(1));
        let speed = gaps.iterations_per_second();
        assert!((speed - 1000.0 / 500_500e-9).abs() < 1.0, "{speed}");
        gaps.add(Duration::MAX.saturating_sub(Duration::from_secs(1)));
        assert_eq!(gaps.percentile(100).as_secs(), u64::MAX / 16 * 15 / 1_000_000_000);
    }
}
