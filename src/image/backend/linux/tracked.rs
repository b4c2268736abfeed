//! Queries for the snapshot of a live memory: the kinds of its mappings, and the pages that were written to.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "all addresses lie in existing memory, far below 2^64"
)]

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::mappings::{MappingFinder, MappingKind, MapsReader};
use super::proc::{Maps, PageRegion, Pagemap};
use crate::image::backend::answers::MemoryKind;

/// The maximum number of regions that one call returns. With more, the kernel may report a region twice.
const MAX_REGIONS: usize = 512;

/// The interfaces of the kernel that a snapshot needs.
pub(crate) struct TrackedPages {
    pagemap: Pagemap,
    maps: Option<Maps>,
}

impl TrackedPages {
    /// Opens the interfaces.
    ///
    /// # Errors
    /// Returns an error if `PAGEMAP_SCAN` (Linux 6.7) is unavailable.
    pub(crate) fn open() -> io::Result<Self> {
        let pagemap = Pagemap::open()?;
        let page_size = rustix::param::page_size() as u64;
        let witness = 0_u8;
        let address = (&raw const witness).addr() as u64;
        let start = address - address % page_size;
        let maps = Maps::open().ok().filter(|maps| maps.query(address).is_ok());
        let this = Self { pagemap, maps };
        let mut found = false;
        this.scan(start..start + page_size, |_, is_written| found |= is_written)?;
        if found {
            Ok(this)
        } else {
            Err(io::Error::other("PAGEMAP_SCAN does not report a page in use"))
        }
    }

    /// Calls `found` with the mappings of a range of addresses, in order. Gaps between mappings are left out if the
    /// kernel reports them.
    pub(crate) fn mappings(
        &self,
        range: Range<u64>,
        mut found: impl FnMut(Range<u64>, MemoryKind),
    ) {
        let mut finder = match &self.maps {
            Some(maps) => MappingFinder::Query(maps),
            None => MappingFinder::Lines(MapsReader::open()),
        };
        let mut at = range.start;
        while at < range.end {
            let mapping = finder.at(at);
            let end = mapping.end.min(range.end);
            found(
                at..end,
                match mapping.kind {
                    MappingKind::Anonymous => MemoryKind::Anonymous,
                    MappingKind::SharedFile(_) => MemoryKind::Shared,
                    MappingKind::Data => MemoryKind::Other,
                },
            );
            at = end;
        }
    }

    /// Calls `found` with the regions of whole pages in `range` that contain data, in order, and whether they were
    /// written to since they were protected. Pages that were never protected count as written. The zero page is left
    /// out.
    ///
    /// # Errors
    /// Returns the errors of the ioctl.
    pub(crate) fn scan(
        &self,
        range: Range<u64>,
        mut found: impl FnMut(Range<u64>, bool),
    ) -> Result<(), Errno> {
        let mut regions = [PageRegion::default(); MAX_REGIONS];
        let mut at = range.start;
        while at < range.end {
            let (count, walk_end) = match self.pagemap.scan_written(at..range.end, &mut regions) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            for region in regions.iter().take(count) {
                found(region.start.max(at)..region.end, region.is_written());
            }
            if walk_end <= at {
                return Err(Errno::IO);
            }
            at = walk_end;
        }
        Ok(())
    }
}
