//! Call stacks: program counters, and the images that frames are on.

use corestream::{CoreDumpFile, Frame, Memory, MemoryImage, MemoryType, Thread};
use corestream_debug::limits::{MAX_COPIES, MAX_FRAMES, MAX_IMAGES};
use corestream_debug::{Options, Target};
use corestream_symbols::SymbolFile;

use super::support::*;

const IMAGES: u64 = 0x4000_0000_0000_0000;

fn image_ids(pcs: &[u64]) -> Vec<u64> {
    pcs.iter().map(|pc| (pc & !IMAGES) >> 32).collect()
}

#[test]
fn callers_are_after_their_calls() {
    let wasm = module();
    with_client(small_dump(), &wasm, &Options::new(), |client, _| {
        let youngest = IMAGES | (body(&wasm, TRAPS) + u64::from(TRAP));
        let caller = IMAGES | (body(&wasm, CALLS) + u64::from(CALL) + CALL_LEN);
        assert_eq!(client.call_stack(1), [youngest, caller]);
        assert_eq!(client.image(IMAGES), wasm);
        assert_eq!(client.ask("qWasmCallStack:2"), "E01");
        assert_eq!(client.ask("qWasmCallStack:"), "E01");
    });
}

/// Returns a dump with a function that has called itself `depth` times.
fn recursive(depth: usize) -> Vec<u8> {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let frames = std::iter::repeat_n(call(instance, RECURSES), depth);
    let frames = std::iter::once(trap(instance)).chain(frames).chain([call(instance, CALLS)]);
    guest.add_thread(Thread::new("main").with_frames(frames));
    to_vec(&guest)
}

#[test]
fn recursive_functions_are_on_copies_for_lldb_22_only() {
    let wasm = module();
    with_client(recursive(3), &wasm, &Options::new(), |client, target| {
        client.connect_22();
        let pcs = client.call_stack(1);
        assert_eq!(image_ids(&pcs), [0, 0, 1, 2, 0]);
        let offset = body(&wasm, RECURSES) + u64::from(CALL) + CALL_LEN;
        assert!(pcs[1..4].iter().all(|pc| pc & 0xffff_ffff == offset));
        let names = ["", "@1", "@2"].map(|copy| format!("/dev/null/srv/guest.wasm{copy}"));
        let libraries = client.libraries();
        assert_eq!(libraries.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
        for (_, address) in libraries {
            assert_eq!(client.image(address), wasm);
        }
        assert_eq!(
            target.warnings().collect::<Vec<_>>(),
            [
                "functions are recursive: LLDB 22 lists static variables again for each of 2 copies of \
                 modules, and newer versions for none"
            ]
        );

        client.connect_newer();
        assert_eq!(image_ids(&client.call_stack(1)), [0; 5]);
        assert_eq!(client.libraries().len(), 1);
        assert_eq!(client.ask("x4000000100000000,4"), "E02");
    });
}

#[test]
fn frames_beyond_the_last_copy_have_no_debugging_information() {
    let wasm = module();
    let copies = usize::from(MAX_COPIES);
    with_client(recursive(copies + 5), &wasm, &Options::new(), |client, target| {
        client.connect_22();
        let ids = image_ids(&client.call_stack(1));
        let expected: Vec<u64> =
            (0..).take(copies + 1).chain([u64::from(MAX_COPIES) + 1; 4]).collect();
        assert_eq!(ids[1..copies + 6], expected);
        let (name, address) = client.libraries().pop().unwrap();
        assert_eq!(name, "/dev/null/srv/guest.wasm@no-debug");
        assert_eq!(client.image(address), without_debug());
        let pcs = client.call_stack(1);
        let offset = body(&without_debug(), RECURSES) + u64::from(CALL) + CALL_LEN;
        assert_eq!(pcs[copies + 2] & 0xffff_ffff, offset);
        assert!(offset < body(&wasm, RECURSES) + u64::from(CALL) + CALL_LEN);
        assert!(
            target
                .warnings()
                .any(|warning| warning.starts_with("4 frames have no values in LLDB 22"))
        );
    });
}

/// Returns the module without its debugging information.
fn without_debug() -> Vec<u8> {
    let mut wasm = module_with(&[]);
    let section = [&[0, 23, 11][..], b".debug_line.debug_line"].concat();
    assert!(wasm.ends_with(&section));
    wasm.truncate(wasm.len() - section.len());
    wasm
}

/// LLDB up to 23.1 picks from the location lists of all frames by the program counter of the youngest. If that is in the
/// same function, it picks wrong ones.
#[test]
fn callers_of_the_youngest_function_are_on_a_copy_if_it_is_optimized() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.add_thread(Thread::new("main").with_frames([
        Frame::new(instance, RECURSES, CALL),
        call(instance, RECURSES),
        call(instance, RECURSES),
        call(instance, CALLS),
        call(instance, CALLS),
    ]));
    let bytes = to_vec(&guest);
    for (wasm, expected) in [
        (module(), [0, 0, 0, 0, 0]),
        (module_with(&[".debug_info", ".debug_loc"]), [0, 1, 1, 0, 0]),
        (module_with(&[".debug_info", ".debug_loclists"]), [0, 1, 1, 0, 0]),
    ] {
        with_client(&bytes[..], &wasm, &Options::new(), |client, _| {
            client.connect_newer();
            assert_eq!(image_ids(&client.call_stack(1)), expected);
            assert_eq!(client.libraries().len(), if expected[1] == 0 { 1 } else { 2 });
        });
    }
}

#[test]
fn only_one_thread_has_debugging_information() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.add_thread(Thread::new("idle"));
    for name in ["first", "second"] {
        let mut frame = trap(instance);
        frame.locals[0] = corestream::Value::I32(if name == "first" { 1 } else { 2 });
        guest.add_thread(Thread::new(name).with_frames([frame, call(instance, CALLS)]));
    }
    let bytes = to_vec(&guest);
    for (options, chosen, other) in [(Options::new(), 2, 3), (Options::new().with_thread(2), 3, 2)]
    {
        with_client(&bytes[..], &module(), &options, |client, target| {
            client.connect_22();
            assert_eq!(client.ask("qfThreadInfo"), "m1,2,3");
            assert!(client.ask("?").starts_with(&format!("T05thread:{chosen};")));
            assert_eq!(image_ids(&client.call_stack(chosen)), [0, 0]);
            assert_eq!(image_ids(&client.call_stack(other)), [1, 1]);
            let (name, address) = client.libraries().pop().unwrap();
            assert_eq!(name, "/dev/null/srv/guest.wasm@no-debug");
            assert_eq!(client.image(address), without_debug());
            // LLDB does not say which thread it means, so it is always the chosen one.
            let value = format!("0{}000000", chosen - 1);
            assert_eq!(client.ask("qWasmLocal:0;0"), value);
            assert_eq!(client.ask(&format!("Hg{other:x}")), "OK");
            assert_eq!(client.ask("qWasmLocal:0;0"), value);
            let warning = target.warnings().next().unwrap();
            let name = if chosen == 2 { "first" } else { "second" };
            assert!(
                warning.starts_with(&format!("only thread {} ({name}) has values", chosen - 1))
            );
        });
    }
}

#[test]
fn only_instances_with_the_youngest_frames_memory_have_debugging_information() {
    let (mine, theirs) = (bytes(), vec![9; 65_536]);
    let (mut guest, instance) = guest(&mine);
    let memory = guest.instances[0].memories[0].unwrap();
    let image = MemoryImage::from_slice(&theirs);
    let other_memory = guest.add_memory(Memory::new(MemoryType::wasm32(1), image));
    let sharing = guest.add_instance(instance_with(memory));
    let other = guest.add_instance(instance_with(other_memory));
    let frames = [trap(other), call(instance, CALLS), call(sharing, CALLS), call(other, CALLS)];
    guest.add_thread(Thread::new("main").with_frames(frames.clone()));
    guest.add_thread(Thread::new("other").with_frames(frames[1..].iter().cloned()));
    let bytes = to_vec(&guest);

    // The youngest frame is in instance 2, which gets id 0.
    with_client(&bytes[..], &module(), &Options::new(), |client, target| {
        assert_eq!(image_ids(&client.call_stack(1)), [0, 1, 2, 0]);
        let bare = without_debug();
        assert_eq!(client.image(IMAGES), module());
        assert_eq!(client.image(IMAGES | 1 << 32), bare);
        assert_eq!(client.image(IMAGES | 2 << 32), bare);
        assert_eq!(client.ask_bytes(b"x0,3"), [9, 9, 9]);
        assert_eq!(client.ask_bytes(b"x100000001,2"), [1, 2]);
        assert_eq!(client.ask_bytes(b"x200000001,2"), [1, 2]);
        assert!(
            target
                .warnings()
                .any(|warning| warning.starts_with("2 frames have no values, because"))
        );
    });
    // The instance of the other thread's youngest frame shares its memory with another one.
    with_client(&bytes[..], &module(), &Options::new().with_thread(1), |client, _| {
        assert_eq!(image_ids(&client.call_stack(2)), [0, 1, 2]);
        assert_eq!(client.image(IMAGES), module());
        assert_eq!(client.image(IMAGES | 1 << 32), module());
        assert_eq!(client.image(IMAGES | 2 << 32), without_debug());
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
    });
}

/// An adapter between two modules has no memory.
#[test]
fn the_first_instance_with_a_memory_has_id_0() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let adapter = guest.add_instance(corestream::Instance::new(corestream::ModuleIndex(0)));
    let frames = [trap(adapter), call(instance, CALLS), call(adapter, CALLS)];
    guest.add_thread(Thread::new("main").with_frames(frames));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(image_ids(&client.call_stack(1)), [1, 0, 1]);
        assert_eq!(client.image(IMAGES), module());
        assert_eq!(client.image(IMAGES | 1 << 32), without_debug());
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
        assert_eq!(client.ask("qWasmLocal:0;0"), "feffffff");
    });
}

#[test]
fn a_companion_has_the_debugging_information() {
    let file = module_with(&["external_debug_info"]);
    // The frames, and not the names of the files, show that both belong to the module.
    let mut companion = wasm_encoder::Module::new();
    companion.section(&wasm_encoder::CustomSection {
        name: ".debug_info".into(),
        data: (&b"dwarf"[..]).into(),
    });
    let companion = companion.finish();
    let bytes = small_dump();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let files = [SymbolFile::new(PATH, &file), SymbolFile::new("/srv/debug.wasm", &companion)];
    let target = Target::new(&dump, &files, &Options::new()).unwrap();
    let mut client = Client::new(&target);
    assert_eq!(client.libraries()[0].0, "/dev/null/srv/guest.wasm");
    let served = client.image(IMAGES);
    let names: Vec<_> = wasmparser::Parser::new(0)
        .parse_all(&served)
        .filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CustomSection(section) => Some(section.name().to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["name", ".debug_info"]);
    let youngest = IMAGES | (body(&served, TRAPS) + u64::from(TRAP));
    assert_eq!(client.call_stack(1)[0], youngest);
    assert_eq!(served[usize::try_from(youngest & 0xffff_ffff).unwrap()], 0x00);
}

/// Its debugging information describes its own code.
#[test]
fn of_two_files_with_code_the_one_with_debugging_information_is_served() {
    let stripped = module_with(&["external_debug_info"]);
    let whole = module_with(&[".debug_info", ".debug_str"]);
    let bytes = small_dump();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let files = [SymbolFile::new(PATH, &stripped), SymbolFile::new("/srv/debug.wasm", &whole)];
    let target = Target::new(&dump, &files, &Options::new()).unwrap();
    let mut client = Client::new(&target);
    assert_eq!(client.libraries()[0].0, "/dev/null/srv/debug.wasm");
    assert_eq!(client.image(IMAGES), whole);
}

#[test]
fn serves_the_youngest_frames_of_a_long_stack() {
    with_client(recursive(MAX_FRAMES * 3), &module(), &Options::new(), |client, target| {
        let packet = client.ask("qWasmCallStack:1");
        assert_eq!(packet.len(), MAX_FRAMES * 16);
        let last = MAX_FRAMES - 1;
        assert_eq!(client.ask(&format!("qWasmStackValue:{last};0")), "07000000");
        assert_eq!(client.ask(&format!("qWasmStackValue:{MAX_FRAMES};0")), "E01");
        assert_eq!(client.ask("qWasmLocal:0;0"), "feffffff");
        let expected = "thread 0 has 30002 frames, and only the youngest 10000 are served";
        assert_eq!(target.warnings().next(), Some(expected));
    });
}

/// Some writers of dumps do not record instances.
#[test]
fn frames_without_an_instance_are_in_the_only_module() {
    let bytes = bytes();
    let (mut guest, _) = guest(&bytes);
    guest.add_thread(Thread::new("main").with_frames([trap(None), call(None, CALLS)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(image_ids(&client.call_stack(1)), [0, 0]);
        assert_eq!(client.ask("qWasmGlobal:0;0"), "00100000");
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
    });
    // Without instances, the only memory is that of the module.
    guest.instances.clear();
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(image_ids(&client.call_stack(1)), [0, 0]);
        assert_eq!(client.ask("qWasmLocal:0;0"), "feffffff");
        assert_eq!(client.ask("qWasmGlobal:0;0"), "E01");
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
    });
    // It is not known which of two instances it is.
    let (mut guest, instance) = super::support::guest(&bytes);
    let memory =
        guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    guest.add_instance(instance_with(memory));
    guest.add_thread(Thread::new("main").with_frames([trap(None), call(instance, CALLS)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(image_ids(&client.call_stack(1)), [0, 1]);
        assert_eq!(client.ask("qWasmGlobal:0;0"), "E01");
        assert_eq!(client.ask("x1,2"), "E02");
    });
}

/// LLDB reads all images when it connects, so their number is limited.
#[test]
fn frames_of_too_many_instances_have_addresses_only() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let memory = guest.instances[0].memories[0].unwrap();
    let others: Vec<_> = (0..400).map(|_| guest.add_instance(instance_with(memory))).collect();
    let callers = others.iter().rev().map(|instance| call(*instance, CALLS));
    let frames = std::iter::once(trap(instance)).chain(callers);
    guest.add_thread(Thread::new("main").with_frames(frames));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, target| {
        let ids = image_ids(&client.call_stack(1));
        assert_eq!((ids.len(), ids[0], ids[1], ids[400]), (401, 0, 400, 0x3fff_ffff));
        assert_eq!(client.libraries().len(), MAX_IMAGES);
        assert!(
            target.warnings().any(|warning| warning.starts_with("145 frames show addresses only"))
        );
    });
}

#[test]
fn a_target_can_be_shared_by_threads() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    let bytes = small_dump();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    is_shared(&Target::new(&dump, &[], &Options::new()).unwrap());
}
