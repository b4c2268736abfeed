//! Dumps any model and memories through a file, a pipe, a socket, or a writer that takes few bytes at once: wasmparser
//! accepts the dump, and both its reader and corestream's return the model and the memories.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use arbitrary::{Arbitrary, Unstructured};
use corestream::limits::max_pages;
use corestream::read::{IntactDump, Verdict, Verifier};
use corestream::{
    CoreDump, CoreDumpFile, Dumper, FileSink, Frame, Global, GlobalIndex, GlobalValue, Instance,
    InstanceIndex, Memory, MemoryIndex, MemoryType, Module, ModuleIndex, PipeSink, Plan, RefType,
    SocketSink, Thread, UnixTime, Value,
};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::common::reading::{all, threads, types};
use crate::common::{DecodedFrame, Random, decode};
use crate::image::Kind;

/// The length of all images together.
const MOST: usize = 3 << 20;

#[derive(Arbitrary, Debug)]
struct Input {
    model: Model,
    way: Way,
    /// The seed of the random lengths of reads, and the greatest length.
    seed: u32,
    most: u16,
    checksums: bool,
    threads: u8,
    section: Option<u16>,
}

/// The way of the dump.
#[derive(Arbitrary, Debug)]
enum Way {
    /// A writer that takes at most this many bytes at once, plus one.
    Slow(u8),
    File,
    Named,
    Pipe {
        lend: bool,
    },
    Socket {
        lend: bool,
    },
}

/// A guest.
#[derive(Arbitrary, Debug)]
pub struct Model {
    name: String,
    modules: Vec<Option<String>>,
    memories: Vec<AnyMemory>,
    globals: Vec<(bool, AnyGlobal)>,
    instances: Vec<AnyInstance>,
    threads: Vec<(String, Vec<AnyFrame>)>,
}

#[derive(Arbitrary, Debug)]
struct AnyMemory {
    memory64: bool,
    shared: bool,
    small_pages: bool,
    kind: Kind,
    /// The pages after those of the image.
    more: Option<u32>,
    maximum: Option<u32>,
    /// Zeros, bytes, and repetitions of the bytes.
    parts: Vec<(u16, Vec<u8>, u8)>,
}

/// Module, memories and globals.
type AnyInstance = (Option<u8>, Vec<Option<u8>>, Vec<Option<u8>>);

#[derive(Arbitrary, Debug)]
enum AnyGlobal {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
    Ref(u8),
}

#[derive(Arbitrary, Debug)]
struct AnyFrame {
    instance: Option<u8>,
    function: u32,
    offset: u32,
    locals: Vec<AnyValue>,
    stack: Vec<AnyValue>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum AnyValue {
    Missing,
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl AnyGlobal {
    fn value(&self) -> GlobalValue {
        match *self {
            Self::I32(x) => GlobalValue::I32(x),
            Self::I64(x) => GlobalValue::I64(x),
            Self::F32(x) => GlobalValue::F32(x),
            Self::F64(x) => GlobalValue::F64(x),
            Self::V128(x) => GlobalValue::V128(x),
            Self::Ref(i) => GlobalValue::Ref(RefType::ALL[usize::from(i) % RefType::ALL.len()]),
        }
    }
}

fn values(list: &[AnyValue]) -> Vec<Value> {
    let value = |value: &AnyValue| match *value {
        AnyValue::Missing => Value::Missing,
        AnyValue::I32(x) => Value::I32(x),
        AnyValue::I64(x) => Value::I64(x),
        AnyValue::F32(x) => Value::F32(x),
        AnyValue::F64(x) => Value::F64(x),
    };
    list.iter().map(value).collect()
}

/// Returns an index below `count`, or `None` if `count` is 0.
fn index(index: Option<u8>, count: usize) -> Option<u32> {
    let count = u32::try_from(count).unwrap();
    index.and_then(|i| u32::from(i).checked_rem(count))
}

impl AnyMemory {
    /// Returns at most `room` bytes of the image.
    fn image(&self, room: usize) -> Vec<u8> {
        let mut image = Vec::new();
        for (zeros, bytes, times) in &self.parts {
            image.resize(image.len() + usize::from(*zeros), 0);
            (0..=*times).for_each(|_| image.extend(bytes));
        }
        image.truncate(room);
        image
    }

    fn ty(&self, image: &[u8]) -> MemoryType {
        let page_size = if self.small_pages { 1 } else { 65_536 };
        let most = max_pages(self.memory64, page_size);
        let pages = (image.len() as u64).div_ceil(page_size.into());
        let minimum = pages.saturating_add(self.more.unwrap_or(0).into()).min(most);
        let maximum = self.maximum.or(self.shared.then_some(0));
        let maximum = maximum.map(|more| minimum.saturating_add(more.into()).min(most));
        let mut ty = MemoryType::wasm32(minimum).with_page_size(page_size);
        (ty.maximum, ty.memory64, ty.shared) = (maximum, self.memory64, self.shared);
        ty
    }
}

impl Model {
    /// Keeps at most `memories` memories.
    pub fn shrink(&mut self, memories: usize) {
        self.memories.truncate(memories);
    }

    /// Returns the bytes of the images.
    pub fn images(&self) -> Vec<Vec<u8>> {
        let mut room = MOST;
        let image = |memory: &AnyMemory| {
            let image = memory.image(room);
            room -= image.len();
            image
        };
        self.memories.iter().map(image).collect()
    }

    /// Adds facts with a section of their own. They are derived from the names, so that saved inputs keep their
    /// meaning.
    fn add_facts(&self, dump: &mut CoreDump<'_>) {
        let bytes = self.name.as_bytes();
        if bytes.len() % 3 == 1 {
            dump.trap = Some(self.name.chars().take(1000).collect());
        }
        if bytes.len() % 4 < 2 {
            let time =
                bytes.iter().fold(bytes.len() as u64, |time, byte| time << 8 | u64::from(*byte));
            dump.captured_at = UnixTime::from_nanoseconds(time);
        }
        for module in dump.modules.iter_mut() {
            match module.name.as_deref().map(str::as_bytes) {
                Some(name @ [first, ..]) if first % 2 == 1 => {
                    module.identity.build_id = Some(name[..name.len().min(256)].to_vec());
                }
                Some([first, ..]) => module.identity.sha256 = Some([*first; 32]),
                _ => {}
            }
        }
    }

    /// Returns the guest with these images.
    pub fn dump<'i>(&self, images: &'i [Vec<u8>]) -> CoreDump<'i> {
        let mut dump = CoreDump::new(self.name.as_str());
        for name in &self.modules {
            match name {
                Some(name) => dump.add_module(name.as_str()),
                None => dump.add_module(Module::anonymous()),
            };
        }
        self.add_facts(&mut dump);
        for (memory, image) in self.memories.iter().zip(images) {
            dump.add_memory(Memory::new(memory.ty(image), memory.kind.image(image)));
        }
        for (mutable, global) in &self.globals {
            dump.add_global(match mutable {
                true => Global::mutable(global.value()),
                false => Global::constant(global.value()),
            });
        }
        for (module, memories, globals) in &self.instances {
            let memory = |m: &Option<u8>| index(*m, self.memories.len()).map(MemoryIndex);
            let global = |g: &Option<u8>| index(*g, self.globals.len()).map(GlobalIndex);
            let module = index(*module, self.modules.len()).map(ModuleIndex);
            let instance = Instance::new(module).with_memories(memories.iter().map(memory));
            dump.add_instance(instance.with_globals(globals.iter().map(global)));
        }
        for (name, frames) in &self.threads {
            let frame = |f: &AnyFrame| {
                let instance = index(f.instance, self.instances.len()).map(InstanceIndex);
                Frame::new(instance, f.function, f.offset)
                    .with_locals(values(&f.locals))
                    .with_stack(values(&f.stack))
            };
            dump.add_thread(Thread::new(name.as_str()).with_frames(frames.iter().map(frame)));
        }
        dump
    }
}

/// A writer that takes few bytes at once.
struct Slow {
    bytes: Vec<u8>,
    step: usize,
}

impl io::Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.step);
        self.bytes.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader with short and interrupted reads, which keeps the bytes that it has read.
struct Small<R> {
    source: R,
    random: Random,
    most: u64,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Small<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.random.below(16) == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buffer.len().min(1 + self.random.below(self.most));
        let read = self.source.read(&mut buffer[..len])?;
        self.bytes.extend(&buffer[..read]);
        Ok(read)
    }
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        // Other tests check the limits of the format.
        input.model.shrink(100);
        check(&input);
    }
}

fn check(input: &Input) {
    let images = input.model.images();
    let dump = input.model.dump(&images);
    let _ = format!("{dump} {dump:?}");
    let dumper =
        Dumper::new().threads(1 + usize::from(input.threads % 3)).checksums(input.checksums);
    let section = input.section.map_or(u32::MAX, |more| 256 + u32::from(more));
    let plan = dumper.max_section_bytes(section).plan(&dump).unwrap();
    assert_eq!(plan.shortfalls(), []);
    let expected = plan.to_vec().unwrap();
    assert_eq!(expected.len() as u64, plan.len());
    assert_decoded(&dump, &images, &expected);
    let file = CoreDumpFile::from_slice(&expected).unwrap();
    assert_read(&dump, &images, &file);
    let verdict = Verifier::new().threads(1).verify(&expected).unwrap();
    let Verdict::Intact(whole) = &verdict else { panic!("{verdict:?}") };
    assert_eq!((whole.bytes, whole.checksums), (plan.len(), input.checksums));
    assert!(input.way.go(input, &plan, whole) == expected, "by {:?}", input.way);
}

impl Way {
    /// Sends the dump. The receiving side verifies it. Returns the received bytes.
    fn go(&self, input: &Input, plan: &Plan<'_>, whole: &IntactDump) -> Vec<u8> {
        match *self {
            Self::Slow(step) => {
                let mut output = Slow { bytes: Vec::new(), step: usize::from(step) + 1 };
                plan.write_to(&mut output).unwrap();
                output.bytes
            }
            Self::File => {
                let mut file = File::from(memfd_create("dump", MemfdFlags::CLOEXEC).unwrap());
                plan.write_to(&mut FileSink::new(&file)).unwrap();
                let mut bytes = Vec::new();
                io::Seek::rewind(&mut file).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                bytes
            }
            Self::Named => {
                let path = path();
                plan.write_file(&path).unwrap();
                let verdict = Verifier::new().threads(2).verify_file(&path).unwrap();
                assert_eq!(verdict, Verdict::Intact(whole.clone()));
                assert_eq!(CoreDumpFile::open(&path).unwrap().len(), whole.bytes);
                let bytes = std::fs::read(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                bytes
            }
            Self::Pipe { lend } => {
                let (reader, writer) = io::pipe().unwrap();
                received(input, whole, reader, || {
                    plan.write_to(&mut PipeSink::new(&writer).lend(lend)).unwrap();
                    drop(writer);
                })
            }
            Self::Socket { lend } => {
                let (peer, socket) = UnixStream::pair().unwrap();
                received(input, whole, peer, || {
                    plan.write_to(&mut SocketSink::new(&socket).lend(lend)).unwrap();
                    drop(socket);
                })
            }
        }
    }
}

/// Runs `send`, and verifies `source` in small pieces meanwhile. Returns the received bytes.
fn received(
    input: &Input,
    whole: &IntactDump,
    source: impl Read + Send,
    send: impl FnOnce(),
) -> Vec<u8> {
    // A long dump needs longer reads.
    let most = u64::from(input.most % 4096) + 1 + whole.bytes / 1024;
    let random = Random(u64::from(input.seed) + 1);
    let mut reader = Small { source, random, most, bytes: Vec::new() };
    thread::scope(|scope| {
        let verdict = scope.spawn(|| Verifier::new().verify_stream(&mut reader));
        send();
        assert_eq!(verdict.join().unwrap().unwrap(), Verdict::Intact(whole.clone()));
    });
    reader.bytes
}

/// Returns a new path.
fn path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("corestream-fuzz-{}-{number}", std::process::id()))
}

/// Checks that wasmparser returns the model and the memories.
fn assert_decoded(dump: &CoreDump<'_>, images: &[Vec<u8>], bytes: &[u8]) {
    let decoded = decode(bytes);
    assert_eq!(decoded.name, dump.name);
    let modules: Vec<_> =
        dump.modules.iter().enumerate().map(|(i, m)| m.name_or_anonymous(i)).collect();
    assert_eq!(decoded.modules, modules);
    let unknown = u32::MAX;
    assert_eq!(decoded.instances.len(), dump.instances.len());
    for (found, expected) in decoded.instances.iter().zip(&dump.instances) {
        assert_eq!(found.module_index, expected.module.map_or(unknown, |m| m.0));
        let memories = expected.memories.iter().map(|m| m.map_or(unknown, |m| m.0));
        assert!(found.memories.iter().copied().eq(memories));
        let globals = expected.globals.iter().map(|g| g.map_or(unknown, |g| g.0));
        assert!(found.globals.iter().copied().eq(globals));
    }
    assert_eq!(decoded.threads.len(), dump.threads.len());
    for ((name, frames), expected) in decoded.threads.iter().zip(&dump.threads) {
        assert_eq!(name, &expected.name);
        let expected = expected.frames.iter().map(|frame| DecodedFrame {
            instance: frame.instance.map_or(unknown, |i| i.0),
            function: frame.function,
            offset: frame.offset,
            locals: frame.locals.clone(),
            stack: frame.stack.clone(),
        });
        assert_eq!(frames, &expected.collect::<Vec<_>>());
    }
    assert_eq!(decoded.globals.len(), dump.globals.len());
    for (found, expected) in decoded.globals.iter().zip(&dump.globals) {
        assert_eq!(*found, (expected.mutable, expected.value));
    }
    assert_eq!(decoded.memories.len(), dump.memories.len());
    for (i, (found, expected)) in decoded.memories.iter().zip(&dump.memories).enumerate() {
        assert_eq!(found.initial, expected.ty.minimum);
        assert_eq!(found.maximum, expected.ty.maximum);
        assert_eq!((found.memory64, found.shared), (expected.ty.memory64, expected.ty.shared));
        assert_eq!(1_u32 << found.page_size_log2.unwrap_or(16), expected.ty.page_size);
        assert!(decoded.contents(i, images[i].len()) == images[i], "memory {i}");
    }
}

/// Checks that corestream's reader returns the model and the memories.
fn assert_read(dump: &CoreDump<'_>, images: &[Vec<u8>], file: &CoreDumpFile<'_>) {
    assert_eq!(file.trap(), dump.trap.as_deref());
    assert_eq!(file.captured_at(), dump.captured_at);
    let identities = dump.modules.iter().map(|module| module.identity.clone());
    assert!(all(file.module_identities()).into_iter().eq(identities));
    assert_eq!(file.name(), dump.name);
    let modules = dump.modules.iter().enumerate().map(|(i, m)| m.name_or_anonymous(i));
    assert!(all(file.modules()).into_iter().eq(modules));
    assert_eq!(all(file.instances()), dump.instances);
    assert_eq!(threads(file), dump.threads);
    assert_eq!(all(file.globals()), dump.globals);
    assert!(types(file).into_iter().eq(dump.memories.iter().map(|memory| memory.ty)));
    for ((i, memory), image) in (0..).zip(&dump.memories).zip(images) {
        let view = file.memory(MemoryIndex(i)).unwrap();
        let coverage = view.coverage();
        let unknown = coverage.unknown_bytes();
        assert_eq!((coverage.changing, unknown), (memory.image.is_changing(), 0));
        // Also reads some bytes after the image.
        let len = memory.ty.byte_len().unwrap_or(u64::MAX).min(image.len() as u64 + 100);
        let mut found = vec![0xee; usize::try_from(len).unwrap()];
        view.read(0, &mut found).unwrap();
        assert!(found[..image.len()] == *image, "memory {i}");
        assert!(found[image.len()..].iter().all(|byte| *byte == 0), "memory {i}");
        let mut next = Some(0);
        for content in view.contents() {
            assert_eq!(next, Some(*content.addresses().start()));
            next = content.addresses().end().checked_add(1);
        }
        assert_eq!(next.unwrap_or(0), memory.ty.byte_len().unwrap_or(0), "memory {i}");
    }
}
