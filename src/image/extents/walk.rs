//! The walk over the extents of one image, past what is left out.

use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::file::{self, Holes, Witness};
use crate::error::Result;
use crate::image::backend::live::Live;
use crate::image::method::ExtentMethod;

/// The extents of one image, in the order of their addresses; made as they are asked for, so that
/// any number of them needs no memory.
pub(crate) struct Extents<'i> {
    pub(super) source: Source<'i>,
    at: u64,
    len: u64,
    /// What is left of the extent that was found last.
    rest: Range<u64>,
    /// What is no extent, whatever is there; those that were passed are gone.
    excluded: &'i [RangeInclusive<u64>],
    /// Why there is a doubt, or nothing was asked although it was wanted.
    pub(super) note: Option<String>,
    /// Whether the note is for readers of the dump, too, and not only for the statistics.
    pub(super) note_is_for_dump: bool,
    /// The file, if reading the extents through a mapping would allocate its holes.
    pub(super) unmapped: Option<&'i File>,
}

/// How they are found.
pub(super) enum Source<'i> {
    Whole,
    InDoubt,
    File(&'i File, Arc<Witness>),
    Live(Box<Live<'i>>),
}

impl<'i> Extents<'i> {
    pub(super) fn new(source: Source<'i>, len: u64) -> Self {
        Self {
            source,
            at: 0,
            len,
            rest: 0..0,
            excluded: &[],
            note: None,
            note_is_for_dump: true,
            unmapped: None,
        }
    }

    /// The same without what is in these ranges, which are in order.
    pub(crate) fn without(self, excluded: &'i [RangeInclusive<u64>]) -> Self {
        Self { excluded, ..self }
    }

    /// How they are found.
    pub(crate) fn method(&self) -> ExtentMethod {
        match &self.source {
            Source::Whole => ExtentMethod::Whole,
            Source::InDoubt => ExtentMethod::ReadInDoubt,
            Source::File(..) => ExtentMethod::Seek,
            Source::Live(live) => live.method(),
        }
    }

    /// Why there is a doubt, or nothing was asked although it was wanted.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether [`note`](Self::note) is for readers of the dump, too, and not only for the statistics.
    pub(crate) fn note_is_for_dump(&self) -> bool {
        self.note_is_for_dump
    }

    /// The file, if its extents must be read from it and not through a mapping, which would allocate the
    /// holes in them.
    pub(crate) fn unmapped(&self) -> Option<&'i File> {
        self.unmapped
    }

    /// Why these extents, which had `data` bytes outside of `excluded`, cannot be all of the file's data;
    /// `None` if they can.
    pub(crate) fn contradiction(
        &self,
        data: u64,
        excluded: &[RangeInclusive<u64>],
    ) -> Result<Option<String>> {
        match &self.source {
            Source::File(file, witness) => file::contradiction(file, data, excluded, witness),
            Source::Whole | Source::InDoubt | Source::Live(_) => Ok(None),
        }
    }

    /// Bytes of the image.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What finds the holes that an extent may still have.
    pub(crate) fn holes(&self) -> Option<Holes<'i>> {
        match &self.source {
            Source::File(file, witness) => Some(Holes::of(file, witness.clone())),
            Source::Whole | Source::InDoubt | Source::Live(_) => None,
        }
    }

    /// The next extent in bytes, not empty; `None` after the last. It may have [`holes`](Self::holes).
    ///
    /// # Errors
    /// A file has become shorter than it was when the image was opened.
    pub(crate) fn next(&mut self) -> Result<Option<Range<u64>>> {
        loop {
            if self.rest.is_empty() {
                // What is left out is not even asked about.
                self.at = self.after_excluded(self.at);
                self.rest = self.find()?;
                if self.rest.is_empty() {
                    return Ok(None);
                }
            }
            let start = self.after_excluded(self.rest.start);
            // What is left out may go on in the extents that come next, and be passed with this one.
            self.at = self.at.max(start);
            self.rest.start = start.min(self.rest.end);
            let end = self.excluded.first().map_or(u64::MAX, |range| *range.start());
            let extent = self.rest.start..self.rest.end.min(end);
            if !extent.is_empty() {
                self.rest.start = extent.end;
                return Ok(Some(extent));
            }
        }
    }

    /// `at`, or the end of what is left out there; passes what is left out before.
    fn after_excluded(&mut self, mut at: u64) -> u64 {
        while let Some((range, later)) = self.excluded.split_first()
            && *range.start() <= at
        {
            // A range that ends at the largest address has all the rest.
            at = range.end().checked_add(1).map_or(self.len, |after| after.max(at));
            self.excluded = later;
        }
        at
    }

    /// Finds an extent from where the last one ended; empty if there is none.
    fn find(&mut self) -> Result<Range<u64>> {
        let extent = match &mut self.source {
            _ if self.at >= self.len => self.len..self.len,
            Source::Whole | Source::InDoubt => self.at..self.len,
            Source::File(file, witness) => {
                let excluded = self.excluded.first().map_or(u64::MAX, |range| *range.start());
                file::next(file, self.at, excluded, witness)?
            }
            Source::Live(live) => live.next(self.at),
        };
        self.at = extent.end;
        if let Source::Live(live) = &mut self.source
            && self.at >= self.len
        {
            live.close();
        }
        Ok(extent)
    }
}
