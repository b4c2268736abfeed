//! The results of all rounds, as text and JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::gaps::{PHASES, Phase};
use super::guest::Round;
use crate::bench::Bench;
use crate::bench::summary::{HEAD, Times};
use crate::report::Failure;

/// The name of a phase in JSON and in the table, for those that are shown.
fn name(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Before => Some("before"),
        Phase::Prepare => Some("prepare"),
        // It lasts for one iteration.
        Phase::Ready => None,
        Phase::Dump => Some("dump"),
        Phase::Finish => Some("finish"),
        Phase::After => Some("after"),
    }
}

/// The results of all rounds.
pub struct LiveResults<'b> {
    bench: &'b Bench,
    guest_bytes: usize,
    pause: Times,
    prepare: Times,
    dump: Times,
    stopped: Times,
    phases: Vec<PhaseResults>,
    copied_pages: Vec<f64>,
    peak_copy_bytes: u64,
    /// The number of snapshots that have failed, usually because of the limit for copies, and the last error.
    failed: (usize, Option<Failure>),
}

/// The results of one phase.
struct PhaseResults {
    phase: Phase,
    /// The largest gap of each round.
    largest: Times,
    /// The gap of each round that 95% of its gaps do not exceed.
    p95: Times,
    iterations_per_second: Vec<f64>,
    writes_per_second: Vec<f64>,
}

impl<'b> LiveResults<'b> {
    pub fn new(bench: &'b Bench, guest_bytes: usize) -> Self {
        let phases = PHASES.iter().filter(|phase| name(**phase).is_some());
        let phases = phases.map(|phase| PhaseResults {
            phase: *phase,
            largest: Times::default(),
            p95: Times::default(),
            iterations_per_second: Vec::new(),
            writes_per_second: Vec::new(),
        });
        Self {
            bench,
            guest_bytes,
            pause: Times::default(),
            prepare: Times::default(),
            dump: Times::default(),
            stopped: Times::default(),
            phases: phases.collect(),
            copied_pages: Vec::new(),
            peak_copy_bytes: 0,
            failed: (0, None),
        }
    }

    /// Adds a round, and the time of a dump of the stopped guest.
    pub fn add(&mut self, round: Round<Failure>, stopped: Duration) {
        self.pause.add(round.pause);
        self.prepare.add(round.prepare_time);
        self.stopped.add(stopped);
        for results in &mut self.phases {
            let gaps = round.gaps(results.phase);
            results.largest.add(gaps.largest());
            results.p95.add(gaps.percentile(95));
            results.iterations_per_second.push(gaps.iterations_per_second());
            results.writes_per_second.push(gaps.writes_per_second());
        }
        match (round.dumped, round.finished) {
            (Ok(()), Ok(stats)) => {
                self.dump.add(round.dump_time);
                self.copied_pages.push(stats.copied_pages as f64);
                self.peak_copy_bytes = self.peak_copy_bytes.max(stats.peak_copy_bytes);
            }
            (Err(failure), _) => self.failed = (self.failed.0 + 1, Some(failure)),
            (_, Err(error)) => self.failed = (self.failed.0 + 1, Some(error.into())),
        }
    }

    /// Checks that a snapshot was dumped.
    ///
    /// # Errors
    /// Returns the failure of the last one if all have failed.
    pub fn checked(mut self) -> Result<Self, Failure> {
        match self.failed.1.take_if(|_| self.dump.len() == 0) {
            Some(failure) => Err(failure.at("every snapshot failed")),
            None => Ok(self),
        }
    }

    fn phase(&self, phase: Phase) -> Option<&PhaseResults> {
        self.phases.iter().find(|results| results.phase == phase)
    }

    /// Returns a speed in the phase `Dump` as a part of that before the snapshot, or `None` if that was zero.
    fn kept(&self, speeds: fn(&PhaseResults) -> &[f64]) -> Option<f64> {
        let of = |phase| self.phase(phase).map_or(0.0, |results| median(speeds(results)));
        let (before, during) = (of(Phase::Before), of(Phase::Dump));
        (before > 0.0).then(|| during / before)
    }

    /// Returns the ratios: name in JSON, label, and value.
    fn ratios(&self) -> [(&'static str, &'static str, Option<f64>); 3] {
        let (pause, stopped) = (self.pause.median(), self.stopped.median());
        let longer = (!pause.is_zero()).then(|| stopped.as_secs_f64() / pause.as_secs_f64());
        [
            ("stop_and_dump_to_pause", "stop and dump / pause", longer),
            (
                "iterations_kept",
                "iterations per second, dump / before",
                self.kept(|results| &results.iterations_per_second),
            ),
            (
                "writes_kept",
                "writes per second, dump / before",
                self.kept(|results| &results.writes_per_second),
            ),
        ]
    }

    /// Formats the results as one JSON object, with times in seconds.
    pub fn json(&self) -> String {
        let phases = self.phases.iter().filter_map(|results| {
            let phase = json!({
                "largest_gap": results.largest.json(),
                "p95_gap": results.p95.json(),
                "iterations_per_second": median(&results.iterations_per_second),
                "writes_per_second": median(&results.writes_per_second),
            });
            Some((name(results.phase)?.to_string(), phase))
        });
        let ratios = self.ratios().into_iter().map(|(key, _, value)| (key.into(), json!(value)));
        let bench = self.bench;
        let json = json!({
            "guest_bytes": self.guest_bytes,
            "writes": bench.live.writes.to_string(),
            "huge_pages": bench.live.huge_pages,
            "faults": bench.live.faults.name(),
            "copy_limit": bench.live.copy_limit.0,
            "to": bench.to.name(),
            "dir": bench.dir.to_string_lossy(),
            "checksums": !bench.plan.no_checksum,
            "runs": self.pause.len(),
            "runs_not_counted": 1,
            "failed_snapshots": self.failed.0,
            "pause": self.pause.json(),
            "prepare": self.prepare.json(),
            "dump": self.dump.json(),
            "stop_and_dump": self.stopped.json(),
            "phases": phases.collect::<Map<_, _>>(),
            "copied_pages": median(&self.copied_pages),
            "peak_copy_bytes": self.peak_copy_bytes,
            "ratios": ratios.collect::<Map<String, Value>>(),
        });
        format!("{json}\n")
    }

    /// Formats the results as a table.
    pub fn text(&self) -> String {
        let (bench, live) = (self.bench, &self.bench.live);
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<9} {value}");
        };
        let pages = if live.huge_pages { ", in huge pages" } else { "" };
        row("guest", format!("{} bytes, all touched{pages}", self.guest_bytes));
        row(
            "writes",
            match live.writes.to_string() {
                rate if rate.parse::<u32>().is_ok() => format!("{rate} pages per second"),
                other => other,
            },
        );
        row("faults", format!("handled by a {}", live.faults.name()));
        row("to", bench.to.describe(&bench.dir));
        row("checked", "the dump of a smaller guest equals its memory at the freeze".into());
        row("runs", format!("{}, after 1 uncounted run", self.pause.len()));
        let pages = median(&self.copied_pages);
        let bytes = self.peak_copy_bytes;
        row("copied", format!("{pages} pages (median), at most {bytes} bytes at once"));
        if let (failed @ 1.., Some(failure)) = &self.failed {
            row("failed", format!("{failed} snapshots; the last one: {}", failure.message));
        }

        let times = [
            ("pause", &self.pause),
            ("prepare", &self.prepare),
            ("dump", &self.dump),
            ("stop and dump", &self.stopped),
        ];
        let _ = writeln!(text, "\n{:<26}{HEAD}", "ms");
        for (label, times) in times {
            let _ = writeln!(text, "{label:<26}{}", times.columns());
        }
        let mut table = |head: &str, columns: fn(&PhaseResults) -> String| {
            let _ = writeln!(text, "\n{head:<26}{HEAD}");
            for results in &self.phases {
                let label = name(results.phase).unwrap_or_default();
                let _ = writeln!(text, "{label:<26}{}", columns(results));
            }
        };
        table("largest gap, ms", |results| results.largest.columns());
        table("95% of gaps, microseconds", |results| results.p95.columns_in_microseconds());
        let _ = writeln!(text, "\nratios of p50");
        for (_, label, value) in self.ratios() {
            let value = value.map_or("-".into(), |value| format!("{value:.2}"));
            let _ = writeln!(text, "{label:<51}{value:>11}");
        }
        text
    }
}

/// Returns the median by the nearest-rank method, or zero if there are no values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = sorted.len().div_ceil(2).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}
