//! The kind of a file system, by the magic number that statfs(2) gives for it.
//!
//! Source: `linux/magic.h`, and the sources of each file system.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "no other system has these numbers")
)]

use std::fs::File;

pub(super) const BTRFS: u32 = 0x9123_683e;
pub(super) const EROFS: u32 = 0xe0f5_e1e2;
pub(super) const EXFAT: u32 = 0x2011_bab0;
/// ext2, ext3 and ext4.
pub(super) const EXT: u32 = 0xef53;
pub(super) const F2FS: u32 = 0xf2f5_2010;
pub(super) const HUGETLBFS: u32 = 0x9584_58f6;
pub(super) const ISO9660: u32 = 0x9660;
pub(super) const SQUASHFS: u32 = 0x7371_7368;
/// tmpfs, `/dev/shm` and memfds.
pub(super) const TMPFS: u32 = 0x0102_1994;
pub(super) const UDF: u32 = 0x1501_3346;
pub(super) const VFAT: u32 = 0x4d44;
pub(super) const XFS: u32 = 0x5846_5342;

/// The magic number of the file system of `file`; `None` where the system has no such numbers.
#[cfg(target_os = "linux")]
pub(super) fn magic(file: &File) -> Option<u32> {
    let statfs = rustix::fs::fstatfs(file).ok()?;
    // The type of the field differs between architectures; magic numbers have 32 bits.
    u32::try_from(i128::from(statfs.f_type) & 0xffff_ffff).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn magic(_: &File) -> Option<u32> {
    None
}
