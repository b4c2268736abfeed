//! The hex dumps in `docs/format.md` hold the bytes that the library writes.
//!
//! A line of a hex dump is `OFFSET  BYTES  MEANING`: the offset and the bytes in hexadecimal, with at least two spaces
//! between the columns. Empty lines separate sections. Each hex dump is the first `text` block after its heading.

use std::fs;

use corestream::{
    CoreDump, Dumper, Frame, Global, GlobalValue, Instance, Memory, MemoryImage, MemoryType,
    ModuleIdentity, Thread, UnixTime, Value,
};

/// Returns the bytes of the hex dump below a heading.
///
/// Fails if there is none, if a line is malformed, or if an offset is not the number of bytes before it.
fn hex_dump(heading: &str) -> Vec<u8> {
    let page = fs::read_to_string("docs/format.md").unwrap();
    let start = format!("\n## {heading}\n");
    let section = page.split(&start).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let block = section.split("```text\n").nth(1).unwrap_or_else(|| panic!("{heading}: no dump"));
    let mut bytes: Vec<u8> = Vec::new();
    for line in block.split("```").next().unwrap().lines().filter(|line| !line.is_empty()) {
        let mut columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
        let (Some(offset), Some(hex), Some(_)) = (columns.next(), columns.next(), columns.next())
        else {
            panic!("{heading}: a line without an offset, bytes and a meaning: {line}");
        };
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len(), "{heading}: {line}");
        for byte in hex.split(' ') {
            assert_eq!(byte.len(), 2, "{heading}: {line}");
            bytes.push(u8::from_str_radix(byte, 16).unwrap_or_else(|e| panic!("{line}: {e}")));
        }
    }
    bytes
}

/// Fails with the offset of the first byte that differs.
#[track_caller]
fn assert_same(page: &[u8], written: &[u8]) {
    if page != written {
        let differs = page.iter().zip(written).position(|(a, b)| a != b);
        let at = differs.unwrap_or(page.len().min(written.len()));
        let bytes_at = |bytes: &[u8]| bytes[at..].iter().take(8).copied().collect::<Vec<_>>();
        let (page, written) = (bytes_at(page), bytes_at(written));
        panic!("offset {at:#06x}: the page has {page:02x?}, the library writes {written:02x?}");
    }
}

fn written(guest: &CoreDump<'_>) -> Vec<u8> {
    Dumper::new().plan(guest).unwrap().to_vec().unwrap()
}

/// Returns the custom section with this name: from its id to its last byte.
fn custom_section<'a>(dump: &'a [u8], name: &str) -> &'a [u8] {
    let name_at = dump.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
    // The id, a size of one byte, and the length of the name stand before it.
    let body = name_at - 1;
    &dump[body - 2..body + usize::from(dump[body - 1])]
}

#[test]
fn writes_every_byte_of_the_example() {
    let mut bytes = vec![0; 65_536];
    bytes[0x10..0x18].copy_from_slice(b"user=ada");
    bytes[0x20..0x28].copy_from_slice(b"key=1234");
    bytes[0x30..0x33].copy_from_slice(b"bye");
    let mut guest = CoreDump::new("guest.wasm");
    let memory = Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes));
    let memory = guest.add_memory(memory.without(0x20..0x28));
    let global = guest.add_global(Global::mutable(GlobalValue::I32(0x40)));
    let module = guest.add_module("guest.wasm");
    let instance = Instance::new(module).with_memories([memory]).with_globals([global]);
    let instance = guest.add_instance(instance);
    let frame = Frame::new(instance, 3, 17).with_locals([Value::I32(-1), Value::Missing]);
    guest.add_thread(Thread::new("main").with_frames([frame]));

    assert_same(&hex_dump("A dump, byte by byte"), &written(&guest));
}

#[test]
fn writes_every_byte_of_the_trap_section() {
    let mut guest = CoreDump::new("guest.wasm");
    guest.trap = Some("out of fuel".into());
    guest.captured_at = UnixTime::from_nanoseconds(1_795_839_503_500_000_000);
    let written = written(&guest);
    assert_same(&hex_dump("`corestream.trap`"), custom_section(&written, "corestream.trap"));
}

#[test]
fn writes_every_byte_of_the_modules_section() {
    let mut guest = CoreDump::new("guest.wasm");
    guest.add_module("a");
    guest.add_module("b");
    guest.modules[1].identity =
        ModuleIdentity::new().with_sha256([0xab; 32]).with_build_id([0x12, 0x34]);
    let written = written(&guest);
    assert_same(&hex_dump("`corestream.modules`"), custom_section(&written, "corestream.modules"));
}
