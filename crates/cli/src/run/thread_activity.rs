//! Distinguishes a working thread from a blocked one, by the CPU time that the kernel counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The activity of a thread of this process.
pub struct ThreadActivity {
    /// The thread's `stat` file in /proc.
    path: PathBuf,
}

/// The state of a thread.
struct Stat {
    /// Whether the thread is running or runnable.
    is_runnable: bool,
    /// The user and system time in clock ticks.
    ticks: (u64, u64),
}

impl ThreadActivity {
    /// Observes the calling thread.
    pub fn this_thread() -> Self {
        let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
        Self { path: Path::new("/proc").join(thread).join("stat") }
    }

    /// Sleeps for `time`, and returns whether the thread ran or was runnable in that time. Returns `false` if the
    /// kernel does not report it.
    pub fn worked_during(&self, time: Duration) -> bool {
        let before = self.stat();
        thread::sleep(time);
        let used_time = |now: &Stat| before.is_some_and(|before| before.ticks != now.ticks);
        self.stat().is_some_and(|now| now.is_runnable || used_time(&now))
    }

    fn stat(&self) -> Option<Stat> {
        let text = fs::read_to_string(&self.path).ok()?;
        // The thread's name precedes these fields, in parentheses. It may contain any character.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let is_runnable = fields.next()? == "R";
        // Fields 14 and 15 of proc_pid_stat(5). The state is field 3.
        let mut times = fields.skip(10).map(str::parse);
        Some(Stat { is_runnable, ticks: (times.next()?.ok()?, times.next()?.ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn distinguishes_working_and_parked_threads() {
        let (computes, ends) = (AtomicBool::new(true), AtomicBool::new(false));
        thread::scope(|scope| {
            let (this, that) = mpsc::channel();
            let (computes, ends) = (&computes, &ends);
            let worker = scope.spawn(move || {
                this.send(ThreadActivity::this_thread()).unwrap();
                while computes.load(Ordering::Relaxed) {}
                while !ends.load(Ordering::Relaxed) {
                    thread::park();
                }
            });
            let busy = that.recv().unwrap();
            let works = busy.worked_during(Duration::from_millis(100));
            computes.store(false, Ordering::Relaxed);
            // Gives the thread time to park.
            let rests = (0..50).any(|_| !busy.worked_during(Duration::from_millis(100)));
            // Stops the thread before any assertion, so that a failure does not wait for it.
            ends.store(true, Ordering::Relaxed);
            worker.thread().unpark();
            assert!(works && rests, "works: {works}, rests: {rests}");
        });
    }
}
