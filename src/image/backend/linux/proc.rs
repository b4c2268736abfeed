//! The files of `/proc/self` that know about memory, and the ioctls of two of them.
//!
//! Source: [PAGEMAP_SCAN(2const)](https://man7.org/linux/man-pages/man2/PAGEMAP_SCAN.2const.html),
//! [proc_pid_pagemap(5)](https://man7.org/linux/man-pages/man5/proc_pid_pagemap.5.html) and
//! `include/uapi/linux/fs.h` of Linux.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::PROC_SUPER_MAGIC;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// `PAGE_IS_PRESENT` and `PAGE_IS_SWAPPED`.
const PRESENT_OR_SWAPPED: u64 = 1 << 3 | 1 << 4;
/// `PAGE_IS_PFNZERO`.
const ZERO_PAGE: u64 = 1 << 5;
/// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
const COVERING_OR_NEXT: u64 = 1 << 4;
/// `PROCMAP_QUERY_VMA_SHARED`.
const SHARED: u64 = 1 << 3;
/// Room for the name of anonymous memory (`[anon:` and at most 79 bytes), with the zero after it.
const NAME_BYTES: usize = 128;

/// Opens a file of `/proc/self`, if that is what the kernel keeps there.
pub(super) fn open(path: &str) -> io::Result<File> {
    let file = File::open(path)?;
    // An ordinary file under that name would tell what its author likes.
    if rustix::fs::fstatfs(&file)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other(format!("{path} is not the kernel's")));
    }
    Ok(file)
}

/// Pages that may hold data, as addresses (`struct page_region`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
    categories: u64,
}

impl From<Range<u64>> for Region {
    fn from(range: Range<u64>) -> Self {
        Self { start: range.start, end: range.end, categories: 0 }
    }
}

/// `/proc/self/pagemap`.
pub(super) struct Pagemap(File);

impl Pagemap {
    pub(super) fn open() -> io::Result<Self> {
        open("/proc/self/pagemap").map(Self)
    }

    /// Fills `regions` with the pages of `range` that are present or swapped and not the zero page,
    /// `max_pages` at most; gives how many regions there are, and up to where the pages were looked at.
    pub(super) fn scan(
        &self,
        range: Range<u64>,
        max_pages: u64,
        regions: &mut [Region],
    ) -> Result<(usize, u64), Errno> {
        let mut arg = ScanArg {
            size: size::<ScanArg>(),
            start: range.start,
            end: range.end,
            vec: address(regions.as_mut_ptr().cast()),
            vec_len: regions.len() as u64,
            max_pages,
            category_inverted: ZERO_PAGE,
            category_mask: ZERO_PAGE,
            category_anyof_mask: PRESENT_OR_SWAPPED,
            ..ScanArg::default()
        };
        let request = Request { code: opcode::read_write::<ScanArg>(b'f', 16), arg: &mut arg };
        // SAFETY: the file is the kernel's pagemap, so the code means PAGEMAP_SCAN. It reads and
        // writes `arg`, whose layout is that of `struct pm_scan_arg` and whose size stands in it,
        // and writes at most `vec_len` regions at `vec`, which is `regions`, borrowed until the call
        // has returned; any bytes are a valid `Region`. No flag is set, so nothing else changes.
        let count = unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        let count = usize::try_from(count).ok().filter(|count| *count <= regions.len());
        Ok((count.ok_or(Errno::OVERFLOW)?, arg.walk_end))
    }

    /// Fills `entries`, 8 bytes a page, from that of the page with number `page` on; gives how many
    /// bytes there were.
    pub(super) fn read(&self, page: u64, entries: &mut [u8]) -> io::Result<usize> {
        let at = page.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
        self.0.read_at(entries, at)
    }
}

/// `/proc/self/maps`.
pub(super) struct Maps(File);

/// What the kernel says of a mapping.
#[derive(Debug)]
pub(super) struct Vma {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) shared: bool,
    /// The position that `start` maps in the file behind it, in bytes.
    pub(super) offset: u64,
    /// Major and minor number of the device of that file; zeros, as the inode, without one.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
}

impl Maps {
    pub(super) fn open() -> io::Result<Self> {
        open("/proc/self/maps").map(Self)
    }

    /// The mapping at `address`, or the next one above it.
    pub(super) fn query(&self, address: u64) -> Result<Vma, Errno> {
        self.query_by(QueryArg { query_addr: address, ..QueryArg::default() })
    }

    /// Like [`query`](Self::query), and gives the mapping's name, which is empty for most, to
    /// `named`. A name that is too long is an error.
    pub(super) fn query_name<T>(
        &self,
        at: u64,
        named: impl FnOnce(&[u8]) -> T,
    ) -> Result<(Vma, T), Errno> {
        let mut name = [0_u8; NAME_BYTES];
        let vma = self.query_by(QueryArg {
            query_addr: at,
            vma_name_size: u32::try_from(name.len()).map_err(|_| Errno::OVERFLOW)?,
            vma_name_addr: address(name.as_mut_ptr().cast()),
            ..QueryArg::default()
        })?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
        Ok((vma, named(name.to_bytes())))
    }

    fn query_by(&self, arg: QueryArg) -> Result<Vma, Errno> {
        let mut arg = QueryArg { size: size::<QueryArg>(), query_flags: COVERING_OR_NEXT, ..arg };
        let request = Request { code: opcode::read_write::<QueryArg>(b'f', 17), arg: &mut arg };
        // SAFETY: the file is the kernel's list of mappings, so the code means PROCMAP_QUERY. It
        // reads and writes `arg`, whose layout is that of `struct procmap_query` and whose size
        // stands in it, and writes at most `vma_name_size` bytes at `vma_name_addr`: none, or the
        // array that `query_name` keeps until the call has returned.
        unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        Ok(Vma {
            start: arg.vma_start,
            end: arg.vma_end,
            shared: arg.vma_flags & SHARED != 0,
            offset: arg.vma_offset,
            device: (arg.dev_major, arg.dev_minor),
            inode: arg.inode,
        })
    }

    /// The file, to read its lines from the start.
    pub(super) fn into_lines(self) -> File {
        self.0
    }
}

/// `struct pm_scan_arg`.
#[derive(Default)]
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct procmap_query`.
#[derive(Default)]
#[repr(C)]
struct QueryArg {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

fn size<T>() -> u64 {
    mem::size_of::<T>() as u64
}

/// The address that the kernel is given to write to.
fn address(pointer: *mut c_void) -> u64 {
    pointer.expose_provenance() as u64
}

/// An ioctl that reads and writes an argument, and gives a number.
struct Request<'a, T> {
    code: Opcode,
    arg: &'a mut T,
}

// SAFETY: code and argument are passed on as they are, and the number is not taken for a pointer;
// that they belong together is shown at each call.
unsafe impl<T> Ioctl for Request<'_, T> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.code
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.arg).cast()
    }

    unsafe fn output_from_ptr(number: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput, Errno> {
        Ok(number)
    }
}
