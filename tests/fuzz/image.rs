//! Images of every kind with given bytes: a slice, a shared memory, and a sparse file that is mapped or read.
#![allow(unsafe_code, reason = "implements a handle of shared memory, and maps files")]

use std::cell::UnsafeCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use arbitrary::Arbitrary;
use corestream::{MemoryImage, SharedBytes};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The granularity of holes in a file, in bytes.
const BLOCK: usize = 4096;

/// The kinds of images.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Live,
    Shared,
    Mapped,
    Read,
}

impl Kind {
    /// Returns an image of `bytes`.
    pub fn image(self, bytes: &[u8]) -> MemoryImage<'_> {
        match self {
            Self::Live => MemoryImage::from_slice(bytes),
            Self::Shared => {
                let cells = bytes.iter().copied().map(UnsafeCell::new).collect();
                MemoryImage::from_shared(Shared(cells))
            }
            Self::Mapped => mapped(file(bytes, 0)),
            Self::Read => MemoryImage::from_file(file(bytes, 0)).unwrap(),
        }
    }
}

/// Returns an image of a file with a hole up to `address`, and `bytes` there.
pub fn far(bytes: &[u8], address: u64) -> MemoryImage<'static> {
    mapped(file(bytes, address))
}

/// Maps a sealed file.
fn mapped(file: File) -> MemoryImage<'static> {
    // SAFETY: the file is in memory. Its seals forbid writing to it and shortening it, and cannot be removed.
    unsafe { MemoryImage::map_file(file) }.unwrap()
}

/// Returns a file with `bytes` at `address`, and holes where they are zero. It is sealed, so a dump does not mark it as
/// changing.
fn file(bytes: &[u8], address: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("image", flags).unwrap());
    file.set_len(address + bytes.len() as u64).unwrap();
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, address + (i * BLOCK) as u64).unwrap();
        }
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    file
}

struct Shared(Vec<UnsafeCell<u8>>);

// SAFETY: there are no writes to the bytes.
unsafe impl Sync for Shared {}

// SAFETY: the bytes live as long as the handle, and there are no writes to them.
unsafe impl SharedBytes for Shared {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0
    }
}
