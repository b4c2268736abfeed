//! A memory of a dump: what the dump holds of it, and its bytes.

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use super::contents::{Content, Contents};
use super::file::CoreDumpFile;
use super::index::IndexedMemory;
use super::open::Kept;
use super::segment::Segment;
use super::{types, wide};
use crate::arithmetic::at_most;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{MemoryIndex, MemoryType};
use crate::ranges::range_len;

/// A memory of a dump, made by [`CoreDumpFile::memory`].
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

/// What a dump holds of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Coverage {
    /// Segments with bytes of it.
    pub segments: u64,
    /// Bytes in those, each address counted once.
    pub data_bytes: u64,
    /// Bytes that were excluded on purpose: up to all 2^64.
    pub excluded_bytes: u128,
    /// Bytes that are lost in a damaged dump: up to all 2^64.
    pub lost_bytes: u128,
    /// Whether it may have been written to while it was dumped: it may hold old and new bytes.
    pub changing: bool,
}

impl Coverage {
    /// Returns the bytes that nobody knows, whether they were excluded or are lost.
    pub fn unknown_bytes(&self) -> u128 {
        [self.excluded_bytes, self.lost_bytes].iter().sum()
    }
}

/// A segment of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SegmentView {
    /// The addresses of its first and its last byte.
    pub addresses: RangeInclusive<u64>,
    /// The offset of its first byte in the dump, in bytes.
    pub offset: u64,
}

impl<'d> MemoryView<'d> {
    pub(super) fn new(dump: &'d CoreDumpFile<'_>, index: usize, ty: &'d MemoryType) -> Self {
        Self { dump, index, ty }
    }

    /// Returns the index of the memory in the dump.
    pub fn index(&self) -> MemoryIndex {
        // A dump has no more memories than fit; see `limits::MAX_MEMORIES`.
        MemoryIndex(u32::try_from(self.index).unwrap_or(u32::MAX))
    }

    /// Returns the type, with the size that the memory had.
    pub fn ty(&self) -> MemoryType {
        *self.ty
    }

    /// Returns the pages that the dump declares of a memory whose segments reach beyond them. Some writers declare none:
    /// such a memory is as long as its segments need. So is one whose type a damaged dump has lost
    /// ([`salvage`](CoreDumpFile::salvage)): 0 pages.
    pub fn declared_pages(&self) -> Option<u64> {
        let grown = self.dump.opened.structure.grown.iter();
        grown.copied().find_map(|(grown, pages)| (grown == self.index().0).then_some(pages))
    }

    /// Returns what the dump holds of it.
    pub fn coverage(&self) -> Coverage {
        let kept = self.dump.opened.kept.get(self.index).copied();
        let Kept { segments, bytes } = kept.unwrap_or_default();
        let changing = self.indexed().is_some_and(|memory| memory.changing);
        let excluded_bytes = self.indexed().map_or(0, |memory| memory.excluded.byte_len());
        let lost_bytes = match self.lost() {
            Some(_) => self.contents().filter_map(lost).map(|range| range_len(&range)).sum(),
            None => 0,
        };
        Coverage { segments, data_bytes: bytes, excluded_bytes, lost_bytes, changing }
    }

    /// Returns the ranges of addresses whose bytes nobody knows, in order: they were excluded, or they are lost in a damaged
    /// dump.
    pub fn unknown(&self) -> impl Iterator<Item = RangeInclusive<u64>> + Clone + use<'d> {
        self.contents().filter_map(Content::unknown)
    }

    /// Returns the ranges of addresses that were excluded from the dump on purpose, in order.
    pub fn excluded(&self) -> impl Iterator<Item = RangeInclusive<u64>> + Clone + use<'d> {
        self.contents().filter_map(|content| match content {
            Content::Excluded(range) => Some(range),
            _ => None,
        })
    }

    /// Returns the segments in the order of their addresses; none overlaps another. Of segments that overlap in the dump
    /// of another tool they are the parts that count.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentView> + Clone + use<'d> {
        let segments = self.segments_from(0).iter();
        segments.map(|segment| SegmentView {
            addresses: segment.address()..=segment.last(),
            offset: segment.offset(),
        })
    }

    /// Returns what is in the memory, from address 0 to its end.
    pub fn contents(&self) -> Contents<'d> {
        self.contents_from(0)
    }

    /// Returns what is in the memory, from `address` to its end; nothing from an address behind it.
    pub fn contents_from(&self, address: u64) -> Contents<'d> {
        let last = types::last_address(self.ty);
        let rest = last.filter(|last| address <= *last).map(|last| address..=last);
        let excluded = self.indexed().map_or(&[][..], |memory| memory.excluded.from(address));
        Contents::new(self.segments_from(address), excluded, self.lost(), rest)
    }

    fn segments_from(&self, address: u64) -> &'d [Segment] {
        self.dump.opened.table.from(self.index().0, address)
    }

    /// What the index says of it.
    fn indexed(&self) -> Option<&'d IndexedMemory> {
        self.dump.opened.index.as_ref().and_then(|all| all.memories.get(self.index))
    }

    /// The address from which on what is in no segment is lost.
    fn lost(&self) -> Option<u64> {
        self.dump.opened.lost.and_then(|(of, from)| match of.cmp(&self.index().0) {
            Ordering::Less => Some(0),
            Ordering::Equal => Some(from),
            Ordering::Greater => None,
        })
    }

    /// Fills `buffer` with the bytes from `address` on, with zeros where the dump says that the memory was zero.
    ///
    /// It takes time that is logarithmic in the number of segments and linear in the bytes, and one read of the source for
    /// each segment.
    ///
    /// # Errors
    /// Returns an error if the memory ends before the last byte ([`ErrorKind::Option`]), if a byte was excluded on purpose
    /// or its dump was rewritten and nothing tells ([`ErrorKind::Excluded`]), if a byte is lost in a damaged dump (the kind
    /// of its [`damage`](CoreDumpFile::damage)), or if the
    /// dump cannot be read ([`ErrorKind::Input`]). The bytes of `buffer` before that are filled.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.ty.size();
        if wide::sum(address, buffer.len() as u64) > size {
            let (len, memory) = (buffer.len(), self.index());
            let message = format!(
                "{len} bytes at address {address:#x} are past the end of memory {memory} \
                 ({size:#x} bytes)"
            );
            return Err(Error::new(ErrorKind::Option, message));
        }
        let mut contents = self.contents_from(address);
        let mut left = buffer;
        while !left.is_empty() {
            // They go on to the end of the memory.
            let part = contents.next().ok_or_else(|| self.changed())?;
            let len = at_most(range_len(part.addresses()), left.len());
            let (now, later) = left.split_at_mut(len);
            match part {
                Content::Data { offset, .. } => self.dump.source().read(offset, now)?,
                Content::Zero(_) => now.fill(0),
                Content::Excluded(range) => return Err(self.excluded_error(range)),
                Content::Lost(range) => return Err(self.lost_error(range)),
            }
            left = later;
        }
        Ok(())
    }

    fn excluded_error(&self, range: RangeInclusive<u64>) -> Error {
        let (first, last) = range.into_inner();
        let message = format!("{first:#x}..={last:#x} of memory {} was left out", self.index());
        Error::new(ErrorKind::Excluded, message)
    }

    fn lost_error(&self, range: RangeInclusive<u64>) -> Error {
        let (first, last) = range.into_inner();
        let range = format!("{first:#x}..={last:#x} of memory {}", self.index());
        match self.dump.damage() {
            Some(damage) => {
                Error::new(damage.kind(), format!("{range} is lost in a damaged dump: {damage}"))
            }
            // Another tool has rewritten the dump, and lost what tells which ranges were excluded.
            None => Error::new(ErrorKind::Excluded, format!("{range} was left out")),
        }
    }

    /// The error of contents that end before the memory does.
    pub(super) fn changed(&self) -> Error {
        let memory = self.index();
        let message = format!("memory {memory}: the dump has changed while it was read");
        Error::new(ErrorKind::Input, message)
    }
}

fn lost(content: Content) -> Option<RangeInclusive<u64>> {
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
