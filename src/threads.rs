//! Work on several threads, or on fewer if the system gives no more.

use std::thread;

/// Returns the number of cores that this process may use. It asks the system, which takes some 50 microseconds.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get())
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
