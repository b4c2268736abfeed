//! The walk over the extents of one image. It skips excluded ranges.

use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::file::{self, CheckedSeek, HoleFinder};
use crate::error::Result;
use crate::image::backend::live::LiveExtents;
use crate::image::frozen::FrozenBytes;
use crate::image::method::ExtentMethod;

/// The extents of one image, in address order. They are found one at a time, so any number of them needs no memory.
pub(crate) struct Extents<'i> {
    pub(super) source: ExtentSource<'i>,
    position: u64,
    len: u64,
    /// The remaining part of the extent that was found last.
    current: Range<u64>,
    /// The ranges that are not part of any extent. Ranges that the walk has passed are removed.
    excluded: &'i [RangeInclusive<u64>],
    /// The reason for a doubt, or why no query was made although it was wanted.
    pub(super) note: Option<String>,
    /// Whether the note is also for readers of the dump, and not only for the statistics.
    pub(super) note_is_for_dump: bool,
    /// The file to read instead of its mapping, if reading the extents through the mapping would allocate holes in
    /// them.
    pub(super) file_to_read: Option<&'i File>,
}

/// The method by which extents are found.
pub(super) enum ExtentSource<'i> {
    Whole,
    InDoubt,
    File(&'i File, Arc<CheckedSeek>),
    Live(Box<LiveExtents<'i>>),
    Frozen(&'i dyn FrozenBytes),
}

impl<'i> Extents<'i> {
    pub(super) fn new(source: ExtentSource<'i>, len: u64) -> Self {
        Self {
            source,
            position: 0,
            len,
            current: 0..0,
            excluded: &[],
            note: None,
            note_is_for_dump: true,
            file_to_read: None,
        }
    }

    /// Excludes these ranges, which are in order.
    pub(crate) fn excluding(self, excluded: &'i [RangeInclusive<u64>]) -> Self {
        Self { excluded, ..self }
    }

    /// Returns the method by which the extents are found.
    pub(crate) fn method(&self) -> ExtentMethod {
        match &self.source {
            ExtentSource::Whole => ExtentMethod::Whole,
            ExtentSource::InDoubt => ExtentMethod::ReadInDoubt,
            ExtentSource::File(..) => ExtentMethod::Seek,
            ExtentSource::Live(live) => live.method(),
            ExtentSource::Frozen(_) => ExtentMethod::Snapshot,
        }
    }

    /// Returns the reason for a doubt, or why no query was made although it was wanted.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Returns `true` if [`note`](Self::note) is also for readers of the dump, and not only for the statistics.
    pub(crate) fn note_is_for_dump(&self) -> bool {
        self.note_is_for_dump
    }

    /// Returns the file to read instead of its mapping, if reading the extents through the mapping would allocate
    /// holes in them.
    pub(crate) fn file_to_read(&self) -> Option<&'i File> {
        self.file_to_read
    }

    /// Returns the reason why these extents cannot be all data of the file, or `None` if they can be. They had `data`
    /// bytes outside of `excluded`.
    ///
    /// # Errors
    /// Returns an error of [`Internal`](crate::ErrorKind::Internal) if a sum overflows.
    pub(crate) fn find_contradiction(
        &self,
        data: u64,
        excluded: &[RangeInclusive<u64>],
    ) -> Result<Option<String>> {
        match &self.source {
            ExtentSource::File(file, checked_seek) => {
                file::find_contradiction(file, data, excluded, checked_seek)
            }
            ExtentSource::Whole
            | ExtentSource::InDoubt
            | ExtentSource::Live(_)
            | ExtentSource::Frozen(_) => Ok(None),
        }
    }

    /// Returns the length of the image in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the finder of the holes that an extent may still contain.
    pub(crate) fn holes(&self) -> Option<HoleFinder<'i>> {
        match &self.source {
            ExtentSource::File(file, checked_seek) => {
                Some(HoleFinder::new(file, checked_seek.clone()))
            }
            ExtentSource::Whole
            | ExtentSource::InDoubt
            | ExtentSource::Live(_)
            | ExtentSource::Frozen(_) => None,
        }
    }

    /// Returns the next extent in bytes, which is not empty, or `None` after the last one. The extent may contain
    /// [`holes`](Self::holes).
    ///
    /// # Errors
    /// Returns an error if the file is shorter than it was when the image was opened.
    pub(crate) fn next(&mut self) -> Result<Option<Range<u64>>> {
        loop {
            if self.current.is_empty() {
                // Nothing is queried about excluded ranges.
                self.position = self.skip_excluded(self.position);
                self.current = self.find_next()?;
                if self.current.is_empty() {
                    return Ok(None);
                }
            }
            let start = self.skip_excluded(self.current.start);
            // An excluded range may extend over the next extents. Skip it in all of them.
            self.position = self.position.max(start);
            self.current.start = start.min(self.current.end);
            let end = self.excluded.first().map_or(u64::MAX, |range| *range.start());
            let extent = self.current.start..self.current.end.min(end);
            if !extent.is_empty() {
                self.current.start = extent.end;
                return Ok(Some(extent));
            }
        }
    }

    /// Removes the excluded ranges that start at or before `at`. Returns the end of the last one if it is after `at`,
    /// otherwise `at`.
    fn skip_excluded(&mut self, mut at: u64) -> u64 {
        while let Some((range, later)) = self.excluded.split_first()
            && *range.start() <= at
        {
            // A range that ends at the highest address extends to the end of the image.
            at = range.end().checked_add(1).map_or(self.len, |after| after.max(at));
            self.excluded = later;
        }
        at
    }

    /// Finds an extent at or after the current position. It is empty if there is none.
    fn find_next(&mut self) -> Result<Range<u64>> {
        let extent = match &mut self.source {
            _ if self.position >= self.len => self.len..self.len,
            ExtentSource::Whole | ExtentSource::InDoubt => self.position..self.len,
            ExtentSource::File(file, checked_seek) => {
                let excluded = self.excluded.first().map_or(u64::MAX, |range| *range.start());
                file::next_part(file, self.position, excluded, checked_seek)?
            }
            ExtentSource::Live(live) => live.next(self.position),
            ExtentSource::Frozen(frozen) => frozen.next_extent(self.position),
        };
        self.position = extent.end;
        if let ExtentSource::Live(live) = &mut self.source
            && self.position >= self.len
        {
            live.free_buffers();
        }
        Ok(extent)
    }
}
