//! Time and peak memory of dumping trapped Wasmtime guests, compared with `WasmCoreDump::serialize` and `write_all`.
//!
//! Both dump to fresh files. The peak is that of anonymous memory in addition to the guest's. Each round runs both
//! once, one after the other. The table compares the medians over the rounds.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../../../benches/common/mod.rs"]
mod common;
#[path = "../../../tests/common/mod.rs"]
mod decoded;
#[path = "../../../benches/common/trapped.rs"]
mod trapped;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use trapped::{Guest, random};

/// A row of the table: its name, the size of the memory in bytes, and the function that fills the memory.
type Row = (&'static str, usize, fn(&mut [u8]));

fn main() {
    let (unit, rounds) = if common::test_mode() { (16 << 20, 1) } else { (1 << 30, 5) };
    let rows: [Row; 5] = [
        ("dense", unit, |bytes| random().fill(bytes)),
        ("heap-like", unit, fill_heap),
        ("one page in ten", unit, |bytes| {
            let mut random = random();
            bytes.chunks_mut(4096).step_by(10).for_each(|page| random.fill(page));
        }),
        ("1/16 touched", unit, |bytes| fill_part(bytes, 16)),
        ("1/64 touched", 4 * unit, |bytes| fill_part(bytes, 64)),
    ];
    println!(
        "medians of {rounds} rounds; MiB: peak of anonymous memory in addition to the guest's"
    );
    println!(
        "{:<17} {:>6} {:>9} {:>7} {:>9} {:>7} {:>7} {:>7}",
        "guest", "MiB", "ours", "MiB", "reference", "MiB", "time", "valid"
    );
    for (name, len, fill) in rows {
        // Check another guest than the measured one, because the check makes untouched pages resident.
        let valid = Guest::new(len, fill).check();
        let mut guest = Guest::new(len, fill);
        let (mut ours, mut reference) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(measure(|| guest.dump()));
            reference.push(measure(|| guest.reference()));
        }
        let ((our_time, our_peak), (time, peak)) = (median(ours), median(reference));
        println!(
            "{name:<17} {:>6} {:>7.0}ms {:>7.1} {:>7.0}ms {:>7.0} {:>6.1}x {:>7}",
            len >> 20,
            our_time.as_secs_f64() * 1000.0,
            mib(our_peak),
            time.as_secs_f64() * 1000.0,
            mib(peak),
            time.as_secs_f64() / our_time.as_secs_f64(),
            if valid { "both" } else { "ours" },
        );
    }
}

/// Fills the memory with objects of 16 to 512 bytes, with up to 255 zeros between them.
fn fill_heap(bytes: &mut [u8]) {
    let mut random = random();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + random.between(16, 512)).min(bytes.len());
        random.fill(&mut bytes[at..end]);
        at = end + random.between(0, 255);
    }
}

/// Fills one of `parts` equal parts of the memory, spread over 64 places. Touches nothing else.
fn fill_part(bytes: &mut [u8], parts: usize) {
    let mut random = random();
    for place in bytes.chunks_mut(bytes.len() / 64) {
        let len = place.len() / parts;
        random.fill(&mut place[..len]);
    }
}

/// Measures the time that `work` takes to create a file, without the time to delete it, and the growth of anonymous
/// memory at its peak.
fn measure(work: impl FnOnce() -> File) -> (Duration, u64) {
    let (stop, peak, before) = (AtomicBool::new(false), AtomicU64::new(0), rss_anon());
    let sample = || peak.fetch_max(rss_anon(), Ordering::Relaxed);
    let time = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sample();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let start = Instant::now();
        let file = work();
        let time = start.elapsed();
        drop(file);
        stop.store(true, Ordering::Relaxed);
        time
    });
    (time, peak.into_inner().saturating_sub(before))
}

/// Returns `RssAnon` of /proc/self/status in bytes, or 0 if it is not available.
fn rss_anon() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Returns the median of the times and the median of the peaks.
fn median(measured: Vec<(Duration, u64)>) -> (Duration, u64) {
    let (mut times, mut peaks): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    times.sort();
    peaks.sort();
    (times[times.len() / 2], peaks[peaks.len() / 2])
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}
