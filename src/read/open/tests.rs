//! The state of an opener: what it collects from handmade dumps, strictly and from damaged dumps.

use super::super::input::Slice;
use super::super::parser::tests::{custom, foreign, section};
use super::super::segment::Placement;
use super::*;
use crate::format::{DATA, MEMORY};

/// Collects the payloads of a dump. Returns the opener, the parser, and the result.
fn collect<'c>(
    bytes: &[u8],
    strict_len: Option<u64>,
    control: &'c Control,
) -> (Opener<'c>, Parser, Result<()>) {
    let mut opener = Opener::new(strict_len, CancelCheck::new(control));
    let mut parser = Parser::default();
    let result = opener.collect(&mut parser, &mut Slice::new(bytes, 0));
    (opener, parser, result)
}

#[test]
fn collects_items_and_segments() {
    let (bytes, control) = (foreign(), Control::default());
    let (opener, parser, result) = collect(&bytes, Some(bytes.len() as u64), &control);
    result.unwrap();
    assert_eq!(opener.items.process, "p");
    assert_eq!((opener.items.modules.len(), opener.items.instances.len()), (2, 1));
    assert_eq!(opener.items.threads.len(), 1);
    assert_eq!(opener.items.threads[0].1, 2);
    assert_eq!((opener.reached, opener.lost_from), (Some((0, 16)), None));
    assert!(!opener.use_index);

    let dump = opener.finish(parser.structure, IndexStatus::None, None).unwrap();
    // The passive segment is not listed.
    let segments: Vec<_> = dump.table.segments().iter().map(|s| (s.address(), s.len())).collect();
    assert_eq!(segments, [(8, 2), (16, 1)]);
    assert_eq!((dump.totals[0].segments, dump.totals[0].bytes), (2, 3));
    assert!(dump.index.is_none() && dump.lost_from.is_none());
}

/// Returns a dump by another tool with one memory and these segments.
fn with_segments(segments: &[u8]) -> Vec<u8> {
    [
        b"\0asm\x01\0\0\0".to_vec(),
        custom("core", b"\0\x01p"),
        section(MEMORY, b"\x01\0\x01"),
        section(DATA, segments),
    ]
    .concat()
}

#[test]
fn counts_overwritten_bytes_once() {
    // Four bytes at address 8, then two at 9.
    let bytes = with_segments(b"\x02\0\x41\x08\x0b\x04abcd\0\x41\x09\x0b\x02xy");
    let control = Control::default();
    let (opener, parser, result) = collect(&bytes, Some(bytes.len() as u64), &control);
    result.unwrap();
    assert_eq!(opener.totals[0].bytes, 6);
    let dump = opener.finish(parser.structure, IndexStatus::None, None).unwrap();
    assert_eq!((dump.totals[0].segments, dump.totals[0].bytes), (2, 4));
    assert_eq!(dump.table.segments().len(), 3);
}

/// Only an opener of a damaged dump keeps the bytes of a truncated segment.
#[test]
fn keeps_the_present_part_of_a_truncated_segment() {
    let bytes = with_segments(b"\x02\0\x41\x08\x0b\x04abcd\0\x41\x20\x0b\x05vwxyz");
    let control = Control::default();
    for (missing, present, reached) in [(2, 3, 35), (4, 1, 33), (5, 0, 32)] {
        let cut = &bytes[..bytes.len() - missing];
        let (opener, parser, result) = collect(cut, None, &control);
        assert_eq!(result.unwrap_err().kind, ErrorKind::Truncated);
        assert_eq!(opener.reached, Some((0, reached)), "{missing} bytes missing");
        let dump = opener.finish(parser.structure, IndexStatus::None, Some((0, reached))).unwrap();
        assert_eq!(dump.totals[0].bytes, 4 + present, "{missing} bytes missing");
        assert_eq!(dump.lost_from, Some((0, reached)));

        let (opener, _, result) = collect(cut, Some(cut.len() as u64), &control);
        assert_eq!(result.unwrap_err().kind, ErrorKind::Truncated);
        assert_eq!((opener.reached, opener.totals[0].bytes), (Some((0, 11)), 4));
    }
}

#[test]
fn rejects_a_file_shorter_than_its_header() {
    let header = Header::new(0, 1000, 900, 20).unwrap();
    let control = Control::default();
    for (len, is_long_enough) in [(999, false), (1000, true), (1001, true)] {
        let mut opener = Opener::new(Some(len), CancelCheck::new(&control));
        let checked = opener.check_length(Some(&header));
        assert_eq!(checked.is_ok(), is_long_enough, "{len} bytes");
        if let Err(fault) = checked {
            assert_eq!((fault.kind, fault.range.clone()), (ErrorKind::Truncated, 999..1000));
        }
        // From here on, the index gives the segments.
        assert!(opener.use_index);
    }
    // The readable parts of a damaged dump may end anywhere.
    let mut opener = Opener::new(None, CancelCheck::new(&control));
    opener.check_length(Some(&header)).unwrap();
    assert!(!opener.use_index);
}

#[test]
fn discards_a_moved_index_that_overlaps_a_segment() {
    let control = Control::default();
    for (range, is_kept) in [(0..=7, true), (0..=8, false), (10..=20, true), (9..=20, false)] {
        let mut opener = Opener::new(None, CancelCheck::new(&control));
        let placement = Placement { memory: 0, address: 8, offset: 100, len: 2 };
        opener.add_segment(placement.segment().unwrap()).unwrap();
        let mut excluded = crate::ranges::AddressRanges::default();
        assert!(excluded.push(range));
        let memory =
            super::super::index::IndexedMemory { segments: 0..0, excluded, changing: false };
        let index = Index { memories: vec![memory], ..Index::default() };
        let dump = opener.finish(Structure::default(), IndexStatus::Moved(index), None).unwrap();
        assert_eq!(dump.index.is_some(), is_kept);
        assert_eq!(dump.lost_from, (!is_kept).then_some((0, 0)));
    }
}

#[test]
fn stops_when_cancelled() {
    let cancel = crate::Cancel::new();
    cancel.cancel("enough");
    let control = Control { cancel: Some(cancel), ..Control::default() };
    let items = b"\0\x01m".repeat(100_000);
    let mut list = Vec::new();
    crate::leb::push_u32(&mut list, 100_000);
    list.extend(items);
    let bytes =
        [b"\0asm\x01\0\0\0".to_vec(), custom("core", b"\0\x01p"), custom("coremodules", &list)]
            .concat();
    let (_, _, result) = collect(&bytes, Some(bytes.len() as u64), &control);
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}
