//! A second implementation of the sections `corestream` and `corestream.index`: adds them to a dump without them.
//!
//! It follows `docs/format.md`, and shares no code with the writer.

use std::ops::Range;

use wasmparser::{Parser, Payload};

/// The options of a dump by corestream.
#[derive(Clone, Debug)]
pub struct Own {
    pub flags: u32,
    pub block_log2: u32,
    /// The excluded ranges in order: memory, first and last address.
    pub excluded: Vec<(u32, u64, u64)>,
    /// Memories that are marked as changing.
    pub changing: Vec<u32>,
}

impl Default for Own {
    fn default() -> Self {
        Self { flags: 0, block_log2: 20, excluded: Vec::new(), changing: Vec::new() }
    }
}

/// An index entry of a segment: memory, address, offset in the file, length.
pub type Entry = (u32, u64, u64, u32);

/// The length of the section `corestream` in bytes.
pub const HEADER: usize = 45;

impl Own {
    /// Returns `dump` with both sections.
    pub fn dump(&self, dump: &[u8]) -> Vec<u8> {
        let decoded = super::decode(dump);
        let offset = |data: &[u8]| data.as_ptr().addr() - dump.as_ptr().addr() + HEADER;
        let segments: Vec<Entry> = decoded
            .segments
            .iter()
            .map(|s| (s.memory, s.address, offset(s.data) as u64, s.data.len().try_into().unwrap()))
            .collect();
        let memories = u32::try_from(decoded.memories.len()).unwrap();
        let core = end_of_core(dump);
        let index = dump.len() + HEADER;
        let blocks = self.blocks(index);
        let index_len = index_len(memories as usize, &segments, self.excluded.len(), blocks);
        let mut bytes = dump[..core].to_vec();
        self.add_header(&mut bytes, (index + index_len) as u64, index as u64);
        bytes.extend(&dump[core..]);
        assert_eq!(bytes.len(), index);
        let crcs = match self.block_log2 {
            0 => Vec::new(),
            log2 => bytes.chunks(1 << log2).map(crc).collect(),
        };
        bytes.extend(self.index(memories, &segments, &crcs));
        assert_eq!(bytes.len(), index + index_len);
        bytes
    }

    fn blocks(&self, index: usize) -> usize {
        match self.block_log2 {
            0 => 0,
            log2 => index.div_ceil(1 << log2),
        }
    }

    /// Appends the section `corestream`.
    pub fn add_header(&self, bytes: &mut Vec<u8>, length: u64, index: u64) {
        bytes.extend([0, 43, 10]);
        bytes.extend(b"corestream");
        let mut table = Vec::new();
        u32s(&mut table, &[1, self.flags]);
        table.extend(length.to_le_bytes());
        table.extend(index.to_le_bytes());
        u32s(&mut table, &[self.block_log2]);
        let crc = crc(&table);
        u32s(&mut table, &[crc]);
        bytes.extend(table);
    }

    /// Returns the section `corestream.index`.
    pub fn index(&self, memories: u32, segments: &[Entry], crcs: &[u32]) -> Vec<u8> {
        let mut body = vec![16];
        body.extend(b"corestream.index");
        let count = |n: usize| u32::try_from(n).unwrap();
        let (segment_count, ranges) = (count(segments.len()), count(self.excluded.len()));
        let blocks = count(crcs.len());
        u32s(&mut body, &[1, self.flags, memories, segment_count, ranges, self.block_log2, blocks]);
        for memory in 0..memories {
            let of = segments.iter().filter(|s| s.0 == memory).count();
            let ranges = self.excluded.iter().filter(|r| r.0 == memory).count();
            let changing = self.changing.contains(&memory).into();
            u32s(&mut body, &[count(of), count(ranges), changing]);
        }
        for (_, address, offset, len) in segments {
            body.extend(address.to_le_bytes());
            body.extend(offset.to_le_bytes());
            u32s(&mut body, &[*len]);
        }
        for (_, first, last) in &self.excluded {
            body.extend(first.to_le_bytes());
            body.extend(last.to_le_bytes());
        }
        u32s(&mut body, crcs);
        let mut section = vec![0];
        leb(&mut section, body.len() + 4);
        section.extend(body);
        let crc = crc(&section);
        u32s(&mut section, &[crc]);
        section
    }
}

fn index_len(memories: usize, segments: &[Entry], ranges: usize, blocks: usize) -> usize {
    let body = 17 + 28 + 12 * memories + 20 * segments.len() + 16 * ranges + 4 * blocks + 4;
    let mut size = Vec::new();
    leb(&mut size, body);
    1 + size.len() + body
}

/// Returns a dump without the two sections, as another tool would write it.
pub fn without(dump: &[u8]) -> Vec<u8> {
    let core = end_of_core(dump);
    [&dump[..core], &dump[core + HEADER..index_of(dump)]].concat()
}

/// Returns the offset at which the section `core` ends.
pub fn end_of_core(dump: &[u8]) -> usize {
    for payload in Parser::new(0).parse_all(dump) {
        if let Ok(Payload::CustomSection(section)) = payload
            && section.name() == "core"
        {
            return usize::try_from(section.range().end).unwrap();
        }
    }
    panic!("no section core")
}

/// Updates the checksum at the end of an index.
pub fn mend_index(dump: &mut [u8]) {
    let index = u64::from_le_bytes(index_field(dump).try_into().unwrap());
    let (index, end) = (usize::try_from(index).unwrap(), dump.len() - 4);
    let crc = crc(&dump[index..end]);
    dump[end..].copy_from_slice(&crc.to_le_bytes());
}

fn index_field(dump: &[u8]) -> &[u8] {
    let table = end_of_core(dump) + 13;
    &dump[table + 16..table + 24]
}

/// Returns the offset of the index.
pub fn index_of(dump: &[u8]) -> usize {
    let field = u64::from_le_bytes(index_field(dump).try_into().unwrap());
    usize::try_from(field).unwrap()
}

/// Returns the offset of the index, or the length of a dump without an index.
pub fn index_of_or_end(dump: &[u8]) -> usize {
    let core = end_of_core(dump);
    if dump[core..].starts_with(b"\0\x2b\x0acorestream") { index_of(dump) } else { dump.len() }
}

/// A section of a module.
pub struct Section {
    pub id: u8,
    /// From the id to the last byte.
    pub range: Range<usize>,
    pub body: Range<usize>,
}

/// Returns the sections of a module.
pub fn sections(module: &[u8]) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut at = 8;
    while at < module.len() {
        let size_len = module[at + 1..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
        let body = at + 1 + size_len;
        let size = module[at + 1..body].iter().rev();
        let size = size.fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
        sections.push(Section { id: module[at], range: at..body + size, body: body..body + size });
        at = body + size;
    }
    sections
}

fn u32s(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Appends an unsigned LEB128.
pub fn leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Appends a signed LEB128.
pub fn signed(bytes: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if matches!((value, byte & 0x40), (0, 0) | (-1, 0x40)) {
            return bytes.push(byte);
        }
        bytes.push(byte | 0x80);
    }
}

/// Returns the CRC-32 of IEEE 802.3, computed bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (0_u32.wrapping_sub(crc & 1)))
        })
    })
}
