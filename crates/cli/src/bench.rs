//! `corestream bench`: how long a dump of an image takes, beside what the machine can do at best.

mod check;
mod limits;
mod results;
mod row;
mod summary;
mod target;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use corestream::{CoreDump, Dumper};

use self::check::Checked;
use self::limits::PlainRead;
use self::results::{Results, Setup};
use self::row::Row;
use self::target::{Target, To};
use crate::dump::{MemoryOption, PlanOptions};
use crate::input::Watch;
use crate::limits::MAX_RUNS;
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

/// How long the runs may take together where their number is not given.
const TIME: Duration = Duration::from_secs(10);
/// Runs at least and at most where their number is not given.
const RUNS: (usize, usize) = (5, 100);

/// Measures how long a dump of an image takes, beside what the machine can do at best
///
/// Each run makes a whole dump: extents (in all threads together, part of the scan), scan, plan (choosing
/// segments and laying them out), first byte (from the start until the sink is given it), write (from the
/// plan until all has arrived) and whole. In turn with it the machine's limits are measured: a plain read
/// of the same extents by as many threads, and a bare copy of the same dump to the same place. Before that,
/// one dump is written to a file in --dir, read back and compared with the image. The first run is not
/// counted, so that image and dump are in the page cache and mapped: a command that begins with an image
/// that is on disk only takes longer. Percentiles are nearest ranks.
#[derive(Args)]
pub struct Bench {
    /// Image of a memory, with options: PATH[,memory64][,page-size=1][,maximum=PAGES|SIZE][,shared][,changing]
    #[arg(value_name = "IMAGE",
          value_parser = OsStringValueParser::new().try_map(MemoryOption::parse))]
    image: MemoryOption,

    /// Where the dumps go
    #[arg(long, value_enum, default_value_t = To::File)]
    to: To,

    /// Directory of the files that are written, which have no name and are gone at the end: on the disk that
    /// dumps are to go to
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Runs that are counted; by default as many as fit into 10 seconds, 5 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RUNS)))]
    runs: Option<u32>,

    /// Print one JSON object: the same, and the time of each run, in seconds
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    plan: PlanOptions,
}

impl Bench {
    pub fn run(self) -> Result<(), Failure> {
        let interrupt = Interrupt::watch();
        let path = &self.image.image;
        // One that can't be watched can't be opened either, which is said then.
        let watch = Watch::new(path);
        let mut guest = CoreDump::new(self.image.name());
        let memory = self.image.memory()?;
        if memory.image.as_slice().is_none() {
            let name = self.image.image.display();
            return Err(Failure::new(format!("{name}: can't be mapped, which is needed here")));
        }
        guest.add_memory(memory);
        let cancel = Some(interrupt.cancel());
        sigbus::survive(guest.memories[0].image.as_slice().into_iter(), cancel);

        let results = self.measure(&guest, &self.plan.dumper().cancel(interrupt.cancel()));
        let results = results.map_err(|failure| {
            // A signal, or an image that is gone, is behind a failure whatever that looks like.
            let gone = failure.is_cancelled().then(|| {
                let lost = sigbus::lost(guest.memories[0].image.as_slice().unwrap_or_default());
                watch.as_ref().ok()?.failure(&lost, "measured")
            });
            interrupt.failure().or(gone.flatten()).unwrap_or(failure)
        })?;
        if watch.is_ok_and(|watch| watch.has_changed()) {
            let path = path.display();
            report::line(&format!("warning: {path}: was written to while it was measured"));
        }
        report::result(&if self.json { results.json() } else { results.text() })
    }

    fn measure(&self, guest: &CoreDump<'_>, dumper: &Dumper) -> Result<Results<'_>, Failure> {
        let target = Target { to: self.to, directory: &self.dir };
        let read = PlainRead::new(&self.image.image, guest, !self.plan.no_trust_holes)?;
        let checked = Checked::new(&target, guest, dumper, &read)?;
        let setup = Setup {
            image: &self.image.image,
            to: self.to,
            dir: &self.dir,
            checksums: !self.plan.no_checksum,
        };
        let mut results = Results::new(setup, &checked, &read);

        let mut start = Instant::now();
        for round in 0.. {
            let run = run(&target, guest, dumper, &checked)?;
            let mut limits = vec![read.measure(checked.stats.threads)];
            limits.extend(target.copies(checked.bytes())?);
            // Not before: the first round maps what is measured.
            if round == 0 {
                start = Instant::now();
                continue;
            }
            results.add(run, limits);
            let enough = match self.runs {
                Some(runs) => round >= runs as usize,
                None => round >= RUNS.1 || (round >= RUNS.0 && start.elapsed() >= TIME),
            };
            if enough {
                break;
            }
        }
        // What the last limits have read must have been there as well.
        let _ = dumper.plan(guest)?;
        Ok(results)
    }
}

/// One dump, from the start of planning until all of it is where it goes.
fn run(
    target: &Target<'_>,
    guest: &CoreDump<'_>,
    dumper: &Dumper,
    checked: &Checked,
) -> Result<Vec<Row>, Failure> {
    let ready = target.ready()?;
    let start = Instant::now();
    let plan = dumper.plan(guest)?;
    let planned = Instant::now();
    let written = ready.dump(&plan)?;
    let stats = plan.stats();
    if (written.bytes, plan.len()) != (plan.len(), checked.stats.dump_bytes) {
        return Err(Failure::new(format!(
            "{} bytes of a dump of {} arrived, the first one had {}: the image must not be written to",
            written.bytes,
            plan.len(),
            checked.stats.dump_bytes
        )));
    }
    Ok(vec![
        Row::new("extents", "extents, part of scan", stats.extent_time),
        Row::new("scan", "scan", stats.scan_time),
        Row::new("plan", "plan", stats.plan_time),
        Row::new("first_byte", "first byte", written.first - start),
        Row::new("write", "write", written.done - planned),
        Row::new("whole", "whole", written.done - start),
    ])
}
