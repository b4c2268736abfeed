//! Properties of file systems, by the magic number that statfs(2) returns for each.
//!
//! Source: `linux/magic.h`, and the source code of each file system.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

const BTRFS: u32 = 0x9123_683e;
const EROFS: u32 = 0xe0f5_e1e2;
const EXFAT: u32 = 0x2011_bab0;
/// ext2, ext3 and ext4.
const EXT: u32 = 0xef53;
const F2FS: u32 = 0xf2f5_2010;
const HUGETLBFS: u32 = 0x9584_58f6;
const ISO9660: u32 = 0x9660;
const SQUASHFS: u32 = 0x7371_7368;
/// tmpfs, `/dev/shm` and memfds.
const TMPFS: u32 = 0x0102_1994;
const UDF: u32 = 0x1501_3346;
const VFAT: u32 = 0x4d44;
const XFS: u32 = 0x5846_5342;

/// Returns the magic number of the file system of `file`, or `None` if it cannot be queried.
fn magic(file: &File) -> Option<u32> {
    let statfs = rustix::fs::fstatfs(file).ok()?;
    // The type of the field differs between architectures. Magic numbers have 32 bits.
    u32::try_from(i128::from(statfs.f_type) & 0xffff_ffff).ok()
}

/// Returns `true` if `file` is on a file system of this kernel whose `SEEK_DATA` examines the page cache and its own
/// extents under a lock.
pub(in crate::image) fn has_exact_holes(file: &File) -> bool {
    matches!(magic(file), Some(TMPFS | HUGETLBFS | EXT | XFS | BTRFS | F2FS))
}

/// Returns `true` if reading a hole of `file` through a mapping allocates the page, as in tmpfs and hugetlbfs. `read`
/// does not allocate it.
pub(in crate::image) fn mapping_allocates(file: &File) -> bool {
    is_in_memory(file)
}

/// Returns `true` if a mapping of `file` reserves all of its pages, as in hugetlbfs.
pub(in crate::image) fn mapping_reserves(file: &File) -> bool {
    magic(file) == Some(HUGETLBFS)
}

/// Returns `true` if `file` is in tmpfs, whose `SEEK_DATA` also finds swapped pages.
pub(super) fn is_in_tmpfs(file: &File) -> bool {
    magic(file) == Some(TMPFS)
}

/// Returns `true` if `file` is on a file system to which only this kernel writes, so that its leases and times reveal
/// every writer.
pub(super) fn is_on_local_file_system(file: &File) -> bool {
    magic(file).is_some_and(|magic| LOCAL_FILE_SYSTEMS.contains(&magic))
}

/// Returns `true` if each write to `file` sets its modification time, including a write through a mapping made since.
///
/// tmpfs and hugetlbfs do not track writes through mappings: a page that was read through a writable mapping is
/// writable.
pub(in crate::image) fn updates_times_on_write(file: &File) -> bool {
    is_on_local_file_system(file) && !is_in_memory(file)
}

/// Returns `true` if `file` is memory that has no name in a file system, such as a memfd.
pub(in crate::image) fn is_unnamed_memory(file: &File) -> bool {
    is_in_memory(file) && file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Returns `true` if the file system of `file` is in memory.
fn is_in_memory(file: &File) -> bool {
    magic(file).is_some_and(|magic| magic == TMPFS || magic == HUGETLBFS)
}

/// The file systems to which only this kernel writes. Memfds are in tmpfs as well.
const LOCAL_FILE_SYSTEMS: [u32; 12] =
    [BTRFS, EROFS, EXFAT, EXT, F2FS, HUGETLBFS, ISO9660, SQUASHFS, TMPFS, UDF, VFAT, XFS];
