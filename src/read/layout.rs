//! How the frames of a dump are laid out: found by trying every layout that a writer is known to use.
//!
//! # The problem
//! Writers disagree about the bytes of a frame, and nothing in a dump says which of them wrote it. A frame
//! read in the wrong layout may look plausible, and an engineer then debugs a function that never ran.
//!
//! # The idea
//! A list of frames ends exactly where its section does. Read in a wrong layout it almost never does: it
//! meets a byte that is no value type, runs past the end, or leaves bytes over. So every layout is tried over
//! every whole section, all sections of a dump together, because a dump has one writer. A layout is accepted
//! only if it is the only one that fits and its indices can exist. Two layouts that fit and give the same
//! frames (those of frames without values) are one.
//!
//! # The invariant
//! [`Trials`] takes bytes as they come and keeps a few words a layout, so that a file and a stream get the same
//! answer in the same memory. What a [`Trial`] accepts, the decoder of [`items`](super::items) decodes.
//!
//! # The cost
//! A few operations a byte and layout, of these sections alone, which are small beside memories. Dumps with
//! the section `corestream` are in the layout of the specification and need no trial.
//!
//! # What was tried
//! Decoding a section once for each layout is shorter, but a stream would have to keep the section, which
//! may have 4 GiB.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

use crate::format::{F32, F64, I32, I64, MISSING};
use crate::leb;
use crate::limits::{MAX_CODE_OFFSET, MAX_FRAME_VALUES, MAX_FUNCTIONS, UNKNOWN_INDEX};

/// How the frames of a dump are laid out, which tells what wrote it.
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
    /// The layout of the specification: Wasmtime's and corestream's. Also that of a dump without frames.
    #[default]
    Standard,
    /// Without the index of the instance: wasm-coredump-builder's (the wasmer CLI).
    NoInstance,
    /// Both counts before the values, which have a fixed width: wasm-coredump-rewriter's.
    CountsFirst,
    /// Both of these: WasmEdge's.
    NoInstanceCountsFirst,
    /// More than one layout fits, with different frames. None is shown.
    Ambiguous,
    /// No layout fits. None of the frames is shown.
    Unknown,
}

impl FrameLayout {
    /// Those that are tried; of two that fit and give the same frames the first is named.
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

    /// Returns whether frames can be read.
    pub fn is_known(self) -> bool {
        !matches!(self, Self::Ambiguous | Self::Unknown)
    }

    /// Whether frames name their instance.
    pub(super) fn has_instance(self) -> bool {
        !matches!(self, Self::NoInstance | Self::NoInstanceCountsFirst)
    }

    /// Whether both counts come before the values, which have a fixed width.
    pub(super) fn has_counts_first(self) -> bool {
        matches!(self, Self::CountsFirst | Self::NoInstanceCountsFirst)
    }
}

/// The layout and its writer, for people.
impl fmt::Display for FrameLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard layout",
            Self::NoInstance => "layout of wasm-coredump-builder, without instances",
            Self::CountsFirst => "layout of wasm-coredump-rewriter, counts before values",
            Self::NoInstanceCountsFirst => "layout of WasmEdge, without instances",
            Self::Ambiguous => "ambiguous layout, no frame is shown",
            Self::Unknown => "unknown layout, no frame is shown",
        })
    }
}

/// All layouts, tried over the sections of a dump.
#[derive(Debug)]
pub(super) struct Trials {
    trials: [Trial; 4],
}

impl Default for Trials {
    fn default() -> Self {
        let key = RandomState::new();
        Self { trials: FrameLayout::TRIED.map(|layout| Trial::new(layout, &key)) }
    }
}

impl Trials {
    /// Begins a section with this number of frames.
    pub(super) fn begin(&mut self, frames: u32) {
        self.trials.iter_mut().for_each(|trial| trial.begin(frames));
    }

    /// Takes the next bytes of the frames.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.trials.iter_mut().for_each(|trial| trial.feed(bytes));
    }

    /// Ends a section.
    pub(super) fn end(&mut self) {
        self.trials.iter_mut().for_each(Trial::end);
    }

    /// Returns the layout of all sections that were ended, of a dump that lists `instances`.
    pub(super) fn layout(&self, instances: usize) -> FrameLayout {
        let fit = || self.trials.iter().filter(|trial| trial.is_plausible(instances));
        let Some(first) = fit().next() else { return FrameLayout::Unknown };
        match fit().all(|trial| trial.digest == first.digest) {
            true => first.layout,
            false => FrameLayout::Ambiguous,
        }
    }

    /// Returns whether a frame has more values than a reader decodes, if the frames are in this layout.
    pub(super) fn has_too_many_values(&self, layout: FrameLayout) -> bool {
        self.trials.iter().any(|trial| trial.layout == layout && trial.has_too_many)
    }

    /// Whether the frames are in the layout of the specification, whatever their indices are.
    pub(super) fn fits_standard(&self) -> bool {
        self.trials.iter().any(|trial| trial.layout == FrameLayout::Standard && trial.fits)
    }
}

/// What comes next in a list of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The zero byte before a frame, or the end.
    Frame,
    Instance,
    Function,
    Offset,
    Locals,
    Stack,
    /// The type of a value.
    Type,
    /// A signed LEB128 of so many bits.
    Signed(u32),
    /// The last bytes of a value of fixed width.
    Fixed(u8),
}

/// One layout, tried byte by byte.
#[derive(Debug)]
struct Trial {
    layout: FrameLayout,
    /// Whether all sections that were ended fit.
    fits: bool,
    /// The frames of those, as a number that nobody can foresee.
    digest: u64,
    /// The largest index of an instance in those.
    most: Option<u32>,
    /// Whether they have an index that no module can have.
    impossible: bool,
    /// Whether a frame has more values than a reader decodes.
    has_too_many: bool,
    hasher: DefaultHasher,
    section: Section,
}

/// A section that is being tried.
#[derive(Clone, Copy, Debug)]
struct Section {
    fits: bool,
    next: Next,
    leb: leb::Partial,
    fixed: Fixed,
    frames: u32,
    /// Values of both kinds of the frame in hand, and how many are to come.
    counts: (u32, u32),
    left: (u32, u32),
    most: Option<u32>,
    impossible: bool,
}

impl Section {
    fn new(frames: u32) -> Self {
        let (leb, fixed) = (leb::Partial::default(), Fixed::default());
        let (counts, left) = ((0, 0), (0, 0));
        let next = Next::Frame;
        Self { fits: true, next, leb, fixed, frames, counts, left, most: None, impossible: false }
    }
}

impl Trial {
    fn new(layout: FrameLayout, key: &RandomState) -> Self {
        let hasher = key.build_hasher();
        let digest = hasher.finish();
        let section = Section::new(0);
        let (fits, impossible, has_too_many) = (true, false, false);
        Self { layout, fits, digest, most: None, impossible, has_too_many, hasher, section }
    }

    fn begin(&mut self, frames: u32) {
        self.section = Section::new(frames);
        self.hasher.write_u32(frames);
    }

    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.section.fits {
                return;
            }
            self.section.fits = self.step(*byte).is_some();
        }
    }

    fn end(&mut self) {
        let section = &self.section;
        let ended = section.next == Next::Frame && section.frames == 0;
        self.fits &= section.fits && ended;
        self.most = self.most.max(section.most);
        self.impossible |= section.impossible;
        self.digest = self.hasher.finish();
    }

    fn is_plausible(&self, instances: usize) -> bool {
        // A dump that lists no instance says nothing of how many there are.
        let exists = |most| instances == 0 || (most as usize) < instances;
        self.fits && !self.impossible && self.most.is_none_or(exists)
    }

    /// Takes a byte; `None` if it does not fit.
    fn step(&mut self, byte: u8) -> Option<()> {
        let section = &mut self.section;
        match section.next {
            Next::Frame => {
                section.frames = section.frames.checked_sub(1)?;
                if byte != 0 {
                    return None;
                }
                section.next = match self.layout.has_instance() {
                    true => Next::Instance,
                    false => Next::Function,
                };
                if section.next == Next::Function {
                    self.hasher.write_u32(UNKNOWN_INDEX);
                }
            }
            Next::Type => self.value_type(byte)?,
            Next::Signed(bits) => {
                if let Some(value) = section.leb.signed(byte, bits).ok()? {
                    section.leb = leb::Partial::default();
                    self.hasher.write_u64(value.cast_unsigned());
                    self.next_value()?;
                }
            }
            Next::Fixed(left) => {
                section.fixed.push(byte)?;
                match left.checked_sub(1) {
                    None | Some(0) => {
                        let value = section.fixed.value();
                        self.hasher.write_u64(value);
                        self.next_value()?;
                    }
                    Some(left) => section.next = Next::Fixed(left),
                }
            }
            Next::Instance | Next::Function | Next::Offset | Next::Locals | Next::Stack => {
                if let Some(value) = section.leb.unsigned(byte, 32).ok()? {
                    section.leb = leb::Partial::default();
                    self.field(u32::try_from(value).ok()?);
                }
            }
        }
        Some(())
    }

    /// Takes a number that is no value.
    fn field(&mut self, value: u32) {
        let section = &mut self.section;
        match section.next {
            Next::Instance => {
                if value != UNKNOWN_INDEX {
                    section.most = section.most.max(Some(value));
                }
                self.hasher.write_u32(value);
                section.next = Next::Function;
            }
            Next::Function => {
                section.impossible |= value != UNKNOWN_INDEX && value >= MAX_FUNCTIONS;
                self.hasher.write_u32(value);
                section.next = Next::Offset;
            }
            Next::Offset => {
                section.impossible |= value >= MAX_CODE_OFFSET;
                self.hasher.write_u32(value);
                section.next = Next::Locals;
            }
            Next::Locals => {
                self.has_too_many |= value as usize > MAX_FRAME_VALUES;
                (section.counts.0, section.left.0) = (value, value);
                section.next = Next::Stack;
                if !self.layout.has_counts_first() && value > 0 {
                    section.next = Next::Type;
                }
            }
            _ => {
                self.has_too_many |= value as usize > MAX_FRAME_VALUES;
                (section.counts.1, section.left.1) = (value, value);
                self.after_values();
            }
        }
    }

    /// Goes on where both counts are known.
    fn after_values(&mut self) {
        let section = &mut self.section;
        if section.left == (0, 0) {
            self.hasher.write_u32(section.counts.0);
            self.hasher.write_u32(section.counts.1);
            section.next = Next::Frame;
        } else {
            section.next = Next::Type;
        }
    }

    /// Goes on after a value; `None` if there is none to come.
    fn next_value(&mut self) -> Option<()> {
        let section = &mut self.section;
        if let Some(left) = section.left.0.checked_sub(1) {
            section.left.0 = left;
            if left == 0 && !self.layout.has_counts_first() {
                section.next = Next::Stack;
                return Some(());
            }
        } else {
            section.left.1 = section.left.1.checked_sub(1)?;
        }
        self.after_values();
        Some(())
    }

    fn value_type(&mut self, byte: u8) -> Option<()> {
        let of_stack = self.section.left.0 == 0;
        self.hasher.write_u8(byte);
        self.hasher.write_u8(of_stack.into());
        let fixed = self.layout.has_counts_first();
        self.section.next = match byte {
            MISSING => return self.next_value(),
            I32 if fixed => Next::Fixed(4),
            I64 if fixed => Next::Fixed(8),
            I32 => Next::Signed(32),
            I64 => Next::Signed(64),
            F32 => Next::Fixed(4),
            F64 => Next::Fixed(8),
            _ => return None,
        };
        self.section.fixed = Fixed { is_i32: byte == I32, ..Fixed::default() };
        Some(())
    }
}

/// A number of fixed width of which some bytes were taken.
#[derive(Clone, Copy, Debug, Default)]
struct Fixed {
    value: u64,
    /// The number of its bits that were taken.
    len: u32,
    /// Whether it is an `i32`.
    is_i32: bool,
}

impl Fixed {
    /// Takes the next byte, the lowest first; `None` if it has no room for one more.
    fn push(&mut self, byte: u8) -> Option<()> {
        self.value |= u64::from(byte).checked_shl(self.len)?;
        self.len = self.len.checked_add(8)?;
        Some(())
    }

    /// Returns the number after its last byte: an `i32` widened by its sign, as those in LEB128 are.
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
        // However the bytes come.
        let whole = |step: usize| {
            let mut trials = Trials::default();
            trials.begin(frames);
            bytes.chunks(step).for_each(|bytes| trials.feed(bytes));
            trials.end();
            trials.layout(instances)
        };
        assert_eq!(whole(1), whole(bytes.len().max(1)));
        whole(3)
    }

    #[test]
    fn names_each_layout() {
        for (frames, bytes, expected) in [
            (0, &[][..], FrameLayout::Standard),
            // Instance 0, function 2, offset 5, without values; and without the instance.
            (1, &[0, 0, 2, 5, 0, 0], FrameLayout::Standard),
            (1, &[0, 2, 5, 0, 0], FrameLayout::NoInstance),
            // A local and an operand.
            (1, &[0, 0, 2, 5, 1, 0x7f, 0x7f, 1, 0x01], FrameLayout::Standard),
            (1, &[0, 2, 5, 1, 0x7f, 0x7f, 1, 0x01], FrameLayout::NoInstance),
            (1, &[0, 0, 2, 5, 1, 1, 0x7f, 1, 2, 3, 4, 0x01], FrameLayout::CountsFirst),
            (1, &[0, 2, 5, 1, 1, 0x7f, 1, 2, 3, 4, 0x01], FrameLayout::NoInstanceCountsFirst),
            // An i64 and both floats, of the same width in all.
            (1, &[0, 0, 2, 5, 0, 1, 0x7d, 1, 2, 3, 4], FrameLayout::Standard),
            (1, &[0, 2, 5, 0, 1, 0x7c, 1, 2, 3, 4, 5, 6, 7, 8], FrameLayout::NoInstance),
            (1, &[0, 0, 2, 5, 0, 1, 0x7e, 1, 2, 3, 4, 5, 6, 7, 8], FrameLayout::CountsFirst),
            (1, &[0, 0, 2, 5, 0, 1, 0x7e, 0x7f], FrameLayout::Standard),
        ] {
            assert_eq!(layout(frames, bytes, 0), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn rejects_what_does_not_fit_to_the_last_byte() {
        for (frames, bytes) in [
            (1, &[0, 0, 2, 5, 0][..]),
            (1, &[0, 0, 2, 5, 0, 0, 0, 0]),
            (2, &[0, 0, 2, 5, 0, 0]),
            (u32::MAX, &[]),
            (1, &[1, 0, 2, 5, 0, 0]),
            (1, &[0, 0, 2, 5, 1, 0x7b, 0, 0]),
            // A function index, and one padded to six bytes.
            (1, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x1f, 5, 0, 0]),
            (1, &[0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 5, 0, 0]),
        ] {
            assert_eq!(layout(frames, bytes, 0), FrameLayout::Unknown, "{bytes:x?}");
        }
    }

    #[test]
    fn says_where_two_layouts_give_different_frames() {
        // Instance 0, function 1 at 2 with one missing local; or function 0 at 1 with two.
        let both = [0, 0, 1, 2, 1, 1, 0];
        assert_eq!(layout(1, &both, 0), FrameLayout::Ambiguous);
        // An instance that does not exist rules a layout out.
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
        // Not known.
        assert_eq!(layout(1, &frame(u32::MAX), 1), FrameLayout::Standard);
        assert_eq!(layout(1, &[0, 1, 2, 5, 0, 0], 1), FrameLayout::Unknown);
        assert_eq!(layout(1, &[0, 1, 2, 5, 0, 0], 2), FrameLayout::Standard);
    }

    #[test]
    fn all_sections_of_a_dump_have_one_layout() {
        let mut trials = Trials::default();
        for (frames, bytes) in [(1, &[0, 2, 5, 0, 0][..]), (1, &[0, 2, 5, 0, 1, 0x7f, 7, 0, 0, 0])]
        {
            trials.begin(frames);
            trials.feed(bytes);
            trials.end();
        }
        assert_eq!(trials.layout(0), FrameLayout::NoInstanceCountsFirst);
        // A section that has not ended changes nothing.
        trials.begin(1);
        trials.feed(&[0, 2]);
        assert_eq!(trials.layout(0), FrameLayout::NoInstanceCountsFirst);
        trials.end();
        assert_eq!(trials.layout(0), FrameLayout::Unknown);
    }
}
