//! Detects the layout of the frames in a dump, by trying every layout that a known writer uses.
//!
//! # The problem
//! Writers disagree about the bytes of a frame, and nothing in a dump says which of them wrote it. Frames decoded in
//! the wrong layout can look plausible, and an engineer then debugs a function that never ran.
//!
//! # The idea
//! A list of frames ends exactly where its section ends. Decoded in the wrong layout it almost never does: the decoder
//! meets a byte that is not a value type, runs past the end, or leaves bytes over. So the detector tries every layout
//! on every whole section, and judges all sections together, because a dump has one writer. It accepts a layout only if
//! no other fits and its indices can exist. Two layouts that fit and give the same frames count as one: frames without
//! values are the same with the counts first or not.
//!
//! The frames themselves are not kept. Each trial hashes the frames that it decodes, and two layouts give the same
//! frames if their digests are equal. The key of the hash is random, so a dump with a collision cannot be crafted.
//!
//! # The invariant
//! A trial is a state machine that takes one byte at a time. [`LayoutDetector`] therefore gives a file and a stream the
//! same answer, in the same few words of memory per layout. Whatever a [`LayoutTrial`] accepts,
//! [`item::decode_frame`](super::item::decode_frame) decodes.
//!
//! # The cost
//! A few operations per byte and layout, for the sections with frames only. These are small compared with memories.
//! Dumps with the section `corestream` are in the layout of the specification and need no trial.
//!
//! # What was tried
//! Decoding a section once for each layout is shorter. But a stream would have to keep the section, up to 4 GiB.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

use crate::format::{F32, F64, I32, I64, MISSING};
use crate::leb;
use crate::limits::{MAX_CODE_OFFSET, MAX_FRAME_VALUES, MAX_FUNCTIONS, UNKNOWN_INDEX};

/// The layout of the frames in a dump. It tells which tool wrote them.
///
/// ```
/// use corestream::read::FrameLayout;
///
/// assert_eq!(FrameLayout::NoInstance.name(), "no-instance");
/// assert!(FrameLayout::NoInstance.is_known() && !FrameLayout::Ambiguous.is_known());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameLayout {
    /// The layout of the specification, which Wasmtime and corestream write. A dump without frames has it too.
    #[default]
    Standard,
    /// The standard layout without the index of the instance, as wasm-coredump-builder (the wasmer CLI) writes it.
    NoInstance,
    /// Both counts before the values, and integers of a fixed width, as wasm-coredump-rewriter writes it.
    CountsFirst,
    /// Both differences, as WasmEdge writes it.
    NoInstanceCountsFirst,
    /// Several layouts fit and give different frames. The reader returns no frames.
    Ambiguous,
    /// No layout fits. The reader returns no frames.
    Unknown,
}

impl FrameLayout {
    /// The layouts that are tried. If several fit and give the same frames, the first of them is the answer.
    const TRIED: [Self; 4] =
        [Self::Standard, Self::NoInstance, Self::CountsFirst, Self::NoInstanceCountsFirst];

    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::NoInstance => "no-instance",
            Self::CountsFirst => "counts-first",
            Self::NoInstanceCountsFirst => "no-instance-counts-first",
            Self::Ambiguous => "ambiguous",
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether frames can be decoded.
    pub fn is_known(self) -> bool {
        !matches!(self, Self::Ambiguous | Self::Unknown)
    }

    /// Returns whether frames contain the index of their instance.
    pub(super) fn has_instance(self) -> bool {
        !matches!(self, Self::NoInstance | Self::NoInstanceCountsFirst)
    }

    /// Returns whether both counts precede the values, and integers have a fixed width.
    pub(super) fn has_counts_first(self) -> bool {
        matches!(self, Self::CountsFirst | Self::NoInstanceCountsFirst)
    }
}

/// Writes the layout and its writer for a person to read.
impl fmt::Display for FrameLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard layout",
            Self::NoInstance => "layout of wasm-coredump-builder, without instances",
            Self::CountsFirst => "layout of wasm-coredump-rewriter, counts before values",
            Self::NoInstanceCountsFirst => "layout of WasmEdge, without instances",
            Self::Ambiguous => "ambiguous layout, frames not shown",
            Self::Unknown => "unknown layout, frames not shown",
        })
    }
}

/// Tries all layouts on the frames of a dump.
#[derive(Debug)]
pub(super) struct LayoutDetector {
    trials: [LayoutTrial; 4],
}

impl Default for LayoutDetector {
    fn default() -> Self {
        let key = RandomState::new();
        Self { trials: FrameLayout::TRIED.map(|layout| LayoutTrial::new(layout, &key)) }
    }
}

impl LayoutDetector {
    /// Begins a section with this number of frames.
    pub(super) fn begin_section(&mut self, frames: u32) {
        self.trials.iter_mut().for_each(|trial| trial.begin_section(frames));
    }

    /// Takes the next bytes of the section's frames.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.trials.iter_mut().for_each(|trial| trial.feed(bytes));
    }

    /// Ends the section. A section that is not ended has no influence on the layout.
    pub(super) fn end_section(&mut self) {
        self.trials.iter_mut().for_each(LayoutTrial::end_section);
    }

    /// Returns the layout of all ended sections, in a dump that lists `instances` instances.
    pub(super) fn layout(&self, instances: usize) -> FrameLayout {
        let plausible = || self.trials.iter().filter(|trial| trial.is_plausible(instances));
        let Some(first) = plausible().next() else { return FrameLayout::Unknown };
        match plausible().all(|trial| trial.digest == first.digest) {
            true => first.layout,
            false => FrameLayout::Ambiguous,
        }
    }

    /// Returns whether, in this layout, a frame has more values than a reader decodes.
    pub(super) fn has_too_many_values(&self, layout: FrameLayout) -> bool {
        self.trials.iter().any(|trial| trial.layout == layout && trial.has_too_many_values)
    }

    /// Returns whether the frames fit the layout of the specification, whatever their indices are.
    pub(super) fn fits_standard(&self) -> bool {
        self.trials.iter().any(|trial| trial.layout == FrameLayout::Standard && trial.fits)
    }
}

/// The field of a frame that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameField {
    /// The zero byte before a frame, or the end of the list.
    Start,
    Instance,
    Function,
    Offset,
    LocalCount,
    StackCount,
    ValueType,
    /// A value that is a signed LEB128 of this number of bits.
    Leb(u32),
    /// A value of fixed width, with the number of bytes still to come.
    FixedWidth(u8),
}

/// The trial of one layout.
#[derive(Debug)]
struct LayoutTrial {
    layout: FrameLayout,
    /// Whether all ended sections fit.
    fits: bool,
    /// The hash of the frames in the ended sections.
    digest: u64,
    /// The largest index of an instance in the ended sections.
    max_instance: Option<u32>,
    /// Whether an index or offset in the ended sections is larger than in any module.
    has_impossible_index: bool,
    /// Whether a frame has more values than a reader decodes.
    has_too_many_values: bool,
    hasher: DefaultHasher,
    section: SectionTrial,
}

/// The trial of one layout on the current section.
#[derive(Clone, Copy, Debug)]
struct SectionTrial {
    fits: bool,
    next: FrameField,
    leb: leb::Partial,
    fixed: FixedWidth,
    /// The number of frames to come.
    frames: u32,
    /// The number of locals and of operands in the current frame.
    counts: (u32, u32),
    /// The number of locals and of operands to come.
    left: (u32, u32),
    max_instance: Option<u32>,
    has_impossible_index: bool,
}

impl SectionTrial {
    fn new(frames: u32) -> Self {
        Self {
            fits: true,
            next: FrameField::Start,
            leb: leb::Partial::default(),
            fixed: FixedWidth::default(),
            frames,
            counts: (0, 0),
            left: (0, 0),
            max_instance: None,
            has_impossible_index: false,
        }
    }
}

impl LayoutTrial {
    fn new(layout: FrameLayout, key: &RandomState) -> Self {
        let hasher = key.build_hasher();
        Self {
            layout,
            fits: true,
            digest: hasher.finish(),
            max_instance: None,
            has_impossible_index: false,
            has_too_many_values: false,
            hasher,
            section: SectionTrial::new(0),
        }
    }

    fn begin_section(&mut self, frames: u32) {
        self.section = SectionTrial::new(frames);
        self.hasher.write_u32(frames);
    }

    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.section.fits {
                return;
            }
            self.section.fits = self.accept_byte(*byte).is_some();
        }
    }

    fn end_section(&mut self) {
        let section = &self.section;
        let is_at_end = section.next == FrameField::Start && section.frames == 0;
        self.fits &= section.fits && is_at_end;
        self.max_instance = self.max_instance.max(section.max_instance);
        self.has_impossible_index |= section.has_impossible_index;
        self.digest = self.hasher.finish();
    }

    fn is_plausible(&self, instances: usize) -> bool {
        // A dump that lists no instances does not limit their number.
        let exists = |index| instances == 0 || (index as usize) < instances;
        self.fits && !self.has_impossible_index && self.max_instance.is_none_or(exists)
    }

    /// Takes a byte. Returns `None` if the byte does not fit the layout.
    fn accept_byte(&mut self, byte: u8) -> Option<()> {
        let section = &mut self.section;
        match section.next {
            FrameField::Start => {
                section.frames = section.frames.checked_sub(1)?;
                if byte != 0 {
                    return None;
                }
                section.next = match self.layout.has_instance() {
                    true => FrameField::Instance,
                    false => FrameField::Function,
                };
                if section.next == FrameField::Function {
                    self.hasher.write_u32(UNKNOWN_INDEX);
                }
            }
            FrameField::ValueType => self.accept_value_type(byte)?,
            FrameField::Leb(bits) => {
                if let Some(value) = section.leb.signed(byte, bits).ok()? {
                    section.leb = leb::Partial::default();
                    self.hasher.write_u64(value.cast_unsigned());
                    self.end_value()?;
                }
            }
            FrameField::FixedWidth(left) => {
                section.fixed.push(byte)?;
                match left.checked_sub(1) {
                    None | Some(0) => {
                        let value = section.fixed.value();
                        self.hasher.write_u64(value);
                        self.end_value()?;
                    }
                    Some(left) => section.next = FrameField::FixedWidth(left),
                }
            }
            FrameField::Instance
            | FrameField::Function
            | FrameField::Offset
            | FrameField::LocalCount
            | FrameField::StackCount => {
                if let Some(value) = section.leb.unsigned(byte, 32).ok()? {
                    section.leb = leb::Partial::default();
                    self.accept_number(u32::try_from(value).ok()?);
                }
            }
        }
        Some(())
    }

    /// Takes an index, an offset or a count.
    fn accept_number(&mut self, number: u32) {
        let section = &mut self.section;
        match section.next {
            FrameField::Instance => {
                if number != UNKNOWN_INDEX {
                    section.max_instance = section.max_instance.max(Some(number));
                }
                self.hasher.write_u32(number);
                section.next = FrameField::Function;
            }
            FrameField::Function => {
                section.has_impossible_index |= number != UNKNOWN_INDEX && number >= MAX_FUNCTIONS;
                self.hasher.write_u32(number);
                section.next = FrameField::Offset;
            }
            FrameField::Offset => {
                section.has_impossible_index |= number >= MAX_CODE_OFFSET;
                self.hasher.write_u32(number);
                section.next = FrameField::LocalCount;
            }
            FrameField::LocalCount => {
                self.has_too_many_values |= number as usize > MAX_FRAME_VALUES;
                (section.counts.0, section.left.0) = (number, number);
                section.next = FrameField::StackCount;
                if !self.layout.has_counts_first() && number > 0 {
                    section.next = FrameField::ValueType;
                }
            }
            _ => {
                self.has_too_many_values |= number as usize > MAX_FRAME_VALUES;
                (section.counts.1, section.left.1) = (number, number);
                self.begin_value_or_end_frame();
            }
        }
    }

    /// Begins the next value, or ends the frame if no values are to come. Both counts are known here.
    fn begin_value_or_end_frame(&mut self) {
        let section = &mut self.section;
        if section.left == (0, 0) {
            self.hasher.write_u32(section.counts.0);
            self.hasher.write_u32(section.counts.1);
            section.next = FrameField::Start;
        } else {
            section.next = FrameField::ValueType;
        }
    }

    /// Ends a value. Returns `None` if no value was due.
    fn end_value(&mut self) -> Option<()> {
        let section = &mut self.section;
        if let Some(left) = section.left.0.checked_sub(1) {
            section.left.0 = left;
            if left == 0 && !self.layout.has_counts_first() {
                section.next = FrameField::StackCount;
                return Some(());
            }
        } else {
            section.left.1 = section.left.1.checked_sub(1)?;
        }
        self.begin_value_or_end_frame();
        Some(())
    }

    fn accept_value_type(&mut self, byte: u8) -> Option<()> {
        let is_operand = self.section.left.0 == 0;
        self.hasher.write_u8(byte);
        self.hasher.write_u8(is_operand.into());
        let has_fixed_width = self.layout.has_counts_first();
        self.section.next = match byte {
            MISSING => return self.end_value(),
            I32 if has_fixed_width => FrameField::FixedWidth(4),
            I64 if has_fixed_width => FrameField::FixedWidth(8),
            I32 => FrameField::Leb(32),
            I64 => FrameField::Leb(64),
            F32 => FrameField::FixedWidth(4),
            F64 => FrameField::FixedWidth(8),
            _ => return None,
        };
        self.section.fixed = FixedWidth { is_i32: byte == I32, ..FixedWidth::default() };
        Some(())
    }
}

/// A value of fixed width that is partly decoded.
#[derive(Clone, Copy, Debug, Default)]
struct FixedWidth {
    value: u64,
    /// The number of bits taken.
    len: u32,
    is_i32: bool,
}

impl FixedWidth {
    /// Takes the next byte in little-endian order. Returns `None` if the value already has 64 bits.
    fn push(&mut self, byte: u8) -> Option<()> {
        self.value |= u64::from(byte).checked_shl(self.len)?;
        self.len = self.len.checked_add(8)?;
        Some(())
    }

    /// Returns the value. An `i32` is sign-extended, so that it hashes like the same value in LEB128.
    fn value(&self) -> u64 {
        match u32::try_from(self.value) {
            Ok(value) if self.is_i32 => i64::from(value.cast_signed()).cast_unsigned(),
            _ => self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(frames: u32, bytes: &[u8], instances: usize) -> FrameLayout {
        // The result must not depend on how the bytes are split.
        let detect = |step: usize| {
            let mut detector = LayoutDetector::default();
            detector.begin_section(frames);
            bytes.chunks(step).for_each(|bytes| detector.feed(bytes));
            detector.end_section();
            detector.layout(instances)
        };
        assert_eq!(detect(1), detect(bytes.len().max(1)));
        detect(3)
    }

    #[test]
    fn detects_each_layout() {
        for (frames, bytes, expected) in [
            (0, &[][..], FrameLayout::Standard),
            // Instance 0, function 2, offset 5, without values. Then the same without the instance.
            (1, &[0, 0, 2, 5, 0, 0], FrameLayout::Standard),
            (1, &[0, 2, 5, 0, 0], FrameLayout::NoInstance),
            // A local and an operand.
            (1, &[0, 0, 2, 5, 1, 0x7f, 0x7f, 1, 0x01], FrameLayout::Standard),
            (1, &[0, 2, 5, 1, 0x7f, 0x7f, 1, 0x01], FrameLayout::NoInstance),
            (1, &[0, 0, 2, 5, 1, 1, 0x7f, 1, 2, 3, 4, 0x01], FrameLayout::CountsFirst),
            (1, &[0, 2, 5, 1, 1, 0x7f, 1, 2, 3, 4, 0x01], FrameLayout::NoInstanceCountsFirst),
            // Floats, which have the same width in every layout, and an i64.
            (1, &[0, 0, 2, 5, 0, 1, 0x7d, 1, 2, 3, 4], FrameLayout::Standard),
            (1, &[0, 2, 5, 0, 1, 0x7c, 1, 2, 3, 4, 5, 6, 7, 8], FrameLayout::NoInstance),
            (1, &[0, 0, 2, 5, 0, 1, 0x7e, 1, 2, 3, 4, 5, 6, 7, 8], FrameLayout::CountsFirst),
            (1, &[0, 0, 2, 5, 0, 1, 0x7e, 0x7f], FrameLayout::Standard),
        ] {
            assert_eq!(layout(frames, bytes, 0), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn rejects_frames_that_fit_no_layout_to_the_last_byte() {
        for (frames, bytes) in [
            (1, &[0, 0, 2, 5, 0][..]),
            (1, &[0, 0, 2, 5, 0, 0, 0, 0]),
            (2, &[0, 0, 2, 5, 0, 0]),
            (u32::MAX, &[]),
            (1, &[1, 0, 2, 5, 0, 0]),
            (1, &[0, 0, 2, 5, 1, 0x7b, 0, 0]),
            // A function index of 33 bits, and one padded to six bytes.
            (1, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x1f, 5, 0, 0]),
            (1, &[0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 5, 0, 0]),
        ] {
            assert_eq!(layout(frames, bytes, 0), FrameLayout::Unknown, "{bytes:x?}");
        }
    }

    #[test]
    fn reports_two_layouts_with_different_frames_as_ambiguous() {
        // Either instance 0, function 1 at offset 2 with one missing local, or function 0 at offset 1 with two.
        let both = [0, 0, 1, 2, 1, 1, 0];
        assert_eq!(layout(1, &both, 0), FrameLayout::Ambiguous);
        // An instance that does not exist excludes a layout.
        let both = [0, 9, 1, 2, 1, 1, 0];
        assert_eq!(layout(1, &both, 0), FrameLayout::Ambiguous);
        assert_eq!(layout(1, &both, 2), FrameLayout::NoInstance);
    }

    #[test]
    fn rejects_indices_that_no_module_has() {
        let frame = |function: u32| {
            let mut bytes = vec![0, 0];
            bytes.extend((0..5).map(|i| {
                let more = if i < 4 { 0x80 } else { 0 };
                (function >> (7 * i)).to_le_bytes()[0] & 0x7f | more
            }));
            bytes.extend([1, 0, 0]);
            bytes
        };
        assert_eq!(layout(1, &frame(MAX_FUNCTIONS - 1), 1), FrameLayout::Standard);
        assert_eq!(layout(1, &frame(MAX_FUNCTIONS), 1), FrameLayout::Unknown);
        // The index for an unknown function.
        assert_eq!(layout(1, &frame(u32::MAX), 1), FrameLayout::Standard);
        assert_eq!(layout(1, &[0, 1, 2, 5, 0, 0], 1), FrameLayout::Unknown);
        assert_eq!(layout(1, &[0, 1, 2, 5, 0, 0], 2), FrameLayout::Standard);
    }

    #[test]
    fn judges_all_sections_of_a_dump_together() {
        let mut detector = LayoutDetector::default();
        for (frames, bytes) in [(1, &[0, 2, 5, 0, 0][..]), (1, &[0, 2, 5, 0, 1, 0x7f, 7, 0, 0, 0])]
        {
            detector.begin_section(frames);
            detector.feed(bytes);
            detector.end_section();
        }
        assert_eq!(detector.layout(0), FrameLayout::NoInstanceCountsFirst);
        // A section that has not ended has no influence.
        detector.begin_section(1);
        detector.feed(&[0, 2]);
        assert_eq!(detector.layout(0), FrameLayout::NoInstanceCountsFirst);
        detector.end_section();
        assert_eq!(detector.layout(0), FrameLayout::Unknown);
    }
}
