//! Extents of the memory of a live guest, found one mapping at a time and, if its pages may be skipped, page by page.
//!
//! # The problem
//! A guest with a memory of 64 GiB may have touched 64 MiB of it. Reading the rest takes seconds, and in some kinds
//! of memory it allocates every page. The kernel knows which pages were touched, but its answers mean something else
//! for each kind of mapping.
//!
//! # The idea
//! Each mapping is classified first ([`mappings`](super::mappings)):
//! - Private anonymous memory: a page is zero unless it is present or swapped ([`pages`](super::pages)).
//! - A shared mapping of a file: the holes of the file are zero, if the file is in tmpfs and can be opened
//!   ([`tmpfs`](super::tmpfs)).
//! - Any other mapping is data.
//!
//! Before the first page of a range is skipped, [`smaps`](super::smaps) must confirm that no userfaultfd supplies it.
//!
//! # The invariant
//! Only addresses are examined here, no bytes of the memory, because other threads may write to it at the same time.
//! A page that one of them touches after the query counts as zero, which it was at the time of the query.
//!
//! # The cost
//! docs/performance.md has the figures of `PAGEMAP_SCAN` (0.4 ms for 64 MiB in a reservation of 64 GiB), of the
//! pagemap and of smaps.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "all addresses lie in existing memory, far below 2^64, and a page size is not zero"
)]

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, Mode, OFlags, open, readlinkat_raw};

use super::mappings::{Mapping, MappingFinder, MappingKind, MapsReader};
use super::pages::{PageFinder, is_present_or_swapped};
use super::proc::{Maps, PageRegion, Pagemap};
use super::smaps::{Fact, Smaps};
use super::tmpfs::TmpfsFile;
use crate::image::backend::answers::ProbeError;
use crate::image::method::{ExtentMethod, MappingMethod};
use crate::userfaultfd;

/// The interfaces of the kernel for queries about the memory of this process.
pub(in crate::image) struct KernelInterfaces {
    /// `None` if `smaps` replaces it.
    pagemap: Option<Pagemap>,
    method: ExtentMethod,
    smaps: Mutex<Smaps>,
    /// The reason why a better method is not used.
    note: Option<String>,
    /// The file for `PROCMAP_QUERY`. Without it, the lines of `/proc/self/maps` are read.
    maps: Option<Maps>,
    page_size: u64,
}

impl KernelInterfaces {
    /// Opens the interfaces, and tests each on a page that is known to be in use. Tries the given methods, or all
    /// methods from best to worst.
    ///
    /// # Errors
    /// Returns an error if a given method, or every method, is unavailable. If no method is given, an open userfaultfd
    /// of this process is an error as well.
    pub(in crate::image) fn new(
        method: Option<ExtentMethod>,
        mappings: Option<MappingMethod>,
    ) -> Result<Self, ProbeError> {
        if method.is_none() && has_userfaultfd() {
            let message = "a userfaultfd may supply pages";
            return Err(ProbeError::Method(io::Error::other(message)));
        }
        let page_size = rustix::param::page_size() as u64;
        let witness = 0_u8;
        let address = (&raw const witness).addr() as u64;

        // smaps is needed for every method, because it alone reveals a userfaultfd of another process.
        let smaps = Smaps::open().map_err(ProbeError::Method)?;
        if !smaps.is_usable() {
            let message = "cannot parse /proc/self/smaps";
            return Err(ProbeError::Method(io::Error::other(message)));
        }
        let pagemap = || {
            let pagemap = Pagemap::open()?;
            let works = |method| test_method(&pagemap, method, page_size, address).map(|()| method);
            let method = match method {
                Some(method) => works(method)?,
                None => {
                    works(ExtentMethod::PagemapScan).or_else(|_| works(ExtentMethod::Pagemap))?
                }
            };
            io::Result::Ok((pagemap, method))
        };
        let (pagemap, method, note) = match method {
            Some(ExtentMethod::Smaps) => (None, ExtentMethod::Smaps, None),
            Some(_) => {
                let (pagemap, method) = pagemap().map_err(ProbeError::Method)?;
                (Some(pagemap), method, None)
            }
            None => match pagemap() {
                Ok((pagemap, method)) => (Some(pagemap), method, None),
                Err(error) => {
                    let note = format!("cannot use the pagemap ({error}); smaps was used instead");
                    (None, ExtentMethod::Smaps, Some(note))
                }
            },
        };

        let query = || {
            let maps = Maps::open()?;
            let vma = maps.query(address)?;
            if vma.start <= address && address < vma.end {
                Ok(Some(maps))
            } else {
                Err(wrong_answer())
            }
        };
        let lines = || if MapsReader::open().is_usable() { Ok(None) } else { Err(wrong_answer()) };
        let maps = match mappings {
            Some(MappingMethod::ProcmapQuery) => query(),
            Some(MappingMethod::Maps) => lines(),
            None => query().or_else(|_| lines()),
        };
        let maps = maps.map_err(ProbeError::Mappings)?;
        let smaps = Mutex::new(smaps);
        Ok(Self { pagemap, method, smaps, note, maps, page_size })
    }

    /// Returns the reason why a better method is not used, if one was tried.
    pub(in crate::image) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    fn smaps(&self) -> MutexGuard<'_, Smaps> {
        self.smaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the method by which mappings are found.
    pub(in crate::image) fn mapping_method(&self) -> MappingMethod {
        if self.maps.is_some() { MappingMethod::ProcmapQuery } else { MappingMethod::Maps }
    }
}

fn wrong_answer() -> io::Error {
    io::Error::other("the kernel reports memory in use as untouched")
}

/// Tests `method` on the page at `address`, which is in use.
fn test_method(
    pagemap: &Pagemap,
    method: ExtentMethod,
    page_size: u64,
    address: u64,
) -> io::Result<()> {
    let start = address - address % page_size;
    let found = match method {
        ExtentMethod::PagemapScan => {
            let mut regions = [PageRegion::default(); 1];
            let (count, _) = pagemap.scan(start..start + page_size, 1, &mut regions)?;
            count == 1 && regions[0].start <= address && address < regions[0].end
        }
        _ => {
            let mut entry = [0; 8];
            pagemap.read(start / page_size, &mut entry)? == entry.len()
                && is_present_or_swapped(entry)
        }
    };
    if found { Ok(()) } else { Err(wrong_answer()) }
}

/// Returns `true` if this process has a userfaultfd. Reading an untouched page may then return data from it, and no
/// cheap query tells for which pages. The userfaultfds of snapshots do not count: they supply no pages.
fn has_userfaultfd() -> bool {
    const TARGET: &[u8] = b"anon_inode:[userfaultfd]";

    let (flags, mode) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Ok(directory) = open("/proc/self/fd", flags, mode) else { return false };
    let Ok(descriptors) = Dir::read_from(&directory) else { return false };
    descriptors.flatten().any(|descriptor| {
        // Longer targets are truncated, and differ.
        let mut target = [0; TARGET.len() + 1];
        let read = readlinkat_raw(&directory, descriptor.file_name(), &mut target[..]);
        let is_userfaultfd = read.is_ok_and(|len| target.get(..len) == Some(TARGET));
        let number = || descriptor.file_name().to_str().ok()?.parse().ok();
        is_userfaultfd && !number().is_some_and(userfaultfd::is_own)
    })
}

/// The extents of one memory.
pub(in crate::image) struct LiveExtents<'k> {
    /// The addresses of the memory, which need not start or end at page boundaries.
    memory: Range<u64>,
    mappings: Option<MappingFinder<'k>>,
    mapping: Mapping,
    /// The file of the current mapping, if it is a shared mapping of a file in tmpfs.
    tmpfs: Option<TmpfsFile>,
    pages: Option<PageFinder<'k>>,
    /// No userfaultfd supplies the pages from the current address up to this one.
    not_supplied_to: u64,
    kernel: &'k KernelInterfaces,
}

impl<'k> LiveExtents<'k> {
    /// Returns the extents of `len` bytes starting at the address `start`.
    pub(in crate::image) fn new(kernel: &'k KernelInterfaces, start: usize, len: usize) -> Self {
        let (start, len) = (start as u64, len as u64);
        let pages = |pagemap| PageFinder::new(pagemap, kernel.method, kernel.page_size);
        Self {
            memory: start..start + len,
            mappings: None,
            mapping: Mapping { end: 0, ..Mapping::UNKNOWN },
            tmpfs: None,
            pages: kernel.pagemap.as_ref().map(pages),
            not_supplied_to: 0,
            kernel,
        }
    }

    /// Returns the method by which the extents are found.
    pub(in crate::image) fn method(&self) -> ExtentMethod {
        self.kernel.method
    }

    /// Frees the buffers, after the last query.
    pub(in crate::image) fn free_buffers(&mut self) {
        self.mappings = None;
        self.tmpfs = None;
        if let Some(pages) = &mut self.pages {
            pages.free_buffers();
        }
    }

    /// Returns the next extent at or after `at`, as positions in the memory. It is empty after the last one. `at`
    /// must not be below the previous `at`.
    pub(in crate::image) fn next(&mut self, at: u64) -> Range<u64> {
        let Range { start: base, end } = self.memory;
        let mut at = base + at;
        while at < end {
            let data = self.next_data(at);
            if !data.is_empty() {
                return data.start - base..data.end - base;
            }
            at = data.end;
        }
        end - base..end - base
    }

    /// Returns the next data at or after the address `at`, within the mapping there. If the range is empty,
    /// everything before its end is zero.
    fn next_data(&mut self, at: u64) -> Range<u64> {
        if at >= self.mapping.end {
            self.find_mapping(at);
        }
        let end = self.mapping.end.min(self.memory.end);
        let found = match self.mapping.kind {
            MappingKind::Data => return at..end,
            MappingKind::Anonymous => match &mut self.pages {
                Some(pages) => pages.next_data(at..end),
                // No userfaultfd supplies memory that smaps reports as untouched.
                None => {
                    return match self.kernel.smaps().is_untouched(at, end) {
                        Fact::Yes(to) => to.min(end)..to.min(end),
                        Fact::No(to) => at..to.min(end),
                    };
                }
            },
            MappingKind::SharedFile(_) => match &self.tmpfs {
                Some(tmpfs) => tmpfs.next_data(at..end),
                None => return at..end,
            },
        };
        let data = found.unwrap_or(end..end);
        if data.start <= self.not_supplied_to.max(at) {
            return data;
        }
        // The pages before `data` are about to be skipped.
        match self.kernel.smaps().is_not_supplied(at, data.start) {
            Fact::Yes(to) => {
                self.not_supplied_to = to;
                // The rest, from `to` on, is examined by the next call.
                if to < data.start { to..to } else { data }
            }
            Fact::No(to) => at..to.min(end),
        }
    }

    fn find_mapping(&mut self, at: u64) {
        // Opened late: many memories may be waiting for their turn, each with its buffers.
        let mappings = self.mappings.get_or_insert_with(|| match &self.kernel.maps {
            Some(maps) => MappingFinder::Query(maps),
            None => MappingFinder::Lines(MapsReader::open()),
        });
        self.mapping = mappings.at(at);
        let previous = self.tmpfs.take();
        if let MappingKind::SharedFile(backing) = self.mapping.kind {
            self.tmpfs = TmpfsFile::open(backing, previous);
        }
    }
}
