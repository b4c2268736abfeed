//! Extents: the ranges of an image that may hold data, found without reading it.
//!
//! Files are asked for their holes, memory of a live guest for the pages that were never touched.
//! When in doubt, it is data.

#[cfg(target_os = "linux")]
mod fiemap;
#[cfg(not(target_os = "linux"))]
#[path = "no_fiemap.rs"]
mod fiemap;
mod file;
#[cfg(target_os = "linux")]
mod live;
#[cfg(not(target_os = "linux"))]
#[path = "no_live.rs"]
mod live;
#[cfg(target_os = "linux")]
mod mappings;
#[cfg(target_os = "linux")]
mod pages;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(target_os = "linux")]
mod smaps;
#[cfg(target_os = "linux")]
mod tmpfs;

use std::fmt;
use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

pub(crate) use file::Holes;
pub(super) use file::{check_len, mapping_reserves, shrunk};

use crate::error::{Error, ErrorKind, Result};

/// How the extents of an image were found.
///
/// ```
/// use corestream::ExtentMethod;
///
/// assert_eq!(ExtentMethod::PagemapScan.to_string(), "pagemap-scan");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentMethod {
    /// Nothing was asked: the whole image is one extent.
    Whole,
    /// `SEEK_DATA` and `SEEK_HOLE` on the file of the image, which the blocks of the file do not contradict.
    Seek,
    /// The whole file was read, because the file occupies more blocks than `SEEK_DATA` finds data, or
    /// bytes that it calls a hole are not zero.
    ReadInDoubt,
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7 and later): private anonymous memory that is neither
    /// present nor swapped, or is the zero page, is no extent.
    PagemapScan,
    /// The entries of `/proc/self/pagemap`: private anonymous memory that is neither present nor
    /// swapped is no extent.
    Pagemap,
    /// `/proc/self/smaps`, where the pagemap cannot be used: a private anonymous mapping of which nothing
    /// is resident or swapped is no extent.
    Smaps,
}

impl fmt::Display for ExtentMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Seek => "seek",
            Self::ReadInDoubt => "read-in-doubt",
            Self::PagemapScan => "pagemap-scan",
            Self::Pagemap => "pagemap",
            Self::Smaps => "smaps",
        })
    }
}

/// How it was found which mappings lie under the memory of a live guest.
///
/// ```
/// use corestream::MappingMethod;
///
/// assert_eq!(MappingMethod::ProcmapQuery.to_string(), "procmap-query");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingMethod {
    /// The ioctl `PROCMAP_QUERY` (Linux 6.11 and later).
    ProcmapQuery,
    /// The lines of `/proc/self/maps`.
    Maps,
}

impl fmt::Display for MappingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcmapQuery => "procmap-query",
            Self::Maps => "maps",
        })
    }
}

/// How extents are to be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Whether what the kernel says is taken as true; if not, everything is an extent.
    pub(crate) trust_holes: bool,
    /// For live memory; `None` is the best that there is.
    pub(crate) method: Option<ExtentMethod>,
    /// For live memory; `None` is the best that there is.
    pub(crate) mappings: Option<MappingMethod>,
}

/// Finds the extents of all images of a scan: what the kernel can be asked, tried once.
pub(crate) struct Finder {
    trust_holes: bool,
    live: Option<live::Kernel>,
    /// Why live memory is read, or asked about in a worse way than others.
    note: Option<String>,
}

impl Finder {
    /// Tries the methods for live memory, if there is `any_live` to ask about or one is forced.
    ///
    /// # Errors
    /// A method that is forced is not possible here.
    pub(crate) fn new(options: Options, any_live: bool) -> Result<Self> {
        let forced = options.method.is_some() || options.mappings.is_some();
        let wanted = options.trust_holes && (any_live || forced);
        let (live, note) = if wanted { probe(options)? } else { (None, None) };
        // A method that is forced need not concern any image.
        let note = note.filter(|_| any_live);
        Ok(Self { trust_holes: options.trust_holes, live, note })
    }

    /// Why live memory is read, or asked about in a worse way than others.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// How mappings are found, where any are asked for.
    pub(crate) fn mapping_method(&self) -> Option<MappingMethod> {
        self.live.as_ref().map(live::Kernel::mapping_method)
    }

    /// What is not a hole in the first `len` bytes of `file`; all of them if the file is known to be in
    /// doubt.
    pub(super) fn of_file<'i>(
        &self,
        file: &'i File,
        len: u64,
        in_doubt: bool,
    ) -> Result<Extents<'i>> {
        let mut extents = Extents::new(Source::Whole, len);
        if in_doubt {
            extents.source = Source::InDoubt;
        } else if self.trust_holes {
            match file::ask(file, len)? {
                file::Answer::Ask(witness) => extents.source = Source::File(file, witness),
                file::Answer::Doubtful(why) => {
                    extents.source = Source::InDoubt;
                    extents.note = Some(why);
                }
                file::Answer::Nothing => {
                    let why = "the file system cannot tell where the holes of the file are";
                    extents.note = Some(why.into());
                }
            }
        }
        let may_have_holes = !matches!(extents.source, Source::File(..));
        extents.unmapped = (may_have_holes && file::mapping_allocates(file)).then_some(file);
        Ok(extents)
    }

    /// What may have been written of memory of this process: `len` bytes from the address `start` on, none
    /// of which is read.
    pub(super) fn of_live(&self, start: usize, len: usize) -> Extents<'_> {
        let source = match &self.live {
            Some(kernel) => Source::Live(Box::new(live::Live::new(kernel, start, len))),
            None => Source::Whole,
        };
        Extents::new(source, len as u64)
    }
}

/// What the kernel can be asked about live memory, and a note if that is not the best there is; `None`
/// if it can be asked nothing.
fn probe(options: Options) -> Result<(Option<live::Kernel>, Option<String>)> {
    let impossible = |option: &str, method: &dyn fmt::Display, source| {
        let message = format!("{option}: {method} can't be used here");
        Error::io(ErrorKind::Option, message, source)
    };
    match options.method {
        Some(ExtentMethod::Whole) => return Ok((None, None)),
        Some(method @ (ExtentMethod::Seek | ExtentMethod::ReadInDoubt)) => {
            let message = format!("extent_method: {method} is for files, this is for live memory");
            return Err(Error::new(ErrorKind::Option, message));
        }
        None | Some(ExtentMethod::PagemapScan | ExtentMethod::Pagemap | ExtentMethod::Smaps) => {}
    }
    match (live::Kernel::new(options.method, options.mappings), options.method, options.mappings) {
        (Ok(kernel), ..) => {
            let note = kernel.note().map(Into::into);
            Ok((Some(kernel), note))
        }
        (Err(live::Impossible::Method(source)), Some(method), _) => {
            Err(impossible("extent_method", &method, source))
        }
        (Err(live::Impossible::Mappings(source)), _, Some(mappings)) => {
            Err(impossible("mapping_method", &mappings, source))
        }
        (Err(live::Impossible::Mappings(source)), Some(method), _) => {
            Err(impossible("extent_method", &method, source))
        }
        (Err(live::Impossible::Method(source)), None, Some(mappings)) => {
            Err(impossible("mapping_method", &mappings, source))
        }
        (Err(live::Impossible::Method(why) | live::Impossible::Mappings(why)), ..) => {
            let note = format!("untouched pages cannot be told ({why}): all live memory is read");
            Ok((None, Some(note)))
        }
    }
}

/// The extents of one image, in the order of their addresses; made as they are asked for, so that
/// any number of them needs no memory.
pub(crate) struct Extents<'i> {
    source: Source<'i>,
    at: u64,
    len: u64,
    /// What is left of the extent that was found last.
    rest: Range<u64>,
    /// What is no extent, whatever is there; those that were passed are gone.
    left_out: &'i [RangeInclusive<u64>],
    /// Why there is a doubt, or nothing was asked although it was wanted.
    note: Option<String>,
    /// The file, if reading the extents through a mapping would allocate its holes.
    unmapped: Option<&'i File>,
}

enum Source<'i> {
    Whole,
    InDoubt,
    File(&'i File, Arc<file::Witness>),
    Live(Box<live::Live<'i>>),
}

impl<'i> Extents<'i> {
    fn new(source: Source<'i>, len: u64) -> Self {
        Self { source, at: 0, len, rest: 0..0, left_out: &[], note: None, unmapped: None }
    }

    /// The same without what is in these ranges, which are in order.
    pub(crate) fn without(self, left_out: &'i [RangeInclusive<u64>]) -> Self {
        Self { left_out, ..self }
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

    /// The file, if its extents must be read from it and not through a mapping, which would allocate the
    /// holes in them.
    pub(crate) fn unmapped(&self) -> Option<&'i File> {
        self.unmapped
    }

    /// Why these extents, which had `data` bytes outside of `left_out`, cannot be all of the file's data;
    /// `None` if they can.
    pub(crate) fn contradiction(
        &self,
        data: u64,
        left_out: &[RangeInclusive<u64>],
    ) -> Result<Option<String>> {
        match &self.source {
            Source::File(file, witness) => file::contradiction(file, data, left_out, witness),
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
                self.at = self.behind_left_out(self.at);
                self.rest = self.find()?;
                if self.rest.is_empty() {
                    return Ok(None);
                }
            }
            let start = self.behind_left_out(self.rest.start);
            // What is left out may go on in the extents that come next, and be passed with this one.
            self.at = self.at.max(start);
            self.rest.start = start.min(self.rest.end);
            let end = self.left_out.first().map_or(u64::MAX, |range| *range.start());
            let extent = self.rest.start..self.rest.end.min(end);
            if !extent.is_empty() {
                self.rest.start = extent.end;
                return Ok(Some(extent));
            }
        }
    }

    /// `at`, or the end of what is left out there; passes what is left out before.
    fn behind_left_out(&mut self, mut at: u64) -> u64 {
        while let Some((range, later)) = self.left_out.split_first()
            && *range.start() <= at
        {
            // A range that ends at the largest address has all the rest.
            at = range.end().checked_add(1).map_or(self.len, |after| after.max(at));
            self.left_out = later;
        }
        at
    }

    /// Finds an extent from where the last one ended; empty if there is none.
    fn find(&mut self) -> Result<Range<u64>> {
        let extent = match &mut self.source {
            _ if self.at >= self.len => self.len..self.len,
            Source::Whole | Source::InDoubt => self.at..self.len,
            Source::File(file, witness) => {
                let left_out = self.left_out.first().map_or(u64::MAX, |range| *range.start());
                file::next(file, self.at, left_out, witness)?
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
