//! The results of `bench`: a table, or one JSON object.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use corestream::{Stats, Visible};
use serde_json::{Map, Value, json};

use super::check::CheckedDump;
use super::limits::PlainRead;
use super::row::Measurement;
use super::summary::{HEAD, Times, ms};
use super::target::TargetKind;
use crate::report;

/// The times of one stage or limit in all runs.
struct Series {
    key: &'static str,
    label: &'static str,
    times: Times,
}

/// The setup of the measurement.
pub struct Setup<'b> {
    pub image: &'b Path,
    pub to: TargetKind,
    /// The directory for files.
    pub dir: &'b Path,
    pub checksums: bool,
}

/// The results of all runs.
pub struct Results<'b> {
    setup: Setup<'b>,
    stats: Stats,
    /// The time of the dump that was checked.
    first: Duration,
    /// The number of bytes that a plain read reads.
    read_bytes: usize,
    runs: usize,
    stages: Vec<Series>,
    limits: Vec<Series>,
}

/// The ratio of a stage's median to the median of a limit.
struct Ratio {
    key: String,
    label: String,
    value: Option<f64>,
}

impl<'b> Results<'b> {
    pub fn new(setup: Setup<'b>, checked: &CheckedDump, read: &PlainRead<'_>) -> Self {
        let (stats, first, read_bytes) = (checked.stats.clone(), checked.time, read.bytes());
        Self { setup, stats, first, read_bytes, runs: 0, stages: Vec::new(), limits: Vec::new() }
    }

    /// Adds the measurements of a run, and of the limits after it.
    pub fn add(&mut self, stages: Vec<Measurement>, limits: Vec<Measurement>) {
        self.runs += 1;
        for (series, measurements) in [(&mut self.stages, stages), (&mut self.limits, limits)] {
            series.extend(measurements[series.len()..].iter().map(|measurement| Series {
                key: measurement.key,
                label: measurement.label,
                times: Times::default(),
            }));
            for (series, measurement) in series.iter_mut().zip(measurements) {
                series.times.add(measurement.time);
            }
        }
    }

    /// Returns the median of a stage or limit in seconds, or 0 if it was not measured.
    fn median(&self, key: &str) -> f64 {
        let series = self.stages.iter().chain(&self.limits).find(|series| series.key == key);
        series.map_or(0.0, |series| series.times.median().as_secs_f64())
    }

    /// Returns the ratios of stages to limits.
    fn ratios(&self) -> Vec<Ratio> {
        let read = if self.read_bytes > 0 { self.median("plain_read") } else { 0.0 };
        let scan = (read > 0.0).then(|| self.median("scan") / read);
        let mut ratios = vec![Ratio {
            key: "scan_to_plain_read".into(),
            label: "scan / plain read".into(),
            value: scan,
        }];
        let mut whole = |key: String, label: String, limit: f64| {
            let value = (limit > 0.0).then(|| self.median("whole") / limit);
            ratios.push(Ratio {
                key: format!("whole_to_{key}"),
                label: format!("whole / {label}"),
                value,
            });
        };
        match self.limits.get(1..) {
            None | Some([]) => whole("plain_read".into(), "plain read".into(), read),
            Some(copies) => {
                for copy in copies {
                    let (key, label) = (copy.key, copy.label);
                    let copy = copy.times.median().as_secs_f64();
                    whole(key.into(), label.into(), copy);
                    let (key, label) =
                        (format!("plain_read_and_{key}"), format!("(plain read + {label})"));
                    whole(key, label, read + copy);
                }
            }
        }
        ratios
    }

    /// Returns a speed in bytes per second, or `None` if bytes or time are zero.
    fn speed(bytes: u128, seconds: f64) -> Option<f64> {
        (bytes > 0 && seconds > 0.0).then(|| bytes as f64 / seconds)
    }

    /// Returns the speeds in bytes per second: name in JSON, label, and value.
    fn speeds(&self) -> [(&'static str, &'static str, Option<f64>); 4] {
        let whole = self.median("whole");
        let read = self.median("plain_read");
        let extents = self.stats.extent_bytes;
        [
            ("image_bytes_per_second", "image", Self::speed(self.stats.image_bytes, whole)),
            ("dump_bytes_per_second", "dump", Self::speed(self.stats.dump_bytes.into(), whole)),
            ("scan_bytes_per_second", "scan", Self::speed(extents.into(), self.median("scan"))),
            (
                "plain_read_bytes_per_second",
                "plain read",
                Self::speed(self.read_bytes as u128, read),
            ),
        ]
    }

    fn methods(&self) -> Vec<String> {
        self.stats.extent_methods.iter().map(ToString::to_string).collect()
    }

    /// Formats the results as one JSON object, with times in seconds.
    pub fn json(&self) -> String {
        let all = |series: &[Series]| -> Map<String, Value> {
            series.iter().map(|series| (series.key.into(), series.times.json())).collect()
        };
        let ratios: Map<_, _> =
            self.ratios().into_iter().map(|r| (r.key, json!(r.value))).collect();
        let speeds: Map<String, Value> =
            self.speeds().iter().map(|(key, _, speed)| ((*key).into(), json!(speed))).collect();
        let (setup, stats) = (&self.setup, &self.stats);
        let json = json!({
            "image": setup.image.to_string_lossy(),
            "to": setup.to.name(),
            "dir": setup.dir.to_string_lossy(),
            "runs": self.runs,
            "runs_not_counted": 1,
            "first_dump_seconds": self.first.as_secs_f64(),
            "memory_bytes": stats.memory_bytes,
            "image_bytes": stats.image_bytes,
            "extent_bytes": stats.extent_bytes,
            "plain_read_bytes": self.read_bytes,
            "data_bytes": stats.data_bytes,
            "dump_bytes": stats.dump_bytes,
            "segments": stats.segments,
            "extent_methods": self.methods(),
            "extent_notes": stats.extent_notes,
            "scanner": stats.scanner,
            "threads": stats.threads,
            "checksums": setup.checksums,
            "stages": all(&self.stages),
            "limits": all(&self.limits),
            "ratios": ratios,
            "speeds": speeds,
        });
        format!("{json}\n")
    }

    /// Formats the results as a table.
    pub fn text(&self) -> String {
        let (setup, stats) = (&self.setup, &self.stats);
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            text.push_str(&format!("{}\n", Visible(format_args!("{name:<9} {value}"))))
        };
        let path = setup.image.display();
        row("image", format!("{path}, {} bytes", stats.image_bytes));
        row("extents", format!("{} bytes ({})", stats.extent_bytes, self.methods().join(", ")));
        for note in &stats.extent_notes {
            row("note", note.clone());
        }
        let segments = report::count(stats.segments, "segment");
        row("data", format!("{} bytes in {segments}", stats.data_bytes));
        let checksums = if setup.checksums { "with" } else { "without" };
        row("dump", format!("{} bytes, {checksums} checksums", stats.dump_bytes));
        row("to", setup.to.describe(setup.dir));
        let threads = report::count(stats.threads as u64, "thread");
        row("scanner", format!("{}, {threads}", stats.scanner));
        let first = ms(self.first);
        row("checked", format!("the first dump, to a file in {first} ms, equals the image"));
        let runs = self.runs;
        row("runs", format!("{runs}, after 1 uncounted run; the image is mapped and cached"));

        for (head, series) in [("ms", &self.stages), ("limits, ms", &self.limits)] {
            let _ = writeln!(text, "\n{head:<26}{HEAD}");
            for series in series {
                let _ = writeln!(text, "{:<26}{}", series.label, series.times.columns());
            }
        }
        let _ = writeln!(text, "\nratios of p50");
        for ratio in self.ratios() {
            let value = ratio.value.map_or("-".into(), |value| format!("{value:.2}"));
            let _ = writeln!(text, "{:<51}{value:>11}", ratio.label);
        }
        let _ = writeln!(text, "\nGB/s at p50");
        for (_, label, speed) in self.speeds() {
            let value = speed.map_or("-".into(), |speed| format!("{:.3}", speed / 1e9));
            let _ = writeln!(text, "{label:<26}{value:>9}");
        }
        text
    }
}
