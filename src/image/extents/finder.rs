//! Finds out which queries about images the kernel supports, and starts the walk over the extents of each image.
//!
//! # The problem
//! The kernel offers several interfaces that report holes and untouched pages. Each exists only in some versions, on
//! some file systems, or with some privileges. In containers and sandboxes an interface may exist and fail, or give
//! answers about something else.
//!
//! # The idea
//! Each interface for live memory is tried once per scan, on memory whose state is known, before any answer of it
//! counts. The best one that passes is used. If this process has a userfaultfd, none is used unless it is forced. For
//! a file, the first query of the file system decides.
//!
//! # Which answers are believed
//! - "A range of a file is a hole": if the blocks of the file do not contradict it, and, where the file system is not
//!   known to be exact, if samples confirm it ([`file`](mod@file)).
//! - "A small file is one hole": never, because a file system may store such a file in its inode, where it occupies
//!   no blocks that could contradict the answer.
//! - "A page was never touched": if its mapping is private anonymous memory and no userfaultfd supplies the page
//!   ([`live`](crate::image::backend::live)).
//! - "A page of a shared mapping is a hole": if the file behind it is in tmpfs and can be opened.
//! - Anything else is data.
//!
//! # The invariant
//! If an interface is missing, fails or gives an impossible answer, the range is data. The only exception is a method
//! that the caller forces: if it is unavailable, that is an error, so that a test or a measurement never uses another
//! one unnoticed.

use std::fmt;
use std::fs::File;

use super::file;
use super::walk::{ExtentSource, Extents};
use crate::error::{Error, ErrorKind, Result};
use crate::image::backend::answers::ProbeError;
use crate::image::backend::file_system::mapping_allocates;
use crate::image::backend::live::{KernelInterfaces, LiveExtents};
use crate::image::frozen::FrozenBytes;
use crate::image::method::{ExtentMethod, MappingMethod};

/// The settings for finding extents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExtentOptions {
    /// Whether to believe the holes and untouched pages that the kernel reports. If not, everything is an extent.
    pub(crate) trust_holes: bool,
    /// The method for live memory; `None` selects the best available one.
    pub(crate) method: Option<ExtentMethod>,
    /// The method for mappings of live memory; `None` selects the best available one.
    pub(crate) mappings: Option<MappingMethod>,
}

/// Finds the extents of all images of a scan. The interfaces of the kernel are tried once, when the finder is
/// created.
pub(crate) struct ExtentFinder {
    trust_holes: bool,
    live: Option<KernelInterfaces>,
    /// The reason why live memory is read completely, or not queried by the best method.
    note: Option<String>,
}

impl ExtentFinder {
    /// Tries the methods for live memory if `any_live` is set or a method is forced.
    ///
    /// # Errors
    /// Returns an error if a forced method is unavailable.
    pub(crate) fn new(options: ExtentOptions, any_live: bool) -> Result<Self> {
        let forced = options.method.is_some() || options.mappings.is_some();
        let is_needed = options.trust_holes && (any_live || forced);
        let (live, note) = if is_needed { probe_live(options)? } else { (None, None) };
        // If the finder exists only because a method is forced, the note concerns no image.
        let note = note.filter(|_| any_live);
        Ok(Self { trust_holes: options.trust_holes, live, note })
    }

    /// Returns the reason why live memory is read completely, or not queried by the best method.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Returns the method by which mappings are found, if live memory is queried.
    pub(crate) fn mapping_method(&self) -> Option<MappingMethod> {
        self.live.as_ref().map(KernelInterfaces::mapping_method)
    }

    /// Returns the ranges of the first `len` bytes of `file` that are not holes. If `in_doubt` is set, that is the
    /// whole file.
    pub(in crate::image) fn file_extents<'i>(
        &self,
        file: &'i File,
        len: u64,
        in_doubt: bool,
    ) -> Result<Extents<'i>> {
        let mut extents = Extents::new(ExtentSource::Whole, len);
        if in_doubt {
            extents.source = ExtentSource::InDoubt;
        } else if self.trust_holes {
            match file::probe_holes(file, len)? {
                file::HoleSupport::Supported(checked_seek) => {
                    extents.source = ExtentSource::File(file, checked_seek)
                }
                file::HoleSupport::Doubtful(why) => {
                    extents.source = ExtentSource::InDoubt;
                    extents.note = Some(why);
                }
                file::HoleSupport::SmallHole => {
                    extents.source = ExtentSource::InDoubt;
                    let why = "a small file was read although it is reported as one hole";
                    extents.note = Some(why.into());
                    // Every small image of zeros is such a file, on any file system. That it was read says nothing
                    // about the dump. With a note, a dump of an extracted image would differ from the original.
                    extents.note_is_for_dump = false;
                }
                file::HoleSupport::Unsupported => {
                    let why = "the file system does not report holes; the whole file was read";
                    extents.note = Some(why.into());
                }
            }
        }
        let may_have_holes = !matches!(extents.source, ExtentSource::File(..));
        extents.file_to_read = (may_have_holes && mapping_allocates(file)).then_some(file);
        Ok(extents)
    }

    /// Returns the ranges of a snapshot that may contain data. They are part of the snapshot, so holes are always
    /// trusted.
    pub(in crate::image) fn frozen_extents<'i>(frozen: &'i dyn FrozenBytes) -> Extents<'i> {
        Extents::new(ExtentSource::Frozen(frozen), frozen.len())
    }

    /// Returns the ranges of this process's memory that may have been written to, within `len` bytes from the address
    /// `start`. Reads none of these bytes.
    pub(in crate::image) fn live_extents(&self, start: usize, len: usize) -> Extents<'_> {
        let source = match &self.live {
            Some(kernel) => ExtentSource::Live(Box::new(LiveExtents::new(kernel, start, len))),
            None => ExtentSource::Whole,
        };
        Extents::new(source, len as u64)
    }
}

/// Returns the interfaces for queries about live memory, and a note if they are not the best ones. Returns `None` if
/// there is none or none is wanted.
///
/// # Errors
/// Returns an error if a forced method is unavailable, or is not for live memory.
fn probe_live(options: ExtentOptions) -> Result<(Option<KernelInterfaces>, Option<String>)> {
    let unavailable = |option: &str, method: &dyn fmt::Display, source| {
        let message = format!("{option}: {method} is unavailable here");
        Error::io(ErrorKind::Option, message, source)
    };
    match options.method {
        Some(ExtentMethod::Whole) => return Ok((None, None)),
        Some(method @ (ExtentMethod::Seek | ExtentMethod::ReadInDoubt)) => {
            let message = format!("extent_method: {method} applies to files, not to live memory");
            return Err(Error::new(ErrorKind::Option, message));
        }
        Some(method @ ExtentMethod::Snapshot) => {
            let message = format!("extent_method: {method} applies only to snapshots");
            return Err(Error::new(ErrorKind::Option, message));
        }
        None | Some(ExtentMethod::PagemapScan | ExtentMethod::Pagemap | ExtentMethod::Smaps) => {}
    }
    match (
        KernelInterfaces::new(options.method, options.mappings),
        options.method,
        options.mappings,
    ) {
        (Ok(kernel), ..) => {
            let note = kernel.note().map(Into::into);
            Ok((Some(kernel), note))
        }
        (Err(ProbeError::Method(source)), Some(method), _) => {
            Err(unavailable("extent_method", &method, source))
        }
        (Err(ProbeError::Mappings(source)), _, Some(mappings)) => {
            Err(unavailable("mapping_method", &mappings, source))
        }
        (Err(ProbeError::Mappings(source)), Some(method), _) => {
            Err(unavailable("extent_method", &method, source))
        }
        (Err(ProbeError::Method(source)), None, Some(mappings)) => {
            Err(unavailable("mapping_method", &mappings, source))
        }
        (Err(ProbeError::Method(why) | ProbeError::Mappings(why)), ..) => {
            let note = format!("cannot find untouched pages ({why}); all live memory was read");
            Ok((None, Some(note)))
        }
    }
}
