//! Opens memory images and creates memories from them.

use std::path::Path;

use corestream::{Memory, MemoryImage, MemoryType};

use crate::mapped;

/// Opens the image at `path`.
///
/// Maps the image if possible. Mapping can fail, for example because of a limit on the address space or a file system
/// without mappings; the image is then read. A `changing` image is always read.
///
/// # Errors
/// Returns an error if the image can be neither mapped nor read. This is the error of the mapping, unless the image is
/// `changing`.
pub fn open(path: &Path, changing: bool) -> corestream::Result<MemoryImage<'static>> {
    if changing {
        return MemoryImage::open(path).map(MemoryImage::mark_changing);
    }
    mapped::map_image(path).or_else(|error| MemoryImage::open(path).map_err(|_| error))
}

/// Creates a memory with this image. Without a `minimum`, the memory has just enough pages for the image.
pub fn memory(image: MemoryImage<'_>, minimum: Option<u64>, mut ty: MemoryType) -> Memory<'_> {
    let page = u64::from(ty.page_size.max(1));
    ty.minimum = minimum.unwrap_or(image.len().div_ceil(page));
    Memory::new(ty, image)
}
