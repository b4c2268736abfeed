//! Extents of the memory of a live guest: mapping after mapping, and page after page of those whose
//! pages may be skipped.
//!
//! Only addresses are looked at here, no byte of the memory: other threads may write to it meanwhile. A
//! page that one of them touches after the kernel was asked counts as zero, which it was at that time.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "addresses are those of memory that is there, in ranges that hold them: far below 2^64; \
              a page has bytes"
)]

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, Mode, OFlags, open, readlinkat_raw};

use super::mappings::{Kind, Lines, Mapping, Mappings};
use super::pages::{Pages, is_somewhere};
use super::proc::{Maps, Pagemap, Region};
use super::smaps::{Fact, Smaps};
use super::tmpfs::Tmpfs;
use crate::image::backend::answers::Impossible;
use crate::image::method::{ExtentMethod, MappingMethod};

/// What this kernel can be asked about the memory of this process.
pub(in crate::image) struct Kernel {
    /// `None` if `smaps` has to do.
    pagemap: Option<Pagemap>,
    method: ExtentMethod,
    smaps: Mutex<Smaps>,
    /// Why a better method could not be used.
    note: Option<String>,
    /// For `PROCMAP_QUERY`; without it the lines are read.
    maps: Option<Maps>,
    page_size: u64,
}

impl Kernel {
    /// Tries each way that is wanted, or all, the best one first, on a page that is in use.
    pub(in crate::image) fn new(
        method: Option<ExtentMethod>,
        mappings: Option<MappingMethod>,
    ) -> Result<Self, Impossible> {
        if method.is_none() && userfaultfd_is_open() {
            let message = "pages may be supplied by a userfaultfd";
            return Err(Impossible::Method(io::Error::other(message)));
        }
        let page_size = rustix::param::page_size() as u64;
        let witness = 0_u8;
        let address = (&raw const witness).addr() as u64;

        // Whatever the method: without it a userfaultfd of another process is not seen.
        let smaps = Smaps::open().map_err(Impossible::Method)?;
        if !smaps.works() {
            let message = "/proc/self/smaps cannot be understood";
            return Err(Impossible::Method(io::Error::other(message)));
        }
        let pagemap = || {
            let pagemap = Pagemap::open()?;
            let works = |method| try_on(&pagemap, method, page_size, address).map(|()| method);
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
                let (pagemap, method) = pagemap().map_err(Impossible::Method)?;
                (Some(pagemap), method, None)
            }
            None => match pagemap() {
                Ok((pagemap, method)) => (Some(pagemap), method, None),
                Err(error) => {
                    let note = format!("the pagemap cannot be used ({error}): smaps is used");
                    (None, ExtentMethod::Smaps, Some(note))
                }
            },
        };

        let query = || {
            let maps = Maps::open()?;
            let vma = maps.query(address)?;
            if vma.start <= address && address < vma.end { Ok(Some(maps)) } else { Err(wrong()) }
        };
        let lines = || if Lines::open().works() { Ok(None) } else { Err(wrong()) };
        let maps = match mappings {
            Some(MappingMethod::ProcmapQuery) => query(),
            Some(MappingMethod::Maps) => lines(),
            None => query().or_else(|_| lines()),
        };
        let maps = maps.map_err(Impossible::Mappings)?;
        let smaps = Mutex::new(smaps);
        Ok(Self { pagemap, method, smaps, note, maps, page_size })
    }

    /// Why a better method could not be used, if one was tried.
    pub(in crate::image) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    fn smaps(&self) -> MutexGuard<'_, Smaps> {
        self.smaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How mappings are found.
    pub(in crate::image) fn mapping_method(&self) -> MappingMethod {
        if self.maps.is_some() { MappingMethod::ProcmapQuery } else { MappingMethod::Maps }
    }
}

fn wrong() -> io::Error {
    io::Error::other("what the kernel says of memory in use is not right")
}

/// Tries `method` on the page at `address`, which is in use.
fn try_on(pagemap: &Pagemap, method: ExtentMethod, page_size: u64, address: u64) -> io::Result<()> {
    let start = address - address % page_size;
    let found = match method {
        ExtentMethod::PagemapScan => {
            let mut regions = [Region::default(); 1];
            let (count, _) = pagemap.scan(start..start + page_size, 1, &mut regions)?;
            count == 1 && regions[0].start <= address && address < regions[0].end
        }
        _ => {
            let mut entry = [0; 8];
            pagemap.read(start / page_size, &mut entry)? == entry.len() && is_somewhere(entry)
        }
    };
    if found { Ok(()) } else { Err(wrong()) }
}

/// Whether this process has a userfaultfd: then pages that were never touched may get data from it
/// when they are read, and which ones do can't be asked cheaply.
fn userfaultfd_is_open() -> bool {
    const TARGET: &[u8] = b"anon_inode:[userfaultfd]";

    let (flags, mode) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Ok(directory) = open("/proc/self/fd", flags, mode) else { return false };
    let Ok(descriptors) = Dir::read_from(&directory) else { return false };
    descriptors.flatten().any(|descriptor| {
        // Longer ones are cut.
        let mut target = [0; TARGET.len() + 1];
        let read = readlinkat_raw(&directory, descriptor.file_name(), &mut target[..]);
        read.is_ok_and(|len| target.get(..len) == Some(TARGET))
    })
}

/// The extents of one memory.
pub(in crate::image) struct Live<'k> {
    /// The addresses of the memory, which need not be those of whole pages.
    memory: Range<u64>,
    mappings: Option<Mappings<'k>>,
    mapping: Mapping,
    /// The file behind the mapping, if that is a shared one in tmpfs.
    tmpfs: Option<Tmpfs>,
    pages: Option<Pages<'k>>,
    /// No userfaultfd supplies the pages from the address in hand up to this one.
    not_supplied_to: u64,
    kernel: &'k Kernel,
}

impl<'k> Live<'k> {
    /// The extents of `len` bytes from the address `start` on.
    pub(in crate::image) fn new(kernel: &'k Kernel, start: usize, len: usize) -> Self {
        let (start, len) = (start as u64, len as u64);
        let pages = |pagemap| Pages::new(pagemap, kernel.method, kernel.page_size);
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

    /// How they are found.
    pub(in crate::image) fn method(&self) -> ExtentMethod {
        self.kernel.method
    }

    /// Frees its buffers, once nobody asks any more.
    pub(in crate::image) fn close(&mut self) {
        self.mappings = None;
        self.tmpfs = None;
        if let Some(pages) = &mut self.pages {
            pages.close();
        }
    }

    /// The next extent from `at` on, which is not below the one before; positions are those in the
    /// memory. Empty after the last.
    pub(in crate::image) fn next(&mut self, at: u64) -> Range<u64> {
        let Range { start: base, end } = self.memory;
        let mut at = base + at;
        while at < end {
            let data = self.step(at);
            if !data.is_empty() {
                return data.start - base..data.end - base;
            }
            at = data.end;
        }
        end - base..end - base
    }

    /// Finds the next data from `at` on, within the mapping there; if it is empty, all before its end is
    /// zero.
    fn step(&mut self, at: u64) -> Range<u64> {
        if at >= self.mapping.end {
            self.find_mapping(at);
        }
        let end = self.mapping.end.min(self.memory.end);
        let found = match self.mapping.kind {
            Kind::Data => return at..end,
            Kind::Anonymous => match &mut self.pages {
                Some(pages) => pages.next(at..end),
                // What smaps calls untouched is not supplied either.
                None => {
                    return match self.kernel.smaps().is_untouched(at, end) {
                        Fact::Yes(to) => to.min(end)..to.min(end),
                        Fact::No(to) => at..to.min(end),
                    };
                }
            },
            Kind::SharedFile(_) => match &self.tmpfs {
                Some(tmpfs) => tmpfs.next(at..end),
                None => return at..end,
            },
        };
        let data = found.unwrap_or(end..end);
        if data.start <= self.not_supplied_to.max(at) {
            return data;
        }
        // The pages before it are about to be skipped.
        match self.kernel.smaps().is_not_supplied(at, data.start) {
            Fact::Yes(to) => {
                self.not_supplied_to = to;
                // From `to` on it is looked at again.
                if to < data.start { to..to } else { data }
            }
            Fact::No(to) => at..to.min(end),
        }
    }

    fn find_mapping(&mut self, at: u64) {
        // Only now: many memories may be waiting for their turn, each with its buffers.
        let mappings = self.mappings.get_or_insert_with(|| match &self.kernel.maps {
            Some(maps) => Mappings::Query(maps),
            None => Mappings::Lines(Lines::open()),
        });
        self.mapping = mappings.at(at);
        let before = self.tmpfs.take();
        if let Kind::SharedFile(backing) = self.mapping.kind {
            self.tmpfs = Tmpfs::open(backing, before);
        }
    }
}
