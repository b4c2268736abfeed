//! Dumps of corestream compared with Wasmtime's `WasmCoreDump::serialize`, the reference.
//!
//! Both dump the same guest. The decoded dumps must have the same process name, modules, memories, globals and frames.
//! Each test lists the exact differences in the indices of instances, memories and globals.

use corestream::read::{Producer, Verdict};
use corestream::{CoreDumpFile, InstanceIndex, ModuleIndex};
use corestream_wasmtime::{Capture, Captured, Note};
use wasmtime::{
    Engine, Extern, Global, GlobalType, Linker, Memory, MemoryType, Module, Mutability, Store, Val,
    ValType, WasmCoreDump,
};

use crate::common::{Decoded, decode, decode_any};
use crate::guests::{Trapped, config, engine, instantiate, trap, trap_in};

/// Dumps a guest with corestream and with the reference. Returns the differences and the notes of the capture.
fn compare(trapped: &mut Trapped, capture: &Capture<'_, ()>) -> (Vec<String>, Vec<Note>) {
    let core_dump = trapped.error.downcast_ref::<WasmCoreDump>().unwrap();
    let reference = core_dump.serialize(&mut trapped.store, "guest");
    check_readable(&reference);
    let Captured { dump, notes, .. } = capture.trapped(&mut trapped.store, &trapped.error).unwrap();
    let ours = corestream::Dumper::new().plan(&dump).unwrap();
    // Our dump may be 1% longer, plus corestream's own sections: the index with its table and header, the section that
    // locates the index, the trap, and the note about missing identities.
    let index = 20 * ours.segments().len() as u64 + 8 * dump.memories.len() as u64 + 256;
    let texts = dump.notes.iter().chain(&dump.trap).map(|text| text.len() as u64 + 64);
    let own_sections = index + texts.sum::<u64>();
    assert!(
        ours.len() <= reference.len() as u64 * 101 / 100 + own_sections,
        "{} bytes",
        ours.len()
    );
    let ours = ours.to_vec().unwrap();
    (differences(&decode(&ours), &decode_any(&reference)), notes)
}

/// Checks that our reader accepts a dump of the reference, reports it as intact and restores its memories.
fn check_readable(reference: &[u8]) {
    let decoded = decode_any(reference);
    let dump = CoreDumpFile::from_slice(reference).unwrap();
    assert_eq!((dump.producer(), dump.has_index()), (Producer::Other, false));
    assert!(matches!(dump.verify(), Ok(Verdict::Intact(intact)) if !intact.checksums));
    assert_eq!(dump.memories().len(), decoded.memories.len());
    for (i, memory) in dump.memories().enumerate() {
        let mut image = Vec::new();
        memory.write_to(&mut image).unwrap();
        assert_eq!(image.len() as u64, memory.ty().byte_len().unwrap());
        assert!(image == decoded.contents(i, image.len()), "memory {i}");
    }
    assert_eq!(dump.globals().len(), decoded.globals.len());
    let frames: Vec<_> = dump.threads().map(|thread| thread.unwrap().frames().len()).collect();
    let expected: Vec<_> = decoded.threads.iter().map(|(_, frames)| frames.len()).collect();
    assert_eq!(frames, expected);
}

/// Asserts that two dumps agree, and returns the indices that differ.
fn differences(ours: &Decoded<'_>, reference: &Decoded<'_>) -> Vec<String> {
    assert_eq!(ours.name, reference.name);
    assert_eq!(ours.modules, reference.modules);
    assert_eq!(ours.memories, reference.memories);
    for (i, ty) in ours.memories.iter().enumerate() {
        let len = usize::try_from(ty.initial).unwrap() * 65_536;
        assert!(ours.contents(i, len) == reference.contents(i, len), "memory {i}");
    }
    assert_eq!(ours.globals, reference.globals);
    assert_eq!(ours.instances.len(), reference.instances.len());
    let mut differences = Vec::new();
    let mut compare_index = |what: String, ours: u32, reference: u32| {
        if ours != reference {
            let name = |x| if x == u32::MAX { "unknown".into() } else { format!("{x}") };
            differences.push(format!("{what}: {} instead of {}", name(ours), name(reference)));
        }
    };
    for (i, (a, b)) in ours.instances.iter().zip(&reference.instances).enumerate() {
        assert_eq!(a.module_index, b.module_index);
        assert_eq!((a.memories.len(), a.globals.len()), (b.memories.len(), b.globals.len()));
        for (j, (a, b)) in a.memories.iter().zip(&b.memories).enumerate() {
            compare_index(format!("instance {i} memory {j}"), *a, *b);
        }
        for (j, (a, b)) in a.globals.iter().zip(&b.globals).enumerate() {
            compare_index(format!("instance {i} global {j}"), *a, *b);
        }
    }
    assert_eq!((ours.threads.len(), reference.threads.len()), (1, 1));
    let ((name, frames), (reference_name, reference_frames)) =
        (&ours.threads[0], &reference.threads[0]);
    assert_eq!(name, reference_name);
    assert_eq!(frames.len(), reference_frames.len());
    for (i, (a, b)) in frames.iter().zip(reference_frames).enumerate() {
        assert_eq!((a.function, a.offset), (b.function, b.offset), "frame {i}");
        assert_eq!((&a.locals, &a.stack), (&b.locals, &b.stack), "frame {i}");
        compare_index(format!("frame {i} instance"), a.instance, b.instance);
    }
    differences
}

/// Asserts that the dumps do not differ and that the capture has no notes.
fn assert_same(trapped: &mut Trapped) {
    assert_eq!(compare(trapped, &Capture::new("guest")), (vec![], vec![]));
}

#[test]
fn dumps_a_guest_without_memory() {
    assert_same(&mut trap(&engine(), r#"(module (func (export "run") unreachable))"#, &[]));
}

#[test]
fn dumps_several_memories() {
    let text = r#"(module $several
        (memory 1) (memory $b 2 7) (memory 0)
        (data (i32.const 0) "first") (data (i32.const 60000) "never") (data (memory $b) (i32.const 131071) "!")
        (func $inner (i32.store8 $b (i32.const 4095) (i32.const 1)) unreachable)
        (func (export "run") (drop (memory.grow $b (i32.const 3))) (call $inner)))"#;
    let mut trapped = trap(&engine(), text, &[]);
    assert_same(&mut trapped);
    let captured = corestream_wasmtime::capture(&mut trapped.store, "guest", &trapped.error);
    let bytes = captured.unwrap().to_vec().unwrap();
    let decoded = decode(&bytes);
    // A data segment initialized this page. The guest never touched it.
    assert_eq!(decoded.contents(0, 65_536)[60_000..60_005], *b"never");
    assert_eq!((decoded.memories[1].initial, decoded.memories[1].maximum), (5, Some(7)));
}

#[test]
fn dumps_a_64_bit_memory() {
    let text = r#"(module (memory i64 3 5) (data (i64.const 100000) "data")
        (func (export "run") (drop (i64.load (i64.const -1)))))"#;
    assert_same(&mut trap(&engine(), text, &[]));
}

#[test]
fn dumps_globals_of_all_types() {
    let text = r#"(module
        (global i32 (i32.const -1)) (global (mut i64) (i64.const 0x8000000000000000))
        (global f32 (f32.const nan:0x200001)) (global (mut f64) (f64.const -0x1.8p-1000))
        (global (mut v128) (v128.const i64x2 0x0123456789abcdef 0xfedcba9876543210))
        (global funcref (ref.func $run)) (global (mut externref) (ref.null extern))
        (global anyref (ref.i31 (i32.const 5))) (global (mut i31ref) (ref.null i31))
        (global (ref $t) (ref.func $run)) (type $t (func))
        (elem declare func $run)
        (func $run (export "run") (type $t) unreachable))"#;
    assert_same(&mut trap(&engine(), text, &[]));
}

const RECURSION: &str = r#"(module
    (func $down (param i32)
        (if (i32.eqz (local.get 0)) (then unreachable))
        (call $down (i32.sub (local.get 0) (i32.const 1))))
    (func (export "run") (call $down (i32.const 1000))))"#;

#[test]
fn keeps_all_frames_of_a_deep_recursion() {
    let mut trapped = trap(&engine(), RECURSION, &[]);
    let capture = Capture::new("guest").max_frames(100_000);
    assert_eq!(compare(&mut trapped, &capture), (vec![], vec![]));
    let captured = capture.trapped(&mut trapped.store, &trapped.error).unwrap();
    assert_eq!(captured.dump.threads[0].frames.len(), 1002);
}

#[test]
fn notes_a_truncated_backtrace() {
    let mut trapped = trap(&Engine::new(&config()).unwrap(), RECURSION, &[]);
    let (differences, notes) = compare(&mut trapped, &Capture::new("guest"));
    assert_eq!((differences, &notes[..]), (vec![], &[Note::Frames { kept: 20 }][..]));
    assert_eq!(
        notes[0].to_string(),
        "the backtrace is truncated to 20 frames; raise \
         Config::wasm_backtrace_max_frames"
    );
}

#[test]
fn dumps_a_trapping_start_function() {
    let text = r#"(module (memory 1) (data (i32.const 9) "x") (global (mut i32) (i32.const 4))
        (func $start (global.set 0 (i32.const 5)) (unreachable)) (start $start))"#;
    let mut trapped = trap(&engine(), text, &[]);
    assert!(trapped.instances.is_empty());
    assert_same(&mut trapped);
}

const OWNER: &str = r#"(module $owner
    (memory (export "memory") 1) (global (export "global") (mut i32) (i32.const 7))
    (global i64 (i64.const 1)) (data (i32.const 65000) "owned")
    (func (export "fail") unreachable))"#;

const USER: &str = r#"(module $user
    (import "owner" "fail" (func $fail)) (import "owner" "global" (global (mut i32)))
    (import "owner" "memory" (memory 1))
    (global f32 (f32.const 1))
    (func (export "run") (global.set 0 (i32.const 8)) (call $fail)))"#;

/// Runs `user` in a store with `owners` instances of OWNER. Its imports come from the first.
fn owner_and_user(owners: usize, user: &str) -> Trapped {
    let mut store = Store::new(&engine(), ());
    let module = Module::new(store.engine(), OWNER).unwrap();
    let owners: Vec<_> =
        (0..owners).map(|_| wasmtime::Instance::new(&mut store, &module, &[]).unwrap()).collect();
    let imports =
        ["fail", "global", "memory"].map(|name| owners[0].get_export(&mut store, name).unwrap());
    trap_in(store, owners, user, &imports)
}

/// The store has only one memory and one mutable i32, so these must be the imports.
#[test]
fn resolves_imports_by_elimination() {
    assert_same(&mut owner_and_user(1, USER));
}

/// There are two candidates for each import, and two instances that the failing frame can belong to.
#[test]
fn leaves_ambiguous_imports_unknown() {
    let mut trapped = owner_and_user(2, USER);
    let compared = compare(&mut trapped, &Capture::new("guest"));
    let frame = "frame 0 instance: unknown instead of 1";
    let user = InstanceIndex(2);
    assert_eq!(
        compared,
        (
            vec![
                "instance 2 memory 0: unknown instead of 0".to_string(),
                "instance 2 global 0: unknown instead of 0".into(),
                frame.into(),
            ],
            vec![
                Note::Memory { instance: user, index: 0, imported: true },
                Note::Globals { instance: user, count: 1 },
                Note::FrameInstances { module: ModuleIndex(0), frames: 1 },
            ]
        )
    );
}

/// The embedder can name an instance, pass a linker, or define single imports.
#[test]
fn resolves_imports_that_the_embedder_defines() {
    let mut trapped = owner_and_user(2, USER);
    let owner = trapped.instances[0];
    let expected = (
        vec!["frame 0 instance: unknown instead of 1".to_string()],
        vec![Note::FrameInstances { module: ModuleIndex(0), frames: 1 }],
    );
    let named = Capture::new("guest").instance("owner", owner);
    assert_eq!(compare(&mut trapped, &named), expected);

    let mut linker = Linker::new(trapped.store.engine());
    linker.instance(&mut trapped.store, "owner", owner).unwrap();
    let linked = Capture::new("guest").linker(&linker);
    assert_eq!(compare(&mut trapped, &linked), expected);

    let memory = owner.get_memory(&mut trapped.store, "memory").unwrap();
    let global = owner.get_global(&mut trapped.store, "global").unwrap();
    let defined =
        Capture::new("guest").define("owner", "memory", memory).define("owner", "global", global);
    assert_eq!(compare(&mut trapped, &defined), expected);

    // Definitions of the wrong type are ignored and noted.
    let wrong = Capture::new("guest").define("owner", "memory", global);
    let (differences, notes) = compare(&mut trapped, &wrong.define("owner", "global", memory));
    assert_eq!(differences.len(), 3);
    let import = |name: &str| Note::Import { module: "owner".into(), name: name.into() };
    assert!(notes.contains(&import("memory")) && notes.contains(&import("global")), "{notes:?}");
}

/// The user exports its imports again, so the capture can identify them.
#[test]
fn resolves_imports_that_are_exported_again() {
    let user = USER.replace(
        "(func (export",
        r#"(export "m" (memory 0)) (export "g" (global 0)) (func (export"#,
    );
    let (differences, notes) = compare(&mut owner_and_user(2, &user), &Capture::new("guest"));
    assert_eq!(differences, ["frame 0 instance: unknown instead of 1"]);
    assert_eq!(notes, [Note::FrameInstances { module: ModuleIndex(0), frames: 1 }]);
}

#[test]
fn dumps_memories_and_globals_of_the_host() {
    let engine = engine();
    let mut store = Store::new(&engine, ());
    instantiate(&mut store, OWNER, &[]);
    let memory = Memory::new(&mut store, MemoryType::new(2, Some(9))).unwrap();
    memory.write(&mut store, 70_000, b"from the host").unwrap();
    let ty = GlobalType::new(ValType::F64, Mutability::Const);
    let global = Global::new(&mut store, ty, Val::F64(3)).unwrap();
    let text = r#"(module (import "" "memory" (memory 1 10)) (import "" "global" (global f64))
        (memory 1) (data (memory 1) (i32.const 5) "own")
        (func (export "run") unreachable))"#;
    let imports: [Extern; 2] = [memory.into(), global.into()];
    assert_same(&mut trap_in(store, vec![], text, &imports));
}

/// A module without a name is instantiated twice, next to one with a name.
#[test]
fn names_anonymous_modules() {
    let mut store = Store::new(&engine(), ());
    let module = Module::new(store.engine(), "(module (memory 1))").unwrap();
    for _ in 0..2 {
        wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
    }
    let text = r#"(module $named (func (export "run") unreachable))"#;
    let mut trapped = trap_in(store, vec![], text, &[]);
    assert_same(&mut trapped);
    let captured = corestream_wasmtime::capture(&mut trapped.store, "guest", &trapped.error);
    let dump = captured.unwrap().dump;
    let text = dump.to_string();
    assert!(text.contains("0: <anonymous-module-0>") && text.contains("1: named"), "{text}");
    assert!(format!("{dump:?}").contains("instances: 3"), "{dump:?}");
}

#[test]
fn dumps_an_error_of_a_host_function() {
    let mut store = Store::new(&engine(), ());
    let host = wasmtime::Func::wrap(&mut store, || -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("the host says no"))
    });
    let text = r#"(module (import "" "" (func)) (func (export "run") (call 0)))"#;
    assert_same(&mut trap_in(store, vec![], text, &[host.into()]));
}
