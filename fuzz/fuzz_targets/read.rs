#![no_main]

use corestream_fuzz::{count, read};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

/// Returns the CPU time of this thread in nanoseconds.
fn time() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(file) = read::file(bytes) {
        let start = time();
        read::check(&file);
        // Many times the usual time. Quadratic work would take minutes for the longest input.
        let limit = 1_000_000_000 + 8_000 * i64::try_from(file.len()).unwrap();
        assert!(time() - start < limit, "{} ns for {} bytes", time() - start, file.len());
    }
});
