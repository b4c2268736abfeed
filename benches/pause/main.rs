//! How long a guest stands still for a snapshot, and how much of its speed it keeps while the snapshot is dumped.
//!
//! `--sizes MIB,...`, `--writes RATE,...` (pages per second, `random` or `sequential`), `--pages small,huge`,
//! `--faults thread,signal`, `--to null,file,slow` and `--rounds N` select what runs. `slow` takes 50 MB/s.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(unsafe_code, reason = "a guest writes to memory that is protected")]

#[path = "../common/mod.rs"]
mod common;
mod guest;
mod limits;
mod reads;
#[path = "../../tests/common/sigbus.rs"]
mod sigbus;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use corestream::snapshot::{Faults, SnapshotOptions, SnapshotStats};
use corestream::{CoreDumpFile, Dumper, FileSink, Sink};
use guest::{Control, Gaps, Phase, Touched, Writes};

/// How long the guest runs before and after a snapshot.
const ALONE: Duration = Duration::from_millis(300);

/// One run of a guest with a snapshot.
struct Run {
    gaps: Vec<Gaps>,
    pause: Duration,
    dump_time: Duration,
    stats: Result<SnapshotStats, String>,
}

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
        check(faults);
    }
    if test {
        let guest = Touched::new(16 << 20, false);
        reads::table(guest.bytes(), 1);
        baselines(&guest, 1);
        table(&guest, &[Faults::Thread, Faults::Signal], &[Target::Null, Target::File], 1);
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
            let guest = Touched::new(size << 20, pages == "huge");
            baselines(&guest, rounds);
            table(&guest, &faults, &targets, rounds);
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
    let default = "0,1000,5000,100000,random,sequential";
    list("--writes", default, |writes| match writes {
        "random" => Writes::Random,
        "sequential" => Writes::Sequential,
        rate => Writes::Rate(rate.parse().unwrap()),
    })
}

/// Checks that a dump has the contents of the memory at the freeze, while the guest writes as fast as it can.
///
/// # Panics
/// Panics if it has not.
fn check(faults: Faults) {
    let guest = Touched::new(16 << 20, false);
    let mut core = Vec::new();
    let (_, expected) = run(&guest, Writes::Random, faults, &mut core, true);
    let mut bytes = vec![0; guest.bytes().len()];
    let dump = CoreDumpFile::from_slice(&core).unwrap();
    dump.memory(0.into()).unwrap().read(0, &mut bytes).unwrap();
    assert!(Some(bytes) == expected, "the dump differs from the memory at the freeze");
}

fn baselines(guest: &Touched, rounds: usize) {
    let ms =
        |times: Vec<Duration>| median(times.iter().map(|t| t.as_secs_f64() * 1000.0).collect());
    println!("  milliseconds, alone");
    // A larger file or copy takes more than this bench may use.
    if guest.bytes().len() <= 1 << 30 {
        let dumps: Vec<_> = (0..rounds.min(5)).map(|_| limits::stop_and_dump(guest)).collect();
        println!("  stop and dump, null   {:>9.3}", ms(dumps.iter().map(|d| d.0).collect()));
        println!("  stop and dump, file   {:>9.3}", ms(dumps.iter().map(|d| d.1).collect()));
        let copies = (0..rounds.min(5)).map(|_| limits::copy(guest)).collect();
        println!("  snapshot::copy        {:>9.3}", ms(copies));
    }
    println!("  fork                  {:>9.3}", ms((0..rounds).map(|_| limits::fork()).collect()));
    let protects: Vec<_> = (0..rounds).filter_map(|_| limits::protect(guest)).collect();
    if !protects.is_empty() {
        println!("  UFFDIO_WRITEPROTECT   {:>9.3}", ms(protects));
    }
}

fn table(guest: &Touched, faults: &[Faults], targets: &[Target], rounds: usize) {
    println!(
        "  {:<10} {:<6} {:<4} {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>6} {:>6} {:>9} {:>9} | {:>7} {:>7} {:>8} {:>7} {:>6}",
        "writes/s",
        "faults",
        "to",
        "pause",
        "max",
        "gap",
        "prepare",
        "dump",
        "loops%",
        "write%",
        "before/s",
        "dump/s",
        "frozen",
        "faulted",
        "peak KiB",
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

fn one(guest: &Touched, writes: Writes, faults: Faults, target: Target) -> Run {
    match target {
        Target::Null => run(guest, writes, faults, &mut io::sink(), false).0,
        Target::File => {
            let file = tempfile::tempfile_in(".").unwrap();
            run(guest, writes, faults, &mut FileSink::new(&file), false).0
        }
        Target::Slow => run(guest, writes, faults, &mut Slow(Instant::now(), 0), false).0,
    }
}

fn row(writes: Writes, faults: Faults, target: Target, runs: &[Run]) {
    let of = |value: &dyn Fn(&Run) -> f64| median(runs.iter().map(value).collect());
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let largest = |phase: Phase| of(&|run| ms(run.gaps[phase as usize].largest));
    let kept = |speed: fn(&Gaps) -> f64| {
        100.0
            * of(&|run| {
                speed(&run.gaps[Phase::Dump as usize])
                    / speed(&run.gaps[Phase::Before as usize]).max(1e-9)
            })
    };
    let stat = |value: fn(&SnapshotStats) -> u64| {
        of(&|run| run.stats.as_ref().map_or(0.0, |stats| value(stats) as f64))
    };
    println!(
        "  {:<10} {:<6} {:<4} {:>8.3} {:>8.3} | {:>8.2} {:>8.2} {:>8.2} | {:>6.0} {:>6.0} {:>9.0} {:>9.0} | {:>7.0} {:>7.0} {:>8.0} {:>7.0} {:>6}",
        writes.name(),
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
        kept(Gaps::iterations_per_second),
        kept(Gaps::writes_per_second),
        of(&|run| run.gaps[Phase::Before as usize].writes_per_second()),
        of(&|run| run.gaps[Phase::Dump as usize].writes_per_second()),
        stat(|stats| stats.copied_at_freeze + stats.protected_at_freeze),
        stat(|stats| stats.copied_pages - stats.copied_at_freeze),
        stat(|stats| stats.peak_copy_bytes >> 10),
        of(&|run| ms(run.dump_time)),
        runs.iter().filter(|run| run.stats.is_err()).count(),
    );
    let p95 = |phase: Phase| of(&|run| run.gaps[phase as usize].quantile(0.95) as f64 / 1000.0);
    println!(
        "      95% of the gaps, microseconds: before {:.2}, prepare {:.2}, dump {:.2}, after {:.2}",
        p95(Phase::Before),
        p95(Phase::Prepare),
        p95(Phase::Dump),
        p95(Phase::After)
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a guest, and takes a snapshot of it.
fn run<S: Sink + Send + ?Sized>(
    guest: &Touched,
    writes: Writes,
    faults: Faults,
    sink: &mut S,
    check: bool,
) -> (Run, Option<Vec<u8>>) {
    let control = Control::new();
    let alone = if common::test_mode() || check { ALONE / 10 } else { ALONE };
    thread::scope(|scope| {
        let thread = scope.spawn(|| guest::run(guest, writes, &control, check));
        thread::sleep(alone);
        control.enter(Phase::Prepare);
        let options = SnapshotOptions::new().faults(faults);
        // SAFETY: the mapping is private and anonymous, and outlives the snapshot. Only the guest writes to it, by
        // stores. The handler for SIGBUS is installed.
        let prepared = unsafe { options.prepare(&[guest.live()]) }.unwrap();
        control.enter(Phase::Ready);
        let frozen = control.freeze(prepared);
        let start = Instant::now();
        let dumped = thread::scope(|scope| {
            let dump = scope.spawn(|| {
                lower_priority();
                let cores = thread::available_parallelism().unwrap().get();
                let dumper = Dumper::new().threads((cores - 1).max(1));
                dumper.plan(&frozen.snapshot.dump)?.write_to(sink)
            });
            dump.join().unwrap()
        });
        let dump_time = start.elapsed();
        control.enter(Phase::After);
        let finished = frozen.snapshot.finish();
        let stats = dumped.and(finished).map_err(|error| error.to_string());
        thread::sleep(alone);
        control.stop();
        let gaps = thread.join().unwrap();
        if check {
            assert_eq!(stats.as_ref().err(), None);
        }
        (Run { gaps, pause: frozen.pause, dump_time, stats }, frozen.expected)
    })
}

/// Gives the calling thread, and those that it starts, a low priority.
fn lower_priority() {
    // SAFETY: the call changes the priority of this thread only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Takes 50 MB/s.
struct Slow(Instant, u64);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(1 << 20);
        self.1 += len as u64;
        // 20 nanoseconds for each byte.
        let due = Duration::from_nanos(self.1 * 20);
        thread::sleep(due.saturating_sub(self.0.elapsed()));
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
