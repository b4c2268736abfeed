//! The plots of `docs/performance.md`: the pause over the size of the memory, and over the rate of the writes.

use std::path::Path;
use std::time::Duration;

use corestream::snapshot::Faults;

use crate::gaps::Phase;
use crate::guest::{Touched, Writes};
use crate::limits;
use crate::plot::{Line, Plot};
use crate::{Run, Target, common, one};

/// The writes per second in the plot over the size.
const RATE: u32 = 1000;

/// Measures, prints the tables, and writes the plots to a directory.
pub fn make(directory: Option<&Path>, rounds: usize) {
    let (sizes, rates): (&[usize], &[u32]) = match common::test_mode() {
        true => (&[16, 32], &[100, 1000]),
        false => (&[64, 256, 1024, 4096, 8192], &[100, 1000, 10_000, 100_000, 1_000_000]),
    };
    let plots =
        [("pause-size", over_size(sizes, rounds)), ("pause-rate", over_rate(rates, rounds))];
    for (name, plot) in plots {
        println!("\n{}", plot.title);
        for line in &plot.lines {
            let points: Vec<_> =
                line.points.iter().map(|(x, y)| format!("{x}: {:.3}", y * 1000.0)).collect();
            println!("  {:<22} {}", line.name, points.join(", "));
        }
        if let Some(directory) = directory {
            std::fs::write(directory.join(format!("{name}.svg")), plot.svg()).unwrap();
        }
    }
}

fn over_size(sizes: &[usize], rounds: usize) -> Plot {
    let names = [
        "snapshot, signal",
        "snapshot, thread",
        limits::PROTECT,
        limits::FORK,
        limits::COPY,
        limits::STOP_NULL,
        limits::STOP_FILE,
    ];
    let mut lines = names.map(|name| Line { name, points: Vec::new() });
    for size in sizes {
        let mut guest = Touched::new(size << 20, false).unwrap();
        let mut times = limits::medians(&guest, rounds);
        for (name, faults) in [(names[0], Faults::Signal), (names[1], Faults::Thread)] {
            let runs = runs(&mut guest, Writes::Rate(RATE), faults, rounds);
            times.push((name, median(runs.iter().map(|run| run.pause))));
        }
        for (name, time) in times {
            let line = lines.iter_mut().find(|line| line.name == name).unwrap();
            line.points.push((*size as f64, time.as_secs_f64()));
        }
    }
    let marks = sizes.iter().map(|size| (*size as f64, mib(*size))).collect();
    let title = format!("The pause of a guest that writes {RATE} pages a second");
    Plot { title, marks, lines: lines.into_iter().filter(|line| !line.points.is_empty()).collect() }
}

fn over_rate(rates: &[u32], rounds: usize) -> Plot {
    let size = if common::test_mode() { 16 } else { 1024 };
    let mut guest = Touched::new(size << 20, false).unwrap();
    let mut lines = Vec::new();
    let mut of = |names: [&'static str; 3], faults| {
        let mut lines = names.map(|name| Line { name, points: Vec::new() });
        for rate in rates {
            let runs = runs(&mut guest, Writes::Rate(*rate), faults, rounds);
            let largest = |phase: Phase| median(runs.iter().map(|run| run.gaps(phase).largest()));
            let pause = median(runs.iter().map(|run| run.pause));
            let times = [pause, largest(Phase::Prepare), largest(Phase::Dump)];
            for (line, time) in lines.iter_mut().zip(times) {
                line.points.push((f64::from(*rate), time.as_secs_f64()));
            }
        }
        lines
    };
    lines.extend(of(["pause, signal", "prepare, signal", "dump, signal"], Faults::Signal));
    lines.extend(of(["pause, thread", "prepare, thread", "dump, thread"], Faults::Thread));
    let marks = rates.iter().map(|rate| (f64::from(*rate), format!("{rate}/s"))).collect();
    let title = format!("The pause, and the largest gap in prepare and dump, {}", mib(size));
    Plot { title, marks, lines }
}

fn runs(guest: &mut Touched, writes: Writes, faults: Faults, rounds: usize) -> Vec<Run> {
    // One round to warm up.
    let mut runs: Vec<_> = (0..=rounds).map(|_| one(guest, writes, faults, Target::Null)).collect();
    runs.remove(0);
    runs
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times[times.len() / 2]
}

fn mib(size: usize) -> String {
    if size < 1024 { format!("{size} MiB") } else { format!("{} GiB", size / 1024) }
}
