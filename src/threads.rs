//! Running work on several threads, or on fewer if the system cannot start them all.

use std::thread;

use crate::limits::MAX_THREADS;

/// Returns the number of cores available to this process, given its affinity and its control group.
///
/// The query takes about 50 microseconds.
pub(crate) fn cores() -> usize {
    // Assumes one core if the query fails.
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Returns the number of threads to use for the option `threads`: one per core for 0, and at most [`MAX_THREADS`].
pub(crate) fn resolve(threads: usize) -> usize {
    let requested = if threads == 0 { cores() } else { threads };
    requested.min(MAX_THREADS)
}

/// Runs `work` on `threads` threads, this one included, and returns the number of threads that ran it.
///
/// If the system cannot start a thread, the work runs on the threads started so far: a crashing process near its thread
/// limit still gets its dump. A rayon pool would fail instead, since it starts either all of its threads or none.
pub(crate) fn run_on(threads: usize, work: &(dyn Fn() + Sync)) -> usize {
    thread::scope(|scope| {
        let fails = |_: &usize| thread::Builder::new().spawn_scoped(scope, work).is_err();
        // This thread is number 0, so the number of the first thread that cannot be started is the count.
        let count = (1..threads).find(fails).unwrap_or(threads.max(1));
        work();
        count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_one_thread_per_core() {
        let expected = [cores().min(MAX_THREADS), 1, 2, MAX_THREADS, MAX_THREADS];
        assert_eq!([0, 1, 2, MAX_THREADS, usize::MAX].map(resolve), expected);
    }
}
