//! Work on several threads, or on fewer if the system gives no more.

use std::thread;

use crate::limits::MAX_THREADS;

/// Returns the number of cores that this process may use, by its affinity and its control group. It asks the system, which
/// takes some 50 microseconds.
pub(crate) fn cores() -> usize {
    // A system that does not say has one.
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Returns how many threads a caller means by `threads`: at most [`MAX_THREADS`], and for 0 one per core.
pub(crate) fn wanted(threads: usize) -> usize {
    let wanted = if threads == 0 { cores() } else { threads };
    wanted.min(MAX_THREADS)
}

/// Runs `work` on this thread and on as many others as there should be and can be started; returns how
/// many that were, this one included.
///
/// A pool of rayon starts all of its threads or none.
pub(crate) fn run_on(threads: usize, work: &(dyn Fn() + Sync)) -> usize {
    thread::scope(|scope| {
        let fails = |_: &usize| thread::Builder::new().spawn_scoped(scope, work).is_err();
        // A machine that gives no threads to a crashing process still gets its dump. This thread is number 0, so the
        // number of the first one that cannot be started is how many there are.
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
        assert_eq!([0, 1, 2, MAX_THREADS, usize::MAX].map(wanted), expected);
    }
}
