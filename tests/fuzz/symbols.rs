//! Module files with garbled names, code and debugging information, for a dump that fits the module.
//!
//! Random bytes are hardly ever a module with debugging information, so an input is a list of changes to a real one. The
//! first byte chooses the guest, and each change has four bytes: a position in the file, and the new byte.

use corestream::CoreDumpFile;
use corestream_symbols::{StaticScope, SymbolFile, Symbols, ValueLimits, match_modules};

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

/// Resolves all frames and reads all static variables. The result is not known, but there must be one.
pub fn run(input: &[u8]) {
    let Some((first, changes)) = input.split_first() else { return };
    let (module, others, dump) = GUESTS[usize::from(*first) % GUESTS.len()];
    let mut files: Vec<Vec<u8>> = vec![module.to_vec()];
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
