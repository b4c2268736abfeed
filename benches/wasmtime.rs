//! Guests of Wasmtime that trapped, dumped to a file by corestream and by `WasmCoreDump::serialize`
//! with `write_all`: time, and peak of anonymous memory over what the guest had. In each round both
//! run once, one after the other; the medians over the rounds are compared.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod common;
#[path = "../tests/common/mod.rs"]
mod decoded;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Random, fresh_file};
use corestream::wasmtime::capture;
use corestream::{Dumper, FileSink};
use wasmtime::{Config, Engine, Error, Instance, Module, Store, WasmCoreDump};

/// A guest that trapped.
struct Guest {
    store: Store<()>,
    error: Error,
}

/// A row of the table: its name, the size of the memory in bytes, and what is in it.
type Row = (&'static str, usize, fn(&mut [u8]));

fn main() {
    let (unit, rounds) = if common::test_mode() { (16 << 20, 1) } else { (1 << 30, 5) };
    let rows: [Row; 5] = [
        ("dense", unit, |bytes| random().fill(bytes)),
        ("heap-like", unit, heap),
        ("one page in ten", unit, |bytes| {
            let mut random = random();
            bytes.chunks_mut(4096).step_by(10).for_each(|page| random.fill(page));
        }),
        ("1/16 touched", unit, |bytes| touch(bytes, 16)),
        ("1/64 touched", 4 * unit, |bytes| touch(bytes, 64)),
    ];
    println!("medians of {rounds} rounds; MiB are the peak of anonymous memory beside the guest's");
    println!(
        "{:<17} {:>6} {:>9} {:>7} {:>9} {:>7} {:>7} {:>7}",
        "guest", "MiB", "ours", "MiB", "reference", "MiB", "time", "valid"
    );
    for (name, len, fill) in rows {
        // Not the one that is measured: the check reads pages that were never touched.
        let valid = check(&mut guest(len, fill));
        let mut guest = guest(len, fill);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(measure(|| dump(&mut guest)));
            theirs.push(measure(|| reference(&mut guest)));
        }
        let ((our_time, our_peak), (time, peak)) = (median(ours), median(theirs));
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

fn random() -> Random {
    Random(88_172_645_463_325_252)
}

/// Objects of 16 to 512 bytes with zeros between them.
fn heap(bytes: &mut [u8]) {
    let mut random = random();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + random.between(16, 512)).min(bytes.len());
        random.fill(&mut bytes[at..end]);
        at = end + random.between(0, 255);
    }
}

/// Fills one part of `parts`, in 64 places, and touches nothing else.
fn touch(bytes: &mut [u8], parts: usize) {
    let mut random = random();
    for place in bytes.chunks_mut(bytes.len() / 64) {
        let len = place.len() / parts;
        random.fill(&mut place[..len]);
    }
}

/// A guest of one memory of `len` bytes, which the host fills before the guest traps.
fn guest(len: usize, fill: fn(&mut [u8])) -> Guest {
    let engine = Engine::new(Config::new().coredump_on_trap(true)).unwrap();
    let text = format!(
        r#"(module $guest (memory (export "memory") {}) (func (export "run") unreachable))"#,
        len / 65_536
    );
    let module = Module::new(&engine, text).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    fill(instance.get_memory(&mut store, "memory").unwrap().data_mut(&mut store));
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    let error = run.call(&mut store, ()).unwrap_err();
    Guest { store, error }
}

fn dump(guest: &mut Guest) {
    let captured = capture(&mut guest.store, "guest", &guest.error).unwrap();
    let plan = Dumper::new().plan(&captured.dump).unwrap();
    plan.write_to(&mut FileSink::new(&fresh_file())).unwrap();
}

fn serialize(guest: &mut Guest) -> Vec<u8> {
    guest.error.downcast_ref::<WasmCoreDump>().unwrap().serialize(&mut guest.store, "guest")
}

fn reference(guest: &mut Guest) {
    fresh_file().write_all(&serialize(guest)).unwrap();
}

/// Our dump is valid and gives the memory back, or nothing is timed. Whether the reference's is.
fn check(guest: &mut Guest) -> bool {
    let captured = capture(&mut guest.store, "guest", &guest.error).unwrap();
    let bytes = captured.to_vec().unwrap();
    let image = captured.dump.memories[0].image.as_slice().unwrap();
    let mut end = 0;
    for segment in decoded::decode(&bytes).segments {
        let address = usize::try_from(segment.address).unwrap();
        assert!(image[end..address].iter().all(|byte| *byte == 0));
        end = address + segment.data.len();
        assert!(image[address..end] == *segment.data);
    }
    assert!(image[end..].iter().all(|byte| *byte == 0));
    drop(bytes);
    wasmparser::Validator::new().validate_all(&serialize(guest)).is_ok()
}

/// The time that `work` takes, and the peak of anonymous memory over what there was before.
fn measure(work: impl FnOnce()) -> (Duration, u64) {
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
        work();
        let time = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        time
    });
    (time, peak.into_inner().saturating_sub(before))
}

/// `RssAnon` of /proc/self/status in bytes; 0 where there is none.
fn rss_anon() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The median of the times and that of the peaks.
fn median(measured: Vec<(Duration, u64)>) -> (Duration, u64) {
    let (mut times, mut peaks): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    times.sort();
    peaks.sort();
    (times[times.len() / 2], peaks[peaks.len() / 2])
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}
