//! `corestream bench`: measures dumps of an image, and compares them with the limits of the machine. With `--live`,
//! measures snapshots of a running guest.

mod check;
mod limits;
mod live;
mod results;
mod row;
mod summary;
mod target;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use corestream::{CoreDump, Dumper};

use self::check::CheckedDump;
use self::limits::PlainRead;
use self::live::LiveOptions;
use self::results::{Results, Setup};
use self::row::Measurement;
use self::target::{Target, TargetKind};
use crate::dump::{MemoryOption, PlanOptions};
use crate::input::Watch;
use crate::limits::MAX_RUNS;
use crate::number_option::within;
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

/// The total time of the runs without `--runs`.
const DEFAULT_TIME: Duration = Duration::from_secs(10);
/// The minimum and maximum number of runs without `--runs`.
const DEFAULT_RUNS: (usize, usize) = (5, 100);

/// Measure how long a dump of an image takes, compared with the limits of the machine
///
/// Each run makes one dump and measures these stages: extents (part of the scan, summed over all threads), scan,
/// plan (choosing segments and fixing the layout), first byte (from the start until the sink gets the first
/// byte), write (from the plan until all bytes have arrived), and whole (everything).
///
/// After each run, the limits of the machine are measured: a plain read of the same extents with the same number
/// of threads, and a plain copy of the same dump to the same destination.
///
/// Before the first run, one dump is written to a file in --dir, read back, and compared with the image. The
/// first run warms the page cache and is not counted. A dump of an image that is not cached takes longer.
/// Percentiles use the nearest-rank method.
///
/// With --live, each run takes a snapshot of a running guest, and then dumps the stopped guest to the same destination
/// for comparison. The guest itself measures how long it stands still for the freeze (pause), and how long it is held
/// up before, while its memory is protected (prepare), and until the dump is written and the protection is lifted
/// (dump, finish).
#[derive(Args)]
#[command(
    override_usage = "corestream bench [OPTIONS] <IMAGE>\n       corestream bench [OPTIONS] --live <SIZE>"
)]
pub struct Bench {
    /// Image of a memory, with options: PATH[,memory64][,page-size=1][,maximum=PAGES|SIZE][,shared][,changing]
    #[arg(value_name = "IMAGE", required_unless_present = "live", conflicts_with = "live",
          value_parser = OsStringValueParser::new().try_map(MemoryOption::parse))]
    image: Option<MemoryOption>,

    #[command(flatten)]
    live: LiveOptions,

    /// Destination of the dumps
    #[arg(long, value_enum, default_value_t = TargetKind::File)]
    to: TargetKind,

    /// Directory for unnamed temporary files; choose one on the disk that dumps will be written to
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Number of counted runs; by default as many as fit into 10 seconds, but at least 5 and at most 100
    #[arg(long, value_name = "N", value_parser = within(1..=MAX_RUNS),
          allow_negative_numbers = true)]
    runs: Option<u32>,

    /// Print one JSON object, which also has the time of each run in seconds
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    plan: PlanOptions,
}

impl Bench {
    pub fn run(self) -> Result<(), Failure> {
        let interrupt = Interrupt::watch();
        if let Some(results) = self.run_live(&interrupt)? {
            return report::result(&results);
        }
        // The arguments have an image or --live.
        let Some(image) = &self.image else { return Err(Failure::new("no image")) };
        let path = &image.image;
        // If the image cannot be watched, it cannot be opened either. That is reported below.
        let watch = Watch::new(path);
        let mut guest = CoreDump::new(image.name());
        let memory = image.memory()?;
        if memory.image.as_slice().is_none() {
            let name = path.display();
            return Err(Failure::new(format!("{name}: cannot be mapped, which `bench` requires")));
        }
        guest.add_memory(memory);
        let cancel = Some(interrupt.cancel());
        sigbus::install(guest.memories[0].image.as_slice().into_iter(), cancel);

        let results = self.measure(path, &guest, &self.plan.dumper().cancel(interrupt.cancel()));
        let results = results.map_err(|failure| {
            // The root cause of a failure may be a signal or an image that cannot be read: report that instead.
            let unread = failure.is_cancelled().then(|| {
                let image = guest.memories[0].image.as_slice().unwrap_or_default();
                watch.as_ref().ok()?.failure(&sigbus::lost_ranges(image), "measured")
            });
            interrupt.failure().or(unread.flatten()).unwrap_or(failure)
        })?;
        if watch.is_ok_and(|watch| watch.has_changed()) {
            let path = path.display();
            report::line(&format!("warning: {path}: was modified while it was measured"));
        }
        report::result(&if self.json { results.json() } else { results.text() })
    }

    fn measure<'b>(
        &'b self,
        path: &'b Path,
        guest: &CoreDump<'_>,
        dumper: &Dumper,
    ) -> Result<Results<'b>, Failure> {
        let target = Target { kind: self.to, directory: &self.dir };
        let read = PlainRead::new(path, guest, !self.plan.no_trust_holes)?;
        let checked = CheckedDump::new(&target, guest, dumper, &read)?;
        let setup =
            Setup { image: path, to: self.to, dir: &self.dir, checksums: !self.plan.no_checksum };
        let mut results = Results::new(setup, &checked, &read);

        let mut start = Instant::now();
        for round in 0.. {
            let run = run(&target, guest, dumper, &checked)?;
            let mut limits = vec![read.measure(checked.stats.threads)];
            limits.extend(target.copies(checked.bytes())?);
            // Start the clock after the first round, which faults in the pages of the image and the dump.
            if round == 0 {
                start = Instant::now();
                continue;
            }
            results.add(run, limits);
            if is_enough(round, self.runs, start) {
                break;
            }
        }
        // Planning fails if the image could not be read, also by the last plain read.
        let _ = dumper.plan(guest)?;
        Ok(results)
    }
}

/// Returns whether no other run is needed after `done` counted ones since `start`.
fn is_enough(done: usize, wanted: Option<u32>, start: Instant) -> bool {
    let (min, max) = DEFAULT_RUNS;
    match wanted {
        Some(wanted) => done >= wanted as usize,
        None => done >= max || (done >= min && start.elapsed() >= DEFAULT_TIME),
    }
}

/// Measures one dump, from the start of planning until all of its bytes have arrived.
fn run(
    target: &Target<'_>,
    guest: &CoreDump<'_>,
    dumper: &Dumper,
    checked: &CheckedDump,
) -> Result<Vec<Measurement>, Failure> {
    let destination = target.prepare()?;
    let start = Instant::now();
    let plan = dumper.plan(guest)?;
    let planned = Instant::now();
    let arrival = destination.dump(&plan)?;
    let stats = plan.stats();
    if (arrival.bytes, plan.len()) != (plan.len(), checked.stats.dump_bytes) {
        return Err(Failure::new(format!(
            "{} of {} bytes of the dump arrived, and the first dump had {} bytes; the image must not be modified",
            arrival.bytes,
            plan.len(),
            checked.stats.dump_bytes
        )));
    }
    Ok(vec![
        Measurement::new("extents", "extents, part of scan", stats.extent_time),
        Measurement::new("scan", "scan", stats.scan_time),
        Measurement::new("plan", "plan", stats.plan_time),
        Measurement::new("first_byte", "first byte", arrival.first - start),
        Measurement::new("write", "write", arrival.done - planned),
        Measurement::new("whole", "whole", arrival.done - start),
    ])
}
