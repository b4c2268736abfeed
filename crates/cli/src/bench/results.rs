//! What `bench` prints: a table for people, or one JSON object.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use corestream::{Stats, Visible};
use serde_json::{Map, Value, json};

use super::check::Checked;
use super::limits::PlainRead;
use super::row::Row;
use super::summary::{HEAD, Times, ms};
use super::target::To;

/// One thing in all runs.
struct Series {
    key: &'static str,
    label: &'static str,
    times: Times,
}

/// What is measured.
pub struct Setup<'b> {
    pub image: &'b Path,
    pub to: To,
    /// The directory of files.
    pub dir: &'b Path,
    pub checksums: bool,
}

/// Everything that was measured.
pub struct Results<'b> {
    setup: Setup<'b>,
    stats: Stats,
    /// The dump that was checked.
    first: Duration,
    /// Bytes that a plain read reads.
    read_bytes: usize,
    runs: usize,
    stages: Vec<Series>,
    limits: Vec<Series>,
}

/// A median beside another one.
struct Ratio {
    key: String,
    label: String,
    value: Option<f64>,
}

impl<'b> Results<'b> {
    pub fn new(setup: Setup<'b>, checked: &Checked, read: &PlainRead<'_>) -> Self {
        let (stats, first, read_bytes) = (checked.stats.clone(), checked.time, read.bytes());
        Self { setup, stats, first, read_bytes, runs: 0, stages: Vec::new(), limits: Vec::new() }
    }

    /// Adds a run, and the limits that were measured after it.
    pub fn add(&mut self, stages: Vec<Row>, limits: Vec<Row>) {
        self.runs += 1;
        for (series, rows) in [(&mut self.stages, stages), (&mut self.limits, limits)] {
            series.extend(rows[series.len()..].iter().map(|row| Series {
                key: row.key,
                label: row.label,
                times: Times::default(),
            }));
            for (series, row) in series.iter_mut().zip(rows) {
                series.times.add(row.time);
            }
        }
    }

    /// The median of something in seconds; 0 if it was not measured.
    fn median(&self, key: &str) -> f64 {
        let series = self.stages.iter().chain(&self.limits).find(|series| series.key == key);
        series.map_or(0.0, |series| series.times.median().as_secs_f64())
    }

    /// How often the limit fits into what was measured.
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

    /// Bytes a second of something that took `seconds`.
    fn speed(bytes: u128, seconds: f64) -> Option<f64> {
        (bytes > 0 && seconds > 0.0).then(|| bytes as f64 / seconds)
    }

    /// What is divided by time, and what speed that is.
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

    /// One JSON object; times are in seconds.
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

    /// A table for people.
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
        row("data", format!("{} bytes in {}", stats.data_bytes, count(stats.segments, "segment")));
        let checksums = if setup.checksums { "with" } else { "without" };
        row("dump", format!("{} bytes, {checksums} checksums", stats.dump_bytes));
        let to = match setup.to {
            To::Null => "null: bytes are counted and dropped".into(),
            To::File => format!("file: a fresh one each time in {}", setup.dir.display()),
            To::Pipe => "pipe: a thread of this process reads it".into(),
            To::Tcp => "tcp: a thread of this process reads from 127.0.0.1".into(),
        };
        row("to", to);
        row("scanner", format!("{}, {}", stats.scanner, count(stats.threads as u64, "thread")));
        let first = ms(self.first);
        row(
            "checked",
            format!("the first dump, to a file in {first} ms, holds what the image does"),
        );
        let runs =
            format!("{}, after one that is not counted; the image is mapped and cached", self.runs);
        row("runs", runs);

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

/// So many of something.
fn count(n: u64, thing: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{s}")
}
