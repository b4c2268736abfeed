//! The address space that a client sees: memories, images of modules, and nothing between them.
//!
//! LLDB puts the memories and the modules of all instances into one space of 64 bits: 2 bits for the kind of address, 30
//! for an id, and 32 for an offset. Kind 0 is linear memory and kind 1 a module's file. The two other kinds do not exist
//! here.
//!
//! A memory of more than 4 GiB takes several ids. If its id is 0, its addresses are the same as in the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use corestream::read::Content;
use corestream::{CoreDumpFile, MemoryIndex};

use super::image::ImageBytes;

/// The first address of the image with id 0.
pub(crate) const IMAGES: u64 = 1 << 62;

/// The id of frames whose place is not known. No image has it.
pub(crate) const UNKNOWN_ID: u32 = (1 << 30) - 1;

/// The ids of instances and memories are below this one. The others are for copies of images.
const MAX_ID: u32 = 1 << 29;

/// The maximum number of ids of a memory, which is enough for 4 PiB.
const MAX_IDS_OF_MEMORY: u32 = 1 << 20;

/// Returns the first address of the linear memory or, with [`IMAGES`], of the image with an id.
pub(crate) fn base(id: u32) -> u64 {
    u64::from(id) << 32
}

/// The clients that see an image or a program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// LLDB 22, which needs copies of modules for recursive functions.
    Lldb22,
    /// LLDB 23.1 and newer.
    Newer,
}

/// A module that a client reads.
#[derive(Debug)]
pub(crate) struct Image<'b> {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) bytes: std::sync::Arc<ImageBytes<'b>>,
    pub(crate) has_debug: bool,
    /// Whether LLDB 22 sees it.
    pub(crate) for_22: bool,
    /// Whether newer versions see it.
    pub(crate) for_newer: bool,
}

impl Image<'_> {
    pub(crate) fn is_for(&self, client: Client) -> bool {
        match client {
            Client::Lldb22 => self.for_22,
            Client::Newer => self.for_newer,
        }
    }

    /// Returns the addresses of the first and the last byte.
    fn addresses(&self) -> RangeInclusive<u64> {
        let first = IMAGES | base(self.id);
        // An image is shorter than 4 GiB, and not empty.
        first..=first + self.bytes.len().saturating_sub(1)
    }
}

/// A memory at an id.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: u32,
    memory: MemoryIndex,
    /// The length in bytes as served. It is not 0.
    len: u64,
}

impl Placed {
    fn addresses(&self) -> RangeInclusive<u64> {
        base(self.id)..=base(self.id) + (self.len - 1)
    }
}

/// The memories of a dump by address.
#[derive(Debug, Default)]
pub(crate) struct Memories {
    /// In order of their ids.
    placed: Vec<Placed>,
    /// The ranges that were excluded or are lost, in order, of each memory with an id.
    unknown: BTreeMap<MemoryIndex, Vec<RangeInclusive<u64>>>,
    next_id: u32,
    /// The memories that are not served as a whole.
    pub(crate) cut: BTreeSet<MemoryIndex>,
}

impl Memories {
    /// Takes the next id, with as many ids as a memory needs. Returns `None` if there are no more ids.
    pub(crate) fn place(
        &mut self,
        dump: &CoreDumpFile<'_>,
        memory: Option<MemoryIndex>,
    ) -> Option<u32> {
        let id = self.next_id;
        if id >= MAX_ID {
            self.cut.extend(memory);
            return None;
        }
        let view = memory.and_then(|memory| dump.memory(memory).ok());
        let Some(view) = view else {
            self.next_id += 1;
            return Some(id);
        };
        let size = view.ty().byte_len().unwrap_or(u64::MAX);
        let needed = u32::try_from(size.div_ceil(1 << 32)).unwrap_or(u32::MAX).max(1);
        let ids = needed.min(MAX_IDS_OF_MEMORY);
        let len = size.min(u64::from(ids) << 32);
        self.next_id += ids;
        if len < size {
            self.cut.insert(view.index());
        }
        if len > 0 {
            self.placed.push(Placed { id, memory: view.index(), len });
        }
        self.unknown.entry(view.index()).or_insert_with(|| view.unknown().collect());
        Some(id)
    }

    /// Returns whether a memory has an id.
    pub(crate) fn has(&self, memory: MemoryIndex) -> bool {
        self.unknown.contains_key(&memory)
    }

    /// Takes an id for a copy of an image.
    pub(crate) fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Returns whether a memory with an id has excluded or lost ranges.
    pub(crate) fn has_unknown(&self) -> bool {
        self.unknown.values().any(|ranges| !ranges.is_empty())
    }

    /// Returns the first unknown range of a memory that ends at or after an address.
    fn unknown_from(&self, memory: MemoryIndex, address: u64) -> Option<&RangeInclusive<u64>> {
        let ranges = self.unknown.get(&memory)?;
        ranges.get(ranges.partition_point(|range| *range.end() < address))
    }

    fn at(&self, address: u64) -> Option<Placed> {
        let after = self.placed.partition_point(|placed| base(placed.id) <= address);
        let placed = *self.placed.get(after.checked_sub(1)?)?;
        placed.addresses().contains(&address).then_some(placed)
    }
}

/// The reason why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// There is nothing at the address, or its contents are not in the dump.
    Unknown,
    /// The source of the dump failed.
    Failed,
}

/// A range of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The addresses of the first and the last byte.
    pub(crate) addresses: RangeInclusive<u64>,
    /// The permissions and the name of a region that is not empty.
    pub(crate) mapped: Option<(&'static str, String)>,
}

/// Everything that has an address, for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryMap<'m, 'b> {
    pub(crate) dump: &'m CoreDumpFile<'b>,
    pub(crate) memories: &'m Memories,
    /// In order of their ids.
    pub(crate) images: &'m [Image<'b>],
    pub(crate) client: Client,
}

impl<'m, 'b> MemoryMap<'m, 'b> {
    /// Reads at most `len` bytes into `out`, which is empty. Reads less at the end of a memory or an image, and where an
    /// unknown range begins.
    ///
    /// LLDB reads text in blocks. If one is cut, it shows the text up to the unknown range as if it were all of it, and
    /// `memory read` shows the missing bytes as zeros with a warning. An error instead was tried: LLDB 22 and 23.1 then
    /// show an empty text, also for others in the block. So both are wrong, this one less often, and there is a warning.
    ///
    /// # Errors
    /// Returns an error if the first byte cannot be read.
    pub(crate) fn read(
        &self,
        address: u64,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        if let Some(image) = self.image_at(address) {
            image.bytes.read(address - image.addresses().start(), len, out);
            return if out.is_empty() { Err(Unreadable::Unknown) } else { Ok(()) };
        }
        let placed = self.memories.at(address).ok_or(Unreadable::Unknown)?;
        let first = address - base(placed.id);
        let end = match self.memories.unknown_from(placed.memory, first) {
            Some(range) => placed.len.min(*range.start()),
            None => placed.len,
        };
        let left = end.checked_sub(first).filter(|left| *left > 0).ok_or(Unreadable::Unknown)?;
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        let memory = self.dump.memory(placed.memory).map_err(|_| Unreadable::Failed)?;
        out.resize(len, 0);
        memory.read(first, out).map_err(|_| Unreadable::Failed)
    }

    /// Returns the region of an address. The regions of all addresses follow each other without gaps. The last one ends
    /// before the last address, because LLDB takes that one for an invalid address.
    pub(crate) fn region(&self, address: u64) -> Region {
        if let Some(image) = self.image_at(address) {
            let mapped = Some(("rx", image.name.clone()));
            return Region { addresses: image.addresses(), mapped };
        }
        if let Some(placed) = self.memories.at(address) {
            return self.region_of_memory(placed, address - base(placed.id));
        }
        let images = self.images.iter().filter(|image| image.is_for(self.client));
        let of_images = images.map(Image::addresses);
        let mapped = self.memories.placed.iter().map(Placed::addresses).chain(of_images);
        let (mut first, mut last) = (0, u64::MAX - 1);
        for range in mapped {
            if *range.end() < address {
                first = range.end() + 1;
            } else {
                last = range.start() - 1;
                break;
            }
        }
        Region { addresses: first..=last.max(first), mapped: None }
    }

    fn region_of_memory(&self, placed: Placed, address: u64) -> Region {
        let Placed { id, memory, len } = placed;
        let at = |first: u64, last: u64| base(id) + first..=base(id) + last.min(len - 1);
        let next = self.memories.unknown_from(memory, address);
        if let Some(range) = next.filter(|range| range.contains(&address)) {
            let view = self.dump.memory(memory).ok();
            let content = view.and_then(|view| view.contents_from(*range.start()).next());
            let what = match content {
                Some(Content::Lost(_)) => "lost",
                _ => "excluded",
            };
            let mapped = Some(("", format!("memory {memory}, {what}")));
            return Region { addresses: at(*range.start(), *range.end()), mapped };
        }
        let ranges = self.memories.unknown.get(&memory).map_or(&[][..], Vec::as_slice);
        let before = ranges.partition_point(|range| *range.end() < address);
        let previous = before.checked_sub(1).and_then(|index| ranges.get(index));
        let first = previous.map_or(0, |range| range.end() + 1);
        let last = next.map_or(len - 1, |range| range.start() - 1);
        let mapped = Some(("rw", format!("memory {memory}")));
        Region { addresses: at(first, last), mapped }
    }

    fn image_at(&self, address: u64) -> Option<&'m Image<'b>> {
        let id = address.checked_sub(IMAGES)? >> 32;
        let index = self.images.binary_search_by_key(&id, |image| image.id.into()).ok()?;
        let image = self.images.get(index)?;
        (image.is_for(self.client) && image.addresses().contains(&address)).then_some(image)
    }
}
