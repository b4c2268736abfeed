//! Images of memories: how they are opened, and the memories that they make.

use std::path::Path;

use corestream::{Memory, MemoryImage, MemoryType};

use crate::mapped;

/// Opens the image at `path`: maps it, or reads it where it cannot be mapped, as with a limit on the address space or on
/// a file system without mappings. An image that is taken to be `changing` is read.
///
/// # Errors
/// Returns the error of the mapping if the image can neither be mapped nor read.
pub fn open(path: &Path, changing: bool) -> corestream::Result<MemoryImage<'static>> {
    if changing {
        return MemoryImage::open(path).map(MemoryImage::mark_changing);
    }
    mapped::image(path).or_else(|error| MemoryImage::open(path).map_err(|_| error))
}

/// Returns the memory with this image. Without a `minimum` it has the pages that hold the image.
pub fn memory(image: MemoryImage<'_>, minimum: Option<u64>, mut ty: MemoryType) -> Memory<'_> {
    let page = u64::from(ty.page_size.max(1));
    ty.minimum = minimum.unwrap_or(image.len().div_ceil(page));
    Memory::new(ty, image)
}
