//! Extents of the memory of a live guest: mapping after mapping, and page after page of those whose
//! pages may be skipped.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "addresses are those of memory that is there, in ranges that hold them: far below 2^64; \
              a page has bytes"
)]

use std::io;
use std::ops::Range;

use rustix::fs::{Dir, Mode, OFlags, open, readlinkat_raw};

use super::mappings::{Lines, Mapping, Mappings};
use super::pages::{Pages, is_somewhere};
use super::proc::{Maps, Pagemap, Region};
use super::{ExtentMethod, MappingMethod};

/// What this kernel can be asked about the memory of this process.
pub(super) struct Kernel {
    pagemap: Pagemap,
    method: ExtentMethod,
    /// For `PROCMAP_QUERY`; without it the lines are read.
    maps: Option<Maps>,
    page_size: u64,
}

/// Why it can't be asked.
pub(super) enum Impossible {
    /// No way, or not the forced one, to find pages.
    Method(io::Error),
    /// No way, or not the forced one, to find mappings.
    Mappings(io::Error),
}

impl Kernel {
    /// Tries each way that is wanted, or all, the best one first, on a page that is in use.
    pub(super) fn new(
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

        let pagemap = Pagemap::open().map_err(Impossible::Method)?;
        let works = |method| try_on(&pagemap, method, page_size, address).map(|()| method);
        let method = match method {
            Some(method) => works(method),
            None => works(ExtentMethod::PagemapScan).or_else(|_| works(ExtentMethod::Pagemap)),
        };
        let method = method.map_err(Impossible::Method)?;

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
        Ok(Self { pagemap, method, maps, page_size })
    }

    /// How mappings are found.
    pub(super) fn mapping_method(&self) -> MappingMethod {
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
    let Ok(folder) = open("/proc/self/fd", flags, mode) else { return false };
    let Ok(descriptors) = Dir::read_from(&folder) else { return false };
    descriptors.flatten().any(|descriptor| {
        // Longer ones are cut.
        let mut target = [0; TARGET.len() + 1];
        let read = readlinkat_raw(&folder, descriptor.file_name(), &mut target[..]);
        read.is_ok_and(|len| target.get(..len) == Some(TARGET))
    })
}

/// The extents of one memory.
pub(super) struct Live<'k> {
    /// The addresses of the memory, which need not be those of whole pages.
    memory: Range<u64>,
    mappings: Option<Mappings<'k>>,
    mapping: Mapping,
    pages: Pages<'k>,
    kernel: &'k Kernel,
}

impl<'k> Live<'k> {
    pub(super) fn new(kernel: &'k Kernel, bytes: &'k [u8]) -> Self {
        let start = bytes.as_ptr().addr() as u64;
        let pages = Pages::new(&kernel.pagemap, kernel.method, kernel.page_size);
        Self {
            memory: start..start + bytes.len() as u64,
            mappings: None,
            mapping: Mapping { end: 0, skippable: false },
            pages,
            kernel,
        }
    }

    /// How they are found.
    pub(super) fn method(&self) -> ExtentMethod {
        self.pages.method()
    }

    /// Frees its buffers, once nobody asks any more.
    pub(super) fn close(&mut self) {
        self.mappings = None;
        self.pages.close();
    }

    /// The next extent from `at` on, which is not below the one before; positions are those in the
    /// memory. Empty after the last.
    pub(super) fn next(&mut self, at: u64) -> Range<u64> {
        let base = self.memory.start;
        let mut at = base + at;
        while at < self.memory.end {
            if at >= self.mapping.end {
                // Only now: many memories may be waiting for their turn, each with its buffers.
                let mappings = self.mappings.get_or_insert_with(|| match &self.kernel.maps {
                    Some(maps) => Mappings::Query(maps),
                    None => Mappings::Lines(Lines::open()),
                });
                self.mapping = mappings.at(at);
            }
            let end = self.mapping.end.min(self.memory.end);
            if !self.mapping.skippable {
                return at - base..end - base;
            }
            match self.pages.next(at..end) {
                Some(extent) => return extent.start - base..extent.end - base,
                None => at = end,
            }
        }
        self.memory.end - base..self.memory.end - base
    }
}
