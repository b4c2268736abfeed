//! Decodes handmade indices: what they list, and every contradiction within them and with the sections.

use super::super::data::DataSection;
use super::super::table::TableBuilder;
use super::*;

/// The offset of the index in a dump.
const START: u64 = 1000;

/// The tables of an index.
#[derive(Clone)]
struct Tables {
    flags: u32,
    block_log2: u32,
    /// Segments, ranges and flags of each memory.
    memories: Vec<[u32; 3]>,
    /// Address, offset and length of each segment.
    segments: Vec<(u64, u64, u32)>,
    /// The first and last address of each range.
    ranges: Vec<(u64, u64)>,
    checksums: Vec<u32>,
}

impl Tables {
    /// Two memories: one with two segments and a range, which was changing, and one with a segment.
    fn new() -> Self {
        Self {
            flags: PARTIAL,
            block_log2: 9,
            memories: vec![[2, 1, CHANGING], [1, 0, 0]],
            segments: vec![(0, 100, 10), (50, 115, 5), (0, 200, 300)],
            ranges: vec![(20, 29)],
            checksums: vec![0x1234_5678, 7],
        }
    }

    fn header(&self, len: usize) -> Header {
        Header::new(self.flags, START + len as u64, START, self.block_log2).unwrap()
    }

    /// Returns the section, whose size has `size_len` bytes, without its checksum.
    fn encode(&self, size_len: usize) -> Vec<u8> {
        let mut body = ENCODED_NAME.to_vec();
        let counts = [self.memories.len(), self.segments.len(), self.ranges.len()];
        let [memories, segments, ranges] = counts.map(|n| u32::try_from(n).unwrap());
        let checksums = u32::try_from(self.checksums.len()).unwrap();
        let head = [VERSION, self.flags, memories, segments, ranges, self.block_log2, checksums];
        body.extend(head.iter().flat_map(|value| value.to_le_bytes()));
        body.extend(self.memories.iter().flatten().flat_map(|value| value.to_le_bytes()));
        for (address, offset, len) in &self.segments {
            body.extend([address.to_le_bytes(), offset.to_le_bytes()].concat());
            body.extend(len.to_le_bytes());
        }
        for (first, last) in &self.ranges {
            body.extend([first.to_le_bytes(), last.to_le_bytes()].concat());
        }
        body.extend(self.checksums.iter().flat_map(|crc| crc.to_le_bytes()));
        let mut section = vec![CUSTOM];
        leb::push_u32(&mut section, u32::try_from(body.len() + CRC_BYTES).unwrap());
        while section.len() < 1 + size_len {
            *section.last_mut().unwrap() |= 0x80;
            section.push(0);
        }
        section.extend(body);
        section
    }

    /// Returns the section.
    fn section(&self) -> Vec<u8> {
        with_checksum(self.encode(0))
    }
}

fn with_checksum(mut section: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&section);
    section.extend(crc.to_le_bytes());
    section
}

/// Decodes an index. Returns it with its entries as text.
fn decode(
    section: &[u8],
    header: &Header,
    sections: Option<&Structure>,
) -> (Result<Index>, Vec<String>) {
    let mut dump = vec![0; usize::try_from(START).unwrap()];
    dump.extend(section);
    let mut entries = Vec::new();
    let index = Index::decode(&mut Slice::new(&dump, START), header, sections, &mut |entry| {
        entries.push(match entry {
            IndexEntry::Segment(segment) => segment.to_string(),
            IndexEntry::Checksum(crc) => format!("checksum {crc:#x}"),
            IndexEntry::Skipped => "skipped".into(),
        });
        Ok(())
    });
    (index, entries)
}

/// Returns the line of the fault of an index.
fn fault_of(tables: &Tables) -> String {
    let section = tables.section();
    let (index, _) = decode(&section, &tables.header(section.len()), None);
    let fault = index.unwrap_err();
    assert!(fault.range.start >= START && fault.range.end <= START + section.len() as u64);
    fault.line()
}

/// Returns sections that agree with [`Tables::new`].
fn matching_sections() -> Structure {
    let mut sections = Structure::default();
    sections.memories = vec![MemoryType::wasm32(1), MemoryType::wasm32(1)];
    sections.data = vec![DataSection { start: 90, end: 150 }, DataSection { start: 160, end: 500 }];
    sections.segments = 3;
    sections
}

#[test]
fn decodes_memories_segments_and_checksums() {
    let tables = Tables::new();
    let section = tables.section();
    let header = tables.header(section.len());
    let sections = matching_sections();
    let (index, entries) = decode(&section, &header, Some(&sections));
    let index = index.unwrap();
    assert!(index.mismatch.is_none());
    let memories = index.memories.iter();
    let memories: Vec<_> = memories
        .map(|memory| (memory.segments.clone(), memory.excluded.as_slice(), memory.changing))
        .collect();
    assert_eq!(memories, [(0..2, &[20..=29][..], true), (2..3, &[][..], false)]);
    let before_segments = section.len() - CRC_BYTES - 2 * 4 - 16 - 3 * 20;
    assert_eq!(index.segments_offset, START + before_segments as u64);
    assert_eq!(entries.len(), 5);
    for (entry, expected) in entries.iter().zip(["10 bytes", "5 bytes", "300 bytes"]) {
        assert!(entry.contains(expected), "{entry}");
    }
    assert_eq!(entries[3..], ["checksum 0x12345678", "checksum 0x7"]);
}

/// Each change makes the index contradict itself or the header.
#[test]
fn rejects_contradictions() {
    type Change = fn(&mut Tables);
    let cases: [(Change, &str); 12] = [
        (|t| t.memories[0][2] = 2, "memory 0: "),
        (|t| t.memories[0][0] = 1, "do not add up to their totals"),
        (|t| t.memories[0][0] = u32::MAX, "do not add up to their totals"),
        (|t| t.memories[1][1] = 1, "do not add up to their totals"),
        (|t| t.segments[1].2 = 0, "segment 1: empty"),
        (|t| t.segments[1].0 = 9, "segment 1: out of order, or overlaps"),
        (|t| t.segments[1].1 = 109, "segment 1: out of order, or overlaps"),
        (|t| t.segments[2].1 = 119, "segment 2: out of order, or overlaps"),
        (|t| t.ranges[0] = (30, 29), "range 0 (memory 0): empty"),
        (|t| t.ranges[0] = (5, 60), "range 0 (memory 0): overlaps a segment"),
        (|t| t.ranges[0] = (10, 50), "range 0 (memory 0): overlaps a segment"),
        (|t| t.checksums = vec![1], "checksum count 1, but there are 2 blocks"),
    ];
    for (change, expected) in cases {
        let mut tables = Tables::new();
        change(&mut tables);
        let line = fault_of(&tables);
        assert!(line.contains("corestream.index: ") && line.contains(expected), "{line}");
    }
    let mut touching = Tables::new();
    touching.ranges = vec![(20, 24), (25, 29)];
    touching.memories[0][1] = 2;
    let line = fault_of(&touching);
    assert!(line.contains("range 1 (memory 0): out of order, or overlaps or touches"), "{line}");

    let tables = Tables::new();
    let section = tables.section();
    let end = START + section.len() as u64;
    for (header, expected) in [
        (Header::new(0, end, START, 9), "flags or block size differ"),
        (Header::new(PARTIAL, end, START, 10), "flags or block size differ"),
    ] {
        let fault = decode(&section, &header.unwrap(), None).0.unwrap_err();
        assert!(fault.line().contains(expected), "{}", fault.line());
    }
}

#[test]
fn reports_a_checksum_mismatch_before_other_faults() {
    let mut tables = Tables::new();
    tables.segments[0].2 = 0;
    let mut section = tables.section();
    *section.last_mut().unwrap() ^= 1;
    let (index, entries) = decode(&section, &tables.header(section.len()), None);
    let fault = index.unwrap_err();
    assert!(fault.line().ends_with("corestream.index: checksum mismatch"), "{}", fault.line());
    assert_eq!(fault.range, START..START + section.len() as u64);
    // The caller can cancel while the rest is skipped.
    assert_eq!(entries, ["skipped"]);
}

#[test]
fn rejects_a_truncated_index() {
    let tables = Tables::new();
    let section = tables.section();
    let header = tables.header(section.len());
    for len in 0..section.len() {
        let fault = decode(&section[..len], &header, None).0.unwrap_err();
        assert_eq!(fault.kind, ErrorKind::Truncated, "{len} bytes: {}", fault.line());
        assert_eq!(fault.range.end, header.length, "{len} bytes");
    }
}

#[test]
fn stops_at_an_error_of_the_caller() {
    let tables = Tables::new();
    let mut dump = vec![0; usize::try_from(START).unwrap()];
    dump.extend(tables.section());
    let header = tables.header(tables.section().len());
    let mut calls = 0;
    let index = Index::decode(&mut Slice::new(&dump, START), &header, None, &mut |_| {
        calls += 1;
        Err(Fault::io(0, std::io::ErrorKind::Other.into()))
    });
    assert_eq!((index.unwrap_err().kind, calls), (ErrorKind::Input, 1));
}

/// The index is intact, but its tables differ from the sections.
#[test]
fn finds_the_first_mismatch_with_the_sections() {
    type Change = fn(&mut Structure);
    let cases: [(Change, &str); 6] = [
        (|s| s.memories.truncate(1), "memory count 2, but the sections have 1"),
        (|s| s.segments = 4, "segment count 3, but the sections have 4"),
        (|s| s.memories[0].minimum = 0, "segment 0: "),
        (|s| s.data[1].start = 201, "segment 2: file range 0xc8..0x1f4 is in no data section"),
        (|s| s.data[1].end = 499, "segment 2: file range 0xc8..0x1f4 is in no data section"),
        (|s| s.data.clear(), "segment 0: file range 0x64..0x6e is in no data section"),
    ];
    let tables = Tables::new();
    let section = tables.section();
    let header = tables.header(section.len());
    for (change, expected) in cases {
        let mut sections = matching_sections();
        change(&mut sections);
        let index = decode(&section, &header, Some(&sections)).0.unwrap();
        let line = index.mismatch.unwrap().line();
        assert!(line.contains("corestream.index: ") && line.contains(expected), "{line}");
    }
    let mut tables = Tables::new();
    tables.ranges = vec![(60, 65_536)];
    let section = tables.section();
    let sections = matching_sections();
    let index = decode(&section, &tables.header(section.len()), Some(&sections)).0.unwrap();
    let line = index.mismatch.unwrap().line();
    assert!(line.contains("range 0 (memory 0): past the end of the memory"), "{line}");
}

/// A dump that has lost its header still has its index at its end. Other bytes may follow.
#[test]
fn finds_an_index_without_a_header() {
    let tables = Tables::new();
    for (size_len, after) in [(0, 0), (2, 0), (5, 100)] {
        let section = with_checksum(tables.encode(size_len));
        let mut dump = vec![0; usize::try_from(START).unwrap()];
        // The name alone is no index.
        dump[100..100 + ENCODED_NAME.len()].copy_from_slice(ENCODED_NAME);
        dump.extend(&section);
        dump.resize(dump.len() + after, 0xff);
        let control = Control::default();
        let bytes = &dump[..];
        let found = find_at_end(Source::new(&bytes).unwrap(), &control).unwrap();
        assert_eq!(found.len(), 1, "{size_len}, {after}");
        let expected = tables.header(section.len());
        assert_eq!((found[0].index, found[0].length), (expected.index, expected.length));
        assert_eq!((found[0].flags, found[0].block_log2), (expected.flags, expected.block_log2));
        Index::decode(&mut Slice::new(&dump, START), &found[0], None, &mut |_| Ok(())).unwrap();
    }
}

/// Another tool has moved the index: its ranges are still true, and its offsets are not.
#[test]
fn keeps_the_ranges_of_a_moved_index() {
    let tables = Tables::new();
    // The checksum covers the shortest encoding of the size.
    let section = tables.section();
    let memories = matching_sections().memories;
    // After the id, the size of two bytes, and the name.
    let body = 1 + 2 + ENCODED_NAME.len();
    let header = tables.header(section.len());
    let decode = |section: &[u8], memories: &[MemoryType]| {
        let source = Source::new(&section).unwrap();
        Index::decode_moved(source, body as u64..section.len() as u64, &header, memories).unwrap()
    };
    let index = decode(&section, &memories).unwrap();
    assert_eq!(index.memories[0].excluded.as_slice(), [20..=29]);
    assert!(index.memories[0].changing && !index.memories[1].changing);
    assert!(decode(&section, &memories[..1]).is_none());
    // The range is past the end of this memory.
    let small = [MemoryType::wasm32(1).with_page_size(1), MemoryType::wasm32(1)];
    assert!(decode(&section, &small).is_none());
    let mut damaged = section.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(decode(&damaged, &memories).is_none());
}

#[test]
fn compares_excluded_ranges_with_segments() {
    let excluded = |ranges: &[(u64, u64)]| {
        let mut excluded = AddressRanges::default();
        assert!(ranges.iter().all(|(first, last)| excluded.push(*first..=*last)));
        let memory = |excluded| IndexedMemory { segments: 0..0, excluded, changing: false };
        let memories = vec![memory(AddressRanges::default()), memory(excluded)];
        Index { memories, ..Index::default() }
    };
    let mut builder = TableBuilder::new();
    for (memory, address, offset, len) in [(0, 0, 100, 50), (1, 10, 150, 10), (1, 30, 160, 1)] {
        let placement = Placement { memory, address, offset, len };
        builder.push(placement.segment().unwrap()).unwrap();
    }
    let (table, _) = builder.finish().unwrap();
    for ranges in [&[][..], &[(0, 9)], &[(20, 29)], &[(0, 9), (20, 29), (31, u64::MAX)]] {
        assert!(excluded(ranges).is_disjoint_from(&table), "{ranges:?}");
    }
    for ranges in [&[(0, 10)][..], &[(19, 25)], &[(12, 13)], &[(0, 9), (30, 30)], &[(0, u64::MAX)]]
    {
        assert!(!excluded(ranges).is_disjoint_from(&table), "{ranges:?}");
    }
}
