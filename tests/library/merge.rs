//! Merged descriptions: new indices, and which memories and modules become one.
#![allow(unsafe_code, reason = "implements a handle of memory that several descriptions share")]

use std::cell::UnsafeCell;

use crate::common;
use common::{DecodedFrame, decode};
use corestream::*;

/// A memory that several descriptions share, of which each handle sees a prefix, as if it had grown.
#[derive(Clone, Copy)]
struct Handle(&'static [UnsafeCell<u8>], usize);

// SAFETY: nothing writes to the bytes.
unsafe impl Send for Handle {}
// SAFETY: nothing writes to the bytes.
unsafe impl Sync for Handle {}
// SAFETY: the bytes live as long as the handle, and nothing writes to them.
unsafe impl SharedBytes for Handle {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        &self.0[..self.1]
    }
}

impl Handle {
    fn new(byte: u8, pages: usize) -> Self {
        let bytes: Vec<_> = (0..pages * 65_536).map(|_| UnsafeCell::new(byte)).collect();
        Self(bytes.leak(), pages * 65_536)
    }

    fn memory(&self, pages: usize) -> Memory<'static> {
        let handle = Self(self.0, pages * 65_536);
        Memory::new(shared_type(pages as u64), MemoryImage::from_shared(handle))
    }
}

fn shared_type(pages: u64) -> MemoryType {
    MemoryType::wasm32(pages).with_maximum(10).with_shared()
}

/// The key of an engine's module in these tests.
fn key(id: u64) -> ModuleKey {
    ModuleKey::new::<Handle>(id)
}

/// A description of one thread in one instance of the module with the key `module`.
fn part<'a>(
    name: &str,
    module: u64,
    memories: impl IntoIterator<Item = Memory<'a>>,
) -> CoreDump<'a> {
    let mut dump = CoreDump::new(name);
    let module = dump.add_module(Module::new("worker").with_key(key(module)));
    let memories: Vec<_> = memories.into_iter().map(|memory| dump.add_memory(memory)).collect();
    let global = dump.add_global(Global::mutable(GlobalValue::I32(7)));
    let instance = Instance::new(module).with_memories(memories).with_globals([global]);
    let instance = dump.add_instance(instance);
    dump.add_thread(Thread::new(name).with_frames([Frame::new(instance, 3, 17)]));
    dump
}

fn image(bytes: &[u8]) -> Memory<'_> {
    Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(bytes))
}

fn merged<'a>(mut one: CoreDump<'a>, other: CoreDump<'a>) -> CoreDump<'a> {
    one.merge(other).unwrap();
    one
}

#[test]
fn renumbers_instances_memories_globals_and_frames() {
    let (own, other, shared) = (vec![1; 65_536], vec![2; 65_536], Handle::new(3, 1));
    let mut dump = part("one", 1, [image(&own), shared.memory(1)]);
    let two = part("two", 2, [shared.memory(1), image(&other)]);
    let indices = dump.merge(two).unwrap();
    assert_eq!(indices.modules, [ModuleIndex(1)]);
    assert_eq!(indices.instances, [InstanceIndex(1)]);
    assert_eq!(indices.memories, [MemoryIndex(1), MemoryIndex(2)]);
    assert_eq!(indices.globals, [GlobalIndex(1)]);
    assert_eq!(indices.threads, 1..2);

    let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "one");
    assert_eq!(decoded.instances.len(), 2);
    let instances = decoded.instances.iter();
    let instances: Vec<_> = instances
        .map(|instance| (instance.module_index, &instance.memories[..], &instance.globals[..]))
        .collect();
    assert_eq!(instances, [(0, &[0, 1][..], &[0][..]), (1, &[1, 2], &[1])]);
    for (memory, byte) in [(0, 1), (1, 3), (2, 2)] {
        assert_eq!(decoded.contents(memory, 65_536), vec![byte; 65_536], "memory {memory}");
    }
    let names: Vec<_> = decoded.threads.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    let frame = |thread: usize| -> &DecodedFrame { &decoded.threads[thread].1[0] };
    assert_eq!((frame(0).instance, frame(1).instance), (0, 1));
}

#[test]
fn keeps_unknown_indices_unknown() {
    let mut other = part("two", 1, []);
    other.add_instance(Instance::new(None).with_memories([None::<MemoryIndex>]));
    other.threads[0].frames[0].instance = None;
    let dump = merged(part("one", 1, []), other);
    assert_eq!(dump.instances[2].module, None);
    assert_eq!(dump.instances[2].memories, [None]);
    assert_eq!(dump.threads[1].frames[0].instance, None);
}

#[test]
fn a_shared_memory_is_there_once_with_its_larger_size() {
    let shared = Handle::new(7, 2);
    for (one, two) in [(1, 2), (2, 1), (1, 1)] {
        let dump =
            merged(part("one", 1, [shared.memory(one)]), part("two", 1, [shared.memory(two)]));
        assert_eq!(dump.memories.len(), 1);
        assert_eq!(dump.memories[0].ty.minimum, one.max(two) as u64);
        assert_eq!(dump.memories[0].image.len(), one.max(two) as u64 * 65_536);
        assert_eq!(dump.instances[1].memories, [Some(MemoryIndex(0))]);
        let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
        assert!(decode(&bytes).contents(0, one.max(two) * 65_536).iter().all(|byte| *byte == 7));
    }
}

#[test]
fn different_memories_stay_apart() {
    let (shared, bytes, copy) = (Handle::new(1, 2), vec![1; 131_072], vec![1; 131_072]);
    let of = |bytes: &'static [u8], ty| Memory::new(ty, MemoryImage::from_slice(bytes));
    let (bytes, copy): (&[u8], &[u8]) = (bytes.leak(), copy.leak());
    let (ty, small) = (MemoryType::wasm32(2), MemoryType::wasm32(1));
    for (what, one, other) in [
        ("equal contents", of(bytes, ty), of(copy, ty)),
        ("another length", of(bytes, ty), of(&bytes[..65_536], small)),
        ("another start", of(&bytes[..65_536], small), of(&bytes[65_536..], small)),
        ("another width", of(bytes, ty), of(bytes, MemoryType::wasm64(2))),
        ("another maximum", of(bytes, ty.with_maximum(3)), of(bytes, ty.with_maximum(4))),
        ("another size", of(bytes, ty), of(bytes, MemoryType::wasm32(3))),
        ("not shared", of(bytes, shared_type(2)), of(bytes, ty.with_maximum(10))),
        ("two shared memories", shared.memory(1), Handle::new(1, 2).memory(1)),
        // The bytes of an empty memory may be anywhere, also at the start of another one.
        ("empty", of(&bytes[..0], MemoryType::wasm32(0)), of(&bytes[..0], MemoryType::wasm32(0))),
        ("empty and shared", shared.memory(0), shared.memory(1)),
        ("empty in the other", shared.memory(1), shared.memory(0)),
    ] {
        let dump = merged(part("one", 1, [one]), part("two", 1, [other]));
        assert_eq!(dump.memories.len(), 2, "{what}");
    }
    let dump = merged(part("one", 1, [of(bytes, ty)]), part("two", 1, [of(bytes, ty)]));
    assert_eq!(dump.memories.len(), 1);
}

#[test]
fn either_description_excludes_ranges_of_a_shared_memory() {
    let shared = Handle::new(7, 2);
    let one = part("one", 1, [shared.memory(1).without(0x100..0x200)]);
    // The second description saw the memory after it had grown.
    let two = part("two", 1, [shared.memory(2).only(..0x1_8000).without(0x180..0x300)]);
    let dump = merged(one, two);
    let excluded = dump.memories[0].excluded().unwrap();
    assert_eq!(excluded.as_slice(), [0x100..=0x2ff, 0x1_8000..=0x1_ffff]);
    let one = part("one", 1, [shared.memory(2).without(0x1_0000..)]);
    let dump = merged(one, part("two", 1, [shared.memory(1).without(0x180..0x300)]));
    let excluded = dump.memories[0].excluded().unwrap();
    assert_eq!(excluded.as_slice(), [0x180..=0x2ff, 0x1_0000..=0x1_ffff]);
}

#[test]
fn a_module_is_there_once_by_its_key_or_its_bytes() {
    let named = Module::new("worker");
    let hashed = |byte| ModuleIdentity::new().with_sha256([byte; 32]);
    let with = |identity: ModuleIdentity| named.clone().with_identity(identity);
    let known = |id| named.clone().with_key(key(id));
    struct OtherEngine;
    for (what, one, other, count) in [
        ("the same key", known(1), known(1), 1),
        ("the same bytes", with(hashed(1)), with(hashed(1)), 1),
        ("compiled twice", known(1).with_identity(hashed(1)), known(2).with_identity(hashed(1)), 1),
        ("a hash in one of them", known(1), known(1).with_identity(hashed(1)), 1),
        (
            "anonymous",
            Module::anonymous().with_key(key(1)),
            Module::anonymous().with_key(key(1)),
            1,
        ),
        ("only the name", named.clone(), named.clone(), 2),
        ("another key", known(1), known(2), 2),
        ("another engine", known(1), named.clone().with_key(ModuleKey::new::<OtherEngine>(1)), 2),
        ("another hash", with(hashed(1)), with(hashed(2)), 2),
        (
            "contradicting hashes",
            known(1).with_identity(hashed(1)),
            known(1).with_identity(hashed(2)),
            2,
        ),
        (
            "only the build id",
            with(ModuleIdentity::new().with_build_id([1])),
            with(ModuleIdentity::new().with_build_id([1])),
            2,
        ),
        // Core instances of a component.
        ("another name", known(1), Module::new("other").with_key(key(1)), 2),
    ] {
        let mut dumps = [one, other].map(|module| {
            let mut dump = CoreDump::new("pool");
            let module = dump.add_module(module);
            dump.add_instance(Instance::new(module));
            dump
        });
        let [one, other] = &mut dumps;
        let module = other.modules[0].clone();
        one.merge(std::mem::take(other)).unwrap();
        assert_eq!(one.modules.len(), count, "{what}");
        let index = one.instances[1].module.unwrap();
        assert_eq!(index.0 as usize, count - 1, "{what}");
        // Nothing that was known is lost.
        let result = &one.modules[index.0 as usize];
        assert_eq!(result.name, module.name, "{what}");
        assert!(module.identity.sha256.is_none() || result.identity == module.identity, "{what}");
    }
}

#[test]
fn the_first_trap_and_time_stay_and_other_traps_become_notes() {
    let with = |name, trap: Option<&str>, time, notes: &[&str]| {
        let mut dump = part(name, 1, []);
        dump.trap = trap.map(Into::into);
        dump.captured_at = UnixTime::from_nanoseconds(time);
        dump.notes = notes.iter().map(|note| (*note).into()).collect();
        dump
    };
    let mut dump = with("one", Some("unreachable"), 1, &["a", "b"]);
    dump.merge(with("two", Some("interrupt"), 2, &["b", "c"])).unwrap();
    dump.merge(with("three", None, 3, &[])).unwrap();
    dump.merge(with("four", Some(""), 3, &[])).unwrap();
    assert_eq!(dump.trap.as_deref(), Some("unreachable"));
    assert_eq!(dump.captured_at, UnixTime::from_nanoseconds(1));
    assert_eq!(dump.notes, ["a", "b", "thread `two` stopped by: interrupt", "c"]);

    for none in [None, Some("")] {
        let mut dump = with("one", none, u64::MAX, &[]);
        dump.merge(with("two", Some("interrupt"), 2, &[])).unwrap();
        assert_eq!(dump.trap.as_deref(), Some("interrupt"));
        assert_eq!(dump.captured_at, UnixTime::from_nanoseconds(2));
        assert!(dump.notes.is_empty());
    }
}

#[test]
fn a_missing_thread_has_a_note_and_no_frames() {
    let mut dump = part("one", 1, []);
    dump.add_missing_thread("two", "it is in a host call");
    dump.merge(part("three", 1, [])).unwrap();
    let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let decoded = decode(&bytes);
    let threads: Vec<_> =
        decoded.threads.iter().map(|(name, frames)| (name.as_str(), frames.len())).collect();
    assert_eq!(threads, [("one", 1), ("two", 0), ("three", 1)]);
    let read = CoreDumpFile::from_slice(&bytes).unwrap();
    let notes: Vec<_> = read.notes().map(Result::unwrap).collect();
    assert_eq!(notes, ["thread `two` was not captured: it is in a host call"]);
}

#[test]
fn a_failed_merge_changes_nothing() {
    let shared = Handle::new(7, 1);
    let mut dump = part("one", 1, [shared.memory(1)]);
    let before = dump.to_string();
    let mut wrong = part("two", 1, [shared.memory(1)]);
    wrong.instances[0].module = Some(ModuleIndex(9));
    let excluded = part("two", 1, [shared.memory(1).without(0x1_0000..0x1_0010)]);
    for (other, message) in [
        (wrong, "instance 0: module index 9 is out of range; there is 1 module"),
        (
            excluded,
            "memory 0: excluded range 0x10000..0x10010 extends past the end of the memory (0x10000 bytes)",
        ),
    ] {
        let error = dump.merge(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert_eq!(error.to_string(), message);
        assert_eq!(dump.to_string(), before);
    }
    dump.memories[0].exclude(0x1_0000..0x1_0010);
    let error = dump.merge(part("two", 1, [shared.memory(1)])).unwrap_err();
    assert!(error.to_string().starts_with("memory 0: excluded range"), "{error}");
    assert_eq!((dump.instances.len(), dump.threads.len()), (1, 1));
}

#[test]
fn merges_more_descriptions_than_a_dump_lists_threads() {
    // Planning leaves out what exceeds the format. Merging does not.
    let mut dump = part("one", 1, []);
    for _ in 0..100 {
        dump.merge(part("two", 1, [])).unwrap();
    }
    assert_eq!((dump.modules.len(), dump.instances.len(), dump.globals.len()), (1, 101, 101));
    let last = dump.threads.last().unwrap();
    assert_eq!(last.frames[0].instance, Some(InstanceIndex(100)));
}
