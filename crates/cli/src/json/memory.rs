//! A memory: as in a manifest, and as in a report, with its coverage and segments.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use corestream::read::{Coverage, MemoryView, SegmentView};
use corestream::{CoreDumpFile, MemoryImage, MemoryType};
use serde::{Deserialize, Serialize};

use super::number::{Address, Pages, WholeNumber};
use super::{List, is_false, object};
use crate::image::memory;

/// A memory. If its size is omitted, it has just enough pages for its image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory<'d> {
    /// The path of its image, relative to the directory of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) minimum: Option<Pages>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maximum: Option<Pages>,
    #[serde(default)]
    memory64: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size: Option<u32>,
    /// Whether the memory changes while it is dumped, or changed while it was dumped.
    #[serde(default, skip_serializing_if = "is_false")]
    changing: bool,
    #[serde(default, deserialize_with = "object::list", skip_serializing_if = "List::is_empty")]
    left_out: List<'d, Range>,
}

/// A range of addresses of a memory that are not in a dump.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    first: Address,
    last: Address,
}

/// Opens an image by its path in the manifest. The flag is set if the image is assumed to change.
pub type OpenImage<'o, 'i> = dyn Fn(&str, bool) -> Result<MemoryImage<'i>, String> + 'o;

impl<'d> Memory<'d> {
    /// Describes a memory of a dump for a manifest, with the path of its image, if it has one. `unread` are ranges that
    /// the image lacks although the dump has them.
    pub(super) fn new(
        memory: MemoryView<'d>,
        image: Option<String>,
        unread: Vec<RangeInclusive<u64>>,
    ) -> Self {
        let coverage = memory.coverage();
        // Lost ranges are left out too. Otherwise a dump made from the manifest would have zeros there, and would claim
        // to be whole.
        let left_out = match coverage.unknown_bytes() > 0 || !unread.is_empty() {
            true => List::lazy(move || {
                memory.unknown().chain(unread.clone()).map(|range| Ok(Range::from(range)))
            }),
            false => List::default(),
        };
        let image = image.map(Cow::Owned);
        Self { image, left_out, ..Self::of_type(&memory.ty(), &coverage) }
    }

    fn of_type(ty: &MemoryType, coverage: &Coverage) -> Self {
        Self {
            image: None,
            minimum: Some(Pages(ty.minimum)),
            maximum: ty.maximum.map(Pages),
            memory64: ty.memory64,
            shared: ty.shared,
            page_size: Some(ty.page_size),
            changing: coverage.changing,
            left_out: List::default(),
        }
    }

    /// Converts to the library's memory. Opens its image with `open`.
    ///
    /// # Errors
    /// Returns the message of `open`.
    pub fn into_memory<'i>(
        self,
        open: &OpenImage<'_, 'i>,
    ) -> Result<corestream::Memory<'i>, String> {
        let image = match &self.image {
            Some(image) => open(image, self.changing)?,
            None if self.changing => MemoryImage::from_slice(&[]).mark_changing(),
            None => MemoryImage::from_slice(&[]),
        };
        let mut ty = MemoryType::wasm32(0);
        ty.maximum = self.maximum.map(|pages| pages.0);
        ty.memory64 = self.memory64;
        ty.shared = self.shared;
        ty.page_size = self.page_size.unwrap_or(ty.page_size);
        let mut memory = memory(image, self.minimum.map(|pages| pages.0), ty);
        for range in self.left_out.into_items() {
            memory.exclude(range.first.0..=range.last.0);
        }
        Ok(memory)
    }
}

impl From<RangeInclusive<u64>> for Range {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self { first: Address(*range.start()), last: Address(*range.end()) }
    }
}

/// A memory as `inspect` reports it.
#[derive(Debug, Serialize, Deserialize)]
pub struct InspectedMemory<'d> {
    /// The memory without an image and without excluded ranges, which `left_out` below replaces.
    #[serde(flatten)]
    memory: Memory<'d>,
    /// The number of pages that the dump declares, if the segments need more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    declared: Option<Pages>,
    /// `null` for 2^64.
    bytes: Option<WholeNumber>,
    segments: u64,
    data_bytes: WholeNumber,
    coverage: Cow<'d, str>,
    left_out: List<'d, Range>,
    data: List<'d, DataPart>,
}

/// A range of a memory, and its offset in the dump.
#[derive(Debug, Serialize, Deserialize)]
struct DataPart {
    address: Address,
    offset: u64,
    length: u64,
}

impl From<SegmentView> for DataPart {
    #[allow(clippy::arithmetic_side_effects, reason = "a segment has fewer than 2^32 bytes")]
    fn from(segment: SegmentView) -> Self {
        let (first, last) = segment.addresses.into_inner();
        Self { address: Address(first), offset: segment.offset, length: last - first + 1 }
    }
}

impl<'d> InspectedMemory<'d> {
    /// Describes a memory of a dump.
    pub(super) fn new(dump: &CoreDumpFile<'_>, memory: MemoryView<'d>) -> Self {
        let (ty, coverage) = (memory.ty(), memory.coverage());
        Self {
            memory: Memory::of_type(&ty, &coverage),
            declared: memory.declared_pages().map(Pages),
            bytes: ty.byte_len().map(WholeNumber),
            segments: coverage.segments,
            data_bytes: WholeNumber(coverage.data_bytes),
            coverage: self::coverage(dump, &coverage).into(),
            left_out: List::lazy(move || memory.unknown().map(|range| Ok(Range::from(range)))),
            data: List::lazy(move || memory.segments().map(|segment| Ok(segment.into()))),
        }
    }
}

/// Describes how much of a memory a dump contains.
pub fn coverage(dump: &CoreDumpFile<'_>, coverage: &Coverage) -> &'static str {
    match (coverage.unknown_bytes() > 0, coverage.changing) {
        (true, true) => "partial, changing while read",
        (true, false) => "partial",
        (false, true) => "changing while read",
        (false, false) if dump.has_index() && !dump.is_rewritten() => "whole",
        // Such dumps do not distinguish zero from not captured.
        (false, false) => "not known",
    }
}
