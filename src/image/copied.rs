//! A private copy of a live memory, for guests whose memory cannot be protected.

use memmap2::{MmapMut, MmapOptions};

use super::extents::ExtentFinder;
use super::memory_image::MemoryImage;
use crate::arithmetic::{Checked, exact};
use crate::error::{Error, ErrorKind, Result};

/// A copy of a memory, at the same offsets. Pages that were untouched in the original are untouched in the copy.
pub(super) struct CopiedMemory {
    map: MmapMut,
    len: usize,
}

impl CopiedMemory {
    /// Copies the extents of `image`. `budget` is the number of bytes that may be copied, and is reduced.
    ///
    /// # Errors
    /// Returns an error if the extents have more bytes than that, or if no memory for them is available.
    pub(super) fn new(
        image: &MemoryImage<'_>,
        finder: &ExtentFinder,
        budget: &mut u64,
    ) -> Result<Self> {
        let no_room = || Error::out_of_memory("a copy of a memory");
        let len = exact::<usize, _>(image.len())?;
        // A mapping cannot be empty.
        let mut options = MmapOptions::new();
        options.len(len.max(1)).no_reserve_swap();
        let mut map = options.map_anon().map_err(|_| no_room())?;
        let mut extents = image.extents(finder, false)?;
        while let Some(extent) = extents.next()? {
            let bytes = extent.end.minus(extent.start)?;
            *budget = budget.checked_sub(bytes).ok_or_else(|| {
                let message = "the memories have more data than the limit for copies";
                Error::new(ErrorKind::Guest, message)
            })?;
            let (start, end) = (exact::<usize, _>(extent.start)?, exact::<usize, _>(extent.end)?);
            let room = map.get_mut(start..end).ok_or_else(no_room)?;
            image.bytes().read_at(room, extent.start)?;
        }
        Ok(Self { map, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.get(..self.len).unwrap_or_default()
    }
}
