//! Matching modules with files, and the places of a frame that cannot be believed.

use std::path::Path;

use corestream::{CoreDump, CoreDumpFile, Dumper, Frame, Instance, Module, ModuleIdentity};
use corestream_symbols::{
    FramePlace, SymbolFile, Symbols, Unknown, UnreliablePlaces, Value, VariableKind, Verdict,
    match_modules,
};

/// A million modules may have the identity of one file: the file is hashed once, and its debugging information is read
/// once. Hashing or reading it for each module would take hours.
#[test]
fn many_modules_of_one_build_cost_little() {
    let path = guest("values-c-O0-dwarf5.wasm");
    let file = std::fs::read(&path).unwrap();
    let recorded = CoreDumpFile::open(guest("values-c-O0-dwarf5.core")).unwrap();
    let sha256 = recorded.module_identities().next().unwrap().unwrap().sha256.unwrap();
    let mut dump = CoreDump::new("guest");
    for i in 0..100_000_u32 {
        // Every second module is of another build.
        let sha256 = if i % 2 == 0 { sha256 } else { [7; 32] };
        let module = dump.add_module(
            Module::new("guest").with_identity(ModuleIdentity::new().with_sha256(sha256)),
        );
        dump.add_instance(Instance::new(module));
    }
    let bytes = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let files = [SymbolFile::new("guest.wasm", &file)];
    let matches = match_modules(&files, &dump).unwrap();
    assert_eq!(matches.len(), 50_000);
    assert!(matches.iter().all(|found| found.verdict == Verdict::Certain));
    let symbols = Symbols::new(&files, &dump).unwrap();
    assert_eq!(symbols.matches(), matches);
}

/// The places that [`Symbols::resolve`] does not believe are those that a debugger should not read.
#[test]
fn unreliable_places_are_those_of_unknown_values() {
    let [mut reused, mut reliable] = [0; 2];
    for name in ["values-c-O1-dwarf4", "values-c-O2-dwarf5", "values-c-O0-dwarf5"] {
        let file = std::fs::read(guest(&format!("{name}.wasm"))).unwrap();
        let dump = CoreDumpFile::open(guest(&format!("{name}.core"))).unwrap();
        let files = [SymbolFile::new(name, &file)];
        let symbols = Symbols::new(&files, &dump).unwrap();
        let thread = dump.threads().next().unwrap().unwrap();
        for (i, frame) in thread.frames().enumerate() {
            let frame = frame.unwrap();
            let places = symbols.unreliable_places(&frame, i).unwrap();
            let resolved = symbols.resolve(&frame, i).unwrap().unwrap();
            for variable in resolved.positions.iter().flat_map(|at| &at.variables) {
                if let Value::Unknown(Unknown::Reused { place, .. }) = variable.value {
                    assert!(places.contains(place), "{name}: {}", variable.name);
                    reused += 1;
                }
            }
            let count = u32::try_from(frame.locals.len()).unwrap();
            reliable += (0..count).filter(|i| !places.contains(FramePlace::Local(*i))).count();
        }
    }
    assert!(reused > 5 && reliable > 20, "{reused} {reliable}");
}

/// A guest that is stopped when it enters a function, such as by an overflow of the call stack.
#[test]
fn a_function_that_was_just_entered_has_no_values_in_its_frame() {
    let name = "values-c-O0-dwarf5";
    let file = std::fs::read(guest(&format!("{name}.wasm"))).unwrap();
    let dump = CoreDumpFile::open(guest(&format!("{name}.core"))).unwrap();
    let symbols = Symbols::new(&[SymbolFile::new(name, &file)], &dump).unwrap();
    let mut frame = dump.threads().next().unwrap().unwrap().frames().next().unwrap().unwrap();
    let values = |frame: &Frame| {
        let resolved = symbols.resolve(frame, 0).unwrap().unwrap();
        let variables = resolved.positions.into_iter().flat_map(|at| at.variables);
        variables.filter(|variable| variable.kind == VariableKind::Parameter).collect::<Vec<_>>()
    };
    let before = values(&frame);
    assert!(!before.is_empty());
    assert!(before.iter().all(|variable| !matches!(variable.value, Value::Unknown(_))));
    // The declarations of locals come before the first instruction.
    frame.offset = 5;
    for variable in values(&frame) {
        assert_eq!(variable.value, Value::Unknown(Unknown::FrameBaseNotSet), "{}", variable.name);
        assert_eq!(variable.address, None);
    }
    assert_ne!(symbols.unreliable_places(&frame, 0).unwrap(), UnreliablePlaces::None);
}

#[test]
fn no_place_of_a_renumbered_module_is_reliable() {
    let name = "values-c-wasmopt-O1";
    let file = std::fs::read(guest(&format!("{name}.wasm"))).unwrap();
    let dump = CoreDumpFile::open(guest(&format!("{name}.core"))).unwrap();
    let symbols = Symbols::new(&[SymbolFile::new(name, &file)], &dump).unwrap();
    let frame = dump.threads().next().unwrap().unwrap().frames().next().unwrap().unwrap();
    assert_eq!(symbols.unreliable_places(&frame, 0).unwrap(), UnreliablePlaces::All);
}

fn guest(name: &str) -> std::path::PathBuf {
    Path::new("../cli/tests/guests/values").join(name)
}
