//! The same bytes as an image of every kind: borrowed, shared, and of a sparse file that is mapped or read.
#![allow(unsafe_code, reason = "shared memory, which is given by a handle, and mappings")]

use std::cell::UnsafeCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use arbitrary::Arbitrary;
use corestream::{MemoryImage, SharedBytes};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Bytes that a hole of a file is made of.
const BLOCK: usize = 4096;

/// What an image is made of.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Live,
    Shared,
    Mapped,
    Read,
}

impl Kind {
    /// An image of `bytes`.
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

/// An image of a file that is a hole up to `address`, where `bytes` stand.
pub fn far(bytes: &[u8], address: u64) -> MemoryImage<'static> {
    mapped(file(bytes, address))
}

/// Maps a file that is sealed.
fn mapped(file: File) -> MemoryImage<'static> {
    // SAFETY: seals forbid to write to the file and to make it shorter, and nobody removes them. It is in memory.
    unsafe { MemoryImage::map_file(file) }.unwrap()
}

/// A file with `bytes` at `address`, and holes where they are zero. It is sealed, so no dump marks it as
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

// SAFETY: nobody writes to them.
unsafe impl Sync for Shared {}

// SAFETY: they live as long as the handle, and nobody writes to them.
unsafe impl SharedBytes for Shared {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0
    }
}
