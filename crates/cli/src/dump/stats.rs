//! What `--stats` prints: bytes, segments, seconds, and the peak of the process's own memory.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::ValueEnum;
use corestream::{AddressRanges, MemoryIndex, Plan, Stats};

use crate::report;

/// How statistics are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StatsFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// Watches the anonymous memory of this process (`RssAnon`), because the kernel keeps a peak only
/// of all of its memory, mapped page cache included.
pub struct PeakAnon {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeakAnon {
    const INTERVAL: Duration = Duration::from_millis(2);

    pub fn watch() -> Self {
        let (peak, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (peak, stop) = (peak.clone(), stop.clone());
            thread::Builder::new().stack_size(64 << 10).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(rss_anon().unwrap_or(0), Ordering::Relaxed);
                    thread::park_timeout(Self::INTERVAL);
                }
            })
        };
        Self { peak, stop, thread: thread.ok() }
    }

    /// The peak in bytes; `None` where the system does not say.
    pub fn finish(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            // It can't have panicked, and its figures are counted anyway.
            let _ = thread.join();
        }
        rss_anon().map(|now| now.max(self.peak.load(Ordering::Relaxed)))
    }
}

/// `RssAnon` of /proc/self/status in bytes.
fn rss_anon() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The bytes and ranges that are left out of a memory on purpose.
pub fn left_out((memory, ranges): (MemoryIndex, &AddressRanges)) -> (MemoryIndex, u128, u64) {
    (memory, ranges.byte_len(), ranges.len() as u64)
}

/// Returns what `--dry-run` prints: the plan, whether it fits where there are `free` bytes, and why V8 refuses
/// it, if it does.
pub fn plan(plan: &Plan<'_>, free: Option<u64>, v8: Option<&str>) -> String {
    let stats = plan.stats();
    let mut text = format!(
        "segments  {}\ndata      {} bytes\ndump      {} bytes\n",
        stats.segments, stats.data_bytes, stats.dump_bytes
    );
    if stats.left_out_ranges > 0 {
        text.push_str(&format!("left out  {}\n", missing(stats)));
    }
    if let Some(free) = free {
        let verdict = if plan.len() <= free { "it fits" } else { "it does not fit" };
        text.push_str(&format!("disk      {free} bytes free, {verdict}\n"));
    }
    if let Some(refusal) = v8 {
        text.push_str(&format!("V8        refuses it: {refusal}\n"));
    }
    text
}

fn missing(stats: &Stats) -> String {
    report::bytes_in_ranges(stats.left_out_bytes, stats.left_out_ranges)
}

pub fn render(
    format: StatsFormat,
    plan: &Plan<'_>,
    v8: Option<&str>,
    write_time: Option<Duration>,
    peak: Option<u64>,
) -> String {
    let stats = plan.stats();
    let changing: Vec<u32> = plan.changes().map(|(memory, _)| memory.0).collect();
    let mut methods: Vec<String> = stats.extent_methods.iter().map(ToString::to_string).collect();
    methods.dedup();
    match format {
        StatsFormat::Json => {
            let json = serde_json::json!({
                "memory_bytes": stats.memory_bytes,
                "image_bytes": stats.image_bytes,
                "extent_bytes": stats.extent_bytes,
                "scanned_bytes": stats.extent_bytes,
                "data_bytes": stats.data_bytes,
                "dump_bytes": stats.dump_bytes,
                "segments": stats.segments,
                "left_out_bytes": stats.left_out_bytes,
                "left_out_ranges": stats.left_out_ranges,
                "changing_memories": changing,
                "extent_methods": methods,
                "extent_notes": stats.extent_notes,
                "scanner": stats.scanner,
                "threads": stats.threads,
                "v8_refusal": v8,
                "extent_seconds": stats.extent_time.as_secs_f64(),
                "scan_seconds": stats.scan_time.as_secs_f64(),
                "plan_seconds": stats.plan_time.as_secs_f64(),
                "write_seconds": write_time.map(|time| time.as_secs_f64()),
                "peak_anon_bytes": peak,
            });
            format!("{json}\n")
        }
        StatsFormat::Text => {
            let mut text = String::new();
            let mut row = |name: &str, value: String| {
                // Writing to a string can't fail.
                let _ = writeln!(text, "{name:<9} {value}");
            };
            let seconds = |time: Duration| format!("{:.6} s", time.as_secs_f64());
            row("memory", format!("{} bytes", stats.memory_bytes));
            row("images", format!("{} bytes", stats.image_bytes));
            let (bytes, methods) = (stats.extent_bytes, methods.join(", "));
            row("extents", format!("{bytes} bytes ({methods}) in {}", seconds(stats.extent_time)));
            for note in &stats.extent_notes {
                row("note", report::escaped(note).trim_end().into());
            }
            row("scanned", format!("{} bytes", stats.extent_bytes));
            row(
                "kept",
                format!(
                    "{} in {}",
                    report::bytes(stats.data_bytes),
                    report::count(stats.segments, "segment")
                ),
            );
            if stats.left_out_ranges > 0 {
                row("left out", missing(stats));
            }
            if !changing.is_empty() {
                let changing: Vec<_> = changing.iter().map(ToString::to_string).collect();
                let s = if changing.len() == 1 { "y" } else { "ies" };
                row("changing", format!("memor{s} {}", changing.join(", ")));
            }
            row("dump", format!("{} bytes", stats.dump_bytes));
            if let Some(refusal) = v8 {
                row("V8", format!("refuses it: {refusal}"));
            }
            let (scanner, threads) = (stats.scanner, stats.threads);
            let threads = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
            row("scan", format!("{} ({scanner}, {threads})", seconds(stats.scan_time)));
            row("plan", seconds(stats.plan_time));
            row("write", write_time.map_or("nothing".into(), seconds));
            let peak = peak.map_or("not known".into(), |bytes| format!("{bytes} bytes"));
            row("peak", format!("{peak} of anonymous memory"));
            text
        }
    }
}
