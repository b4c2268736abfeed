//! The allocation of a file (`FIEMAP`): how many bytes of its blocks are data, and how many are only reserved.
//!
//! Source: `Documentation/filesystems/fiemap.rst` and `include/uapi/linux/fiemap.h` of Linux.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::image::backend::answers::Allocation;

/// `FIEMAP_FLAG_SYNC`: dirty pages are written first, so that their extents do not count as unwritten.
const FLAG_SYNC: u32 = 1;
/// `FIEMAP_EXTENT_LAST`.
const EXTENT_LAST: u32 = 1;
/// `FIEMAP_EXTENT_UNWRITTEN`.
const EXTENT_UNWRITTEN: u32 = 0x800;
/// The number of extents that one call returns at most.
const EXTENTS_PER_CALL: u32 = 64;

/// `struct fiemap` without its extents.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<FiemapHeader>() == 32 && size_of::<FiemapExtent>() == 56);

#[repr(C)]
struct Fiemap {
    header: FiemapHeader,
    extents: [FiemapExtent; EXTENTS_PER_CALL as usize],
}

/// Returns the allocation of the first `len` bytes of `file`. If `flush` is set, the dirty pages of the file are
/// written first.
///
/// # Errors
/// Returns an error if the file system does not list its extents.
pub(in crate::image) fn allocation(
    file: &File,
    len: u64,
    flush: bool,
) -> Result<Allocation, Errno> {
    let mut allocated = Allocation::default();
    let mut start = 0;
    loop {
        let flags = if flush && start == 0 { FLAG_SYNC } else { 0 };
        let length = u64::MAX.checked_sub(start).ok_or(Errno::OVERFLOW)?;
        let header = FiemapHeader {
            start,
            length,
            flags,
            extent_count: EXTENTS_PER_CALL,
            ..FiemapHeader::default()
        };
        let mut map =
            Fiemap { header, extents: [FiemapExtent::default(); EXTENTS_PER_CALL as usize] };
        let request = FiemapRequest(&mut map);
        // SAFETY: for every file, the code means FIEMAP. The call reads and writes `map`, which is borrowed until the
        // call has returned. Its layout is that of `struct fiemap` with `extent_count` extents, and it has room for
        // that many. Any bytes are a valid `Fiemap`.
        unsafe { rustix::ioctl::ioctl(file, request) }?;
        let mapped = usize::try_from(map.header.mapped_extents).map_err(|_| Errno::OVERFLOW)?;
        let mut end = start;
        for extent in map.extents.get(..mapped).ok_or(Errno::OVERFLOW)? {
            // If extents overlap, each byte counts once.
            let first = extent.logical.max(end);
            end = extent.logical.checked_add(extent.length).ok_or(Errno::OVERFLOW)?.max(first);
            // Everything past the end of the file is reserved.
            let written =
                if extent.flags & EXTENT_UNWRITTEN == 0 { end.min(len).max(first) } else { first };
            let sum = add_ranges(allocated, first..written, written..end);
            allocated = sum.ok_or(Errno::OVERFLOW)?;
            if extent.flags & EXTENT_LAST != 0 {
                return Ok(allocated);
            }
        }
        if end <= start {
            // There are no more extents, or the file system makes no progress.
            return Ok(allocated);
        }
        start = end;
    }
}

/// Adds ranges with and without data. Returns `None` if a sum overflows.
fn add_ranges(sum: Allocation, data: Range<u64>, unwritten: Range<u64>) -> Option<Allocation> {
    let len = |range: Range<u64>| range.end.checked_sub(range.start);
    Some(Allocation {
        data: sum.data.checked_add(len(data)?)?,
        unwritten: sum.unwritten.checked_add(len(unwritten)?)?,
    })
}

struct FiemapRequest<'a>(&'a mut Fiemap);

// SAFETY: the code is the code of FIEMAP, and the argument is its structure. The number that the call returns is not
// used as a pointer.
unsafe impl Ioctl for FiemapRequest<'_> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // The code contains the size of the structure without its extents.
        opcode::read_write::<FiemapHeader>(b'f', 11)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(number: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput, Errno> {
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn distinguishes_reserved_from_written_bytes() {
        let file = tempfile::tempfile().unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(&file, flags, 0, 1 << 20).is_err() {
            return;
        }
        let Ok(found) = allocation(&file, 1 << 20, false) else { return };
        assert_eq!(found, Allocation { data: 0, unwritten: 1 << 20 });
        file.write_all_at(&[1; 65_536], 65_536).unwrap();
        let expected = Allocation { data: 65_536, unwritten: (1 << 20) - 65_536 };
        assert_eq!(allocation(&file, 1 << 20, true), Ok(expected));
        file.set_len(100_000).unwrap();
        file.write_all_at(&[1], 99_999).unwrap();
        assert_eq!(allocation(&file, 100_000, true).unwrap().data, 100_000 - 65_536);
    }
}
