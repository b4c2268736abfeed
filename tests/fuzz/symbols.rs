//! Module files with garbled names, code and debugging information, for a dump that fits the module.
//!
//! Random bytes are hardly ever a module with debugging information, so an input is a list of changes to a real one. The
//! first byte chooses the guest, and whether its module is in a component. Each change has four bytes: a position in the
//! file, and the new byte.
//!
//! A component is little more than the lengths of its sections, so the input is also read as one.

use corestream::CoreDumpFile;
use corestream_symbols::limits::MAX_CORE_MODULES;
use corestream_symbols::{Component, StaticScope, SymbolFile, Symbols, ValueLimits, match_modules};

/// A module, other files with its debugging information, and a dump.
type Guest = (&'static [u8], &'static [&'static [u8]], &'static [u8]);

const GUESTS: [Guest; 4] = [
    (
        include_bytes!("../../crates/cli/tests/guests/values/values-c-O0-dwarf5.wasm"),
        &[],
        include_bytes!("../../crates/cli/tests/guests/values/values-c-O0-dwarf5.core"),
    ),
    (
        include_bytes!("../../crates/cli/tests/guests/values/values-cpp-types4.wasm"),
        &[],
        include_bytes!("../../crates/cli/tests/guests/values/values-cpp-types4.core"),
    ),
    (
        include_bytes!("../../crates/cli/tests/guests/values/values-c-split.wasm"),
        &[include_bytes!("../../crates/cli/tests/guests/values/values-c-split.dwp")],
        include_bytes!("../../crates/cli/tests/guests/values/values-c-split.core"),
    ),
    (
        include_bytes!("../../crates/cli/tests/guests/values/values-zig-Debug.wasm"),
        &[],
        include_bytes!("../../crates/cli/tests/guests/values/values-zig-Debug.core"),
    ),
];

/// The bit of the first byte that puts the module into a component.
const IN_COMPONENT: u8 = 0x80;

/// Returns a component with these sections.
fn component(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (id, content) in sections {
        bytes.push(*id);
        // A LEB128 of three bytes.
        let len = u32::try_from(content.len()).unwrap();
        bytes.extend([0, 7, 14].map(|shift| (len >> shift & 0x7f | 0x80).to_le_bytes()[0]));
        *bytes.last_mut().unwrap() &= 0x7f;
        bytes.extend(*content);
    }
    bytes
}

/// Finds core modules in the input. They are disjoint parts of it.
fn read_component(input: &[u8]) {
    let mut bytes = component(&[]);
    bytes.extend(input);
    let file = SymbolFile::new("component.wasm", &bytes);
    let component = Component::read(&file).unwrap();
    let modules = component.modules();
    assert!(modules.len() <= MAX_CORE_MODULES);
    let mut at = bytes.as_ptr().addr();
    for (index, module) in modules.iter().enumerate() {
        assert_eq!(module.core_module(), Some(index));
        let start = module.bytes().as_ptr().addr();
        assert!(start >= at, "{index}");
        at = start + module.bytes().len();
    }
    assert!(at <= bytes.as_ptr().addr() + bytes.len());
}

/// Resolves all frames and reads all static variables. The result is not known, but there must be one.
pub fn run(input: &[u8]) {
    read_component(input);
    let Some((first, changes)) = input.split_first() else { return };
    let (module, others, dump) = GUESTS[usize::from(*first) % GUESTS.len()];
    let mut files: Vec<Vec<u8>> = vec![match first & IN_COMPONENT {
        0 => module.to_vec(),
        _ => {
            // The changes are made to the nested component, and to the copy of the module or to the module itself.
            let nested = component(&[(4, &component(&[])), (1, b"\0asm\x01\0\0\0"), (1, module)]);
            component(&[(0, b"\x01x"), (4, &nested), (1, module)])
        }
    }];
    files.extend(others.iter().map(|other| other.to_vec()));
    let all: usize = files.iter().map(Vec::len).sum();
    for change in changes.chunks_exact(4) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % all;
        let (file, at) = match at.checked_sub(files[0].len()) {
            None => (0, at),
            Some(at) => (1, at),
        };
        files[file][at] = change[3];
    }
    let dump = CoreDumpFile::from_slice(dump).unwrap();
    let files: Vec<_> = files.iter().map(|bytes| SymbolFile::new("guest.wasm", bytes)).collect();
    let matches = match_modules(&files, &dump);
    let symbols = match Symbols::new(&files, &dump) {
        Ok(symbols) => symbols,
        Err(error) => {
            assert_eq!(matches.unwrap_err(), error);
            return;
        }
    };
    assert_eq!(matches.unwrap(), symbols.matches());
    for limits in [ValueLimits::default(), ValueLimits { pointers: 3, ..ValueLimits::default() }] {
        let symbols = Symbols::new(&files, &dump).unwrap().with_limits(limits);
        for thread in dump.threads() {
            for (i, frame) in thread.unwrap().frames().enumerate() {
                if let Some(resolved) = symbols.resolve(&frame.unwrap(), i).unwrap() {
                    for position in resolved.positions {
                        for variable in position.variables {
                            let text = variable.value.to_string();
                            assert!(!text.is_empty() && !text.contains('\n'), "{text}");
                        }
                    }
                }
            }
        }
        for unit in symbols.static_units(StaticScope::All).unwrap().units {
            for variable in symbols.read_statics(&unit).unwrap().variables {
                assert!(!variable.name.is_empty());
            }
        }
    }
}
