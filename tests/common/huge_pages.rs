//! The kernel's pool of huge pages, for tests that run as root.

use std::fs;

/// Huge pages that a test has added to the pool. Dropped, the pool is what it was before.
pub struct Pool(String);

impl Pool {
    const PATH: &str = "/proc/sys/vm/nr_hugepages";

    /// Adds pages to the pool; `None` if the process may not, or the system has too little memory.
    pub fn new(pages: u64) -> Option<Self> {
        let before = fs::read_to_string(Self::PATH).ok()?.trim().to_string();
        let wanted = before.parse::<u64>().ok()? + pages;
        let this = Self(before);
        fs::write(Self::PATH, wanted.to_string()).ok()?;
        let now = fs::read_to_string(Self::PATH).ok()?.trim().parse::<u64>().ok()?;
        (now == wanted).then_some(this)
    }

    /// The pages that are free.
    pub fn free() -> u64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// The pages that are promised to a mapping.
    pub fn reserved() -> u64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Rsvd:")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It was written before.
        let _ = fs::write(Self::PATH, &self.0);
    }
}
