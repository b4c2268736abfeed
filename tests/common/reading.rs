//! A small guest, its dump, and reading a dump in every way. The fuzz targets use this module, too.

use std::fmt::Debug;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;

use super::own;
use corestream::read::{
    Content, Coverage, EarlyFact, FrameLayout, IntactDump, MappedFile, MemoryView, OpenOptions,
    Producer, ReadAt, Restored, SegmentView, ThreadView, Verdict, Verifier,
};
use corestream::{
    CoreDump, CoreDumpFile, Dumper, Error, ErrorKind, Frame, Global, GlobalIndex, GlobalValue,
    Instance, InstanceIndex, Memory, MemoryImage, MemoryIndex, MemoryType, Module, ModuleIdentity,
    ModuleIndex, RefType, Result, Thread, UnixTime, Value,
};
use rustix::fs::{MemfdFlags, memfd_create};

pub const PAGE: usize = 65_536;
pub const FIRST: MemoryIndex = MemoryIndex(0);

/// Returns the memories of a small guest: 32-bit, 64-bit, with pages of one byte, and empty.
pub fn images() -> Vec<(MemoryType, Vec<u8>)> {
    let mut first = vec![0; PAGE];
    first[100..180].fill(1);
    first[4096..4200].fill(2);
    first[PAGE - 1] = 3;
    let mut second = vec![0; 2 * PAGE];
    second[..300].fill(4);
    second[PAGE..PAGE + 90].fill(5);
    let third = b"custom pages\0".to_vec();
    vec![
        (MemoryType::wasm32(1), first),
        (MemoryType::wasm64(2).with_maximum(3).with_shared(), second),
        (MemoryType::wasm32(13).with_page_size(1), third),
        (MemoryType::wasm32(0), Vec::new()),
    ]
}

/// Returns a small guest with these memories.
pub fn guest(images: &[(MemoryType, Vec<u8>)]) -> CoreDump<'_> {
    let mut guest = CoreDump::new("guest.wasm");
    let memories: Vec<_> = images
        .iter()
        .map(|(ty, image)| guest.add_memory(Memory::new(*ty, MemoryImage::from_slice(image))))
        .collect();
    let global = guest.add_global(Global::mutable(GlobalValue::I32(-7)));
    guest.add_global(Global::constant(GlobalValue::V128(1 << 100)));
    guest.add_global(Global::mutable(GlobalValue::Ref(RefType::Exn)));
    let module = guest.add_module("guest.wasm");
    guest.add_module(Module::anonymous());
    let instance =
        guest.add_instance(Instance::new(module).with_memories(memories).with_globals([global]));
    guest.add_instance(Instance::default().with_memories([None, Some(MemoryIndex(0))]));
    guest.add_thread(
        Thread::new("main").with_frames([
            Frame::new(instance, 3, 17)
                .with_locals([Value::I32(-1), Value::Missing, Value::F64(f64::NAN.to_bits())])
                .with_stack([Value::I64(i64::MIN), Value::F32(7)]),
            Frame::new(None, u32::MAX, 0),
        ]),
    );
    guest.add_thread(Thread::new("second"));
    guest
}

/// Returns a dump of about 1.5 KiB without header and index. Its segments continue in sections of 256 bytes.
pub fn small() -> Vec<u8> {
    let images = images();
    let dumper = Dumper::new().max_section_bytes(256);
    own::without(&dumper.plan(&guest(&images)).unwrap().to_vec().unwrap())
}

/// Returns a guest without memories, and with all facts that have a section of their own.
pub fn known() -> CoreDump<'static> {
    let mut guest = CoreDump::new("guest.wasm");
    guest.add_module("guest.wasm");
    let identity = ModuleIdentity::new().with_build_id([0x12, 0x34]).with_sha256([0xab; 32]);
    guest.add_module(Module::anonymous().with_identity(identity));
    guest.trap = Some("wasm trap: integer divide by zero".into());
    guest.captured_at = UnixTime::from_nanoseconds(1_795_839_503_500_000_000);
    guest.notes.push("a note".into());
    guest
}

/// Returns the dump of [`known`], which has about 500 bytes.
pub fn facts() -> Vec<u8> {
    Dumper::new().plan(&known()).unwrap().to_vec().unwrap()
}

/// Returns a memory by its contents, which must cover it without a gap. Unknown bytes are 0xee.
pub fn contents(dump: &CoreDumpFile<'_>, memory: MemoryIndex) -> Vec<u8> {
    let memory = dump.memory(memory).unwrap();
    let mut bytes = Vec::new();
    for content in memory.contents() {
        let start = bytes.len();
        assert_eq!(*content.addresses().start(), start as u64);
        let end = usize::try_from(*content.addresses().end()).unwrap() + 1;
        let is_known = !matches!(content, Content::Excluded(_) | Content::Lost(_));
        bytes.resize(end, if is_known { 0 } else { 0xee });
        if let Content::Data { addresses, .. } = content {
            memory.read(*addresses.start(), &mut bytes[start..]).unwrap();
        }
    }
    assert_eq!(bytes.len() as u64, memory.ty().byte_len().unwrap());
    bytes
}

/// Returns the items of a list, none of which may be an error.
pub fn all<T>(items: impl Iterator<Item = Result<T>>) -> Vec<T> {
    items.map(Result::unwrap).collect()
}

/// Returns the types of all memories.
pub fn types(dump: &CoreDumpFile<'_>) -> Vec<MemoryType> {
    dump.memories().map(|memory| memory.ty()).collect()
}

/// Returns the threads as types of the model.
pub fn threads(dump: &CoreDumpFile<'_>) -> Vec<Thread> {
    dump.threads().map(|thread| thread.unwrap().to_thread().unwrap()).collect()
}

/// A source that lends no bytes, such as an object store.
pub struct Unlent<'b>(pub &'b [u8]);

impl ReadAt for Unlent<'_> {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// The kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Slice,
    File,
    Mapped,
    Unlent,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Slice, Self::File, Self::Mapped, Self::Unlent];

    /// Returns a file or a mapping for one in 16 inputs, and `None` for the others. Fuzzers and tests with thousands of
    /// dumps have no time for more.
    fn sample(bytes: &[u8]) -> Option<Self> {
        let hash = usize::try_from(hash(bytes) % 32).unwrap();
        [Self::File, Self::Mapped].into_iter().nth(hash)
    }

    /// Returns a source of this kind.
    pub fn source<'b>(self, bytes: &'b [u8]) -> Box<dyn ReadAt + 'b> {
        match self {
            Self::Slice => Box::new(bytes),
            Self::File => Box::new(file(bytes)),
            Self::Mapped => {
                // SAFETY: the file has no name and no other descriptor.
                #[allow(unsafe_code, reason = "maps a file of its own")]
                let mapped = unsafe { MappedFile::new(&file(bytes)) };
                Box::new(mapped.unwrap())
            }
            Self::Unlent => Box::new(Unlent(bytes)),
        }
    }
}

/// Returns a file in memory.
fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("dump", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

/// Returns the verdict of a slice. Checks that a stream and a source that lends nothing have the same verdict, and for
/// a sample of the inputs, that a file or a mapping has it, too.
pub fn verdict(bytes: &[u8]) -> Result<Verdict> {
    verdict_of(bytes, [Kind::Unlent].into_iter().chain(Kind::sample(bytes)))
}

/// Returns the verdict of an intact dump.
pub fn intact(bytes: &[u8]) -> IntactDump {
    match verdict(bytes).unwrap() {
        Verdict::Intact(intact) => intact,
        Verdict::Damaged(damage) => panic!("{damage}"),
    }
}

/// Returns the verdict of a slice. Checks that a stream and sources of every kind have the same verdict.
pub fn verdict_consistently(bytes: &[u8]) -> Result<Verdict> {
    verdict_of(bytes, Kind::ALL)
}

fn verdict_of(bytes: &[u8], kinds: impl IntoIterator<Item = Kind>) -> Result<Verdict> {
    /// A stream that returns few bytes at once.
    struct Slow<'b>(&'b [u8], usize);
    impl std::io::Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1 % 61 + 1;
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }
    let slice = Verifier::new().threads(1).verify(bytes);
    for kind in kinds {
        match (&slice, Verifier::new().threads(2).verify(kind.source(bytes))) {
            (Ok(slice), Ok(source)) => assert_eq!(*slice, source),
            (Err(slice), Err(source)) => assert_eq!(failure(slice), failure(&source)),
            (slice, source) => panic!("{slice:?}, of {kind:?} {source:?}"),
        }
    }
    let mut has_header = false;
    let stream = Verifier::new().verify_stream_with(Slow(bytes, 0), |early| {
        has_header |= matches!(early, EarlyFact::Length(_));
        Ok(())
    });
    match (&slice, stream) {
        // Only a source has an end at which the verifier can find an index.
        (Ok(Verdict::Damaged(_)), Err(stream)) if stream.kind() == ErrorKind::Format => {
            assert!(!has_header, "{stream}");
        }
        (Ok(Verdict::Damaged(slice)), Ok(Verdict::Damaged(stream))) if !has_header => {
            assert!(slice.bad_blocks >= stream.bad_blocks, "{slice}, {stream}");
        }
        (Ok(slice), Ok(stream)) => assert_eq!(as_of_a_stream(slice, &stream), stream),
        (Err(slice), Err(stream)) => assert_eq!(slice.to_string(), stream.to_string()),
        (slice, stream) => panic!("{slice:?}, as a stream {stream:?}"),
    }
    slice
}

/// Returns the verdict that a stream would have, which does not know the index entry that the sections contradict.
fn as_of_a_stream(slice: &Verdict, stream: &Verdict) -> Verdict {
    let mut slice = slice.clone();
    if let (Verdict::Damaged(slice), Verdict::Damaged(stream)) = (&mut slice, stream)
        && stream.reason.ends_with("corestream.index: segments differ from the sections")
    {
        assert!(slice.reason.contains(": corestream.index: segment "), "{slice}");
        assert_eq!(slice.range.end - slice.range.start, 20, "{slice}");
        let inside = stream.range.start < slice.range.start && slice.range.end < stream.range.end;
        assert!(inside, "{slice}, {stream}");
        (slice.reason, slice.range) = (stream.reason.clone(), stream.range.clone());
    }
    slice
}

/// The kind and the text of an error.
pub type Failure = (ErrorKind, String);

/// The reported length of a list, and its items up to the first error.
pub type List<T> = (usize, Vec<Result<T, Failure>>);

/// Everything that a dump contains, with hashes instead of the bytes of its segments.
#[derive(Debug, PartialEq)]
pub struct Said {
    name: String,
    len: u64,
    damage: Option<Failure>,
    producer: Producer,
    layout: FrameLayout,
    /// Whether the dump is rewritten, has an index, has checksums, is partial, is degraded.
    flags: [bool; 5],
    modules: List<String>,
    notes: List<String>,
    trap: Option<String>,
    captured_at: Option<UnixTime>,
    identities: List<ModuleIdentity>,
    instances: List<Instance>,
    /// Name and frames of each thread.
    threads: List<(String, List<Frame>)>,
    globals: List<Global>,
    memories: Vec<SaidMemory>,
}

/// Everything that a dump contains of a memory.
#[derive(Debug, PartialEq)]
struct SaidMemory {
    ty: MemoryType,
    declared_pages: Option<u64>,
    coverage: Coverage,
    segments: Vec<SegmentView>,
    /// The first [`MOST_PARTS`] parts.
    contents: Vec<Content>,
    /// The hash of the data in them.
    data: u64,
    /// 99 bytes from address 90.
    read: Result<Vec<u8>, Failure>,
    /// The hash of the whole memory, unless it is larger than [`MOST_WRITTEN`].
    written: Option<Result<(Restored, u64), Failure>>,
}

/// The number of parts of a memory to check.
const MOST_PARTS: usize = 10_000;
/// The size of the largest memory to write as a whole.
const MOST_WRITTEN: u64 = 1 << 18;

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn failure(error: &Error) -> Failure {
    (error.kind(), error.to_string())
}

fn list<T>(items: impl ExactSizeIterator<Item = Result<T>>) -> List<T> {
    let len = items.len();
    let items: Vec<_> = items.map(|item| item.map_err(|error| failure(&error))).collect();
    match items.iter().position(Result::is_err) {
        Some(error) => assert_eq!(error + 1, items.len(), "items after an error"),
        None => assert_eq!(len, items.len()),
    }
    (len, items)
}

/// Checks that asking for single items gives the items of the list, and that the one past its end is an error.
fn assert_items<T: PartialEq + Debug>(list: &List<T>, item: impl Fn(usize) -> Result<T>) {
    let (len, items) = list;
    for i in [0, items.len() / 2, items.len().saturating_sub(1)] {
        if let Some(expected @ Ok(_)) = items.get(i) {
            assert_eq!(item(i).map_err(|error| failure(&error)), *expected, "item {i}");
        }
    }
    assert_eq!(item(*len).unwrap_err().kind(), ErrorKind::Option);
}

impl Said {
    /// Reads everything from a dump. Panics if the answers contradict each other.
    pub fn by(dump: &CoreDumpFile<'_>) -> Self {
        assert!(format!("{dump:?}").len() < 1 << 20);
        let frames = |thread: ThreadView<'_>| {
            assert!(format!("{thread:?} {:?}", thread.frames()).len() < 1 << 20);
            (thread.name().to_string(), list(thread.frames()))
        };
        let message = Self {
            name: dump.name().into(),
            len: dump.len(),
            damage: dump.damage().map(failure),
            producer: dump.producer(),
            layout: dump.frame_layout(),
            flags: [
                dump.is_rewritten(),
                dump.has_index(),
                dump.has_checksums(),
                dump.is_partial(),
                dump.is_degraded(),
            ],
            modules: list(dump.modules()),
            notes: list(dump.notes()),
            trap: dump.trap().map(Into::into),
            captured_at: dump.captured_at(),
            identities: list(dump.module_identities()),
            instances: list(dump.instances()),
            threads: list(dump.threads().map(|thread| thread.map(frames))),
            globals: list(dump.globals()),
            memories: dump.memories().map(SaidMemory::by).collect(),
        };
        let index = |i: usize| u32::try_from(i).unwrap();
        assert_items(&message.modules, |i| dump.module(ModuleIndex(index(i))));
        assert_items(&message.identities, |i| dump.module_identity(ModuleIndex(index(i))));
        assert_items(&message.instances, |i| dump.instance(InstanceIndex(index(i))));
        assert_items(&message.threads, |i| dump.thread(i).map(frames));
        assert_items(&message.globals, |i| dump.global(GlobalIndex(index(i))));
        let past = dump.memory(MemoryIndex(index(message.memories.len()))).unwrap_err();
        assert_eq!(past.kind(), ErrorKind::Option);
        message
    }
}

impl SaidMemory {
    fn by(memory: MemoryView<'_>) -> Self {
        assert!(format!("{memory:?} {:?}", memory.contents()).len() < 4096);
        let contents: Vec<_> = memory.contents().take(MOST_PARTS).collect();
        let (mut next, mut data, mut buffer) = (Some(0), DefaultHasher::new(), Vec::new());
        for content in &contents {
            let (first, last) = content.addresses().clone().into_inner();
            assert_eq!(Some(first), next);
            next = last.checked_add(1);
            if let Content::Data { .. } = content {
                buffer.resize(usize::try_from(last - first).unwrap() + 1, 0);
                memory.read(first, &mut buffer).unwrap();
                data.write(&buffer);
            }
        }
        let unknown = |content: Content| content.unknown();
        let unknown = contents.iter().cloned().filter_map(unknown);
        assert!(memory.unknown().zip(unknown).all(|(range, expected)| range == expected));
        let mut read = vec![0; 99];
        let read = memory.read(90, &mut read).map(|()| read).map_err(|error| failure(&error));
        let is_small = memory.ty().byte_len().is_some_and(|len| len <= MOST_WRITTEN);
        let written = is_small.then(|| {
            let mut image = Vec::new();
            let restored = memory.write_to(&mut image).map_err(|error| failure(&error))?;
            assert_eq!(restored.len, image.len() as u64);
            Ok((restored, hash(&image)))
        });
        Self {
            ty: memory.ty(),
            declared_pages: memory.declared_pages(),
            coverage: memory.coverage(),
            segments: memory.segments().collect(),
            contents,
            data: data.finish(),
            read,
            written,
        }
    }
}

/// Reads everything from a dump, opened strictly and salvaged.
fn message(kind: Kind, bytes: &[u8]) -> [Result<Said, Failure>; 2] {
    [false, true].map(|salvage| {
        let opened = OpenOptions::new().salvage(salvage).open_source(kind.source(bytes));
        opened.map(|dump| Said::by(&dump)).map_err(|error| failure(&error))
    })
}

/// Reads everything from a slice. Checks that a source that lends nothing gives the same, and for a sample of the
/// inputs, that a file or a mapping does, too.
pub fn read_all(bytes: &[u8]) {
    let expected = message(Kind::Slice, bytes);
    let kinds = [Kind::Unlent].into_iter().chain(Kind::sample(bytes));
    kinds.for_each(|kind| assert_said(kind, bytes, &expected));
}

/// Reads everything from a slice. Checks that sources of every kind give the same.
pub fn read_consistently(bytes: &[u8]) {
    let expected = message(Kind::Slice, bytes);
    Kind::ALL.into_iter().skip(1).for_each(|kind| assert_said(kind, bytes, &expected));
}

fn assert_said(kind: Kind, bytes: &[u8], expected: &[Result<Said, Failure>; 2]) {
    let found = message(kind, bytes);
    assert!(found == *expected, "{kind:?}: {found:?}\na slice: {expected:?}");
}
