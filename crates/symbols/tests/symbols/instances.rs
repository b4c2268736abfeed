//! Resolving frames of large instances: reads each instance once, and does not take an error of the source for damage.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use corestream::read::ReadAt;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, ErrorKind, Frame, Global, GlobalValue, Instance, ModuleIndex,
    Thread,
};
use corestream_symbols::{SymbolFile, Symbols};
use wasm_encoder::{
    CodeSection, Function, FunctionSection, Module, NameMap, NameSection, TypeSection,
};

/// A dump in memory that counts the bytes read, and can fail.
struct Source {
    bytes: Vec<u8>,
    read: AtomicU64,
    fails: AtomicBool,
}

impl Source {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, read: AtomicU64::new(0), fails: AtomicBool::new(false) }
    }
}

impl ReadAt for &Source {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.bytes.as_slice().read_exact_at(buffer, offset)
    }
}

/// Returns a module whose only function has this name.
fn module(name: &str) -> Vec<u8> {
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    let mut body = Function::new([]);
    body.instructions().call(0).end();
    code.function(&body);
    let (mut names, mut map) = (NameSection::new(), NameMap::new());
    map.append(0, name);
    names.functions(&map);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code).section(&names);
    module.finish()
}

/// Returns a dump with 500 frames that alternate between two modules, whose instances have 100,000 globals each.
fn dump() -> Vec<u8> {
    let mut guest = CoreDump::new("guest");
    let global = guest.add_global(Global::constant(GlobalValue::I32(1)));
    let instances = ["a.wasm", "b.wasm"].map(|name| {
        let module = guest.add_module(name);
        guest.add_instance(Instance::new(module).with_globals(vec![global; 100_000]))
    });
    let frames = instances.into_iter().cycle().map(|instance| Frame::new(instance, 0, 1));
    guest.add_thread(Thread::new("main").with_frames(frames.take(500)));
    Dumper::new().plan(&guest).unwrap().to_vec().unwrap()
}

#[test]
fn decodes_each_instance_once() {
    let source = Source::new(dump());
    let (a, b) = (module("of_a"), module("of_b"));
    let files = [SymbolFile::new("a.wasm", &a), SymbolFile::new("b.wasm", &b)];
    let dump = CoreDumpFile::from_source(&source).unwrap();
    source.read.store(0, Ordering::Relaxed);
    let symbols = Symbols::new(&files, &dump).unwrap();
    let frames: Vec<_> = dump.thread(0).unwrap().frames().collect::<Result<_, _>>().unwrap();
    for (i, frame) in frames.iter().enumerate() {
        let resolved = symbols.resolve(frame, i).unwrap().unwrap();
        let expected = if i % 2 == 0 { "of_a" } else { "of_b" };
        assert_eq!(resolved.name.as_deref(), Some(expected), "frame {i}");
    }
    // Nearly all bytes of the dump belong to the instances.
    let (read, len) = (source.read.load(Ordering::Relaxed), source.bytes.len() as u64);
    assert!(read <= len * 2, "{read} bytes of {len} were read");
}

#[test]
fn decodes_no_instance_without_module_files() {
    let source = Source::new(dump());
    let dump = CoreDumpFile::from_source(&source).unwrap();
    let symbols = Symbols::new(&[], &dump).unwrap();
    source.fails.store(true, Ordering::Relaxed);
    assert_eq!(symbols.resolve(&Frame::new(None, 0, 1), 0).unwrap(), None);
}

#[test]
fn passes_on_the_error_of_a_source() {
    let source = Source::new(dump());
    let (a, b) = (module("of_a"), module("of_b"));
    let files = [SymbolFile::new("a.wasm", &a), SymbolFile::new("b.wasm", &b)];
    let dump = CoreDumpFile::from_source(&source).unwrap();
    let frame = dump.thread(0).unwrap().frames().next().unwrap().unwrap();

    source.fails.store(true, Ordering::Relaxed);
    let error = Symbols::new(&files, &dump).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("the disk is gone"), "{error}");

    // The error is not remembered.
    source.fails.store(false, Ordering::Relaxed);
    let symbols = Symbols::new(&files, &dump).unwrap();
    let resolved = symbols.resolve(&frame, 0).unwrap().unwrap();
    assert_eq!(resolved.name.as_deref(), Some("of_a"));

    let file = SymbolFile::new("c.wasm", &a).with_module(ModuleIndex(2));
    assert_eq!(Symbols::new(&[file], &dump).unwrap_err().kind(), ErrorKind::Option);
}
