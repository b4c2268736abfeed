//! Symbols of components. Each guest of the debugger's tests is also run as a component of the same code: with the adapter
//! for WASI preview 1, or, if it does not use WASI, in a component written by hand.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tempfile::TempDir;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wasm_encoder::Encode;
use wit_component::ComponentEncoder;

use crate::debug::sessions::{backtrace, inspected};
use crate::debug::{program, session};
use crate::tool::{corestream, json as report, stderr};

const GUESTS: &str = "tests/guests";

/// The debugging information of a guest, without its code.
const COMPANION: &str = "values-c-companion.wasm";

/// A guest, and how it is called.
#[derive(Clone, Copy)]
struct Guest {
    /// The path below `tests/guests`.
    path: &'static str,
    /// Other files with its symbols, in the same directory.
    symbols: &'static [&'static str],
    call: Call,
}

#[derive(Clone, Copy)]
enum Call {
    /// `_start`, with WASI.
    Command,
    /// An exported function without WASI, with the declaration of its type in a component, and its arguments.
    Function(&'static str, &'static str, &'static [&'static str]),
}

const fn command(path: &'static str) -> Guest {
    Guest { path, symbols: &[], call: Call::Command }
}

const fn start(path: &'static str) -> Guest {
    Guest { path, symbols: &[], call: Call::Function("_start", "", &[]) }
}

const fn main(path: &'static str) -> Guest {
    let ty = "(param \"argc\" s32) (param \"argv\" s32) (result s32)";
    Guest { path, symbols: &[], call: Call::Function("main", ty, &["0", "0"]) }
}

const fn overflow(path: &'static str, function: &'static str) -> Guest {
    let ty = "(param \"n\" s32) (result s32)";
    Guest { path, symbols: &[], call: Call::Function(function, ty, &["0"]) }
}

const fn with(path: &'static str, symbols: &'static [&'static str]) -> Guest {
    Guest { path, symbols, call: Call::Command }
}

const UNOPTIMIZED: [Guest; 12] = [
    command("wordcount.wasm"),
    command("values/values-c-O0-dwarf4.wasm"),
    command("values/values-c-O0-dwarf5.wasm"),
    with("values/values-c-split.wasm", &["values-c-split.dwp"]),
    with("values/values-c-split4.wasm", &["values-c-split4.dwo"]),
    with("values/values-c-stripped.wasm", &[COMPANION]),
    with("values/values-c-external.wasm", &[COMPANION]),
    command("values/values-cpp-O0-dwarf4.wasm"),
    command("values/values-cpp-types4.wasm"),
    command("values/values-cpp-types5.wasm"),
    command("values/values-rs-O0-dwarf5.wasm"),
    command("values/values-zig-Debug.wasm"),
];

const OPTIMIZED: [Guest; 9] = [
    command("values/values-c-O1-dwarf4.wasm"),
    command("values/values-c-O2-dwarf5.wasm"),
    command("values/values-c-lto2.wasm"),
    command("values/values-c-wasmopt-O0.wasm"),
    command("values/values-c-wasmopt-O1.wasm"),
    command("values/values-cpp-O1-dwarf5.wasm"),
    command("values/values-cpp-O2-dwarf4.wasm"),
    command("values/values-rs-O2-dwarf4.wasm"),
    command("values/values-zig-ReleaseFast.wasm"),
];

const WITHOUT_WASI: [Guest; 9] = [
    start("../../../../examples/orders.wat"),
    start("values/recursive.wasm"),
    start("values/wide.wasm"),
    main("values/build_a.wasm"),
    main("values/build_b.wasm"),
    overflow("overflow-data-first.wasm", "deep"),
    overflow("overflow-stack-first.wasm", "leaf"),
    overflow("overflow-stack-first.wasm", "wild"),
    overflow("overflow-unnamed.wasm", "deep"),
];

/// The guests that the normal run opens in LLDB. The others take a minute.
const IN_LLDB: [Guest; 4] = [
    command("values/values-c-O0-dwarf5.wasm"),
    with("values/values-c-external.wasm", &[COMPANION]),
    command("values/values-rs-O2-dwarf4.wasm"),
    start("values/recursive.wasm"),
];

/// Returns a component of a core module that is a command of WASI preview 1.
fn adapted(wasm: &[u8]) -> Vec<u8> {
    let mut encoder = ComponentEncoder::default().module(wasm).unwrap();
    let (name, adapter) =
        (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER);
    encoder = encoder.adapter(name, adapter).unwrap();
    encoder.encode().unwrap()
}

/// Returns a component that exports a function of a core module as `run`.
fn wrapped(wasm: &[u8], function: &str, ty: &str) -> Vec<u8> {
    // The core module is in the place of an empty one, because a text cannot contain a binary.
    const HEADER: usize = 8;
    const EMPTY: [u8; 10] = *b"\x01\x08\0asm\x01\0\0\0";
    let text = format!(
        "(component (core module) (core instance $i (instantiate 0))
            (func (export \"run\") {ty} (canon lift (core func $i \"{function}\"))))"
    );
    let component = wat::parse_str(text).unwrap();
    let sections = component[HEADER..].strip_prefix(&EMPTY).unwrap();
    let mut wrapped = component[..HEADER].to_vec();
    wrapped.push(1);
    wasm.encode(&mut wrapped);
    wrapped.extend(sections);
    wrapped
}

/// The dumps of a guest as a core module and as a component.
struct Dumps {
    directory: TempDir,
    /// The symbol files of the core module, and those of the component.
    symbols: [Vec<String>; 2],
}

const CORE: &str = "guest.core";
const COMPONENT: &str = "component.core";

impl Guest {
    fn dump(self) -> Dumps {
        let path = Path::new(GUESTS).join(self.path);
        let wasm = wat::parse_file(&path).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (component, calls) = match self.call {
            Call::Command => (adapted(&wasm), [vec![], vec![]]),
            Call::Function(function, ty, arguments) => {
                let call =
                    ["--invoke", function, "--"].into_iter().chain(arguments.iter().copied());
                let call = call.map(str::to_owned).collect();
                let of_component =
                    vec!["--invoke".into(), format!("run({})", arguments.join(", "))];
                (wrapped(&wasm, function, ty), [call, of_component])
            }
        };
        fs::write(at("guest.wasm"), &wasm).unwrap();
        fs::write(at("component.wasm"), component).unwrap();
        for (name, call) in ["guest", "component"].into_iter().zip(calls) {
            let output = corestream(directory.path(), ["run", &format!("{name}.wasm"), "--locals"])
                .args(["-o", &format!("{name}.core")])
                .args(call)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(134), "{}: {}", self.path, stderr(&output));
        }
        let others = self.symbols.iter().map(|name| path.with_file_name(name));
        let others: Vec<PathBuf> = others.map(|path| fs::canonicalize(path).unwrap()).collect();
        // Only the index tells to which module a companion belongs that has no build id and no name in it.
        let is_unnamed = self.path.ends_with("stripped.wasm");
        let index = report(directory.path(), ["inspect", COMPONENT, "--json"]);
        let index =
            index["instances"][to_index(&index["threads"][0]["frames"][0]["instance"])]["module"]
                .as_u64();
        let symbols = [("guest.wasm", None), ("component.wasm", index.filter(|_| is_unnamed))];
        let symbols = symbols.map(|(file, index)| {
            let index = index.map_or(String::new(), |index| format!("{index}="));
            let others = others.iter().map(|path| format!("{index}{}", path.display()));
            [file.to_owned()].into_iter().chain(others).collect()
        });
        Dumps { directory, symbols }
    }

    /// Compares the report of `inspect` about both dumps: function, file, line, inlined calls, variables, locals and
    /// operands of each frame of the core module, and static variables. Returns the number of frames and of variables.
    fn compare_reports(self) -> (usize, usize) {
        let dumps = self.dump();
        let [core, component] = [CORE, COMPONENT].map(|dump| {
            let mut report = dumps.report(dump);
            if self.path == "wordcount.wasm" {
                remove_addresses(&mut report);
            }
            report
        });
        let verdict = |report: &Json, module: &Json| {
            let files = report["symbol_files"].as_array().unwrap().iter();
            let mut of_module = files.filter(|file| file["module"] == *module);
            of_module.next().unwrap()["verdict"].clone()
        };
        let frames = |report: &Json| {
            let frames = report["threads"][0]["frames"].as_array().unwrap().clone();
            let instance = frames[0]["instance"].clone();
            let module = &report["instances"][to_index(&instance)]["module"];
            let verdict = verdict(report, module);
            let own = frames.into_iter().filter(|frame| frame["instance"] == instance);
            let own = own.map(|mut frame| {
                frame["instance"] = Json::Null;
                frame
            });
            (own.collect::<Vec<_>>(), verdict)
        };
        let ((core_frames, verdict), (frames, component_verdict)) =
            (frames(&core), frames(&component));
        assert_eq!(frames.len(), core_frames.len(), "{}", self.path);
        for (frame, core) in frames.iter().zip(&core_frames) {
            assert_eq!(frame, core, "{}", self.path);
        }
        assert_eq!(component_verdict, verdict, "{}", self.path);
        // Nothing proves that a companion without a build id is of the same build.
        let expected = if self.symbols.contains(&COMPANION) { "plausible" } else { "certain" };
        assert_eq!(verdict, expected, "{}", self.path);
        let variables = |frames: &[Json]| {
            let lists = frames.iter().filter_map(|frame| frame["variables"].as_array());
            lists.map(Vec::len).sum()
        };
        let statics = |report: &Json| {
            let units = report["statics"].as_array().into_iter().flatten();
            units.map(|unit| unit["variables"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(statics(&component), statics(&core), "{}", self.path);
        (frames.len(), variables(&frames))
    }

    /// Compares the backtraces in LLDB for both dumps. The backtrace of the component may have more frames, such as those of
    /// adapters.
    fn compare_backtraces(self, lldb: &str) {
        let dumps = self.dump();
        let path = dumps.directory.path();
        let [(core, _), (component, output)] = [CORE, COMPONENT].map(|dump| {
            let mut args = vec![dump];
            args.extend(dumps.files(dump).flat_map(|file| ["--symbols", file]));
            let output = session(path, lldb, &args, &["bt"]);
            (backtrace(&output), output)
        });
        assert!(!core.is_empty() && component.len() >= core.len(), "{}: {output}", self.path);
        // The frames of the adapter are the oldest.
        assert_eq!(component[..core.len()], core, "{}: {output}", self.path);
        // Without a .dwo file, LLDB shows no inlined calls.
        let count = |dump| inspected(path, dump, &dumps.files(dump).collect::<Vec<_>>(), 0).len();
        let added = count(COMPONENT) - count(CORE);
        assert_eq!(component.len() - core.len(), added, "{}: {output}", self.path);
    }
}

impl Dumps {
    /// Returns the symbol files of a dump.
    fn files(&self, dump: &str) -> impl Iterator<Item = &str> {
        self.symbols[usize::from(dump == COMPONENT)].iter().map(String::as_str)
    }

    fn report(&self, dump: &str) -> Json {
        let mut args = vec!["inspect", dump, "--json", "--max-depth", "20"];
        args.extend(self.files(dump).flat_map(|file| ["--symbols", file]));
        report(self.directory.path(), args)
    }
}

/// Removes the values that can be addresses. The adapter takes pages of the guest's memory, so its heap is elsewhere.
fn remove_addresses(json: &mut Json) {
    match json {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "address" | "locals" | "pointer" | "stack" => *value = Json::Null,
                    _ => remove_addresses(value),
                }
            }
        }
        Json::Array(elements) => elements.iter_mut().for_each(remove_addresses),
        _ => {}
    }
}

fn to_index(json: &Json) -> usize {
    usize::try_from(json.as_u64().unwrap()).unwrap()
}

/// Compares the reports of guests. Returns the number of frames and of variables of each.
fn compare(guests: &[Guest]) -> Vec<(usize, usize)> {
    guests.iter().map(|guest| guest.compare_reports()).collect()
}

#[test]
fn unoptimized_guests_have_the_symbols_of_their_core_modules() {
    for (guest, (frames, variables)) in UNOPTIMIZED.iter().zip(compare(&UNOPTIMIZED)) {
        assert!(frames > 2 && variables > 5, "{}: {frames} {variables}", guest.path);
    }
}

#[test]
fn optimized_guests_have_the_symbols_of_their_core_modules() {
    for (guest, (frames, variables)) in OPTIMIZED.iter().zip(compare(&OPTIMIZED)) {
        assert!(frames > 0 && variables > 0, "{}: {frames} {variables}", guest.path);
    }
}

#[test]
fn guests_without_wasi_have_the_symbols_of_their_core_modules() {
    let frames: Vec<_> = compare(&WITHOUT_WASI).into_iter().map(|(frames, _)| frames).collect();
    assert_eq!(frames[..5], [6, 5, 2, 3, 3]);
    assert!(frames[5..].iter().all(|frames| *frames > 0), "{frames:?}");
}

#[test]
fn backtraces_in_lldb_are_those_of_the_core_modules() {
    let Some(lldb) = program("lldb") else { return };
    IN_LLDB.iter().for_each(|guest| guest.compare_backtraces(&lldb));
}

/// All guests except those that overflow their stacks, which have thousands of frames.
#[test]
#[ignore = "opens all guests in LLDB"]
fn all_backtraces_in_lldb_are_those_of_the_core_modules() {
    let Some(lldb) = program("lldb") else { return };
    for guest in UNOPTIMIZED.iter().chain(&OPTIMIZED).chain(&WITHOUT_WASI[..5]) {
        guest.compare_backtraces(&lldb);
    }
}

/// Two instances of a component with two instances of a core module each, and a call through an adapter.
const COMPOSED: &str = r#"(component
    (component $inner
        (core module $code
            (memory (export "memory") 1)
            (func $deep (param i32)
                unreachable)
            (func $f (export "f") (param i32)
                (call $deep (local.get 0))))
        (core instance $first (instantiate $code))
        (core instance $second (instantiate $code))
        (func (export "f") (param "n" u32) (canon lift (core func $second "f"))))
    (component $outer
        (import "f" (func $f (param "n" u32)))
        (core func $f (canon lower (func $f)))
        (core module $code (import "" "f" (func $f (param i32)))
            (func $run (export "run") (param i32)
                (call $f (local.get 0))))
        (core instance $code (instantiate $code (with "" (instance (export "f" (func $f))))))
        (func (export "run") (param "n" u32) (canon lift (core func $code "run"))))
    (core module $unused (func $deep))
    (instance $one (instantiate $inner))
    (instance $two (instantiate $inner))
    (instance $outer (instantiate $outer (with "f" (func $two "f"))))
    (export "run" (func $outer "run")))"#;

/// Returns a directory with the component in both forms and its dump.
fn composed() -> TempDir {
    let directory = super::directory("two.wat", COMPOSED);
    let path = directory.path();
    fs::write(path.join("two.wasm"), wat::parse_str(COMPOSED).unwrap()).unwrap();
    let args = ["run", "two.wat", "--locals", "--invoke", "run(1)", "-o", "two.core"];
    let output = corestream(path, args).output().unwrap();
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    directory
}

#[test]
fn every_instance_of_a_composed_component_has_symbols() {
    let directory = composed();
    for (file, line) in [("two.wat", true), ("two.wasm", false)] {
        let args = ["inspect", "two.core", "--json", "--symbols", file];
        let output = corestream(directory.path(), args).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        let report: Json = serde_json::from_slice(&output.stdout).unwrap();
        let modules: Vec<_> = report["modules"].as_array().unwrap().iter().collect();
        assert_eq!(
            modules,
            [
                "one:code",
                "outer:code",
                "adapter(two, outer)",
                "one:code(second)",
                "two:code",
                "two:code(second)"
            ],
            "{report}"
        );
        let files = report["symbol_files"].as_array().unwrap().iter();
        let files: Vec<_> =
            files.map(|file| (to_index(&file["module"]), &file["verdict"])).collect();
        let certain = Json::from("certain");
        assert_eq!(files, [0, 1, 3, 4, 5].map(|module| (module, &certain)));
        let frames = report["threads"][0]["frames"].as_array().unwrap().iter();
        let frames: Vec<_> =
            frames.map(|frame| (frame["name"].as_str(), frame["line"].as_u64())).collect();
        let at = |number: u64| line.then_some(number);
        assert_eq!(
            frames,
            [(Some("deep"), at(6)), (Some("f"), at(8)), (None, None), (Some("run"), at(17))]
        );
    }
}

/// The library of a frame has the name of its module. The adapter has an address only, and a warning tells why.
#[test]
fn lldb_shows_the_modules_of_a_composed_component() {
    let Some(lldb) = program("lldb") else { return };
    let directory = composed();
    let output = session(
        directory.path(),
        &lldb,
        &["two.core", "--symbols", "two.wat"],
        &["bt", "image list"],
    );
    let found: Vec<_> =
        backtrace(&output).into_iter().map(|((name, _, line), _)| (name, line)).collect();
    // The caller has another memory, or none, so it has no debugging information.
    let expected = [("deep", Some(6)), ("f", Some(8)), ("run", None)];
    assert_eq!(found, expected.map(|(name, line)| (name.to_owned(), line)), "{output}");
    assert!(
        output.contains(" two:code(second)`deep") && output.contains(" outer:code@no-debug`run"),
        "{output}"
    );
    assert_eq!(output.matches("frame #").count(), 5, "{output}");
    for name in ["one:code", "one:code(second)", "two:code"] {
        assert!(output.contains(&format!("/two.wat/{name}")), "{output}");
    }
    let warning =
        "(adapter(two, outer)) has no file, so its frames show addresses only; pass --symbols ";
    assert!(output.contains(warning), "{output}");
    assert!(output.contains("=FILE, unless it is an adapter of a component\n"), "{output}");
}

#[test]
fn a_trap_of_a_component_opens_the_dump_in_lldb() {
    if program("lldb").is_none() {
        return;
    }
    let directory = super::directory("two.wat", COMPOSED);
    let args = ["run", "--debug", "two.wat", "--invoke", "run(1)"];
    let output = corestream(directory.path(), args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("two:code(second)`deep at two.wat:6:17"), "{text}");
}

#[test]
fn components_that_do_not_fit_are_named() {
    let directory = composed();
    let path = directory.path();
    let inspect = |symbols: &str| {
        let output =
            corestream(path, ["inspect", "two.core", "--symbols", symbols]).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let no_match = "no core module of this component matches a module of the dump; pass the component that ran, or INDEX=FILE";
    fs::write(path.join("other.wat"), "(component (core module (func unreachable)))").unwrap();
    assert_eq!(inspect("other.wat"), (Some(2), format!("corestream: other.wat: {no_match}\n")));
    fs::write(path.join("empty.wat"), "(component)").unwrap();
    let expected = "corestream: empty.wat: is a component without core modules\n";
    assert_eq!(inspect("empty.wat"), (Some(2), expected.into()));
    assert_eq!(inspect("3=two.wasm"), (Some(0), String::new()));
    let expected = "corestream: two.wasm: cannot tell which of its core modules is module 2 of the dump; extract that one \
                    with `wasm-tools component unbundle`, and pass 2=MODULE.wasm\n";
    assert_eq!(inspect("2=two.wasm"), (Some(2), expected.into()));
    let whole = fs::read(path.join("two.wasm")).unwrap();
    fs::write(path.join("cut.wasm"), &whole[..whole.len() - 1]).unwrap();
    let (code, message) = inspect("cut.wasm");
    assert_eq!((code, message.lines().count()), (Some(0), 1), "{message}");
    let expected =
        "corestream: warning: cut.wasm: only partly read: unexpected end of a section (at offset ";
    assert!(message.starts_with(expected), "{message}");
}
