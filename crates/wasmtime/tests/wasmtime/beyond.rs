//! Guests that the reference dumps incorrectly or not at all. Each dump of corestream is valid and complete.
//!
//! Large dumps are streamed into a sum, never collected in memory.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use corestream::{
    Dumper, ExtentMethod, GlobalValue, InstanceIndex, MemoryIndex, MemoryType, ModuleIndex, RefType,
};
use corestream_wasmtime::{Capture, Note, capture};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Engine, SharedMemory, Store, WasmCoreDump, component};

use crate::common::{decode, decode_any};
use crate::guests::{Trapped, config, engine, trap};

/// Returns whether the reference writes a valid module. `None` if it panics.
fn reference_is_valid(trapped: &mut Trapped) -> Option<bool> {
    let core_dump = trapped.error.downcast_ref::<WasmCoreDump>().unwrap();
    let store = &mut trapped.store;
    let serialize = AssertUnwindSafe(|| core_dump.serialize(&mut *store, "guest"));
    let bytes = catch_unwind(serialize).ok()?;
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    Some(validator.validate_all(&bytes).is_ok())
}

/// Returns a guest that fills each of its `pages` pages with the low byte of the page number, with bit 0 set.
fn dense(index: &str, pages: u64) -> String {
    format!(
        r#"(module (memory {index} {pages})
            (func (export "run") (local $page {ty})
                (loop $next
                    (memory.fill
                        ({ty}.mul (local.get $page) ({ty}.const 65536))
                        (i32.or (i32.const 1) {low})
                        ({ty}.const 65536))
                    (local.set $page ({ty}.add (local.get $page) ({ty}.const 1)))
                    (br_if $next ({ty}.lt_u (local.get $page) ({ty}.const {pages}))))
                unreachable))"#,
        ty = if index.is_empty() { "i32" } else { index },
        low = if index.is_empty() {
            "(local.get $page)".into()
        } else {
            "(i32.wrap_i64 (local.get $page))".to_string()
        },
    )
}

/// A writer that counts the bytes and adds up their values.
#[derive(Default)]
struct Sum {
    len: u64,
    sum: u64,
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len += bytes.len() as u64;
        self.sum += sum(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(1 << 16)
        .map(|chunk| chunk.iter().map(|b| u32::from(*b)).sum::<u32>())
        .map(u64::from)
        .sum()
}

/// Streams the dump of a guest with one dense memory. Checks that it has every byte of the memory and only a few bytes
/// of headers.
fn check_dense(trapped: &mut Trapped, bytes: u64, segments: usize) {
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    assert_eq!(captured.notes, []);
    let image = captured.dump.memories[0].image.as_slice().unwrap();
    assert_eq!(image.len() as u64, bytes);
    let plan = Dumper::new().plan(&captured.dump).unwrap();
    assert_eq!(plan.segments().len(), segments);
    let payload: u64 = plan.segments().iter().map(|s| u64::from(s.len)).sum();
    assert_eq!(payload, bytes);
    let mut stream = Sum::default();
    plan.write_to(&mut stream).unwrap();
    assert_eq!(stream.len, plan.len());
    let headers = stream.len - bytes;
    // The index has 4 bytes of checksum for each MiB. Sections, frames and the rest of the index take under 500 bytes.
    assert!(headers < 500 + 4 * (bytes >> 20), "{headers}");
    let payload = sum(image);
    assert!((payload..payload + 255 * headers).contains(&stream.sum));
}

/// One test runs all guests of several GiB, so that only one exists at a time.
#[test]
fn dumps_dense_guests() {
    const GIB: u64 = 1 << 30;
    // The reference's dump has 262,144 segments, more than validators accept.
    let mut trapped = trap(&engine(), &dense("", GIB / 65_536), &[]);
    assert_eq!(reference_is_valid(&mut trapped), Some(false));
    check_dense(&mut trapped, GIB, 1);
    drop(trapped);
    // The reference would write a section over 4 GiB. It does not run here, because it would need 8 GiB in addition to
    // the guest.
    for index in ["", "i64"] {
        let mut trapped = trap(&engine(), &dense(index, 4 * GIB / 65_536), &[]);
        check_dense(&mut trapped, 4 * GIB, 2);
    }
}

/// Wasmtime maps data segments from a file. Data that the guest has not touched is not resident, but the dump must
/// contain it. The reference runs last, because it touches all of the memory.
#[test]
fn dumps_untouched_data_segments() {
    const AT: usize = 5 << 20;
    let data: Vec<u8> = (0..2_usize << 20).map(|i| (i % 251 + 1).to_le_bytes()[0]).collect();
    let text: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module (memory 160) (data (i32.const {AT}) "{text}")
            (func (export "run") (i32.store (i32.const 16) (i32.const 7)) unreachable))"#
    );
    let mut trapped = trap(&engine(), &text, &[]);
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    let plan = Dumper::new().plan(&captured.dump).unwrap();
    let methods = &plan.stats().extent_methods;
    assert!(
        matches!(methods[..], [ExtentMethod::PagemapScan | ExtentMethod::Pagemap]),
        "{methods:?}"
    );
    let bytes = plan.to_vec().unwrap();
    let contents = decode(&bytes).contents(0, 160 << 16);
    assert_eq!(contents[16], 7);
    assert!(contents[AT..AT + data.len()] == data);
    let others = contents[17..AT].iter().chain(&contents[AT + data.len()..]);
    assert!(others.copied().all(|byte| byte == 0));

    drop(plan);
    drop(captured);
    let core_dump = trapped.error.downcast_ref::<WasmCoreDump>().unwrap();
    let reference = core_dump.serialize(&mut trapped.store, "guest");
    assert!(decode_any(&reference).contents(0, 160 << 16) == contents);
}

#[test]
fn dumps_custom_page_sizes() {
    let text = r#"(module (memory 10001 20000 (pagesize 1)) (memory 1)
        (data (i32.const 9990) "to the end!") (func (export "run") unreachable))"#;
    let mut trapped = trap(&engine(), text, &[]);
    // The reference's dump is valid, but declares 10,001 pages of 64 KiB and omits the last 1809 bytes.
    let core_dump = trapped.error.downcast_ref::<WasmCoreDump>().unwrap();
    let reference = core_dump.serialize(&mut trapped.store, "guest");
    let reference = decode_any(&reference);
    assert_eq!(reference.memories[0].page_size_log2, None);
    assert!(reference.segments.is_empty());

    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    let ty = MemoryType::wasm32(10_001).with_page_size(1).with_maximum(20_000);
    assert_eq!(captured.dump.memories[0].ty, ty);
    let bytes = captured.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.memories[0].page_size_log2, Some(0));
    assert_eq!(decoded.contents(0, 10_001)[9_990..], *b"to the end!");
}

/// A shared memory keeps its index. The reference omits it, which shifts the indices after it.
#[test]
fn dumps_shared_memories() {
    let engine = engine();
    let host = SharedMemory::new(&engine, wasmtime::MemoryType::shared(1, 4)).unwrap();
    let text = r#"(module
        (import "host" "shared" (memory $host 1 4 shared))
        (memory $plain 1) (memory $own (export "own") 2 2 shared) (memory $last 1)
        (data $d "shared") (data (memory $plain) (i32.const 3) "plain")
        (data (memory $last) (i32.const 4) "last")
        (func (export "run")
            (memory.init $host $d (i32.const 65530) (i32.const 0) (i32.const 6))
            (memory.init $own $d (i32.const 100000) (i32.const 0) (i32.const 6))
            unreachable))"#;
    let mut trapped = trap(&engine, text, &[host.clone().into()]);
    let core_dump = trapped.error.downcast_ref::<WasmCoreDump>().unwrap();
    let reference = core_dump.serialize(&mut trapped.store, "guest");
    assert_eq!(decode_any(&reference).instances[0].memories, [0, 1]);

    // Only the embedder can tell which memory the import is.
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    let (plain, last) = (Some(MemoryIndex(0)), Some(MemoryIndex(1)));
    let (first, second) = (Some(MemoryIndex(2)), Some(MemoryIndex(3)));
    assert_eq!(captured.dump.instances[0].memories, [None, plain, first, last]);
    let unknown = |index| Note::Memory { instance: InstanceIndex(0), index, imported: true };
    assert_eq!(captured.notes, [unknown(0)]);

    let capture = Capture::new("guest").define("host", "shared", host);
    let captured = capture.trapped(&mut trapped.store, &trapped.error).unwrap();
    assert_eq!(captured.dump.instances[0].memories, [second, plain, first, last]);
    assert_eq!(captured.notes, []);
    assert!(captured.dump.memories[2].image.is_changing());
    let bytes = captured.to_vec().unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.instances[0].memories, [3, 0, 2, 1]);
    assert!(decoded.memories[2].shared && decoded.memories[3].shared);
    assert_eq!((decoded.memories[2].initial, decoded.memories[3].maximum), (2, Some(4)));
    assert_eq!(decoded.contents(2, 131_072)[100_000..100_006], *b"shared");
    assert_eq!(decoded.contents(3, 65_536)[65_530..], *b"shared");
    assert_eq!(decoded.contents(0, 65_536)[3..8], *b"plain");
    assert_eq!(decoded.contents(1, 65_536)[4..8], *b"last");
}

/// The reference panics on both.
#[test]
fn dumps_exception_and_continuation_references() {
    let text = r#"(module (global (mut exnref) (ref.null exn)) (global i32 (i32.const 3))
        (func (export "run") unreachable))"#;
    let mut trapped = trap(&engine(), text, &[]);
    assert_eq!(reference_is_valid(&mut trapped), None);
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    let globals = |bytes: &[u8]| decode(bytes).globals;
    let expected = [(true, GlobalValue::Ref(RefType::Exn)), (false, GlobalValue::I32(3))];
    assert_eq!(globals(&captured.to_vec().unwrap()), expected);

    let engine = Engine::new(config().wasm_stack_switching(true)).unwrap();
    let text = r#"(module (type $f (func)) (type $c (cont $f))
        (global (mut (ref null $c)) (ref.null $c)) (global i32 (i32.const 3))
        (func (export "run") unreachable))"#;
    let mut trapped = trap(&engine, text, &[]);
    assert_eq!(reference_is_valid(&mut trapped), None);
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    let expected = [(true, GlobalValue::Ref(RefType::Cont)), (false, GlobalValue::I32(3))];
    assert_eq!(globals(&captured.to_vec().unwrap()), expected);
}

/// Without a core dump in the error, the capture uses the error's backtrace and the instances that the embedder names.
#[test]
fn captures_an_error_without_a_core_dump() {
    let text = r#"(module (memory (export "m") 1) (data (i32.const 1) "x")
        (func (export "run") unreachable))"#;
    let mut trapped = trap(&Engine::new(config().coredump_on_trap(false)).unwrap(), text, &[]);
    let error = capture(&mut trapped.store, "guest", &trapped.error).unwrap_err();
    assert_eq!(error.kind(), corestream::ErrorKind::Guest);
    assert!(error.to_string().contains("turn on Config::coredump_on_trap"), "{error}");
    let capture = Capture::new("guest").instances(trapped.instances);
    let captured = capture.trapped(&mut trapped.store, &trapped.error).unwrap();
    // The module may have other instances, so the frame cannot be assigned.
    assert_eq!(captured.dump.threads[0].frames[0].instance, None);
    assert_eq!(captured.notes, [Note::FrameInstances { module: ModuleIndex(0), frames: 1 }]);
    let bytes = captured.to_vec().unwrap();
    assert_eq!(decode(&bytes).contents(0, 65_536)[1], b'x');
}

/// The embedder names only one of two instances of a module. A frame of the other must not be assigned to it.
#[test]
fn leaves_frames_of_unnamed_instances_unassigned() {
    let engine = Engine::new(config().coredump_on_trap(false)).unwrap();
    let text = r#"(module (memory (export "m") 1) (func (export "run") unreachable))"#;
    let module = wasmtime::Module::new(&engine, text).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    let [named, other] = [0, 1].map(|_| wasmtime::Instance::new(&mut store, &module, &[]).unwrap());
    let run = other.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    let error = run.call(&mut store, ()).unwrap_err();
    let captured = Capture::new("guest").instances([named]).trapped(&mut store, &error).unwrap();
    assert_eq!(captured.dump.threads[0].frames[0].instance, None);
    assert_eq!(captured.notes, [Note::FrameInstances { module: ModuleIndex(0), frames: 1 }]);
}

#[test]
fn notes_a_missing_backtrace() {
    let engine = Engine::new(config().wasm_backtrace_max_frames(None)).unwrap();
    let mut trapped = trap(&engine, r#"(module (func (export "run") unreachable))"#, &[]);
    let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
    assert_eq!(captured.notes, [Note::NoFrames]);
}

const COMPONENT: &str = r#"(component
    (component $inner
        (core module $m
            (memory (export "memory") 1)
            (data (i32.const 60000) "inner")
            (global (mut i32) (i32.const 11))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8))
            (func (export "f") (param i32 i32) (unreachable)))
        (core instance $i (instantiate $m))
        (func (export "f") (param "s" string)
            (canon lift (core func $i "f") (memory (core memory $i "memory"))
                (realloc (core func $i "realloc")))))
    (component $outer
        (import "f" (func $inner (param "s" string)))
        (core module $libc (memory (export "memory") 1) (data (i32.const 4) "string"))
        (core instance $libc (instantiate $libc))
        (core func $f (canon lower (func $inner) (memory (core memory $libc "memory"))))
        (core module $outer
            (import "" "f" (func $f (param i32 i32)))
            (import "libc" "memory" (memory 1))
            (func (export "run") (call $f (i32.const 4) (i32.const 6))))
        (core instance $outer (instantiate $outer
            (with "" (instance (export "f" (func $f))))
            (with "libc" (instance $libc))))
        (func (export "run") (canon lift (core func $outer "run"))))
    (instance $inner (instantiate $inner))
    (instance $outer (instantiate $outer (with "f" (func $inner "f"))))
    (export "run" (func $outer "run")))"#;

/// One component calls another through one of Wasmtime's adapters. The adapter imports flags of the component, which
/// are not globals of the store.
#[test]
fn dumps_components() {
    for debug in [false, true] {
        let mut config = config();
        config.guest_debug(debug);
        let engine = Engine::new(&config).unwrap();
        let component = component::Component::new(&engine, COMPONENT).unwrap();
        let mut store = Store::new(&engine, ());
        let linker = component::Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, ()).unwrap_err();
        let mut trapped = Trapped { store, instances: vec![], error };
        assert_eq!(reference_is_valid(&mut trapped), None);

        let captured = capture(&mut trapped.store, "guest", &trapped.error).unwrap();
        let dump = &captured.dump;
        let bytes = captured.to_vec().unwrap();
        let decoded = decode(&bytes);
        assert_eq!(decoded.memories.len(), 2, "{dump}");
        let mut contents: Vec<_> = (0..2).map(|i| decoded.contents(i, 65_536)).collect();
        contents.sort_by_key(|bytes| bytes[60_000]);
        // The adapter copied the string to the address that `realloc` returned.
        assert_eq!(contents[0][4..10], *b"string");
        assert_eq!(
            (&contents[1][8..14], &contents[1][60_000..60_005]),
            (&b"string"[..], &b"inner"[..])
        );
        let inner_globals = dump.globals.iter().filter(|g| g.value == GlobalValue::I32(11)).count();
        assert_eq!((inner_globals, dump.globals.len()), (1, 1), "{dump}");
        // The adapter's flags are unknown, so only the inner component's global has an index.
        let known = dump.instances.iter().flat_map(|i| &i.globals).flatten().count();
        assert_eq!(known, 1, "{dump}");
        let names: Vec<_> = dump.threads[0]
            .frames
            .iter()
            .map(|f| dump.instances[f.instance.unwrap().0 as usize].module.unwrap())
            .map(|m| dump.modules[m.0 as usize].name.clone().unwrap_or_default())
            .collect();
        assert_eq!((names.first().unwrap(), names.last().unwrap()), (&"m".into(), &"outer".into()));
    }
}
