//! The files of `/proc/self` that describe memory, and the ioctls of two of them.
//!
//! Source: [PAGEMAP_SCAN(2const)](https://man7.org/linux/man-pages/man2/PAGEMAP_SCAN.2const.html),
//! [proc_pid_pagemap(5)](https://man7.org/linux/man-pages/man5/proc_pid_pagemap.5.html) and `include/uapi/linux/fs.h`
//! of Linux.
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

/// `PAGE_IS_WRITTEN`.
const WRITTEN: u64 = 1 << 1;
/// `PAGE_IS_PRESENT` and `PAGE_IS_SWAPPED`.
const PRESENT_OR_SWAPPED: u64 = 1 << 3 | 1 << 4;
/// `PAGE_IS_PFNZERO`.
const ZERO_PAGE: u64 = 1 << 5;
/// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
const COVERING_OR_NEXT: u64 = 1 << 4;
/// `PROCMAP_QUERY_VMA_SHARED`.
const SHARED: u64 = 1 << 3;
/// The size of the buffer for the name of anonymous memory: `[anon:`, at most 79 bytes and `]`, with a terminating
/// zero.
const NAME_BYTES: usize = 128;

/// Opens a file of `/proc/self`.
///
/// # Errors
/// Returns an error if the file cannot be opened, or is not in a proc file system.
pub(super) fn open_proc_file(path: &str) -> io::Result<File> {
    let file = File::open(path)?;
    // An ordinary file at this path would contain whatever its author chose.
    if rustix::fs::fstatfs(&file)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other(format!("{path} is not in a proc file system")));
    }
    Ok(file)
}

/// Pages that may contain data, as addresses (`struct page_region`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct PageRegion {
    pub(super) start: u64,
    pub(super) end: u64,
    categories: u64,
}

impl PageRegion {
    /// Returns whether the pages were written to, in an answer of [`Pagemap::scan_written`].
    pub(super) fn is_written(&self) -> bool {
        self.categories & WRITTEN != 0
    }
}

impl From<Range<u64>> for PageRegion {
    fn from(range: Range<u64>) -> Self {
        Self { start: range.start, end: range.end, categories: 0 }
    }
}

/// `/proc/self/pagemap`.
pub(super) struct Pagemap(File);

impl Pagemap {
    pub(super) fn open() -> io::Result<Self> {
        open_proc_file("/proc/self/pagemap").map(Self)
    }

    /// Fills `regions` with at most `max_pages` pages of `range` that are present or swapped and not the zero page.
    /// Returns the number of regions, and the address up to which pages were examined.
    pub(super) fn scan(
        &self,
        range: Range<u64>,
        max_pages: u64,
        regions: &mut [PageRegion],
    ) -> Result<(usize, u64), Errno> {
        self.scan_by(
            ScanArg { start: range.start, end: range.end, max_pages, ..ScanArg::default() },
            regions,
        )
    }

    /// Fills `regions` with the pages of `range` that are present or swapped and not the zero page, and whether they
    /// were written to since they were protected. Returns the number of regions, and the address up to which pages were
    /// examined.
    pub(super) fn scan_written(
        &self,
        range: Range<u64>,
        regions: &mut [PageRegion],
    ) -> Result<(usize, u64), Errno> {
        let range = ScanArg { start: range.start, end: range.end, ..ScanArg::default() };
        self.scan_by(ScanArg { return_mask: WRITTEN, ..range }, regions)
    }

    fn scan_by(&self, arg: ScanArg, regions: &mut [PageRegion]) -> Result<(usize, u64), Errno> {
        let mut arg = ScanArg {
            size: size::<ScanArg>(),
            vec: address(regions.as_mut_ptr().cast()),
            vec_len: regions.len() as u64,
            category_inverted: ZERO_PAGE,
            category_mask: ZERO_PAGE,
            category_anyof_mask: PRESENT_OR_SWAPPED,
            ..arg
        };
        let request = IoctlRequest { code: opcode::read_write::<ScanArg>(b'f', 16), arg: &mut arg };
        // SAFETY: the file is the kernel's pagemap, so the code means PAGEMAP_SCAN. The call reads and writes `arg`,
        // which has the layout of `struct pm_scan_arg` and contains its size. It also writes at most `vec_len`
        // regions to `vec`. That is `regions`, which is borrowed until the call has returned, and any bytes are a
        // valid `PageRegion`. No flag is set, so nothing else changes.
        let count = unsafe { rustix::ioctl::ioctl(&self.0, request) }?;
        let count = usize::try_from(count).ok().filter(|count| *count <= regions.len());
        Ok((count.ok_or(Errno::OVERFLOW)?, arg.walk_end))
    }

    /// Fills `entries` with the entries of the pages from number `page` on, 8 bytes per page. Returns the number of
    /// bytes read.
    pub(super) fn read(&self, page: u64, entries: &mut [u8]) -> io::Result<usize> {
        let at = page.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
        self.0.read_at(entries, at)
    }
}

/// `/proc/self/maps`.
pub(super) struct Maps(File);

/// The description of a mapping (virtual memory area).
#[derive(Debug)]
pub(super) struct Vma {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) shared: bool,
    /// The position in the file that is mapped at `start`, in bytes.
    pub(super) offset: u64,
    /// The major and minor number of the device of the file. They and the inode are 0 without a file.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
}

impl Maps {
    pub(super) fn open() -> io::Result<Self> {
        open_proc_file("/proc/self/maps").map(Self)
    }

    /// Returns the mapping at `address`, or the next one above it.
    pub(super) fn query(&self, address: u64) -> Result<Vma, Errno> {
        self.query_by(QueryArg { query_addr: address, ..QueryArg::default() })
    }

    /// Like [`query`](Self::query), and calls `inspect` with the name of the mapping, which is empty for most
    /// mappings. Returns an error if the name is too long.
    pub(super) fn query_with_name<T>(
        &self,
        at: u64,
        inspect: impl FnOnce(&[u8]) -> T,
    ) -> Result<(Vma, T), Errno> {
        let mut name = [0_u8; NAME_BYTES];
        let vma = self.query_by(QueryArg {
            query_addr: at,
            vma_name_size: u32::try_from(name.len()).map_err(|_| Errno::OVERFLOW)?,
            vma_name_addr: address(name.as_mut_ptr().cast()),
            ..QueryArg::default()
        })?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
        Ok((vma, inspect(name.to_bytes())))
    }

    fn query_by(&self, arg: QueryArg) -> Result<Vma, Errno> {
        let mut arg = QueryArg { size: size::<QueryArg>(), query_flags: COVERING_OR_NEXT, ..arg };
        let request =
            IoctlRequest { code: opcode::read_write::<QueryArg>(b'f', 17), arg: &mut arg };
        // SAFETY: the file is the kernel's list of mappings, so the code means PROCMAP_QUERY. The call reads and
        // writes `arg`, which has the layout of `struct procmap_query` and contains its size. It also writes at most
        // `vma_name_size` bytes to `vma_name_addr`: none, or the array that `query_with_name` keeps until the call
        // has returned.
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

    /// Returns the file, for reading its lines from the start.
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

/// Returns the address of memory to which the kernel is to write.
fn address(pointer: *mut c_void) -> u64 {
    pointer.expose_provenance() as u64
}

/// An ioctl that reads and writes an argument and returns a number.
struct IoctlRequest<'a, T> {
    code: Opcode,
    arg: &'a mut T,
}

// SAFETY: the code and the argument are passed on unchanged, and the number is not used as a pointer. Each call shows
// that the code and the argument belong together.
unsafe impl<T> Ioctl for IoctlRequest<'_, T> {
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
