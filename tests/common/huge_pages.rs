//! The kernel's pool of huge pages, for tests that run as root.

use std::fs;

/// Huge pages that a test has added to the pool. Dropping this removes them.
pub struct Pool(String);

impl Pool {
    const PATH: &str = "/proc/sys/vm/nr_hugepages";

    /// Adds pages to the pool. Returns `None` without permission or memory.
    pub fn new(pages: u64) -> Option<Self> {
        let before = fs::read_to_string(Self::PATH).ok()?.trim().to_string();
        let wanted = before.parse::<u64>().ok()? + pages;
        let this = Self(before);
        fs::write(Self::PATH, wanted.to_string()).ok()?;
        let now = fs::read_to_string(Self::PATH).ok()?.trim().parse::<u64>().ok()?;
        (now == wanted).then_some(this)
    }

    /// Returns the number of free pages.
    pub fn free() -> u64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Returns the number of pages that are reserved for mappings.
    pub fn reserved() -> u64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Rsvd:")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // This worked before, so it works again.
        let _ = fs::write(Self::PATH, &self.0);
    }
}
