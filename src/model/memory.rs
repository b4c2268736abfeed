//! Memories and their types.

use std::ops::RangeBounds;

use super::excluded::Exclusions;
use crate::error::{Error, Result};
use crate::image::MemoryImage;
use crate::limits::{self, PAGE_BYTES};
use crate::ranges::AddressRanges;

/// The type of a memory, with its size at the time of the dump.
///
/// [`Memory::validate`] checks it together with the image.
///
/// ```
/// use corestream::MemoryType;
///
/// let ty = MemoryType::wasm64(16).with_maximum(32).with_shared();
/// assert_eq!((ty.byte_len(), ty.memory64), (Some(1 << 20), true));
/// assert_eq!(MemoryType::wasm32(100).with_page_size(1).byte_len(), Some(100));
///
/// assert_eq!(ty.to_string(), "16 pages, at most 32, memory64, shared");
/// assert_eq!("16 pages, at most 32, memory64, shared".parse::<MemoryType>()?, ty);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub struct MemoryType {
    /// The current size in pages.
    pub minimum: u64,
    /// The maximum size in pages.
    pub maximum: Option<u64>,
    /// Whether addresses have 64 bits (memory64).
    pub memory64: bool,
    /// Whether threads share the memory. A shared memory needs a maximum.
    pub shared: bool,
    /// The page size in bytes: 65,536, or 1 with the custom-page-sizes proposal.
    pub page_size: u32,
}

impl MemoryType {
    /// Returns the type of a memory of `pages` pages of 64 KiB with 32-bit addresses.
    pub fn wasm32(pages: u64) -> Self {
        let page_size = PAGE_BYTES;
        Self { minimum: pages, maximum: None, memory64: false, shared: false, page_size }
    }

    /// Returns the type of a memory of `pages` pages of 64 KiB with 64-bit addresses.
    pub fn wasm64(pages: u64) -> Self {
        Self { memory64: true, ..Self::wasm32(pages) }
    }

    /// Sets the maximum size in pages.
    pub fn with_maximum(self, pages: u64) -> Self {
        Self { maximum: Some(pages), ..self }
    }

    /// Makes the memory shared between threads.
    pub fn with_shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Sets the page size in bytes: 1 or 65,536.
    pub fn with_page_size(self, bytes: u32) -> Self {
        Self { page_size: bytes, ..self }
    }

    /// Returns the size in bytes, or `None` if it does not fit in 64 bits.
    pub fn byte_len(&self) -> Option<u64> {
        u64::try_from(self.size()).ok()
    }

    /// Returns the size in bytes.
    #[allow(clippy::arithmetic_side_effects, reason = "a product of 64 and 32 bits, of 128 bits")]
    pub(crate) fn size(&self) -> u128 {
        u128::from(self.minimum) * u128::from(self.page_size)
    }

    /// Checks the type, and that an image of `image_len` bytes fits in the memory.
    ///
    /// # Errors
    /// Returns the message for the first violated rule.
    pub(crate) fn check(&self, image_len: u64) -> Result<(), String> {
        if !matches!(self.page_size, 1 | PAGE_BYTES) {
            return Err(format!(
                "invalid page size {}; expected 1 or {PAGE_BYTES}",
                self.page_size
            ));
        }
        let most = limits::max_pages(self.memory64, self.page_size);
        let bits = if self.memory64 { 64 } else { 32 };
        if self.minimum > most {
            let pages = self.minimum;
            return Err(format!(
                "{} the maximum of {most} for a {bits}-bit memory",
                exceeding(pages)
            ));
        }
        match self.maximum {
            Some(maximum) if maximum > most => {
                return Err(format!(
                    "a maximum of {maximum} pages exceeds the {most} of a {bits}-bit memory"
                ));
            }
            Some(maximum) if maximum < self.minimum => {
                let pages = self.minimum;
                return Err(format!("{} the declared maximum of {maximum}", exceeding(pages)));
            }
            None if self.shared => return Err("a shared memory needs a maximum".into()),
            _ => {}
        }
        let bytes = self.size();
        if u128::from(image_len) > bytes {
            let pages = image_len.div_ceil(u64::from(self.page_size));
            return Err(format!(
                "the image of {image_len} bytes is larger than the memory of {bytes} bytes; the \
                 memory needs at least {pages} pages"
            ));
        }
        Ok(())
    }
}

/// Returns the start of a message about too many pages.
fn exceeding(pages: u64) -> String {
    if pages == 1 { "1 page exceeds".into() } else { format!("{pages} pages exceed") }
}

/// A memory: its type and the image of its contents.
///
/// If the image is shorter than the memory, the rest of the memory is zero.
///
/// ```
/// use corestream::{Memory, MemoryImage, MemoryType};
///
/// let bytes = vec![7; 4096];
/// let memory = Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes));
/// memory.validate()?;
/// assert_eq!((memory.ty.minimum, memory.image.len()), (1, 4096));
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Memory<'a> {
    /// The type, with the current size.
    pub ty: MemoryType,
    /// The contents.
    pub image: MemoryImage<'a>,
    /// The parts that are not dumped.
    pub(super) exclusions: Exclusions,
}

impl<'a> Memory<'a> {
    /// Returns a memory with the type `ty` and the contents `image`.
    pub fn new(ty: MemoryType, image: MemoryImage<'a>) -> Self {
        Self { ty, image, exclusions: Exclusions::default() }
    }

    /// Replaces the image by the result of `map`.
    pub(super) fn try_map_image<'b>(
        self,
        map: impl FnOnce(MemoryImage<'a>) -> Result<MemoryImage<'b>>,
    ) -> Result<Memory<'b>> {
        Ok(Memory { ty: self.ty, image: map(self.image)?, exclusions: self.exclusions })
    }

    /// Excludes a range of byte addresses.
    ///
    /// The excluded bytes are neither read nor dumped, and the dump records that they are excluded. Further calls
    /// exclude further ranges, in any order. Ranges may overlap.
    ///
    /// ```
    /// use corestream::*;
    ///
    /// let mut bytes = vec![7; 65_536];
    /// bytes[1000..1032].copy_from_slice(b"a key that must stay private: 42");
    /// let image = MemoryImage::from_slice(&bytes);
    /// let memory = Memory::new(MemoryType::wasm32(1), image).without(1000..1032);
    /// assert_eq!(memory.excluded()?.as_slice(), [1000..=1031]);
    ///
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(memory);
    /// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&bytes)?;
    /// assert!(dump.is_partial());
    /// let error = dump.memory(MemoryIndex(0))?.read(1000, &mut [0; 32]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Excluded);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn without(mut self, range: impl RangeBounds<u64>) -> Self {
        self.exclude(range);
        self
    }

    /// Keeps a range of byte addresses, and excludes everything outside the kept ranges.
    ///
    /// Further calls keep further ranges. [`without`](Self::without) excludes parts of the kept ranges.
    ///
    /// ```
    /// # use corestream::*;
    /// # let bytes = vec![7; 65_536];
    /// # let image = MemoryImage::from_slice(&bytes);
    /// let memory = Memory::new(MemoryType::wasm32(1), image).only(..4096).without(16..32);
    /// assert_eq!(memory.excluded()?.as_slice(), [16..=31, 4096..=65_535]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn only(mut self, range: impl RangeBounds<u64>) -> Self {
        self.keep_only(range);
        self
    }

    /// Excludes a range in place, as [`without`](Self::without) does.
    ///
    /// ```
    /// # use corestream::*;
    /// # let bytes = vec![7; 65_536];
    /// # let mut dump = CoreDump::new("guest.wasm");
    /// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let memory = &mut dump.memories[0];
    /// memory.keep_only(..4096);
    /// memory.exclude(16..32);
    /// assert_eq!(memory.excluded()?.as_slice(), [16..=31, 4096..=65_535]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn exclude(&mut self, range: impl RangeBounds<u64>) {
        self.exclusions.exclude(range);
    }

    /// Keeps a range in place, as [`only`](Self::only) does.
    pub fn keep_only(&mut self, range: impl RangeBounds<u64>) {
        self.exclusions.keep_only(range);
    }

    /// Returns the excluded address ranges.
    ///
    /// # Errors
    /// Returns an error if a range is empty or extends past the end of the memory.
    pub fn excluded(&self) -> Result<AddressRanges> {
        self.exclusions.excluded(self.ty.size()).map_err(Error::model)
    }

    /// Checks that the type, the image and the excluded ranges are consistent.
    ///
    /// # Errors
    /// Returns an error if
    /// - a shared memory has no maximum,
    /// - the memory has more pages than its type allows,
    /// - the page size is neither 1 nor 65,536 bytes,
    /// - the image is larger than the memory,
    /// - an excluded or kept range is empty or extends past the end of the memory.
    pub fn validate(&self) -> Result<()> {
        self.checked_exclusions().map(drop)
    }

    /// Checks the memory and returns its excluded ranges.
    pub(super) fn checked_exclusions(&self) -> Result<AddressRanges> {
        self.check_type()?;
        self.excluded()
    }

    fn check_type(&self) -> Result<()> {
        self.ty.check(self.image.len()).map_err(|why| {
            let too_large = !self.ty.memory64 && self.ty.byte_len() > Some(limits::MEMORY32_BYTES);
            let remedy = if too_large { "; use a 64-bit memory (memory64)" } else { "" };
            Error::model(why + remedy)
        })
    }
}
