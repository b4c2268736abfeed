//! The trap, the capture time and the module identities of a dump.

use corestream::{CoreDumpFile, ModuleIdentity, UnixTime};
use corestream_wasmtime::{Capture, Captured, capture};
use wasmtime::{Engine, Error, Instance, Module, Store};

use crate::guests::config;

/// Encodes a module that has this build id and whose `run` traps.
fn wasm(build_id: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (@custom "build_id" "{build_id}") (memory 1)
             (func (export "run") i32.const 1 i32.const 0 i32.div_s drop))"#
    );
    wat::parse_str(text).unwrap()
}

/// Instantiates two modules and calls `run` of the second, which traps.
fn trap() -> (Store<()>, [Module; 2], Error) {
    let engine = Engine::new(&config()).unwrap();
    let mut store = Store::new(&engine, ());
    let modules = ["\\02\\12\\34", "\\01\\ff"].map(|id| Module::new(&engine, wasm(id)).unwrap());
    let instances =
        modules.each_ref().map(|module| Instance::new(&mut store, module, &[]).unwrap());
    let run = instances[1].get_typed_func::<(), ()>(&mut store, "run").unwrap();
    let error = run.call(&mut store, ()).unwrap_err();
    (store, modules, error)
}

/// Reads the module identities and the notes back from a dump.
fn identities_and_notes(captured: &Captured<'_>) -> (Vec<ModuleIdentity>, Vec<String>) {
    let bytes = captured.to_vec().unwrap();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.captured_at(), captured.dump.captured_at);
    let identities = dump.module_identities().map(Result::unwrap).collect();
    (identities, dump.notes().map(Result::unwrap).collect())
}

#[test]
fn records_the_trap_and_the_capture_time() {
    let (mut store, _, error) = trap();
    let before = UnixTime::now();
    let captured = capture(&mut store, "guest", &error).unwrap();
    let captured_at = captured.dump.captured_at;
    assert!(before <= captured_at && captured_at <= UnixTime::now(), "{captured_at:?}");
    assert_eq!(captured.dump.trap.as_deref(), Some("wasm trap: integer divide by zero"));
    drop(captured);

    // A live guest has not trapped.
    let captured = Capture::new("guest").live(&mut store);
    assert_eq!(captured.dump.trap, None);
    assert!(captured.dump.captured_at >= captured_at);
}

#[test]
fn identifies_modules_by_their_bytes() {
    let (mut store, modules, error) = trap();
    let bytes = [wasm("\\02\\12\\34"), wasm("\\01\\ff")];
    let none = Capture::new("guest").trapped(&mut store, &error).unwrap();
    let (identities, notes) = identities_and_notes(&none);
    assert!(identities.iter().all(|identity| !identity.is_known()));
    assert_eq!(notes, ["no identity was recorded for 2 modules"]);
    drop(none);

    let one = Capture::new("guest").module_bytes(&modules[1], &bytes[1]);
    let (_, notes) = identities_and_notes(&one.trapped(&mut store, &error).unwrap());
    assert!(notes[0].starts_with("no identity was recorded for module "), "{notes:?}");

    let both = one.module_bytes(&modules[0], &bytes[0]);
    let (identities, notes) = identities_and_notes(&both.trapped(&mut store, &error).unwrap());
    assert_eq!(notes, [""; 0]);
    let mut build_ids: Vec<_> = identities.iter().map(|id| id.build_id.clone().unwrap()).collect();
    build_ids.sort();
    assert_eq!(build_ids, [vec![0x12, 0x34], vec![0xff]]);
    assert!(identities[0].sha256.is_some() && identities[0].sha256 != identities[1].sha256);
}
