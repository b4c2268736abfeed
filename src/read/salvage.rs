//! Opens the readable parts of a damaged dump. If its index is sound, the index gives the memories. Otherwise the sections
//! do: damaged ones are skipped if the sizes of all sections are consistent, else reading ends at the first fault.

use super::bounds::Reach;
use super::decode::Decoder;
use super::fault::{Fault, Result, dump_fault_to_none};
use super::header::Header;
use super::index::{self, Entry, Index};
use super::open::{Kept, Marks, Opened, Opener};
use super::parser::Parser;
use super::segment::Segment;
use super::source::Source;
use super::structure::Structure;
use super::table::Builder;
use super::{appended, preamble, types};
use crate::arithmetic::{at_most, exact, sum};
use crate::control::{Control, Lookout};
use crate::error::{self, ErrorKind};
use crate::format::{CORE, CUSTOM, HEADER, PARTIAL};
use crate::limits::MAX_LISTED_SEGMENTS;
use crate::model::MemoryType;
use crate::ranges::range_len;

impl Opened {
    /// Opens what is readable of a dump in which opening has found `fault`; gives the fault as well, in other
    /// words where these would not be true of what was found.
    ///
    /// # Errors
    /// There is nothing of a dump.
    pub(super) fn lenient(
        source: Source<'_>,
        fault: Box<Fault>,
        control: &Control,
    ) -> Result<(Self, Box<Fault>)> {
        let all = BySections::read(source, Parser::default(), control)?;
        let structure = &all.structure;
        let of_others = structure.header.is_none() && structure.stray.is_none();
        let has_core = structure.has_section(CORE);
        if structure.is_complete && of_others && structure.is_bounded && has_core {
            // All that is wrong is that its frames can't be told, or that it ends between two sections.
            let marks = dump_fault_to_none(Marks::of(source, structure))?.unwrap_or(Marks::Lost);
            return Ok((all.opener.finish(all.structure, marks, None)?, fault));
        }
        let header = match has_core {
            true => structure.header.clone(),
            false => header_by_size(source)?,
        };
        // What was read goes before more is: both have tables that may be as large as a reader's may be.
        let ended = all.ended;
        drop((all.structure, all.opener));
        if let Some(found) = Found::of(source, header.as_ref(), control)? {
            return Ok((found.open(source, control)?, as_damage(fault, source)?));
        }
        if let Some(header) = header
            && sizes_hold(&header, source, control)?
        {
            let parser = Parser::for_damaged(header, true);
            let mut sound = BySections::read(source, parser, control)?;
            add_lost_memories(&mut sound.structure)?;
            return Ok((sound.open()?, as_damage(fault, source)?));
        }
        if !has_core {
            return Err(ended.err().unwrap_or_else(Fault::no_core));
        }
        Ok((BySections::read(source, Parser::default(), control)?.open()?, fault))
    }
}

/// What the sections of a damaged dump give.
struct BySections<'c> {
    structure: Structure,
    opener: Opener<'c>,
    /// How they end.
    ended: Result<()>,
}

impl<'c> BySections<'c> {
    /// Reads the sections.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    fn read(source: Source<'_>, mut parser: Parser, control: &'c Control) -> Result<Self> {
        let mut opener = Opener::new(None, Lookout::new(control));
        let ended = opener.read(&mut parser, &mut source.input(0));
        match ended {
            Err(fault) if !fault.is_of_dump() => Err(fault),
            ended => Ok(Self { structure: parser.structure, opener, ended }),
        }
    }

    /// Opens what is there.
    fn open(self) -> Result<Opened> {
        let Self { structure, mut opener, ended } = self;
        if !structure.is_bounded {
            opener.forget_segments();
        }
        // Only this project's segments are known to be in order, and what was left out on purpose is
        // in the index.
        let partial = structure.any_header().is_none_or(|header| header.flags & PARTIAL != 0);
        let lost = match ended {
            _ if partial => Some((0, 0)),
            Ok(()) => opener.lost,
            Err(_) => opener.lost.or(opener.reached).or(Some((0, 0))),
        };
        opener.finish(structure, Marks::None, lost)
    }
}

/// Gives memories whose types are lost the size that their segments need.
fn add_lost_memories(structure: &mut Structure) -> error::Result<()> {
    if !structure.has_lost_memory() {
        return Ok(());
    }
    let needs: Vec<_> = structure.reaches().iter().map(Reach::needs).collect();
    for (memory, needed, wide) in needs {
        cover(structure, memory, needed, wide)?;
    }
    Ok(())
}

/// Makes a memory long enough for the address that is needed, and notes the pages that were declared. Adds the memory, and
/// those before it, if their types are lost. `wide` says that its addresses have 64 bits.
fn cover(
    structure: &mut Structure,
    memory: u32,
    needed: Option<u64>,
    wide: bool,
) -> error::Result<()> {
    for lost in (0..=memory).skip(structure.memories.len()) {
        structure.memories.push(MemoryType::wasm32(0));
        structure.grown.push((lost, 0));
    }
    let Some(ty) = structure.memories.get_mut(memory as usize) else { return Ok(()) };
    if let Some(last) = needed
        && needed > types::last_address(ty)
    {
        let declared = ty.minimum;
        *ty = with_address(MemoryType { memory64: ty.memory64 || wide, ..*ty }, last)?;
        structure.grown.retain(|(grown, _)| *grown != memory);
        structure.grown.push((memory, declared));
    }
    Ok(())
}

/// Turns "not a core dump" into damage, for a file in which a dump was found.
///
/// # Errors
/// The dump cannot be read.
fn as_damage(fault: Box<Fault>, source: Source<'_>) -> Result<Box<Fault>> {
    Ok(match fault.kind {
        ErrorKind::Format if preamble::is_module(&mut source.input(0))? => {
            Fault::damaged(0..source.len(), "it has no section `core`")
        }
        ErrorKind::Format => preamble::damaged(),
        _ => fault,
    })
}

/// What `corestream` says of a dump of which the first section, before it, is damaged but for its size.
fn header_by_size(source: Source<'_>) -> Result<Option<Header>> {
    let mut input = source.input(preamble::LEN);
    let mut all = Decoder::new(&mut input, source.len());
    let mut decode = || {
        all.byte()?;
        let size = all.u32()?;
        all.skip(size.into())?;
        let start = all.offset();
        let custom = all.byte()? == CUSTOM;
        let size = all.u32()?;
        let mut body = all.limited(size.into())?;
        if !custom || !body.is_named(HEADER)? {
            return Ok(None);
        }
        Header::decode(&mut body, start, true).map(Some)
    };
    Ok(dump_fault_to_none(decode())?.flatten())
}

/// Whether the sizes of sections, one after the other, lead to the index, or to the end of a file that
/// is cut off before it.
fn sizes_hold(header: &Header, source: Source<'_>, control: &Control) -> Result<bool> {
    let mut lookout = Lookout::new(control);
    let mut input = source.input(preamble::LEN);
    let mut sections = Decoder::new(&mut input, header.index);
    let mut pass = || -> Result<u64> {
        sections.byte()?;
        let size = sections.u32()?;
        sections.skip(size.into())?;
        Ok(sections.offset())
    };
    let mut at = preamble::LEN;
    while at < header.index && at < source.len() {
        lookout.step()?;
        match pass() {
            Ok(end) => at = end,
            Err(fault) if fault.is_of_dump() => return Ok(fault.kind == ErrorKind::Truncated),
            Err(fault) => return Err(fault),
        }
    }
    Ok(true)
}

/// An index that is sound, of a dump that is damaged before it.
pub(super) struct Found {
    /// What `corestream` says, or would say.
    pub(super) header: Header,
    index: Index,
    /// For each memory up to the last one with segments.
    memories: Vec<Segments>,
}

/// What an index lists of one memory.
#[derive(Clone, Copy, Default)]
struct Segments {
    kept: Kept,
    last: Option<Segment>,
}

impl Found {
    /// The index that `header` speaks of; without a header one at the end of the file.
    ///
    /// # Errors
    /// The dump cannot be read.
    pub(super) fn of(
        source: Source<'_>,
        header: Option<&Header>,
        control: &Control,
    ) -> Result<Option<Self>> {
        let mut lookout = Lookout::new(control);
        if let Some(header) = header {
            return Self::decode(source, header, &mut lookout);
        }
        for header in index::at_end(source, control)? {
            let Some(found) = Self::decode(source, &header, &mut lookout)? else { continue };
            // Where it is says that nothing was moved: data ends where the index begins. Where there is no
            // data, nothing but sections may follow, or it could be that of a dump in the guest's memory.
            let last = found.memories.iter().filter_map(|of| of.last).next_back();
            let is_of_file = match last {
                Some(last) => last.in_file().end == found.header.index,
                None => appended::only_appended_follow(
                    &mut source.input(found.header.length),
                    &mut lookout,
                )?,
            };
            if is_of_file {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn decode(
        source: Source<'_>,
        header: &Header,
        lookout: &mut Lookout<'_>,
    ) -> Result<Option<Self>> {
        let mut memories: Vec<Segments> = Vec::new();
        let mut inside = true;
        let mut entry = |entry| {
            lookout.step()?;
            if let Entry::Segment(segment) = entry {
                let at = segment.memory() as usize;
                while memories.len() <= at {
                    memories.push(Segments::default());
                }
                if let Some(of) = memories.get_mut(at) {
                    of.kept.add(1, segment.len().into())?;
                    of.last = Some(segment);
                }
                inside &= segment.in_file().end <= header.index;
            }
            Ok(())
        };
        let mut input = source.input(header.index);
        let decoded = dump_fault_to_none(Index::decode(&mut input, header, None, &mut entry))?;
        let header = header.clone();
        Ok(decoded.filter(|_| inside).map(|index| Self { header, index, memories }))
    }

    /// Opens the dump: its memories by the index, the rest by the sections that are sound.
    fn open(self, source: Source<'_>, control: &Control) -> Result<Opened> {
        let Self { header, index, memories } = self;
        // A verifier keeps no segments: their number has no limit there.
        let mut builder = Builder::new();
        let count = sum(memories.iter().map(|of| of.kept.segments))?;
        builder.expect(at_most(count, MAX_LISTED_SEGMENTS))?;
        let mut lookout = Lookout::new(control);
        let mut keep = |entry| {
            lookout.step()?;
            match entry {
                Entry::Segment(segment) => builder.push(segment),
                Entry::Checksum(_) | Entry::Skipped => Ok(()),
            }
        };
        Index::decode(&mut source.input(header.index), &header, None, &mut keep)?;
        let sizes_hold = sizes_hold(&header, source, control)?;
        let mut parser = Parser::for_damaged(header.clone(), sizes_hold);
        let kept = memories.iter().map(|of| of.kept).collect();
        let mut opener = Opener::by_index(builder, kept, lookout);
        // Why it ends is known, unless the dump cannot be read.
        dump_fault_to_none(opener.read(&mut parser, &mut source.input(0)))?;
        let mut structure = parser.structure;
        (structure.header, structure.moved_header) = (Some(header), None);
        // The section of memories may be lost, or wrong; the index is neither.
        structure.memories.truncate(index.memories.len());
        for (i, memory) in (0_u32..).zip(&index.memories) {
            let of_ranges = memory.excluded.as_slice().last().map(|range| *range.end());
            let of_segments =
                memories.get(i as usize).and_then(|of| of.last).map(|last| last.last());
            cover(&mut structure, i, of_ranges.max(of_segments), false)?;
        }
        opener.finish(structure, Marks::Index(index), None)
    }
}

/// The type of a memory that has the address `last`, in whole pages.
fn with_address(ty: MemoryType, last: u64) -> error::Result<MemoryType> {
    let pages = |page_size| types::pages_for(range_len(&(0..=last)), page_size);
    let memory64 = ty.memory64 || last > u64::from(u32::MAX);
    let (page_size, minimum) = match u64::try_from(pages(ty.page_size)) {
        Ok(minimum) => (ty.page_size, minimum),
        // 2^64 pages of one byte are more than can be said.
        Err(_) => (65_536, exact(pages(65_536))?),
    };
    let maximum = ty.maximum.filter(|maximum| *maximum >= minimum && page_size == ty.page_size);
    let shared = ty.shared && maximum.is_some();
    Ok(MemoryType { minimum, maximum, memory64, shared, page_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_covers_the_last_of_all_addresses() {
        let with_address = |ty, last| with_address(ty, last).unwrap();
        let ty = MemoryType::wasm32(0);
        assert_eq!(with_address(ty, 65_535), MemoryType::wasm32(1));
        assert_eq!(with_address(ty, 65_536), MemoryType::wasm32(2));
        assert_eq!(with_address(ty, u64::MAX), MemoryType::wasm64(1 << 48));
        let bytes = MemoryType::wasm64(0).with_page_size(1);
        assert_eq!(with_address(bytes, u64::MAX - 1).minimum, u64::MAX);
        assert_eq!(with_address(bytes, u64::MAX), MemoryType::wasm64(1 << 48));
    }
}
