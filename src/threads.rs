//! Work on several threads, or on fewer if the system gives no more.

use std::thread;

/// Runs `work` on this thread and on as many others as there should be and can be started; returns how
/// many that were, this one included.
///
/// A pool of rayon starts all of its threads or none.
pub(crate) fn run_on(threads: usize, work: &(dyn Fn() + Sync)) -> usize {
    thread::scope(|scope| {
        let start = |_: &usize| thread::Builder::new().spawn_scoped(scope, work).is_ok();
        // A machine that gives no threads to a crashing process still gets its dump.
        let others = (1..threads).take_while(start).count();
        work();
        others.saturating_add(1)
    })
}
