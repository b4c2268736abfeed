//! A memory of a dump: its segments, its contents by address, and its bytes.

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use super::contents::{Content, Contents};
use super::file::CoreDumpFile;
use super::index::IndexedMemory;
use super::open::SegmentTotals;
use super::segment::Segment;
use super::{types, wide};
use crate::arithmetic::at_most;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{MemoryIndex, MemoryType};
use crate::ranges::range_len;

/// A memory of a dump, returned by [`CoreDumpFile::memory`].
///
/// ```
/// use corestream::read::Content;
/// use corestream::*;
///
/// # let mut bytes = vec![0; 65_536];
/// # bytes[4096..4100].fill(7);
/// # let mut guest = CoreDump::new("guest.wasm");
/// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
/// # let bytes = Dumper::new().plan(&guest)?.to_vec()?;
/// let dump = CoreDumpFile::from_slice(&bytes)?;
/// let memory = dump.memory(MemoryIndex(0))?;
/// assert_eq!((memory.ty().minimum, memory.coverage().data_bytes), (1, 4));
///
/// let segment = memory.segments().next().unwrap();
/// assert_eq!(segment.addresses, 4096..=4099);
/// assert_eq!(bytes[segment.offset as usize..][..4], [7; 4]);
///
/// let mut contents = memory.contents();
/// assert_eq!(contents.next(), Some(Content::Zero(0..=4095)));
/// assert!(matches!(contents.next(), Some(Content::Data { .. })));
/// assert_eq!(contents.next(), Some(Content::Zero(4100..=65_535)));
/// assert_eq!(contents.next(), None);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct MemoryView<'d> {
    pub(super) dump: &'d CoreDumpFile<'d>,
    index: usize,
    ty: &'d MemoryType,
}

/// How much of a memory a dump contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Coverage {
    /// The number of segments.
    pub segments: u64,
    /// The number of bytes in segments. Each address counts once.
    pub data_bytes: u64,
    /// The number of bytes that were excluded on purpose, up to 2^64.
    pub excluded_bytes: u128,
    /// The number of bytes that are lost in a damaged dump, up to 2^64.
    pub lost_bytes: u128,
    /// Whether the guest may have written to the memory while it was dumped. The dump then may hold old and new bytes.
    pub changing: bool,
}

impl Coverage {
    /// Returns the number of unknown bytes, excluded or lost.
    pub fn unknown_bytes(&self) -> u128 {
        [self.excluded_bytes, self.lost_bytes].iter().sum()
    }
}

/// A segment of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SegmentView {
    /// The addresses of the first and the last byte.
    pub addresses: RangeInclusive<u64>,
    /// The file offset of the first byte.
    pub offset: u64,
}

impl<'d> MemoryView<'d> {
    pub(super) fn new(dump: &'d CoreDumpFile<'_>, index: usize, ty: &'d MemoryType) -> Self {
        Self { dump, index, ty }
    }

    /// Returns the index of the memory in the dump.
    pub fn index(&self) -> MemoryIndex {
        // `limits::MAX_MEMORIES` is far below `u32::MAX`.
        MemoryIndex(u32::try_from(self.index).unwrap_or(u32::MAX))
    }

    /// Returns the type of the memory. Its minimum is the size that the memory had.
    pub fn ty(&self) -> MemoryType {
        *self.ty
    }

    /// Returns the declared number of pages if it is too small for the segments, `None` otherwise.
    ///
    /// Some writers declare no pages. [`ty`](Self::ty) then has as many pages as the segments need. The same applies if
    /// a damaged dump has lost the type ([`salvage`](CoreDumpFile::salvage)): its declared number is 0.
    pub fn declared_pages(&self) -> Option<u64> {
        let grown = self.dump.opened.structure.grown.iter();
        grown.copied().find_map(|(grown, pages)| (grown == self.index().0).then_some(pages))
    }

    /// Returns how much of the memory the dump contains.
    pub fn coverage(&self) -> Coverage {
        let totals = self.dump.opened.totals.get(self.index).copied();
        let SegmentTotals { segments, bytes } = totals.unwrap_or_default();
        let changing = self.indexed().is_some_and(|memory| memory.changing);
        let excluded_bytes = self.indexed().map_or(0, |memory| memory.excluded.byte_len());
        let lost_bytes = match self.lost_from() {
            Some(_) => self.contents().filter_map(lost_range).map(|range| range_len(&range)).sum(),
            None => 0,
        };
        Coverage { segments, data_bytes: bytes, excluded_bytes, lost_bytes, changing }
    }

    /// Returns the address ranges whose bytes are unknown, excluded or lost, in order.
    pub fn unknown(&self) -> impl Iterator<Item = RangeInclusive<u64>> + Clone + use<'d> {
        self.contents().filter_map(Content::unknown)
    }

    /// Returns the address ranges that were excluded from the dump on purpose, in order.
    pub fn excluded(&self) -> impl Iterator<Item = RangeInclusive<u64>> + Clone + use<'d> {
        self.contents().filter_map(|content| match content {
            Content::Excluded(range) => Some(range),
            _ => None,
        })
    }

    /// Returns the segments in order of address, without overlaps. If segments overlap in the dump of another tool,
    /// these are the parts that later segments of the file do not overwrite.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentView> + Clone + use<'d> {
        let segments = self.segments_from(0).iter();
        segments.map(|segment| SegmentView {
            addresses: segment.address()..=segment.last(),
            offset: segment.offset(),
        })
    }

    /// Returns the contents of the memory, from address 0 to its end.
    pub fn contents(&self) -> Contents<'d> {
        self.contents_from(0)
    }

    /// Returns the contents of the memory from `address` to its end, or an empty iterator if `address` is past the end.
    pub fn contents_from(&self, address: u64) -> Contents<'d> {
        let last = types::last_address(self.ty);
        let rest = last.filter(|last| address <= *last).map(|last| address..=last);
        let excluded = self.indexed().map_or(&[][..], |memory| memory.excluded.from(address));
        Contents::new(self.segments_from(address), excluded, self.lost_from(), rest)
    }

    fn segments_from(&self, address: u64) -> &'d [Segment] {
        self.dump.opened.table.segments_from(self.index().0, address)
    }

    /// Returns the entry of the memory in the index.
    fn indexed(&self) -> Option<&'d IndexedMemory> {
        self.dump.opened.index.as_ref().and_then(|index| index.memories.get(self.index))
    }

    /// Returns the address from which on bytes outside of segments are lost.
    fn lost_from(&self) -> Option<u64> {
        self.dump.opened.lost_from.and_then(|(memory, address)| match memory.cmp(&self.index().0) {
            Ordering::Less => Some(0),
            Ordering::Equal => Some(address),
            Ordering::Greater => None,
        })
    }

    /// Fills `buffer` with the bytes from `address` on.
    ///
    /// Costs O(log n) for n segments, one read of the source for each segment in the range, and the time to copy the
    /// bytes.
    ///
    /// # Errors
    /// Returns an error in these cases. The part of `buffer` before the first byte that could not be read is filled.
    /// - [`ErrorKind::Option`]: the range extends past the end of the memory.
    /// - [`ErrorKind::Excluded`]: a byte was excluded on purpose, or may have been, in a dump that another tool has
    ///   rewritten.
    /// - The kind of the dump's [`damage`](CoreDumpFile::damage): a byte is lost in a damaged dump.
    /// - [`ErrorKind::Input`]: the dump cannot be read.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.ty.size();
        if wide::sum(address, buffer.len() as u64) > size {
            let (len, memory) = (buffer.len(), self.index());
            let message = format!(
                "{len}-byte read at address {address:#x} is past the end of memory {memory} \
                 ({size:#x} bytes)"
            );
            return Err(Error::new(ErrorKind::Option, message));
        }
        let mut contents = self.contents_from(address);
        let mut rest = buffer;
        while !rest.is_empty() {
            // The contents reach the end of the memory, so there is a next one.
            let content = contents.next().ok_or_else(|| self.changed_error())?;
            let len = at_most(range_len(content.addresses()), rest.len());
            let (part, later) = rest.split_at_mut(len);
            match content {
                Content::Data { offset, .. } => self.dump.source().read(offset, part)?,
                Content::Zero(_) => part.fill(0),
                Content::Excluded(range) => return Err(self.excluded_error(range)),
                Content::Lost(range) => return Err(self.lost_error(range)),
            }
            rest = later;
        }
        Ok(())
    }

    fn excluded_error(&self, range: RangeInclusive<u64>) -> Error {
        let (first, last) = range.into_inner();
        let message = format!("{first:#x}..={last:#x} of memory {} was excluded", self.index());
        Error::new(ErrorKind::Excluded, message)
    }

    fn lost_error(&self, range: RangeInclusive<u64>) -> Error {
        let (first, last) = range.into_inner();
        let range = format!("{first:#x}..={last:#x} of memory {}", self.index());
        match self.dump.damage() {
            Some(damage) => {
                Error::new(damage.kind(), format!("{range} is lost in a damaged dump: {damage}"))
            }
            // Another tool has rewritten the dump, and the list of excluded ranges is gone.
            None => {
                let message = format!(
                    "{range} may have been excluded: a tool has rewritten the dump and lost the \
                     excluded ranges"
                );
                Error::new(ErrorKind::Excluded, message)
            }
        }
    }

    /// Returns the error of contents that end before the memory does.
    pub(super) fn changed_error(&self) -> Error {
        let memory = self.index();
        let message = format!("memory {memory}: the dump changed while it was read");
        Error::new(ErrorKind::Input, message)
    }
}

fn lost_range(content: Content) -> Option<RangeInclusive<u64>> {
    match content {
        Content::Lost(range) => Some(range),
        _ => None,
    }
}

impl fmt::Debug for MemoryView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryView")
            .field("index", &self.index)
            .field("ty", self.ty)
            .field("coverage", &self.coverage())
            .finish_non_exhaustive()
    }
}
