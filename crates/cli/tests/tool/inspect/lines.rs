//! Lines and inlined calls of random positions, compared with llvm-symbolizer.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use corestream::{CoreDump, Dumper, Frame, Instance, Thread};
use serde_json::Value as Json;
use wasmparser::{Parser, Payload, TypeRef};

use crate::common::Random;
use crate::environment::require;
use crate::tool::{corestream, stderr};

const GUESTS: &str = "tests/guests/values";
const POSITIONS: usize = 1000;

/// A code position.
struct Place {
    function: u32,
    /// The offset in the function's body.
    offset: u32,
    /// The offset from the contents of the code section, which is the DWARF address.
    address: u64,
}

/// A source position: the function, the file, the line and the column. Zero means unknown.
type Source = (String, String, u64, u64);

/// Returns the positions of all instructions.
fn instructions(wasm: &[u8]) -> Vec<Place> {
    let (mut function, mut code, mut places) = (0, 0, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    function += u32::from(matches!(import.unwrap().ty, TypeRef::Func(_)));
                }
            }
            Payload::CodeSectionStart { unchecked_range, .. } => code = unchecked_range.start,
            Payload::CodeSectionEntry(body) => {
                let begin = body.range().start;
                let mut reader = body.get_operators_reader().unwrap();
                while !reader.eof() {
                    let at = reader.original_position();
                    let offset = u32::try_from(at - begin).unwrap();
                    places.push(Place { function, offset, address: at - code });
                    reader.read().unwrap();
                }
                function += 1;
            }
            _ => {}
        }
    }
    places
}

/// Returns the source positions of each code position, innermost first, as llvm-symbolizer finds them.
fn symbolize(symbolizer: &str, file: &Path, places: &[Place]) -> Vec<Vec<Source>> {
    let mut child = Command::new(symbolizer)
        .arg(format!("--obj={}", file.display()))
        .args(["--inlining", "--functions=short", "--relativenames"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let addresses: String = places.iter().map(|place| format!("{:#x}\n", place.address)).collect();
    let writer = std::thread::spawn(move || input.write_all(addresses.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let blocks = text.trim_end().split("\n\n").map(|block| {
        let lines: Vec<_> = block.lines().collect();
        let source = |pair: &[&str]| {
            let mut parts = pair[1].rsplitn(3, ':');
            let column = parts.next().unwrap().parse().unwrap();
            let line = parts.next().unwrap().parse().unwrap();
            (pair[0].to_owned(), parts.next().unwrap().to_owned(), line, column)
        };
        lines.chunks(2).map(source).collect()
    });
    blocks.collect()
}

/// Returns the source positions of each code position as `inspect` shows them.
fn inspect(file: &Path, places: &[Place]) -> Vec<Vec<Source>> {
    let mut dump = CoreDump::new("guest");
    let module = dump.add_module("guest");
    let instance = dump.add_instance(Instance::new(module));
    for place in places {
        let frame = Frame::new(instance, place.function, place.offset);
        dump.add_thread(Thread::new("t").with_frames([frame]));
    }
    let directory = tempfile::tempdir().unwrap();
    let dump = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
    fs::write(directory.path().join("guest.core"), dump).unwrap();
    let mut command = corestream(directory.path(), ["inspect", "guest.core", "--json"]);
    let file = fs::canonicalize(file).unwrap();
    let output = command.args(["--statics", "none", "--symbols"]).arg(file).output().unwrap();
    assert_eq!(stderr(&output), "");
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    let threads = json["threads"].as_array().unwrap().iter().map(|thread| {
        let frame = &thread["frames"][0];
        let source = |position: &Json| {
            let text = |key: &str| position[key].as_str().unwrap_or("??").to_owned();
            let number = |key: &str| position[key].as_u64().unwrap_or(0);
            (text("name"), text("file"), number("line"), number("column"))
        };
        let inlined = frame["inlined"].as_array().into_iter().flatten();
        inlined.chain([frame]).map(source).collect()
    });
    threads.collect()
}

/// The two agree on each position. llvm-symbolizer gives only the last part of a name, with the parameters that the
/// debugging information has, and no name for a thunk that the compiler made. The panic handler of Rust has two names. Both have no position for functions
/// without debugging information, such as the guests' printing functions.
#[test]
fn lines_and_inlined_calls_are_those_of_llvm_symbolizer() {
    let symbolizers = ["llvm-symbolizer-22", "llvm-symbolizer"];
    let works = |name: &&&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = symbolizers.iter().find(works).copied().ok_or("llvm-symbolizer is not installed");
    let symbolizer = require!("llvm", found);
    let mut random = Random(19);
    for guest in [
        "values-c-O0-dwarf4",
        "values-c-O1-dwarf4",
        "values-c-O2-dwarf5",
        "values-c-lto2",
        "values-cpp-O0-dwarf4",
        "values-cpp-O1-dwarf5",
        "values-cpp-O2-dwarf4",
        "values-cpp-types5",
        "values-rs-O0-dwarf5",
        "values-rs-O2-dwarf4",
        "values-zig-Debug",
        "values-zig-ReleaseFast",
    ] {
        let file = Path::new(GUESTS).join(format!("{guest}.wasm"));
        let mut all = instructions(&fs::read(&file).unwrap());
        let mut places = Vec::new();
        while places.len() < POSITIONS && !all.is_empty() {
            let at = random.below(all.len() as u64);
            places.push(all.swap_remove(at));
        }
        let (expected, found) = (symbolize(symbolizer, &file, &places), inspect(&file, &places));
        assert_eq!((expected.len(), found.len()), (places.len(), places.len()));
        let mut with_lines = 0;
        for (place, (expected, found)) in places.iter().zip(expected.iter().zip(&found)) {
            let context = format!("{guest} at {:#x}: {found:?}, not {expected:?}", place.address);
            if found.iter().all(|(_, file, ..)| file == "??") {
                assert!(expected.iter().all(|(_, file, ..)| file == "??"), "{context}");
                continue;
            }
            with_lines += 1;
            assert_eq!(found.len(), expected.len(), "{context}");
            for (found, expected) in found.iter().zip(expected) {
                let short = expected.0.split('<').next().unwrap();
                let has_other_name = expected.0 == "??" || found.0 == "__rustc::rust_begin_unwind";
                assert!(found.0.contains(short) || has_other_name, "{context}");
                let place = |(_, file, line, column): &Source| {
                    // Line 0 is unknown, whatever the column.
                    let column = if *line == 0 { 0 } else { *column };
                    (file.trim_start_matches("./").to_owned(), *line, column)
                };
                assert_eq!(place(found), place(expected), "{context}");
            }
        }
        assert!(with_lines > POSITIONS / 4, "{guest}: only {with_lines} with lines");
    }
}
