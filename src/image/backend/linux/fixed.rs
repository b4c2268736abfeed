//! Proves that the contents of a file cannot change, which permits a dump to fetch its bytes twice.
//!
//! # The problem
//! A dump that lends pages of an image, or writes them directly from a mapping, fetches each byte twice: once for the
//! checksum and once for the output. If a process writes in between, the dump has checksum mismatches. So this is
//! done only for files to which no process can write, and the kernel must guarantee that.
//!
//! # Which guarantees count
//! - A memfd with `F_SEAL_WRITE` and `F_SEAL_SHRINK`. The kernel refuses to seal it while a writable shared mapping
//!   exists, and never removes a seal. `F_SEAL_FUTURE_WRITE` is not enough: mappings made before it stay writable.
//! - A file with fs-verity. It cannot be enabled while the file is open for writing. Afterwards, the file can be
//!   neither written nor truncated.
//! - A file on a local file system that is read-only as a whole. `ST_RDONLY` does not say whether the file system or
//!   only this mount is read-only, and a second mount may be writable. Only the options of the superblock in
//!   `/proc/self/mountinfo` prove it. Network file systems, FUSE and overlayfs do not count: a server, a process or a
//!   lower layer changes files without asking this kernel.
//!
//! A read-only file system can be made writable during a dump, and read-only again before its end. So such a file is
//! also watched ([`watch`](crate::image::watch)), and is not lent if that is impossible.
//!
//! # What does not count
//! The immutable attribute (`chattr +i`) proves nothing, because a process with the privilege to set it can remove
//! it. Everything else counts as changeable, including everything that cannot be determined.

use std::fs::File;

use super::file_system::is_on_local_file_system;

/// Returns `true` if the kernel guarantees that the bytes of `file` never change.
pub(in crate::image) fn is_fixed(file: &File) -> bool {
    is_sealed(file) || has_verity(file)
}

fn is_sealed(file: &File) -> bool {
    use rustix::fs::{SealFlags, fcntl_get_seals};

    let needed = SealFlags::WRITE | SealFlags::SHRINK;
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(needed))
}

fn has_verity(file: &File) -> bool {
    use rustix::fs::StatxAttributes;

    statx(file).is_some_and(|statx| {
        let known = statx.stx_attributes_mask.contains(StatxAttributes::VERITY);
        known && statx.stx_attributes.contains(StatxAttributes::VERITY)
    })
}

fn statx(file: &File) -> Option<rustix::fs::Statx> {
    use rustix::fs::{AtFlags, StatxFlags};

    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()
}

/// Returns `true` if no process can write to `file` until its file system is remounted.
pub(in crate::image) fn is_on_read_only_file_system(file: &File) -> bool {
    use rustix::fs::{StatVfsMountFlags, StatxFlags, fstatvfs};

    let read_only =
        fstatvfs(file).is_ok_and(|statvfs| statvfs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if !read_only || !is_on_local_file_system(file) {
        return false;
    }
    let Some(statx) = statx(file) else { return false };
    if statx.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return false;
    }
    let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return false };
    has_read_only_superblock(&mounts, statx.stx_mnt_id)
}

/// Returns `true` if the superblock of the mount with this id is read-only, according to the text of a `mountinfo`.
///
/// A line has the form `id parent major:minor root point options [tag]... - type source super-options`. Spaces in its
/// fields are escaped. Source:
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn has_read_only_superblock(mountinfo: &[u8], mount: u64) -> bool {
    let id = mount.to_string();
    let mut lines = mountinfo.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes()));
    let mut fields = line.unwrap_or_default().split(|byte| *byte == b' ');
    fields.find(|field| *field == b"-");
    let options = fields.nth(2).unwrap_or_default();
    options.split(|byte| *byte == b',').next() == Some(b"ro")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_superblock_options_count() {
        let text = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
                     22 21 7:0 / /mnt/a\\040b ro,relatime - squashfs /dev/loop0 ro,errors=continue\n\
                     23 21 8:1 /data /mnt/bind ro,relatime shared:1 master:2 - ext4 /dev/sda1 rw\n\
                     24 21 8:2 / /mnt/c rw - ext4 /dev/sda2 ro\n\
                     25 21 8:2 / /mnt/d ro - ext4";
        for (mount, expected) in
            [(21, false), (22, true), (23, false), (24, true), (25, false), (2, false)]
        {
            assert_eq!(has_read_only_superblock(text, mount), expected, "{mount}");
        }
    }

    #[test]
    fn a_regular_file_is_not_fixed() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_fixed(&file));
    }

    #[test]
    fn a_fixed_memfd_needs_both_seals() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

        let memfd = || memfd_create("guest", MemfdFlags::ALLOW_SEALING).map(File::from).unwrap();
        for (seals, expected) in [
            (SealFlags::empty(), false),
            (SealFlags::WRITE, false),
            (SealFlags::SHRINK | SealFlags::GROW, false),
            (SealFlags::FUTURE_WRITE | SealFlags::SHRINK, false),
            (SealFlags::WRITE | SealFlags::SHRINK, true),
            (SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL, true),
        ] {
            let file = memfd();
            fcntl_add_seals(&file, seals).unwrap();
            assert_eq!(is_fixed(&file), expected, "{seals:?}");
        }
    }
}
