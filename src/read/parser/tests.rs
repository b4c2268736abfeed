//! Compares the payloads of small handmade dumps.

use super::super::input::{Slice, Stream};
use super::*;
use crate::leb;

/// Returns a section with this id.
pub(in crate::read) fn section(id: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    leb::push_u32(&mut bytes, u32::try_from(body.len()).unwrap());
    bytes.extend(body);
    bytes
}

/// Returns a custom section with this name.
pub(in crate::read) fn custom(name: &str, body: &[u8]) -> Vec<u8> {
    let mut named = vec![u8::try_from(name.len()).unwrap()];
    named.extend(name.bytes());
    named.extend(body);
    section(CUSTOM, &named)
}

/// Returns a dump by another tool: two modules, an instance, a thread with two frames, a memory, and three segments,
/// one of them passive.
pub(in crate::read) fn foreign() -> Vec<u8> {
    [
        b"\0asm\x01\0\0\0".to_vec(),
        custom("core", b"\0\x01p"),
        custom("coremodules", b"\x02\0\x01a\0\x01b"),
        custom("coreinstances", b"\x01\0\0\x01\0\0"),
        custom("corestack", b"\0\x01t\x02\0\0\x07\x03\0\0\0\0\x08\x04\0\0"),
        section(MEMORY, b"\x01\0\x01"),
        section(DATA, b"\x03\0\x41\x08\x0b\x02xy\x01\x01z\0\x41\x10\x0b\x01w"),
    ]
    .concat()
}

/// Returns all payloads as text, and the result at the end of the dump.
fn payloads<I: Input>(parser: &mut Parser, input: &mut I) -> (Vec<String>, Result<()>) {
    let mut all = Vec::new();
    loop {
        match parser.next(input) {
            Ok(Some(Payload::SectionEnd { may_lose_segments: false })) => {}
            Ok(Some(payload)) => all.push(format!("{payload:?}")),
            Ok(None) => return (all, Ok(())),
            Err(fault) => return (all, Err(fault)),
        }
    }
}

/// Returns a dump by corestream up to its index, and the offset of the index. The header is in place, or the last section
/// before the data.
fn with_header(in_place: bool) -> (Vec<u8>, u64) {
    const HEADER_LEN: usize = 45;

    let start = [b"\0asm\x01\0\0\0".to_vec(), custom("core", b"\0\x01p")].concat();
    let lists = [custom("coremodules", b"\0"), custom("coreinstances", b"\0")].concat();
    let data =
        [section(MEMORY, b"\x01\0\x01"), section(DATA, b"\x01\0\x41\x08\x0b\x02xy")].concat();
    let index = (start.len() + HEADER_LEN + lists.len() + data.len()) as u64;
    let mut fields = [1_u32.to_le_bytes(), [0; 4]].concat();
    fields.extend([(index + 100).to_le_bytes(), index.to_le_bytes()].concat());
    fields.extend([0; 4]);
    fields.extend(crc32fast::hash(&fields).to_le_bytes());
    let header = custom("corestream", &fields);
    assert_eq!(header.len(), HEADER_LEN);
    let bytes = match in_place {
        true => [start, header, lists, data],
        false => [start, lists, header, data],
    };
    (bytes.concat(), index)
}

#[test]
fn stops_at_the_index_of_a_dump_with_a_header() {
    let (mut bytes, index) = with_header(true);
    bytes.extend([0xff; 100]);
    let mut input = Slice::new(&bytes, 0);
    let mut parser = Parser::default();
    let (all, ended) = payloads(&mut parser, &mut input);
    ended.unwrap();
    assert_eq!(all[..2], ["Process(\"p\")", "Header"]);
    assert!(all.last().unwrap().starts_with("Segment("), "{all:?}");
    assert_eq!(input.offset(), index);
    let structure = &parser.structure;
    assert!(structure.is_complete && structure.moved_header.is_none());
    assert_eq!(structure.header.as_ref().unwrap().index, index);
}

#[test]
fn takes_a_header_elsewhere_as_moved() {
    let (bytes, index) = with_header(false);
    let mut parser = Parser::default();
    let (all, ended) = payloads(&mut parser, &mut Slice::new(&bytes, 0));
    ended.unwrap();
    assert_eq!(all.iter().filter(|payload| *payload == "NoHeader").count(), 1, "{all:?}");
    let structure = &parser.structure;
    assert!(structure.is_complete && structure.header.is_none());
    assert_eq!(structure.moved_header.as_ref().unwrap().index, index);
}

#[test]
fn returns_the_same_payloads_for_a_slice_and_a_stream() {
    let bytes = foreign();
    let mut parser = Parser::default();
    let (all, ended) = payloads(&mut parser, &mut Slice::new(&bytes, 0));
    ended.unwrap();
    let expected = [
        "Process(\"p\")",
        "Module(33)",
        "Module(36)",
        "NoHeader",
        "Instance(56)",
        "Checked",
        "Thread {",
        "Data",
        "Segment(",
        "Checked",
        "Segment(",
    ];
    for (payload, expected) in all.iter().zip(expected) {
        assert!(payload.starts_with(expected), "{all:#?}");
    }
    assert_eq!(all.len(), expected.len());
    let structure = &parser.structure;
    assert!(structure.is_complete && structure.is_bounded && structure.has_frames);
    assert_eq!((structure.segments, structure.instances, structure.memories.len()), (3, 1, 1));

    let (streamed, ended) = payloads(&mut Parser::default(), &mut Stream::new(&bytes[..]).unwrap());
    ended.unwrap();
    assert_eq!(streamed, all);
}

#[test]
fn returns_none_after_the_end_and_after_a_fault() {
    let bytes = foreign();
    let mut input = Slice::new(&bytes, 0);
    let mut parser = Parser::default();
    payloads(&mut parser, &mut input).1.unwrap();
    assert!(matches!(parser.next(&mut input), Ok(None)));

    let mut parser = Parser::default();
    let mut input = Slice::new(&bytes[..40], 0);
    payloads(&mut parser, &mut input).1.unwrap_err();
    assert!(matches!(parser.next(&mut input), Ok(None)));
    assert!(!parser.structure.is_complete);
}

#[test]
fn does_not_parse_a_skipped_section() {
    let mut bytes = foreign();
    let at = bytes.len() - 5;
    bytes[at] = 0x77; // an invalid segment flag
    let skipping = |parser: &mut Parser, input: &mut Slice<'_>| -> Result<()> {
        while let Some(payload) = parser.next(input)? {
            if matches!(payload, Payload::Data) {
                parser.skip_section();
            }
        }
        Ok(())
    };
    let mut parser = Parser::default();
    let fault = payloads(&mut parser, &mut Slice::new(&bytes, 0)).1.unwrap_err();
    assert!(fault.line().contains("section data: segment 2: "), "{}", fault.line());
    let mut parser = Parser::default();
    skipping(&mut parser, &mut Slice::new(&bytes, 0)).unwrap();
    assert!(parser.structure.is_complete);
}

#[test]
fn returns_a_truncated_segment_before_its_fault() {
    let bytes = foreign();
    let truncated = &bytes[..bytes.len() - 11];
    let (all, ended) = payloads(&mut Parser::default(), &mut Slice::new(truncated, 0));
    let fault = ended.unwrap_err();
    assert_eq!(fault.kind, ErrorKind::Truncated);
    let expected = format!("file_len: {} }}", truncated.len());
    let last = all.last().unwrap();
    assert!(last.starts_with("TruncatedSegment {") && last.ends_with(&expected), "{last}");
}

#[test]
fn counts_the_frames_before_a_damaged_one() {
    let header = Header::new(0, 1000, 900, 20).unwrap();
    let bytes = [
        b"\0asm\x01\0\0\0".to_vec(),
        custom("core", b"\0\x01p"),
        custom("corestack", b"\0\x01t\x03\0\0\x07\x03\0\0\0\0\x08\x04\0\0\x77"),
        custom("corenotes", b""),
    ]
    .concat();
    let mut parser = Parser::for_damaged(header.clone(), false);
    let (all, ended) = payloads(&mut parser, &mut Slice::new(&bytes, 0));
    let line = ended.unwrap_err().line();
    assert!(line.contains("corestack: frame 2: begins with 0x77"), "{line}");
    assert_eq!(all[1..3], ["Checked", "Checked"]);
    assert!(all[3].starts_with("Thread {") && all[3].ends_with("frames: 2 }"), "{all:?}");
    assert_eq!(all.len(), 4);

    // A parser that skips damage continues with the next section, whatever it is.
    let mut parser = Parser::for_damaged(header, true);
    let (all, ended) = payloads(&mut parser, &mut Slice::new(&bytes, 0));
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Truncated);
    assert_eq!(all[4..], ["SectionEnd { may_lose_segments: true }"]);
}

#[test]
fn ends_when_the_caller_rejects_a_payload() {
    let bytes = foreign();
    let mut input = Slice::new(&bytes, 0);
    let mut parser = Parser::default();
    while !matches!(parser.next(&mut input).unwrap(), Some(Payload::Segment(_))) {}
    let fault = Fault::unsupported(70..71, "one too many");
    let fault = parser.reject_payload(&mut input, fault);
    assert_eq!(fault.line(), "at 0x46: section data: one too many");
    assert!(matches!(parser.next(&mut input), Ok(None)));
    assert!(!parser.structure.is_complete && parser.structure.is_bounded);
}

#[test]
fn rejects_a_frame_with_too_many_values() {
    // A list of 2^18 + 1 locals.
    let frames = b"\0\x01t\x01\0\0\x07\x03\x81\x80\x10";
    let bytes =
        [b"\0asm\x01\0\0\0".to_vec(), custom("core", b"\0\x01p"), custom("corestack", frames)]
            .concat();
    let header = Header::new(0, 1000, 900, 20).unwrap();
    let mut parser = Parser::for_damaged(header, false);
    let fault = payloads(&mut parser, &mut Slice::new(&bytes, 0)).1.unwrap_err();
    assert_eq!(fault.kind, ErrorKind::Unsupported);
    let expected =
        "corestack: frame 0: a frame has more than the limit of 262144 locals or operands";
    assert!(fault.line().ends_with(expected), "{}", fault.line());
}
