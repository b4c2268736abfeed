//! A sparse dump of many gigabytes, in which only the headers of the segments take space.
#![allow(dead_code, reason = "each test uses its part")]

use std::os::unix::fs::FileExt;

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
use tempfile::NamedTempFile;

use crate::common::own::{self, Entry, Own};

/// The distance of two segments in memory, in bytes.
pub const STEP: u64 = 65_536;

/// A dump in a file.
pub struct Sparse {
    pub file: NamedTempFile,
    /// The segments: memory, address, offset, length.
    pub segments: Vec<Entry>,
    /// The length of the index in bytes.
    pub index: u64,
}

/// Writes a dump of this guest with one memory of `count` pages. Each page begins with a segment of `len` zeros.
pub fn sparse(mut guest: CoreDump<'_>, count: u64, len: u32) -> Sparse {
    let file = NamedTempFile::new().unwrap();
    guest.add_memory(Memory::new(MemoryType::wasm64(count), MemoryImage::from_slice(&[])));
    let prelude = own::without(&Dumper::new().plan(&guest).unwrap().to_vec().unwrap());
    let core = own::end_of_core(&prelude);
    let mut at = (prelude.len() + own::HEADER) as u64;
    let (mut entries, mut headers) = (Vec::new(), Vec::new());
    // One section cannot have 5 GiB.
    for (section, name) in [(0, None), (1, Some("corestream.data"))] {
        let (mut segments, mut body) = (Vec::new(), Vec::new());
        if let Some(name) = name {
            own::leb(&mut body, name.len());
            body.extend(name.bytes());
        }
        let half = section * count / 2..(section + 1) * count / 2;
        own::leb(&mut body, usize::try_from(half.end - half.start).unwrap());
        let mut body_len = body.len() as u64;
        for i in half {
            let mut header = vec![0, 0x42];
            // An i64.const of six bytes, which is positive.
            let address = i * STEP;
            header.extend((0..5).map(|k| (address >> (7 * k)).to_le_bytes()[0] & 0x7f | 0x80));
            header.push((address >> 35).to_le_bytes()[0]);
            header.push(0x0b);
            own::leb(&mut header, usize::try_from(len).unwrap());
            segments.push((address, body_len + header.len() as u64, header));
            body_len = segments.last().unwrap().1 + u64::from(len);
        }
        let mut start = vec![if name.is_some() { 0 } else { 11 }];
        own::leb(&mut start, usize::try_from(body_len).unwrap());
        let body_at = at + start.len() as u64;
        start.extend(body);
        headers.push((at, start));
        for (address, offset, header) in segments {
            entries.push((0, address, body_at + offset, len));
            headers.push((body_at + offset - header.len() as u64, header));
        }
        at = body_at + body_len;
    }
    let own = Own { block_log2: 0, ..Own::default() };
    let index = own.index(1, &entries, &[]);
    let mut head = prelude[..core].to_vec();
    own.add_header(&mut head, at + index.len() as u64, at);
    head.extend(&prelude[core..]);
    file.as_file().write_all_at(&head, 0).unwrap();
    for (at, header) in &headers {
        file.as_file().write_all_at(header, *at).unwrap();
    }
    file.as_file().write_all_at(&index, at).unwrap();
    Sparse { file, segments: entries, index: index.len() as u64 }
}
