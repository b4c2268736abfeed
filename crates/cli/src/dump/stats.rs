//! The output of `--stats` and `--dry-run`.

use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use corestream::{AddressRanges, MemoryIndex, Plan, Stats, Visible};

use crate::json;
use crate::report::{self, Failure};

/// The format of the statistics.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StatsFormat {
    /// Plain text
    Text,
    /// One JSON object
    Json,
}

/// Returns the number of excluded bytes and ranges of a memory. There can be 2^64 bytes, the size of the largest
/// memory.
pub fn excluded((memory, ranges): (MemoryIndex, &AddressRanges)) -> (MemoryIndex, u128, u64) {
    (memory, ranges.byte_len(), ranges.len() as u64)
}

/// Returns the output of `--dry-run`: the sizes, whether the dump fits into `free` bytes, and the reason `v8` why V8
/// refuses it.
pub fn plan(plan: &Plan<'_>, free: Option<u64>, v8: Option<&str>) -> String {
    let stats = plan.stats();
    let mut text = format!(
        "segments  {}\ndata      {} bytes\ndump      {} bytes\n",
        stats.segments, stats.data_bytes, stats.dump_bytes
    );
    if stats.excluded_ranges > 0 {
        text.push_str(&format!("excluded  {}\n", excluded_summary(stats)));
    }
    if let Some(free) = free {
        let verdict = if plan.len() <= free { "the dump fits" } else { "the dump does not fit" };
        text.push_str(&format!("disk      {free} bytes free, {verdict}\n"));
    }
    if let Some(refusal) = v8 {
        text.push_str(&format!("V8        refuses it: {refusal}\n"));
    }
    text
}

fn excluded_summary(stats: &Stats) -> String {
    report::bytes_in_ranges(stats.excluded_bytes, stats.excluded_ranges)
}

/// Returns the output of `--stats`.
///
/// # Errors
/// Returns an error if the statistics cannot be serialized.
pub fn render(
    format: StatsFormat,
    plan: &Plan<'_>,
    v8: Option<&str>,
    write_time: Option<Duration>,
) -> Result<String, Failure> {
    let stats = plan.stats();
    let changing: Vec<u32> = plan.changes().map(|(memory, _)| memory.0).collect();
    let mut methods: Vec<String> = stats.extent_methods.iter().map(ToString::to_string).collect();
    methods.dedup();
    match format {
        StatsFormat::Json => {
            let stats = json::Stats::new(stats, changing, methods, v8, write_time);
            let json = serde_json::to_string(&stats);
            json.map(|json| json + "\n").map_err(Failure::new)
        }
        StatsFormat::Text => {
            let mut text = String::new();
            let mut row = |name: &str, value: String| {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{name:<9} {value}");
            };
            let seconds = |time: Duration| format!("{:.6} s", time.as_secs_f64());
            row("memory", format!("{} bytes", stats.memory_bytes));
            row("images", format!("{} bytes", stats.image_bytes));
            let (bytes, methods) = (stats.extent_bytes, methods.join(", "));
            row("extents", format!("{bytes} bytes ({methods}) in {}", seconds(stats.extent_time)));
            for note in &stats.extent_notes {
                row("note", Visible(note).to_string());
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
            if stats.excluded_ranges > 0 {
                row("excluded", excluded_summary(stats));
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
            row("write", write_time.map_or("not written".into(), seconds));
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use corestream::{Memory, MemoryImage, MemoryType};

    use super::*;

    #[test]
    fn counts_all_bytes_of_the_largest_memory() {
        let memory = MemoryIndex(3);
        let largest = || Memory::new(MemoryType::wasm64(1 << 48), MemoryImage::from_slice(&[]));
        let all = largest().without(..).excluded().unwrap();
        assert_eq!(excluded((memory, &all)), (memory, 1 << 64, 1));
        let some = largest().without(1..2).without(5..10).excluded().unwrap();
        assert_eq!(excluded((memory, &some)), (memory, 6, 2));
        let line = report::excluded([excluded((memory, &all))].into_iter()).unwrap();
        assert!(line.ends_with("18446744073709551616 bytes in 1 range of memory 3"), "{line}");
    }
}
