//! The progress of an extraction over all memories. The library reports the progress of each memory separately.

use std::sync::atomic::{AtomicU64, Ordering};

use corestream::read::MemoryView;
use corestream::{Progress, Stage};

use crate::progress::Step;

/// The progress over all memories. The threads that restore a memory share it.
pub(super) struct Meter {
    callback: Box<dyn Fn(Step) + Send + Sync>,
    total: AtomicU64,
    /// The bytes of the memories before the current one.
    before: AtomicU64,
}

impl Meter {
    /// Creates a meter that passes each step to `callback`.
    pub(super) fn new(callback: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self { callback: Box::new(callback), total: AtomicU64::new(0), before: AtomicU64::new(0) }
    }

    /// Starts to measure the extraction of these memories, which may have no bytes.
    pub(super) fn begin<'d>(&self, memories: impl Iterator<Item = MemoryView<'d>>) {
        // Saturation is harmless: the sum is only shown.
        let total = memories.map(bytes).fold(0, u64::saturating_add);
        self.total.store(total, Ordering::Relaxed);
        (self.callback)(Step { stage: Stage::Restore, done: 0, total });
    }

    /// Counts a restored memory.
    pub(super) fn count(&self, memory: MemoryView<'_>) {
        self.before.fetch_add(bytes(memory), Ordering::Relaxed);
    }

    /// Converts the library's progress with one memory to progress over all memories, and shows it.
    pub(super) fn show(&self, progress: Progress) {
        let mut step = Step::from(progress);
        if step.stage == Stage::Restore {
            step.total = self.total.load(Ordering::Relaxed);
            let before = self.before.load(Ordering::Relaxed);
            step.done = before.saturating_add(step.done).min(step.total);
        }
        (self.callback)(step);
    }
}

/// Returns the number of bytes of a memory that are in the dump.
fn bytes(memory: MemoryView<'_>) -> u64 {
    memory.coverage().data_bytes
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use corestream::read::OpenOptions;
    use corestream::{CoreDump, Dumper, FileOptions, Memory, MemoryImage, MemoryType};

    use super::*;

    #[test]
    fn adds_up_the_progress_of_all_memories() {
        let image = vec![7; 40 * 65_536];
        let mut guest = CoreDump::new("guest");
        // Two memories of equal size, one without data, and a smaller one.
        for pages in [40, 40, 0, 3] {
            let image = MemoryImage::from_slice(&image[..pages * 65_536]);
            guest.add_memory(Memory::new(MemoryType::wasm32(pages as u64), image));
        }
        let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();

        let steps = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&steps);
        let meter = Arc::new(Meter::new(move |step| shown.lock().unwrap().push(step)));
        let shared = Arc::clone(&meter);
        let options = OpenOptions::new().progress(move |progress| shared.show(progress));
        let dump = options.open_source(&bytes).unwrap();
        assert!(steps.lock().unwrap().iter().all(|step| step.stage == Stage::Open));
        steps.lock().unwrap().clear();
        meter.begin(dump.memories());
        let directory = tempfile::tempdir().unwrap();
        let mut ends = Vec::new();
        for memory in dump.memories() {
            let path = directory.path().join(memory.index().to_string());
            memory.restore(path, FileOptions::new()).unwrap();
            meter.count(memory);
            ends.push(steps.lock().unwrap().last().unwrap().done);
        }
        assert_eq!(ends, [40, 80, 80, 83].map(|pages| pages * 65_536));
        let (steps, total) = (steps.lock().unwrap(), 83 * 65_536);
        assert_eq!(steps[0].done, 0);
        assert!(steps.iter().all(|step| step.stage == Stage::Restore && step.total == total));
        assert!(steps.is_sorted_by_key(|step| step.done));
    }
}
