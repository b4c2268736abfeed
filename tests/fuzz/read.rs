//! Reads any bytes, and changed dumps: nothing panics, allocations and the number of items are linear in the length of
//! the file, the verifiers of files and of streams agree, and a dump that they call intact can be opened and read.

use std::io::Read;
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use corestream::read::{OpenOptions, ThreadView, Verdict, Verifier};
use corestream::{CoreDumpFile, Dumper, Frame};
use wasmparser::{
    BinaryReader, DataKind, DataSectionReader, Operator, Parser, Payload, Validator, WasmFeatures,
};

use crate::common::own::{self, Own};
use crate::common::reading::{Unlent, facts, read_all, small, verdict};
use crate::count;
use crate::manifest;
use crate::roundtrip::Model;

/// The length of the longest file.
const MOST: usize = 256 << 10;
/// The length of the longest file whose manifest is written.
const MOST_WRITTEN: usize = 8 << 10;
/// The bytes that may be allocated for any file, including the buffers of a stream.
const FIXED: u64 = 512 << 10;
/// The additional bytes for each byte of the file: a segment of 6 bytes that overlaps others needs 24, some of them
/// twice.
const PER_BYTE: u64 = 40;
/// The additional bytes for each byte of the longest item: a value of one byte needs 16 in a list that has grown.
const PER_BYTE_OF_ITEM: u64 = 48;

#[derive(Arbitrary, Debug)]
enum Input {
    /// The bytes of a file.
    Bytes(Vec<u8>),
    /// The sections of a module: id, body, and repetitions of the body.
    Sections(Vec<(u8, Vec<u8>, u8)>),
    /// A changed dump.
    Changed { base: Base, changes: Vec<(u16, Change)>, mend: Mend },
    /// A dump of another tool whose sections have many items.
    Dense(Vec<Dense>),
}

/// A section of many items that only differ in a number.
#[derive(Arbitrary, Debug)]
struct Dense {
    of: Of,
    item: Item,
    count: u16,
    /// The difference of the numbers of two items.
    step: i16,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Of {
    Modules,
    Instances,
    Stack,
    Globals,
    Data,
}

#[derive(Arbitrary, Debug)]
enum Item {
    /// The smallest item.
    Least,
    /// An item with these bytes as its payload, list or name.
    With(Vec<u8>),
    /// The bytes before and after its number.
    Any(Vec<u8>, Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Base {
    Fixed(u8),
    /// A dump by corestream.
    Planned {
        model: Model,
        section: u16,
        checksums: bool,
    },
    /// A dump as another tool would write it.
    Foreign {
        model: Model,
        section: u16,
    },
    /// A dump with the header and the index of [`Own`].
    Own {
        model: Model,
        section: u16,
        block_log2: u8,
        changing: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Change {
    Set(u8),
    Flip(u8),
    Cut,
    Remove(u8),
    Insert(u8),
    /// Overwrites bytes with others of the file.
    Copy {
        from: u16,
        len: u8,
    },
    /// Repeats bytes.
    Repeat {
        len: u8,
        times: u16,
    },
    /// Changes the size of the section at this place.
    Size(i8),
    /// Removes the section at this place.
    Leave,
    /// Repeats that section.
    Again(u8),
    /// Moves that section to the end.
    Last,
}

/// The checksums to mend, so that the code after their check runs as well.
#[derive(Arbitrary, Debug)]
struct Mend {
    header: bool,
    blocks: bool,
    index: bool,
}

/// Dumps with and without an index, checksums and excluded ranges, a dump with all facts that have a section of their
/// own, rewritten dumps, and dumps in the layouts of other writers.
static BASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let unchecked = Own { block_log2: 0, flags: 2, ..Own::default() }.dump(&foreign);
    let excluded = vec![(0, 200, 300), (1, 5000, 6000)];
    let partial = Own { flags: 1, block_log2: 8, excluded, changing: vec![1] }.dump(&foreign);
    let rewritten = [&own, &partial].map(|dump| custom_last(dump));
    let stack = |frames: &[u8]| [b"\0asm\x01\0\0\0\0\x07\x04core\0\0\0", frames].concat();
    // Frames without instances, with counts first, with both, and in an ambiguous layout.
    let others = [
        stack(b"\x1d\x09corestack\0\x04main\x02\0\x13\x12\0\0\0\x07\x44\x01\x7f\x7f\0"),
        stack(b"\x23\x09corestack\0\x04main\x02\0\0\x02\x30\0\0\0\0\x03\x31\x01\0\x7f\x01\0\0\0"),
        stack(b"\x21\x09corestack\0\x04main\x02\0\x02\x30\0\0\0\x03\x31\x01\0\x7f\x01\0\0\0"),
        stack(b"\x17\x09corestack\0\x04main\x01\0\0\x01\x02\x01\x01\0"),
    ];
    // A memory that is declared empty, a name without a length, and a global without a value.
    let rest = b"\0\x13\x0bcoremodules\x01\0guest\0\x0f\x0dcoreinstances\0\x05\x03\x01\0\0\
                 \x06\x04\x01\x7f\x01\x0b\x0b\x08\x01\0\x41\x10\x0b\x02xy";
    let others = others.map(|dump| [&dump[..], rest].concat());
    let facts = facts();
    let rewritten = rewritten.into_iter().chain([custom_last(&facts), facts]);
    [foreign, own, unchecked, partial].into_iter().chain(rewritten).chain(others).collect()
});

/// Returns a module with its custom sections last, as Binaryen writes it.
fn custom_last(bytes: &[u8]) -> Vec<u8> {
    let all = sections(bytes);
    let (last, first): (Vec<_>, Vec<_>) = all.iter().partition(|s| bytes[s.start] == 0);
    let parts = first.iter().chain(&last).flat_map(|s: &Section| &bytes[s.start..s.end]);
    bytes[..8].iter().chain(parts).copied().collect()
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    if let Some(file) = file(bytes) {
        check(&file);
    }
}

/// Returns the file that an input of the fuzzer describes.
pub fn file(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut file = Input::arbitrary(&mut Unstructured::new(bytes)).ok()?.file();
    file.truncate(MOST);
    Some(file)
}

impl Input {
    fn file(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Sections(sections) => {
                let mut bytes = b"\0asm\x01\0\0\0\0\x07\x04core\0\0".to_vec();
                for (id, body, times) in sections {
                    bytes.push(id % 14);
                    own::leb(&mut bytes, body.len() * (usize::from(times) + 1));
                    (0..=times).for_each(|_| bytes.extend(&body));
                }
                bytes
            }
            Self::Dense(sections) => {
                let mut bytes = b"\0asm\x01\0\0\0\0\x07\x04core\0\0".to_vec();
                // A memory of 4 GiB.
                bytes.extend(b"\x05\x05\x01\0\x80\x80\x04");
                sections.iter().for_each(|section| section.add(&mut bytes));
                bytes
            }
            Self::Changed { base, changes, mend } => {
                let mut bytes = base.dump();
                for (at, change) in changes {
                    change.apply(&mut bytes, usize::from(at));
                }
                mend.apply(&mut bytes);
                bytes
            }
        }
    }
}

impl Dense {
    /// Appends the section to a module.
    fn add(&self, bytes: &mut Vec<u8>) {
        let (id, mut body) = match self.of {
            Of::Modules => (0, b"\x0bcoremodules".to_vec()),
            Of::Instances => (0, b"\x0dcoreinstances".to_vec()),
            Of::Stack => (0, b"\x09corestack\0\0".to_vec()),
            Of::Globals => (6, Vec::new()),
            Of::Data => (11, Vec::new()),
        };
        let len = |number| {
            let mut item = Vec::new();
            self.put(&mut item, number);
            item.len()
        };
        let longest = len(0).max(len(i32::from(self.count) * i32::from(self.step)));
        let room = MOST.saturating_sub(bytes.len() + body.len() + 16) / longest.max(1);
        let count = u16::try_from(room).unwrap_or(u16::MAX).min(self.count);
        own::leb(&mut body, count.into());
        for i in 0..i32::from(count) {
            self.put(&mut body, i * i32::from(self.step));
        }
        bytes.push(id);
        own::leb(bytes, body.len());
        bytes.extend(body);
    }

    /// Appends an item. Most items contain `number`.
    fn put(&self, body: &mut Vec<u8>, number: i32) {
        let with: &[u8] = match &self.item {
            Item::Any(before, after) => {
                body.extend(before);
                own::signed(body, number.into());
                return body.extend(after);
            }
            Item::With(bytes) => &bytes[..bytes.len().min(100)],
            Item::Least => &[],
        };
        let len = |body: &mut Vec<u8>| body.push(with.len().to_le_bytes()[0]);
        match self.of {
            Of::Modules => {
                body.push(0);
                len(body);
                body.extend(with);
            }
            Of::Instances => {
                body.extend([0, 0]);
                len(body);
                body.extend(with.iter().map(|byte| byte & 0x7f));
                body.push(0);
            }
            Of::Stack => {
                body.extend([0, 0, 0, 0]);
                len(body);
                body.extend(with.iter().map(|_| 1));
                body.push(0);
            }
            Of::Globals => {
                body.extend([0x7f, 0, 0x41]);
                own::signed(body, number.into());
                body.push(0x0b);
            }
            Of::Data => {
                body.extend([0, 0x41]);
                own::signed(body, number.into());
                body.extend([0x0b, 1 + with.len().to_le_bytes()[0], 1]);
                body.extend(with);
            }
        }
    }
}

/// Returns the dump of a model with few memories.
fn planned(mut model: Model, section: u16, checksums: bool) -> Vec<u8> {
    model.shrink(8);
    let dumper = Dumper::new().threads(1).checksums(checksums);
    let dumper = dumper.max_section_bytes(256 + u32::from(section));
    let images = model.images();
    dumper.plan(&model.dump(&images)).unwrap().to_vec().unwrap()
}

impl Base {
    fn dump(self) -> Vec<u8> {
        match self {
            Self::Fixed(base) => BASES[usize::from(base) % BASES.len()].clone(),
            Self::Planned { model, section, checksums } => planned(model, section, checksums),
            Self::Foreign { model, section } => own::without(&planned(model, section, false)),
            Self::Own { model, section, block_log2, changing } => {
                let foreign = own::without(&planned(model, section, false));
                let block_log2 = u32::from(block_log2 % 24);
                // Smaller blocks would be too many.
                let block_log2 = if block_log2 == 0 { 0 } else { block_log2.max(6) };
                let changing = (0..8).filter(|i| changing & (1 << i) != 0).collect();
                Own { block_log2, changing, ..Own::default() }.dump(&foreign)
            }
        }
    }
}

/// The offsets of a section: its id, its body, and its end.
#[derive(Clone, Copy)]
struct Section {
    start: usize,
    body: usize,
    end: usize,
}

/// Returns the sections of a module, up to the first invalid one.
fn sections(bytes: &[u8]) -> Vec<Section> {
    let mut all = Vec::new();
    let mut start = 8;
    while start < bytes.len() {
        let (mut size, mut body) = (0_usize, start + 1);
        for shift in (0..35).step_by(7) {
            let Some(byte) = bytes.get(body) else { return all };
            size |= usize::from(byte & 0x7f) << shift;
            body += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let end = body + size;
        if end > bytes.len() {
            return all;
        }
        all.push(Section { start, body, end });
        start = end;
    }
    all
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, at: usize) {
        let Some(at) = at.checked_rem(bytes.len()) else { return };
        let end = |len: &u8| bytes.len().min(at + usize::from(*len));
        let section = || sections(bytes).into_iter().find(|s| (s.start..s.end).contains(&at));
        match self {
            Self::Set(value) => bytes[at] = *value,
            Self::Flip(bit) => bytes[at] ^= 1 << (bit % 8),
            Self::Cut => bytes.truncate(at),
            Self::Remove(n) => drop(bytes.drain(at..end(n))),
            Self::Insert(value) => bytes.insert(at, *value),
            Self::Copy { from, len } => {
                let from = usize::from(*from) % bytes.len();
                let to = bytes.len().min(from + usize::from(*len));
                let copy = bytes[from..to].to_vec();
                let end = bytes.len().min(at + copy.len());
                bytes.splice(at..end, copy);
            }
            Self::Repeat { len, times } => {
                let chunk = bytes[at..end(len)].to_vec();
                let times = usize::from(*times).min(MOST / chunk.len().max(1));
                let again = chunk.repeat(times);
                bytes.splice(at..at, again);
            }
            Self::Size(more) => {
                if let Some(s) = section() {
                    let mut size = Vec::new();
                    own::leb(&mut size, (s.end - s.body).saturating_add_signed((*more).into()));
                    bytes.splice(s.start + 1..s.body, size);
                }
            }
            Self::Leave => drop(section().map(|s| bytes.drain(s.start..s.end))),
            Self::Again(times) => {
                if let Some(s) = section() {
                    let again = bytes[s.start..s.end].repeat(usize::from(*times));
                    bytes.splice(s.end..s.end, again);
                }
            }
            Self::Last => {
                if let Some(s) = section() {
                    let last: Vec<_> = bytes.drain(s.start..s.end).collect();
                    bytes.extend(last);
                }
            }
        }
        bytes.truncate(MOST);
    }
}

impl Mend {
    fn apply(&self, bytes: &mut [u8]) {
        let named = |name: &[u8]| {
            sections(bytes).into_iter().find(|s| bytes[s.body..s.end].starts_with(name))
        };
        let header = named(b"\x0acorestream").filter(|s| s.end - s.body == 43);
        let index = named(b"\x10corestream.index").filter(|s| s.end - s.body >= 49);
        let (Some(header), Some(index)) = (header, index) else { return };
        let (start, len) = (index.start, bytes.len());
        let table = &mut bytes[header.body + 11..header.end];
        if self.header {
            table[8..16].copy_from_slice(&(len as u64).to_le_bytes());
            table[16..24].copy_from_slice(&(start as u64).to_le_bytes());
            let crc = own::crc(&table[..28]);
            table[28..].copy_from_slice(&crc.to_le_bytes());
        }
        let log2 = u32::from(table[24] % 32);
        if self.blocks && log2 > 4 {
            let crcs: Vec<_> =
                bytes[..start].chunks(1 << log2).flat_map(|b| own::crc(b).to_le_bytes()).collect();
            let at = (index.end - 4).saturating_sub(crcs.len()).max(index.body + 45);
            let len = (index.end - 4 - at).min(crcs.len());
            bytes[at..at + len].copy_from_slice(&crcs[..len]);
        }
        if self.index {
            let crc = own::crc(&bytes[start..index.end - 4]);
            bytes[index.end - 4..index.end].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Verifies, opens, salvages and lists a file, and compares the results.
pub fn check(bytes: &[u8]) {
    let allowed = FIXED + PER_BYTE * bytes.len() as u64;
    let verdict = verdict(bytes);
    let (again, held) = count::peak(|| Verifier::new().threads(1).verify(bytes));
    assert!(held <= allowed, "{held} bytes for the verifier of {}", bytes.len());
    assert_eq!(verdict.as_ref().ok(), again.ok().as_ref());
    let mut stream = Counted { bytes, calls: 0 };
    let (_, held) = count::peak(|| Verifier::new().verify_stream(&mut stream));
    assert!(held <= allowed, "{held} bytes for the verifier of a stream of {}", bytes.len());
    if matches!(&verdict, Ok(Verdict::Intact(whole)) if !whole.checksums) {
        // The verifier only keeps the offsets of sections.
        assert!(held <= FIXED + bytes.len() as u64, "{held} bytes for {}", bytes.len());
    }
    assert!(stream.calls <= bytes.len() + 16, "{} calls for {}", stream.calls, bytes.len());
    if bytes.len().is_multiple_of(4) {
        assert_eq!(verdict.as_ref().ok(), Verifier::new().threads(2).verify(bytes).ok().as_ref());
    }

    let (dump, held) = count::peak(|| CoreDumpFile::from_slice(bytes));
    assert!(held <= allowed, "{held} bytes to open {}", bytes.len());
    let (salvaged, held) = count::peak(|| CoreDumpFile::salvage_slice(bytes));
    assert!(held <= allowed, "{held} bytes to salvage {}", bytes.len());
    for salvage in [false, true] {
        let options = OpenOptions::new().salvage(salvage);
        let (unlent, held) = count::peak(|| options.open_source(Unlent(bytes)));
        assert!(held <= allowed, "{held} bytes to open a source of {}", bytes.len());
        assert_eq!(unlent.is_ok(), if salvage { salvaged.is_ok() } else { dump.is_ok() });
        if let Ok(unlent) = &unlent {
            let (items, held) = count::peak(|| items(unlent));
            let allowed = FIXED + PER_BYTE_OF_ITEM * bytes.len() as u64;
            assert!(held <= allowed, "{held} bytes to list a source of {}", bytes.len());
            assert!(items <= bytes.len() + 100, "{items} items of {} bytes", bytes.len());
        }
    }
    for dump in [&dump, &salvaged].into_iter().flatten() {
        let (items, held) = count::peak(|| items(dump));
        let allowed = FIXED + PER_BYTE_OF_ITEM * bytes.len() as u64;
        assert!(held <= allowed, "{held} bytes to list {}", bytes.len());
        // There are at most 100 memories, each of which ends with zeros.
        assert!(items <= bytes.len() + 100, "{items} items of {} bytes", bytes.len());
        if bytes.len() <= MOST_WRITTEN {
            manifest::assert_written(dump, bytes);
        }
    }
    read_all(bytes);
    // With an index, opening does not read the segments, so only the verifier compares them.
    let is_damaged = matches!(&verdict, Ok(Verdict::Damaged(_)));
    if let Ok(dump) = &dump
        && !(is_damaged && dump.has_index())
    {
        assert_contents(dump, bytes);
    }
    match (verdict, dump) {
        (Ok(Verdict::Intact(whole)), dump) => {
            let dump = dump.expect("an intact dump can be opened");
            assert_eq!(whole.bytes, dump.len());
            assert_eq!(whole.checksums, dump.has_checksums());
            assert_eq!(whole.rewritten, dump.is_rewritten());
            assert!(whole.layout.is_none_or(|layout| layout == dump.frame_layout()));
            let framed = dump.threads().any(|thread| thread.unwrap().frames().len() > 0);
            assert_eq!(framed, whole.layout.is_some_and(|layout| layout.is_known()));
            assert_eq!((whole.partial, whole.degraded), (dump.is_partial(), dump.is_degraded()));
        }
        (Ok(Verdict::Damaged(damage)), _) => {
            assert!(damage.range.start < damage.range.end, "{damage}");
            assert!(damage.to_string().lines().count() == 1, "{damage}");
        }
        (Err(error), dump) => {
            let opened = dump.expect_err("a dump that cannot be verified cannot be opened");
            assert_eq!(opened.kind(), error.kind(), "{opened}, but {error}");
        }
    }
}

/// Checks that each memory is the result of applying its segments in order, as wasmparser reads them. Skips memories
/// with unknown bytes, and invalid modules.
fn assert_contents(dump: &CoreDumpFile<'_>, bytes: &[u8]) {
    let Some(segments) = segments(bytes) else { return };
    for memory in dump.memories() {
        let i = memory.index().0;
        let of = || segments.iter().filter(|(memory, _, _)| *memory == i);
        let Some(first) = of().map(|(_, address, _)| *address).min() else { continue };
        let last = of().map(|(_, address, data)| address + (data.len() as u64 - 1)).max().unwrap();
        let len = usize::try_from(last - first).unwrap_or(usize::MAX);
        // In a dump inside the memory that it describes, the address of the only segment is wrong.
        let moved = memory.declared_pages().is_some() && bytes.len().is_multiple_of(65_536);
        if moved || len > MOST || memory.unknown().next().is_some() {
            continue;
        }
        let mut expected = vec![0; len + 1];
        for (_, address, data) in of() {
            let at = usize::try_from(address - first).unwrap();
            expected[at..at + data.len()].copy_from_slice(data);
        }
        let mut found = vec![0xee; len + 1];
        memory.read(first, &mut found).unwrap();
        assert!(found == expected, "memory {i} from {first:#x} on");
    }
}

/// Returns the active segments that are not empty, in the order of the file. Returns `None` for an invalid module.
fn segments(bytes: &[u8]) -> Option<Vec<(u32, u64, &[u8])>> {
    Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).ok()?;
    let mut all = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let section = match payload.ok()? {
            Payload::DataSection(section) => section,
            Payload::CustomSection(section) if section.name() == "corestream.data" => {
                let reader = BinaryReader::new(section.data(), section.data_offset());
                DataSectionReader::new(reader).ok()?
            }
            _ => continue,
        };
        for data in section {
            let data = data.ok()?;
            if let DataKind::Active { memory_index, offset_expr } = data.kind
                && !data.data.is_empty()
            {
                let address = match offset_expr.get_operators_reader().read().ok()? {
                    Operator::I32Const { value } => value.cast_unsigned().into(),
                    Operator::I64Const { value } => value.cast_unsigned(),
                    _ => return None,
                };
                all.push((memory_index, address, data.data));
            }
        }
    }
    Some(all)
}

/// Returns the number of items that a dump lists.
fn items(dump: &CoreDumpFile<'_>) -> usize {
    let instances = dump.instances().map(Result::unwrap);
    let instances = instances.map(|i| 1 + i.memories.len() + i.globals.len());
    let frame = |frame: Frame| 1 + frame.locals.len() + frame.stack.len();
    let frames = |thread: ThreadView<'_>| thread.frames().map(|f| frame(f.unwrap())).sum::<usize>();
    let threads = dump.threads().map(|thread| 1 + frames(thread.unwrap()));
    let contents = dump.memories().map(|memory| memory.contents().count());
    let lists = dump.modules().map(Result::unwrap).count() + dump.memories().len();
    let lists = lists + dump.globals().map(Result::unwrap).count();
    lists + instances.sum::<usize>() + threads.sum::<usize>() + contents.sum::<usize>()
}

/// A stream that counts its reads.
struct Counted<'b> {
    bytes: &'b [u8],
    calls: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.calls += 1;
        let some = buffer.len().min(1 + self.calls % 7000);
        self.bytes.read(&mut buffer[..some])
    }
}
