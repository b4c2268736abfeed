//! Whether a thread works or is blocked, as the kernel counts its time on a processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A thread of this process.
pub struct Busy {
    /// The file of /proc that tells of it.
    stat: PathBuf,
}

/// What the kernel tells of a thread: whether it runs or could run, and its time on a processor in ticks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    runs: bool,
    ticks: (u64, u64),
}

impl Busy {
    /// The thread that calls this.
    pub fn this_thread() -> Self {
        let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
        Self { stat: Path::new("/proc").join(thread).join("stat") }
    }

    /// Waits for `time`, and returns whether the thread has worked or could have meanwhile. A thread of which nothing
    /// is known counts as blocked.
    pub fn is_so_for(&self, time: Duration) -> bool {
        let before = self.told();
        thread::sleep(time);
        self.told()
            .is_some_and(|now| now.runs || before.is_some_and(|before| before.ticks != now.ticks))
    }

    fn told(&self) -> Option<Told> {
        let stat = fs::read_to_string(&self.stat).ok()?;
        // The name of the thread, which may hold anything, stands before it in parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let runs = fields.next()? == "R";
        // The fields 14 and 15 of proc_pid_stat(5), of which this was the third.
        let mut time = fields.skip(10).map(str::parse);
        Some(Told { runs, ticks: (time.next()?.ok()?, time.next()?.ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_computes_is_busy_and_one_that_waits_is_not() {
        let (computes, ends) = (AtomicBool::new(true), AtomicBool::new(false));
        thread::scope(|scope| {
            let (this, that) = mpsc::channel();
            let (computes, ends) = (&computes, &ends);
            let worker = scope.spawn(move || {
                this.send(Busy::this_thread()).unwrap();
                while computes.load(Ordering::Relaxed) {}
                while !ends.load(Ordering::Relaxed) {
                    thread::park();
                }
            });
            let busy = that.recv().unwrap();
            assert!(busy.is_so_for(Duration::from_millis(100)));
            computes.store(false, Ordering::Relaxed);
            // It may take a moment to come to rest.
            while busy.is_so_for(Duration::from_millis(100)) {}
            ends.store(true, Ordering::Relaxed);
            worker.thread().unpark();
        });
    }
}
