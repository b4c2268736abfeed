//! Finds out what the kernel can be asked about images, and begins the walk over the extents of each.

use std::fmt;
use std::fs::File;

use super::file;
use super::walk::{Extents, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::image::backend::answers::Impossible;
use crate::image::backend::file_system::mapping_allocates;
use crate::image::backend::live::{Kernel, Live};
use crate::image::method::{ExtentMethod, MappingMethod};

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
    live: Option<Kernel>,
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
        self.live.as_ref().map(Kernel::mapping_method)
    }

    /// What is not a hole in the first `len` bytes of `file`; all of them if the file is known to be in
    /// doubt.
    pub(in crate::image) fn of_file<'i>(
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
                file::Answer::SmallHole => {
                    extents.source = Source::InDoubt;
                    let why = "a small file that is reported as one hole was read";
                    extents.note = Some(why.into());
                    // Every small image of zeros is such a file, on any file system. That it was read says nothing about
                    // the dump, and a dump made of an extracted image would have a note more than the original.
                    extents.note_is_for_dump = false;
                }
                file::Answer::Nothing => {
                    let why = "the file system cannot tell where the holes of the file are";
                    extents.note = Some(why.into());
                }
            }
        }
        let may_have_holes = !matches!(extents.source, Source::File(..));
        extents.unmapped = (may_have_holes && mapping_allocates(file)).then_some(file);
        Ok(extents)
    }

    /// What may have been written of memory of this process: `len` bytes from the address `start` on, none
    /// of which is read.
    pub(in crate::image) fn of_live(&self, start: usize, len: usize) -> Extents<'_> {
        let source = match &self.live {
            Some(kernel) => Source::Live(Box::new(Live::new(kernel, start, len))),
            None => Source::Whole,
        };
        Extents::new(source, len as u64)
    }
}

/// What the kernel can be asked about live memory, and a note if that is not the best there is; `None`
/// if it can be asked nothing.
fn probe(options: Options) -> Result<(Option<Kernel>, Option<String>)> {
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
    match (Kernel::new(options.method, options.mappings), options.method, options.mappings) {
        (Ok(kernel), ..) => {
            let note = kernel.note().map(Into::into);
            Ok((Some(kernel), note))
        }
        (Err(Impossible::Method(source)), Some(method), _) => {
            Err(impossible("extent_method", &method, source))
        }
        (Err(Impossible::Mappings(source)), _, Some(mappings)) => {
            Err(impossible("mapping_method", &mappings, source))
        }
        (Err(Impossible::Mappings(source)), Some(method), _) => {
            Err(impossible("extent_method", &method, source))
        }
        (Err(Impossible::Method(source)), None, Some(mappings)) => {
            Err(impossible("mapping_method", &mappings, source))
        }
        (Err(Impossible::Method(why) | Impossible::Mappings(why)), ..) => {
            let note = format!("untouched pages cannot be told ({why}): all live memory is read");
            Ok((None, Some(note)))
        }
    }
}
