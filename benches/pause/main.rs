//! How long a guest stands still for a snapshot, and how much of its speed it keeps while the snapshot is dumped.
//!
//! `--sizes MIB,...`, `--writes RATE,...` (pages per second, `unlimited` or `sequential`), `--pages small,huge`,
//! `--faults thread,signal`, `--to null,file,slow` and `--rounds N` select what runs. `slow` takes 50 MB/s. `--svg DIR`
//! makes the plots of `docs/performance.md` instead.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../crates/cli/src/bench/live/gaps.rs"]
mod gaps;
#[path = "../../crates/cli/src/bench/live/guest.rs"]
mod guest;
mod limits;
#[path = "../common/plot.rs"]
mod plot;
mod plots;
mod reads;
#[path = "../../tests/common/sigbus.rs"]
mod sigbus;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use corestream::snapshot::{Faults, SnapshotOptions, SnapshotStats};
use corestream::{Dumper, FileSink, Sink};
use gaps::{Gaps, Phase};
use guest::{Round, Setup, Touched, Writes};

/// How long the guest runs before and after a snapshot.
const ALONE: Duration = Duration::from_millis(300);

/// One run of a guest with a snapshot.
type Run = Round<corestream::Error>;

/// The destination of a dump.
#[derive(Clone, Copy)]
enum Target {
    Null,
    File,
    Slow,
}

fn main() {
    sigbus::install();
    let test = common::test_mode();
    let rounds = option("--rounds").map_or(20, |rounds| rounds.parse().unwrap());
    let rounds = if test { 1 } else { rounds };
    for faults in [Faults::Thread, Faults::Signal] {
        let options = SnapshotOptions::new().faults(faults);
        let is_right = guest::is_dump_right(&options, |dump| Dumper::new().plan(dump)?.to_vec());
        assert!(is_right.unwrap(), "the dump differs from the memory at the freeze");
    }
    if test {
        let mut guest = Touched::new(16 << 20, false).unwrap();
        reads::table(guest.bytes(), 1);
        baselines(&guest, 1);
        table(&mut guest, &[Faults::Thread, Faults::Signal], &[Target::Null, Target::File], 1);
        plots::make(None, 1);
        return;
    }
    if let Some(directory) = option("--svg") {
        plots::make(Some(directory.as_ref()), rounds);
        return;
    }
    if std::env::args().any(|arg| arg == "--reads") {
        reads::table(&vec![1; 1 << 30], rounds.min(5));
        return;
    }
    let faults = list("--faults", "thread,signal", |name| match name {
        "thread" => Faults::Thread,
        "signal" => Faults::Signal,
        _ => panic!("unknown kind of faults"),
    });
    let targets = list("--to", "null,file", |name| match name {
        "null" => Target::Null,
        "file" => Target::File,
        "slow" => Target::Slow,
        _ => panic!("unknown destination"),
    });
    let sizes: Vec<usize> = list("--sizes", "64,1024", |size| size.parse().unwrap());
    for size in sizes {
        for pages in list("--pages", "small,huge", str::to_string) {
            println!("\n{size} MiB, {pages} pages, medians of {rounds} rounds");
            let mut guest = Touched::new(size << 20, pages == "huge").unwrap();
            baselines(&guest, rounds);
            table(&mut guest, &faults, &targets, rounds);
        }
    }
}

fn option(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1)
}

fn list<T>(name: &str, default: &str, parse: impl Fn(&str) -> T) -> Vec<T> {
    let value = option(name).unwrap_or_else(|| default.to_string());
    value.split(',').map(parse).collect()
}

fn writes() -> Vec<Writes> {
    let default = "0,1000,5000,100000,unlimited,sequential";
    list("--writes", default, |writes| writes.parse().unwrap())
}

fn baselines(guest: &Touched, rounds: usize) {
    println!("  milliseconds, alone");
    for (name, time) in limits::medians(guest, rounds) {
        println!("  {name:<21} {:>9.3}", ms(time));
    }
}

fn table(guest: &mut Touched, faults: &[Faults], targets: &[Target], rounds: usize) {
    println!(
        "  {:<10} {:<6} {:<4} {:>8} {:>8} | {:>8} {:>8} {:>8} {:>8} | {:>6} {:>6} {:>9} {:>9} | {:>7} {:>7} {:>8} {:>7} {:>7} {:>6}",
        "writes/s",
        "faults",
        "to",
        "pause",
        "max",
        "gap",
        "prepare",
        "dump",
        "finish",
        "loops%",
        "write%",
        "before/s",
        "dump/s",
        "frozen",
        "faulted",
        "peak KiB",
        "prep ms",
        "dump ms",
        "failed"
    );
    for writes in writes() {
        for faults in faults {
            for target in targets {
                // One round to warm up.
                let runs: Vec<_> =
                    (0..=rounds).map(|_| one(guest, writes, *faults, *target)).collect();
                row(writes, *faults, *target, &runs[runs.len().min(2) - 1..]);
            }
        }
    }
}

fn one(guest: &mut Touched, writes: Writes, faults: Faults, target: Target) -> Run {
    match target {
        Target::Null => run(guest, writes, faults, &mut io::sink()),
        Target::File => {
            let file = tempfile::tempfile_in(".").unwrap();
            run(guest, writes, faults, &mut FileSink::new(&file))
        }
        Target::Slow => run(guest, writes, faults, &mut Slow(None, 0)),
    }
}

fn row(writes: Writes, faults: Faults, target: Target, runs: &[Run]) {
    let of = |value: &dyn Fn(&Run) -> f64| median(runs.iter().map(value).collect());
    let largest = |phase: Phase| of(&|run| ms(run.gaps(phase).largest()));
    let kept = |speed: fn(&Gaps) -> f64| {
        100.0 * of(&|run| speed(run.gaps(Phase::Dump)) / speed(run.gaps(Phase::Before)).max(1e-9))
    };
    let stat = |value: fn(&SnapshotStats) -> u64| {
        of(&|run| run.finished.as_ref().map_or(0.0, |stats| value(stats) as f64))
    };
    println!(
        "  {:<10} {:<6} {:<4} {:>8.3} {:>8.3} | {:>8.2} {:>8.2} {:>8.2} {:>8.2} | {:>6.0} {:>6.0} {:>9.0} {:>9.0} | {:>7.0} {:>7.0} {:>8.0} {:>7.1} {:>7.0} {:>6}",
        writes.to_string(),
        match faults {
            Faults::Signal => "signal",
            _ => "thread",
        },
        match target {
            Target::Null => "null",
            Target::File => "file",
            Target::Slow => "slow",
        },
        of(&|run| ms(run.pause)),
        runs.iter().map(|run| ms(run.pause)).fold(0.0, f64::max),
        largest(Phase::Before),
        largest(Phase::Prepare),
        largest(Phase::Dump),
        largest(Phase::Finish),
        kept(Gaps::iterations_per_second),
        kept(Gaps::writes_per_second),
        of(&|run| run.gaps(Phase::Before).writes_per_second()),
        of(&|run| run.gaps(Phase::Dump).writes_per_second()),
        stat(|stats| stats.copied_at_freeze + stats.protected_at_freeze),
        stat(|stats| stats.copied_pages - stats.copied_at_freeze),
        stat(|stats| stats.peak_copy_bytes >> 10),
        of(&|run| ms(run.prepare_time)),
        of(&|run| ms(run.dump_time)),
        runs.iter().filter(|run| run.dumped.is_err() || run.finished.is_err()).count(),
    );
    let p95 = |phase: Phase| of(&|run| ms(run.gaps(phase).percentile(95)) * 1000.0);
    println!(
        "      95% of the gaps, microseconds: before {:.2}, prepare {:.2}, dump {:.2}, finish {:.2}, after {:.2}",
        p95(Phase::Before),
        p95(Phase::Prepare),
        p95(Phase::Dump),
        p95(Phase::Finish),
        p95(Phase::After)
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a guest, and dumps a snapshot of it.
fn run<S: Sink + Send + ?Sized>(
    guest: &mut Touched,
    writes: Writes,
    faults: Faults,
    sink: &mut S,
) -> Run {
    let options = SnapshotOptions::new().faults(faults);
    let alone = if common::test_mode() { ALONE / 10 } else { ALONE };
    let setup = Setup { writes, options: &options, alone, keeps_contents: false };
    let round = guest.round(&setup, |dump| {
        let cores = thread::available_parallelism().unwrap().get();
        Dumper::new().threads((cores - 1).max(1)).plan(dump)?.write_to(sink).map(drop)
    });
    round.unwrap()
}

/// Takes 50 MB/s from the first byte on.
struct Slow(Option<Instant>, u64);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(1 << 20);
        self.1 += len as u64;
        // 20 nanoseconds for each byte.
        let due = Duration::from_nanos(self.1 * 20);
        thread::sleep(due.saturating_sub(self.0.get_or_insert_with(Instant::now).elapsed()));
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
