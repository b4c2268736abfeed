//! The growth of the dump time with the touched part of a memory, and with its size.
//!
//! Corestream and the reference (`WasmCoreDump::serialize` and `write_all`) dump guests of Wasmtime to fresh files. The
//! machine's limit is one `write_all` of the same number of bytes to a fresh, preallocated file. Each round runs
//! everything once, one after the other. The tables show the medians over the rounds, and the best time of the limit.
//!
//! With `--svg DIRECTORY`, the bench writes the plots of `docs/performance.md`.

#![allow(clippy::print_stdout, reason = "a bench prints its tables")]

#[path = "../../../benches/common/mod.rs"]
mod common;
#[path = "../../../tests/common/mod.rs"]
mod decoded;
#[path = "../../../benches/common/plot.rs"]
mod plot;
#[path = "../../../benches/common/trapped.rs"]
mod trapped;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{fresh_file, test_mode};
use plot::{Line, Plot};
use rustix::fs::{FallocateFlags, fallocate};
use trapped::{Guest, random};

/// Returns the number of touched bytes in the memories of growing size.
fn touched() -> usize {
    if test_mode() { 1 << 20 } else { 64 << 20 }
}

/// The largest memory that the reference dumps. Over 4 GiB it takes seconds, and all the memory that it reads gets page
/// tables.
const MAX_REFERENCE_BYTES: usize = 4 << 30;

/// The times of one guest in seconds.
struct Point {
    /// The position on the x axis.
    x: f64,
    name: String,
    ours: f64,
    reference: Option<f64>,
    limit: f64,
}

fn main() {
    let rounds = if test_mode() { 1 } else { 7 };
    let sizes: Vec<_> = (0..6).map(|i| touched() << (2 * i)).collect();
    let by_size = sizes.iter().map(|len| {
        let guest = || Guest::new(*len, |bytes| fill_spread(bytes, touched()));
        measure(rounds, *len, size(*len), &guest)
    });
    let title = format!("Time to dump a memory with {} touched, by its size", size(touched()));
    table("memory", &title, by_size.collect());

    let len = common::image_len();
    let by_share = [1, 2, 5, 10, 20, 50, 100].map(|percent| {
        let guest = || Guest::new(len, |bytes| fill_share(bytes, percent));
        let mut point = measure(rounds, len, format!("{percent}%"), &guest);
        point.x = f64::from(u8::try_from(percent).unwrap());
        point
    });
    let title = format!("Time to dump {}, by the share of touched pages", size(len));
    table("touched", &title, by_share.into());
}

/// Fills `len` bytes, spread over 64 places.
fn fill_spread(bytes: &mut [u8], len: usize) {
    let mut random = random();
    for place in bytes.chunks_mut(bytes.len() / 64) {
        random.fill(&mut place[..len / 64]);
    }
}

/// Fills `percent` of the pages, evenly spread.
fn fill_share(bytes: &mut [u8], percent: usize) {
    let mut random = random();
    for (i, page) in bytes.chunks_mut(4096).enumerate() {
        // Fill a page whenever the accumulated share reaches the next whole number.
        if (i + 1) * percent / 100 > i * percent / 100 {
            random.fill(page);
        }
    }
}

/// Measures the dumps of a guest with a memory of `len` bytes.
fn measure(rounds: usize, len: usize, name: String, guest: &dyn Fn() -> Guest) -> Point {
    let with_reference = len <= MAX_REFERENCE_BYTES;
    // Check another guest than the measured one, because the check makes untouched pages resident.
    if with_reference {
        guest().check();
    }
    let mut guest = guest();
    if !with_reference {
        guest.check_data(touched());
    }
    let bytes = vec![1; usize::try_from(guest.dump_len()).unwrap()];
    let (mut ours, mut reference, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=rounds {
        ours.push(time(|| guest.dump()));
        limit.push(time(|| write_preallocated(&bytes)));
        if with_reference {
            reference.push(time(|| guest.reference()));
        }
    }
    let sorted = |mut times: Vec<Duration>| {
        // The first round is a warm-up.
        times.drain(..times.len().min(1));
        times.sort();
        times
    };
    let median = |times: Vec<Duration>| {
        let times = sorted(times);
        times.get(times.len() / 2).map(Duration::as_secs_f64)
    };
    let x = f64::from(u32::try_from(len >> 16).unwrap());
    let (ours, limit) = (median(ours).unwrap(), sorted(limit)[0].as_secs_f64());
    Point { x, name, ours, reference: median(reference), limit }
}

/// Measures the time to create a file, without the time to delete it.
fn time(work: impl FnOnce() -> File) -> Duration {
    let start = Instant::now();
    let file = work();
    let time = start.elapsed();
    drop(file);
    time
}

fn write_preallocated(bytes: &[u8]) -> File {
    let mut file = fresh_file();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes.len() as u64).unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Prints the points as a table, and plots them with `--svg`.
fn table(file: &str, title: &str, points: Vec<Point>) {
    println!("\n{title}\n{:>9} {:>9} {:>9} {:>9}", "", "ours", "reference", "limit");
    for point in &points {
        let ms = |seconds: f64| format!("{:.1} ms", seconds * 1000.0);
        let reference = point.reference.map_or("-".into(), ms);
        println!("{:>9} {:>9} {reference:>9} {:>9}", point.name, ms(point.ours), ms(point.limit));
    }
    let mut args = std::env::args().skip_while(|arg| arg != "--svg").skip(1);
    let Some(directory) = args.next() else { return };
    let line = |name, seconds: &dyn Fn(&Point) -> Option<f64>| Line {
        name,
        points: points.iter().filter_map(|point| Some((point.x, seconds(point)?))).collect(),
    };
    let plot = Plot {
        title: title.into(),
        marks: points.iter().map(|point| (point.x, point.name.clone())).collect(),
        lines: vec![
            line("corestream", &|point| Some(point.ours)),
            line("Wasmtime's serialize", &|point| point.reference),
            line("limit: one write", &|point| Some(point.limit)),
        ],
    };
    let path = PathBuf::from(directory).join(file).with_extension("svg");
    std::fs::write(path, plot.svg()).unwrap();
}

fn size(bytes: usize) -> String {
    if bytes >= 1 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}
