//! What the blocks of a file are allocated for (`FIEMAP`): data, or nothing yet.
//!
//! Source: `Documentation/filesystems/fiemap.rst` and `include/uapi/linux/fiemap.h` of Linux.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::image::backend::answers::Allocated;

/// `FIEMAP_FLAG_SYNC`: what is still in the page cache is written first, so that it is not called
/// unwritten.
const SYNC: u32 = 1;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;
/// `FIEMAP_EXTENT_UNWRITTEN`.
const UNWRITTEN: u32 = 0x800;
/// Extents of one call.
const EXTENTS: u32 = 64;

/// `struct fiemap` without its extents.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Head {
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
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<Head>() == 32 && size_of::<Extent>() == 56);

#[repr(C)]
struct Fiemap {
    head: Head,
    extents: [Extent; EXTENTS as usize],
}

/// Returns what the blocks of the first `len` bytes of `file` are allocated for; if `flush`, its dirty pages
/// are written first.
///
/// # Errors
/// Returns an error if the file system does not list its extents.
pub(in crate::image) fn allocated(file: &File, len: u64, flush: bool) -> Result<Allocated, Errno> {
    let mut allocated = Allocated::default();
    let mut start = 0;
    loop {
        let flags = if flush && start == 0 { SYNC } else { 0 };
        let length = u64::MAX.checked_sub(start).ok_or(Errno::OVERFLOW)?;
        let head = Head { start, length, flags, extent_count: EXTENTS, ..Head::default() };
        let mut map = Fiemap { head, extents: [Extent::default(); EXTENTS as usize] };
        let request = Request(&mut map);
        // SAFETY: the code means FIEMAP for every file; it reads and writes `map`, whose layout is that
        // of `struct fiemap` with `extent_count` extents, which is how many there is room for, and which
        // is borrowed until the call has returned. Any bytes are a valid `Fiemap`.
        unsafe { rustix::ioctl::ioctl(file, request) }?;
        let mapped = usize::try_from(map.head.mapped_extents).map_err(|_| Errno::OVERFLOW)?;
        let mut end = start;
        for extent in map.extents.get(..mapped).ok_or(Errno::OVERFLOW)? {
            // Where extents overlap, no byte counts twice.
            let first = extent.logical.max(end);
            end = extent.logical.checked_add(extent.length).ok_or(Errno::OVERFLOW)?.max(first);
            // After the end of the file all is reserved.
            let written =
                if extent.flags & UNWRITTEN == 0 { end.min(len).max(first) } else { first };
            let sum = add(allocated, first..written, written..end);
            allocated = sum.ok_or(Errno::OVERFLOW)?;
            if extent.flags & LAST != 0 {
                return Ok(allocated);
            }
        }
        if end <= start {
            // There are no more, or the file system does not get on.
            return Ok(allocated);
        }
        start = end;
    }
}

/// Adds bytes with data and bytes without; `None` if there are too many.
fn add(sum: Allocated, data: Range<u64>, unwritten: Range<u64>) -> Option<Allocated> {
    let len = |range: Range<u64>| range.end.checked_sub(range.start);
    Some(Allocated {
        data: sum.data.checked_add(len(data)?)?,
        unwritten: sum.unwritten.checked_add(len(unwritten)?)?,
    })
}

struct Request<'a>(&'a mut Fiemap);

// SAFETY: the code is that of FIEMAP and the argument is its structure; the number that the call gives is
// not taken for a pointer.
unsafe impl Ioctl for Request<'_> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // The size in the code is that of the structure without its extents.
        opcode::read_write::<Head>(b'f', 11)
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
    fn counts_what_was_reserved_and_not_what_was_written() {
        let file = tempfile::tempfile().unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(&file, flags, 0, 1 << 20).is_err() {
            return;
        }
        let Ok(found) = allocated(&file, 1 << 20, false) else { return };
        assert_eq!(found, Allocated { data: 0, unwritten: 1 << 20 });
        file.write_all_at(&[1; 65_536], 65_536).unwrap();
        let expected = Allocated { data: 65_536, unwritten: (1 << 20) - 65_536 };
        assert_eq!(allocated(&file, 1 << 20, true), Ok(expected));
        file.set_len(100_000).unwrap();
        file.write_all_at(&[1], 99_999).unwrap();
        assert_eq!(allocated(&file, 100_000, true).unwrap().data, 100_000 - 65_536);
    }
}
