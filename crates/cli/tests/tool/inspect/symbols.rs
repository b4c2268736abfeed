//! `corestream inspect --symbols`: functions, lines and variables of frames.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use corestream::{
    CoreDump, Dumper, Frame, Global, GlobalValue, Instance, InstanceIndex, Memory, MemoryImage,
    MemoryType, Thread, Value,
};
use corestream_cli::internals::Inspection;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value as Json;
use wasm_encoder::{
    CodeSection, CustomSection, Function, FunctionSection, Module, NameMap, NameSection,
    TypeSection,
};

use crate::common::Random;
use crate::common::own::leb;
use crate::tool::{corestream, stderr};

const GUEST: &str = "tests/guests/wordcount.wasm";
const SOURCE: &str = "tests/guests/wordcount.c";

/// Indices of functions of the guest.
const REPORT: u32 = 49;
const MAIN: u32 = 48;
/// The address of a variable of `_start`, and the stack pointer in the tests.
const STARTED: usize = 0x100_0970;
const STACK: i32 = 0xff_ff80;

struct Directory {
    directory: tempfile::TempDir,
}

impl Directory {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes a dump with an instance of each module and a thread.
    fn dump(&self, modules: &[&str], frames: impl IntoIterator<Item = Frame>) -> PathBuf {
        let mut bytes = vec![0; STARTED.next_multiple_of(65_536)];
        bytes[STARTED] = 1;
        let mut dump = CoreDump::new("guest");
        let ty = MemoryType::wasm32(bytes.len() as u64 / 65_536);
        let memory = dump.add_memory(Memory::new(ty, MemoryImage::from_slice(&bytes)));
        let global = dump.add_global(Global::mutable(GlobalValue::I32(STACK)));
        for name in modules {
            let module = dump.add_module(*name);
            let instance = Instance::new(module).with_memories([memory]).with_globals([global]);
            dump.add_instance(instance);
        }
        dump.add_thread(Thread::new("main").with_frames(frames));
        let dump = Dumper::new().plan(&dump).unwrap().to_vec().unwrap();
        self.write("guest.core", dump)
    }
}

fn frame(function: u32, offset: u32) -> Frame {
    Frame::new(InstanceIndex(0), function, offset)
}

fn inspect(dump: &Path, symbols: &[&str], more: &[&str]) -> Output {
    // The paths of the guest and its source are relative to this directory.
    let mut command = corestream(Path::new("."), ["inspect"]);
    command.arg(dump).args(more);
    for file in symbols {
        command.args(["--symbols", file]);
    }
    command.output().unwrap()
}

/// Returns the frames of the only thread.
fn frames(dump: &Path, symbols: &[&str]) -> Vec<Json> {
    let output = inspect(dump, symbols, &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    // The report can be parsed, and makes the same text again.
    let read: Inspection<'_> = serde_json::from_str(&text).unwrap();
    if !text.contains("\\u") {
        assert_eq!(serde_json::to_string_pretty(&read).unwrap() + "\n", text);
    }
    let json: Json = serde_json::from_str(&text).unwrap();
    json["threads"][0]["frames"].as_array().unwrap().clone()
}

/// Returns the source line of a frame or of a function inlined into it.
fn source(position: &Json) -> String {
    assert!(position["file"].as_str().unwrap().ends_with("/wordcount.c"), "{position}");
    let line = usize::try_from(position["line"].as_u64().unwrap()).unwrap();
    fs::read_to_string(SOURCE).unwrap().lines().nth(line - 1).unwrap().trim().into()
}

fn variable<'j>(position: &'j Json, name: &str) -> &'j Json {
    let mut all = position["variables"].as_array().unwrap().iter();
    all.find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("{position}"))
}

/// Returns the stack of the guest at its trap.
fn trapped() -> Vec<Frame> {
    let pair = |a, b| [Value::I32(a), Value::I32(b)];
    let mut frames = vec![frame(REPORT, 6).with_locals(pair(0x12_3450, 0))];
    frames.extend((1..6).map(|depth| frame(REPORT, 23).with_locals(pair(0x10_0000, depth))));
    let main = [Value::I32(1), Value::I32(0x2000), Value::I32(STACK)];
    frames.push(frame(MAIN, 851).with_locals(main));
    frames.extend([frame(10, 111), frame(8, 35)]);
    frames
}

#[test]
fn names_the_functions_and_lines_of_a_real_guest() {
    let directory = Directory::new();
    let frames = frames(&directory.dump(&["wordcount.wasm"], trapped()), &[GUEST]);
    let names: Vec<&str> = frames.iter().map(|frame| frame["name"].as_str().unwrap()).collect();
    let mut expected = vec!["report"; 6];
    expected.extend(["main", "__main_void", "_start"]);
    assert_eq!(names, expected);
    assert_eq!(source(&frames[0]), "if (depth == 0) __builtin_trap();");
    for frame in &frames[1..6] {
        assert!(source(frame).starts_with("return report(w ? w->next : 0, depth - 1)"));
    }
    assert_eq!(source(&frames[6]), "return report(table[1], 5) + arena[0];");
    // The file has no lines for `__main_void`, and lines of the C library for `_start`.
    assert!(frames[7].get("line").is_none());
    assert!(frames[8]["file"].as_str().unwrap().ends_with("/crt1-command.c"));
    assert_eq!(frames[8]["line"], 47);
    assert!(frames.iter().all(|frame| frame.get("problem").is_none()));
}

#[test]
fn evaluates_variables() {
    let directory = Directory::new();
    let frames = frames(&directory.dump(&["wordcount.wasm"], trapped()), &[GUEST]);
    assert_eq!(variable(&frames[0], "w")["value"]["pointer"], 0x12_3450);
    assert_eq!(variable(&frames[0], "w")["parameter"], true);
    for (depth, frame) in frames[..6].iter().enumerate() {
        assert_eq!(variable(frame, "depth")["value"], depth);
    }
    // One is in memory at a frame base that is a local, one is past the end of its location, and one has none.
    assert_eq!(variable(&frames[6], "buffer")["address"], STACK + 16);
    let unknown = |name| variable(&frames[6], name)["value"]["unknown"].clone();
    assert_eq!(unknown("argc"), "optimized out");
    assert_eq!(unknown("arena"), "optimized out");
    // A static variable is read from the memory in the dump.
    assert_eq!(variable(&frames[8], "started")["value"], 1);
}

#[test]
fn variables_of_missing_locals_are_unknown() {
    let directory = Directory::new();
    let stack = [frame(REPORT, 6).with_locals([Value::Missing]), frame(MAIN, 851)];
    let frames = frames(&directory.dump(&["wordcount.wasm"], stack), &[GUEST]);
    for (name, local) in [("w", 0), ("depth", 1)] {
        let reason = format!("local {local} was not recorded");
        assert_eq!(variable(&frames[0], name)["value"]["unknown"], reason);
    }
    assert!(variable(&frames[1], "buffer").get("address").is_none());
}

/// The frame is at a call in a function that is inlined into `main`. Its offset is the offset of the call, as in the
/// format, or that after the call, where the next line can begin.
#[test]
fn shows_inlined_calls() {
    let directory = Directory::new();
    for offset in [0x22d, 0x233] {
        let dump = directory.dump(&["wordcount.wasm"], [frame(REPORT, 6), frame(MAIN, offset)]);
        let frame = &frames(&dump, &[GUEST])[1];
        assert_eq!(frame["name"], "main");
        assert_eq!(source(frame), "count(buffer, n);");
        let inlined = frame["inlined"].as_array().unwrap();
        assert_eq!(inlined.len(), 1, "{frame}");
        assert_eq!(inlined[0]["name"], "count");
        assert!(source(&inlined[0]).contains("memcmp(w->text, s, n)"), "{frame}");
        // The variable is described once for all calls of `count`.
        assert_eq!(variable(&inlined[0], "slot")["parameter"], false);
        let text = String::from_utf8(inspect(&dump, &[GUEST], &[]).stdout).unwrap();
        let (inner, outer) =
            (text.find("     count inlined at ").unwrap(), text.find("     main at "));
        assert!(inner < outer.unwrap(), "{text}");
    }
}

#[test]
fn text_has_what_the_json_has() {
    let directory = Directory::new();
    let dump = directory.dump(&["wordcount.wasm"], trapped());
    let text = String::from_utf8(inspect(&dump, &[GUEST], &[]).stdout).unwrap();
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("thread")).collect();
    assert_eq!(lines[1], "  0: wordcount.wasm function 49 at 0x6");
    assert!(lines[2].starts_with("     report at ") && lines[2].ends_with("/wordcount.c:36:13"));
    assert!(lines[3].starts_with("       w = 0x123450 -> {next = 0x0, count = 0, "), "{text}");
    assert_eq!(lines[4], "       depth = 0");
    assert!(text.contains("\n       buffer = \""), "{text}");
    assert!(text.contains("\n     __main_void\n"), "{text}");
}

/// Returns a module of functions that do nothing. The first ones have names.
fn named(module: &str, names: &[&str], functions: u32) -> Module {
    let mut wasm = Module::new();
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let (mut indices, mut code) = (FunctionSection::new(), CodeSection::new());
    for _ in 0..functions {
        indices.function(0);
        let mut body = Function::new([]);
        body.instructions().call(0).end();
        code.function(&body);
    }
    let mut section = NameSection::new();
    section.module(module);
    let mut map = NameMap::new();
    for (i, name) in (0..).zip(names) {
        map.append(i, name);
    }
    section.functions(&map);
    wasm.section(&types).section(&indices).section(&code).section(&section);
    wasm
}

fn name_of(frame: &Json) -> &str {
    frame["name"].as_str().unwrap_or_default()
}

#[test]
fn demangles_names_without_debugging_information() {
    let directory = Directory::new();
    let mangled =
        ["plain", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "_Z3addii", "a\u{1b}b"];
    let file = directory.write("a.wasm", named("a", &mangled, 5).finish());
    let dump = directory.dump(&["guest"], (0..5).map(|function| frame(function, 1)));
    let file = file.to_str().unwrap();
    let frames = frames(&dump, &[file]);
    let names: Vec<&str> = frames.iter().map(name_of).collect();
    assert_eq!(names, ["plain", "core::fmt::Formatter::pad", "add(int, int)", "a\u{1b}b", ""]);
    assert!(frames.iter().all(|frame| frame.get("line").is_none()));
    let text = inspect(&dump, &[file], &[]).stdout;
    assert!(!text.contains(&0x1b), "a name controls the terminal");
}

/// A frame that does not fit the file proves that the file is not the module, so nothing of it is shown.
#[test]
fn a_frame_that_does_not_fit_the_file_is_a_mismatch() {
    let directory = Directory::new();
    let file = directory.write("a.wasm", named("a", &["x", "y", "z"], 3).finish());
    let file = file.to_str().unwrap();
    let fits = frame(2, 1);
    let local = |value| frame(0, 1).with_locals([value]);
    for (stack, at, reason) in [
        (vec![frame(3, 0)], 0, "has no function 3, only 3 functions"),
        (
            vec![fits.clone(), frame(2, 0x40)],
            1,
            "has no offset 0x40 in function 2, which has 0x4 bytes",
        ),
        (vec![frame(u32::MAX, u32::MAX)], 0, "has no function 4294967295, only 3 functions"),
        (vec![frame(1, 2)], 0, "function 1 has no instruction at 0x2"),
        (vec![local(Value::I32(1))], 0, "function 0 has 0 locals, and the frame has 1"),
    ] {
        let dump = directory.dump(&["guest"], stack);
        let output = inspect(&dump, &[file], &[]);
        let warning = format!(
            "corestream: warning: {file} is not module 0 of the dump: frame {at} of thread 0: {reason}\n"
        );
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), warning));
        assert_eq!(output.stdout, inspect(&dump, &[], &[]).stdout);
    }
    // The end of the function is an instruction, but no call.
    let dump = directory.dump(&["guest"], [fits.clone(), frame(2, 1), frame(2, 3)]);
    assert_eq!(stderr(&inspect(&dump, &[file], &[])), "");
    let dump = directory.dump(&["guest"], [fits, local(Value::Missing)]);
    assert!(stderr(&inspect(&dump, &[file], &[])).contains("has 0 locals"));
    // Imported functions have no code.
    let dump = directory.dump(&["guest"], [frame(0, 1)]);
    let message = stderr(&inspect(&dump, &[GUEST], &[]));
    assert!(message.ends_with("has no code of function 0, it imports 7\n"), "{message}");
    // The youngest frame needs no call, and its caller does.
    let dump = directory.dump(&["guest"], [frame(REPORT, 6), frame(REPORT, 6)]);
    let message = stderr(&inspect(&dump, &[GUEST], &[]));
    let end = "frame 1 of thread 0: function 49 has no call at 0x6\n";
    assert!(message.ends_with(end), "{message}");
    // The locals of a real function have types.
    let pair = [Value::I32(0), Value::I64(0)];
    let dump = directory.dump(&["guest"], [frame(REPORT, 6).with_locals(pair)]);
    let message = stderr(&inspect(&dump, &[GUEST], &[]));
    let end = "local 1 of function 49 is declared as i32, and the frame has an i64\n";
    assert!(message.ends_with(end), "{message}");
}

#[test]
fn matches_files_with_modules() {
    let directory = Directory::new();
    let file = |name: &str, module: &str, function: &str| {
        let path = directory.write(name, named(module, &[function], 1).finish());
        path.to_str().unwrap().to_string()
    };
    let by_file = file("one.wasm", "", "first");
    let by_module = file("other.wasm", "two", "second");
    let by_nothing = file("built.wasm", "built", "third");
    let instances = (0..4).map(|i| Frame::new(InstanceIndex(i), 0, 1));
    let dump = directory.dump(&["lib/one.wasm", "two", "three", "one"], instances);
    let third = format!("2={by_nothing}");
    let frames = frames(&dump, &[&by_module, &third, &by_file]);
    assert_eq!([0, 1, 2].map(|i: usize| name_of(&frames[i])), ["first", "second", "third"]);
    assert!(frames[3].get("name").is_none() && frames[3].get("problem").is_none());

    let fails = |symbols: &[&str], code, why: &str| {
        let output = inspect(&dump, symbols, &[]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(why) && error.lines().count() == 1, "{error}");
        assert!(output.stdout.is_empty());
    };
    let none = "built.wasm: matches no module of the dump; pass INDEX=FILE";
    fails(&[&by_nothing], 2, none);
    fails(&[&format!("4={by_nothing}")], 2, "there is no module 4; the dump has 4");
    fails(&[&by_file, &format!("0={by_nothing}")], 2, "module 0 already has a file");
    fails(&["0="], 2, "missing file name");
    fails(&["none.wasm"], 1, "none.wasm: cannot open: No such file");
    let same = directory.dump(&["a/one.wasm", "b/one.wasm"], [frame(0, 1)]);
    let output = inspect(&same, &[&by_file], &[]);
    assert!(stderr(&output).contains("several modules of the dump have this name"));
}

#[test]
fn rejects_files_that_are_not_modules() {
    let directory = Directory::new();
    let dump = directory.dump(&["guest"], [frame(REPORT, 6)]);
    let fails = |bytes: &[u8], why: &str| {
        let file = directory.write("bad.wasm", bytes);
        let output = inspect(&dump, &[file.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    };
    fails(b"", "is empty, not a WebAssembly module");
    match cfg!(feature = "run") {
        true => fails(b"(module", "bad.wasm:1:8: expected `)`"),
        false => fails(
            b" (module)",
            "is in WebAssembly text format; convert it with `wat2wasm --debug-names`, or install corestream-cli with the feature `run`",
        ),
    }
    fails(b"module", "is not a WebAssembly module, neither in binary nor in text form\n");
    fails(b"\x1f\x8b\x08\0", "is compressed with gzip; decompress it with `gzip -d` first");
    fails(&fs::read(&dump).unwrap(), "is a core dump, not a guest");
    if !cfg!(feature = "run") {
        fails(
            b"(component)",
            "is a component in WebAssembly text format; convert it with `wasm-tools parse`, or install",
        );
    }
    // A file that is not regular may have no end, so it is not read.
    let fifo = directory.write("fifo.wasm", b"");
    fs::remove_file(&fifo).unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    for path in [Path::new("/dev/null"), &fifo, directory.directory.path()] {
        let output = inspect(&dump, &[path.to_str().unwrap()], &[]);
        let message = format!("corestream: {}: not a regular file\n", path.display());
        assert_eq!((output.status.code(), stderr(&output)), (Some(1), message));
    }
    // A truncated module is read as far as it goes.
    let whole = fs::read(GUEST).unwrap();
    let cut = directory.write("cut.wasm", &whole[..0xea50a]);
    let output = inspect(&dump, &[cut.to_str().unwrap()], &[]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("warning: ") && stderr(&output).contains("only partly read"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("     report at ") && text.contains("wordcount.c:36:13"), "{text}");
}

#[test]
fn reports_debugging_information_in_another_file() {
    let directory = Directory::new();
    let mut module = named("a", &["f"], 1);
    module.section(&CustomSection {
        name: "external_debug_info".into(),
        data: b"\x09a.dbg.wasm"[..].into(),
    });
    let file = directory.write("a.wasm", module.finish());
    let dump = directory.dump(&["a"], [frame(0, 1)]);
    let output = inspect(&dump, &[file.to_str().unwrap()], &[]);
    assert!(stderr(&output).contains("in another file; also pass that file: a.dbg.wa"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("     f\n"));
}

/// Returns a module with one unit of debugging information.
fn with_dwarf(abbreviations: &[u8], entries: &[u8], ranges: &[u8]) -> Vec<u8> {
    let mut unit = (u32::try_from(entries.len()).unwrap() + 7).to_le_bytes().to_vec();
    unit.extend([4, 0, 0, 0, 0, 0, 4]);
    unit.extend(entries);
    let mut module = named("a", &["f"], 1);
    module.section(&CustomSection { name: ".debug_abbrev".into(), data: abbreviations.into() });
    module.section(&CustomSection { name: ".debug_info".into(), data: unit.into() });
    module.section(&CustomSection { name: ".debug_ranges".into(), data: ranges.into() });
    module.finish()
}

/// Debugging information that would overflow the stack or take forever.
#[test]
fn survives_hostile_debugging_information() {
    let directory = Directory::new();
    let dump = directory.dump(&["a"], [frame(0, 1)]);
    let warns = |wasm: Vec<u8>, why: &str| {
        let file = directory.write("a.wasm", wasm);
        let output = inspect(&dump, &[file.to_str().unwrap()], &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        assert!(String::from_utf8(output.stdout).unwrap().contains("     f\n"));
    };
    // The units are harmless, but the frame has a problem.
    let has_problem = |wasm: Vec<u8>, why: &str| {
        let file = directory.write("a.wasm", wasm);
        let frame = &frames(&dump, &[file.to_str().unwrap()])[0];
        assert_eq!(name_of(frame), "f");
        assert!(frame["problem"].as_str().unwrap().ends_with(why), "{frame}");
    };
    // A unit with a function from 0 to 100, with a million calls that are inlined into each other.
    let abbreviations = [
        &[1, 0x11, 1, 0x11, 1, 0x12, 6, 0, 0][..],
        &[2, 0x2e, 1, 0x11, 1, 0x12, 6, 0, 0],
        &[3, 0x1d, 1, 0x11, 1, 0x12, 6, 0, 0, 0],
    ];
    let entry = |code: u8| [code, 0, 0, 0, 0, 100, 0, 0, 0];
    let mut entries = [entry(1), entry(2)].concat();
    entries.extend((0..1_000_000).flat_map(|_| entry(3)));
    warns(with_dwarf(&abbreviations.concat(), &entries, &[]), "nested more than 512 levels deep");
    // A million entries of one byte, each with a hundred thousand attributes of no bytes.
    let mut abbreviations = vec![1, 0x11, 1, 0, 0, 2, 0x34, 0];
    (0..100_000).for_each(|_| abbreviations.extend([0x3f, 0x19]));
    abbreviations.extend([0, 0, 0]);
    let mut entries = vec![1];
    entries.extend(vec![2; 1_000_000]);
    warns(
        with_dwarf(&abbreviations, &entries, &[]),
        "exceeds the limit of work for debugging information",
    );
    // A hundred thousand functions that share a hundred thousand ranges.
    let abbreviations = [1, 0x11, 1, 0x11, 1, 0x12, 6, 0, 0, 2, 0x2e, 0, 0x55, 0x17, 0, 0, 0];
    let mut entries = entry(1).to_vec();
    (0..100_000).for_each(|_| entries.extend([2, 0, 0, 0, 0]));
    entries.push(0);
    let ranges = [2_u32.to_le_bytes(), 90_u32.to_le_bytes()].concat().repeat(100_000);
    has_problem(
        with_dwarf(&abbreviations, &entries, &ranges),
        "exceeds the limit of work for debugging information",
    );
}

/// The real guest with changed bytes in its debugging information: names and lines may be missing or wrong, and nothing
/// worse happens.
#[test]
fn survives_garbled_debugging_information() {
    let directory = Directory::new();
    let dump = directory.dump(&["wordcount.wasm"], trapped());
    let whole = fs::read(GUEST).unwrap();
    let mut random = Random(77);
    for round in 0..24 {
        let mut bytes = whole.clone();
        for _ in 0..1 << (round % 12) {
            // Between the first section of debugging information and the names.
            let at = 0x5a20 + random.below(0xea70a - 0x5a20);
            bytes[at] = random.next().to_le_bytes()[0];
        }
        let file = directory.write("wordcount.wasm", bytes);
        let output = inspect(&dump, &[file.to_str().unwrap()], &[]);
        assert!(output.status.success(), "{round}: {}", stderr(&output));
        assert!(String::from_utf8(output.stdout).unwrap().contains("function 49 at 0x6"));
    }
    // A section that is longer than its file is truncated.
    let mut bytes = named("a", &["f"], 1).finish();
    bytes.push(0);
    leb(&mut bytes, 1 << 30);
    let file = directory.write("wordcount.wasm", bytes);
    let output = inspect(&dump, &[file.to_str().unwrap()], &[]);
    assert!(stderr(&output).contains("only partly read"), "{}", stderr(&output));
}
