//! Batch sessions of LLDB: backtraces, threads, instances, memories, and what a dump does not have.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use corestream::{
    CoreDump, CoreDumpFile, Dumper, Instance, Memory, MemoryImage, MemoryIndex, MemoryType, Thread,
};
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{GUESTS, program, session};
use crate::process_memory::peak_anon;
use crate::repeated::Repeated;
use crate::tool::{corestream, json, signal, succeed};
use crate::waiting;

/// A frame as LLDB and `inspect` show it: the function, the file without its directories, and the line.
pub type Frame = (String, Option<String>, Option<u64>);

/// Returns the frames of a backtrace of LLDB, and whether each is on a copy without debugging information.
pub fn backtrace(output: &str) -> Vec<(Frame, bool)> {
    let lines = output.split("(lldb) bt").nth(1).unwrap().split("(lldb)").next().unwrap().lines();
    let frames = lines.filter_map(|line| {
        let (_, rest) =
            line.trim_start_matches([' ', '*']).strip_prefix("frame #")?.split_once('`')?;
        let is_bare = line.contains("@no-debug`");
        let (function, place) = match rest.rsplit_once(" at ") {
            Some((function, place)) if place.contains(':') => (function, Some(place)),
            _ => (rest, None),
        };
        let mut place = place.into_iter().flat_map(|place| place.split([':', ' ']));
        let (file, line) = (place.next().map(str::to_owned), place.next());
        let line = line.map(|line| line.parse().unwrap());
        Some(((short_name(function), file, line), is_bare))
    });
    frames.collect()
}

/// Returns the frames of a thread in the report of `inspect`, inlined ones first.
pub fn inspected(directory: &Path, dump: &str, files: &[&str], thread: usize) -> Vec<Frame> {
    let mut args = vec!["inspect", dump, "--json"];
    args.extend(files.iter().flat_map(|file| ["--symbols", file]));
    let report = json(directory, args);
    let mut frames = Vec::new();
    for frame in report["threads"][thread]["frames"].as_array().unwrap() {
        let inlined = frame["inlined"].as_array().into_iter().flatten();
        for position in inlined.chain([frame]) {
            let file =
                position["file"].as_str().map(|file| file.rsplit('/').next().unwrap().into());
            let line = position["line"].as_u64();
            frames.push((short_name(position["name"].as_str().unwrap_or("?")), file, line));
        }
    }
    frames
}

/// Returns the name of a function without its namespace, its parameters, and the offset in it.
fn short_name(name: &str) -> String {
    let name = name.split(['(', '<']).next().unwrap().split(" + ").next().unwrap();
    name.rsplit([':', '.']).next().unwrap().trim().to_owned()
}

/// A directory with a guest, and a dump that a changed manifest describes.
fn changed(guest: &str, change: impl Fn(&mut Json)) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for kind in ["core", "wasm"] {
        let name = format!("{guest}.{kind}");
        fs::copy(Path::new(GUESTS).join(&name), path.join(&name)).unwrap();
    }
    succeed(path, ["extract", &format!("{guest}.core"), "--all", "parts"]);
    let manifest = path.join("parts/manifest.json");
    let mut parsed: Json = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    change(&mut parsed);
    fs::write(&manifest, parsed.to_string()).unwrap();
    succeed(path, ["dump", "--manifest", "parts/manifest.json", "-o", "changed.core"]);
    directory
}

const FILE: [&str; 2] = ["--symbols", "recursive.wasm"];

#[test]
fn backtraces_equal_those_of_inspect() {
    let Some(lldb) = program("lldb") else { return };
    for guest in [
        "recursive",
        "build_a",
        "values-c-O0-dwarf5",
        "values-c-O2-dwarf5",
        "values-cpp-O0-dwarf4",
        "values-cpp-O2-dwarf4",
        "values-rs-O0-dwarf5",
        "values-rs-O2-dwarf4",
        "values-zig-Debug",
        "wide",
    ] {
        let (dump, file) = (format!("{guest}.core"), format!("{guest}.wasm"));
        let output = session(GUESTS, &lldb, &[&dump, "--symbols", &file], &["bt"]);
        let expected = inspected(Path::new(GUESTS), &dump, &[&file], 0);
        let found = backtrace(&output);
        assert_eq!(found.len(), expected.len(), "{guest}: {output}{expected:#?}");
        for ((found, is_bare), expected) in found.iter().zip(&expected) {
            assert!(!is_bare, "{guest}: {output}");
            // The linker gives `main` another name, which `inspect` prefers.
            let is_main = found.0 == "main" && expected.0 == "__original_main";
            let is_equal = (&found.1, &found.2) == (&expected.1, &expected.2);
            let is_equal = is_equal && (found.0 == expected.0 || is_main);
            assert!(is_equal, "{guest}: {found:?}, not {expected:?}\n{output}");
        }
    }
}

/// LLDB 22 takes all frames of a recursive function for one, so each is on a copy of the module.
#[test]
fn every_frame_of_a_recursive_function_has_its_own_values() {
    let Some(lldb) = program("lldb") else { return };
    let mut commands = Vec::new();
    for frame in 0..4 {
        commands.push(format!("frame select {frame}"));
        commands.push("p depth".into());
        commands.push("p here".into());
        commands.push("p name".into());
    }
    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
    let output = session(GUESTS, &lldb, &["recursive.core", FILE[0], FILE[1]], &commands);
    let values = output
        .split("(lldb) ")
        .filter(|part| part.starts_with("p "))
        .map(|part| part.lines().nth(1).unwrap().to_owned());
    let expected =
        [(4, 110, 190, "es"), (3, 106, 194, "mes"), (2, 103, 197, "ames"), (1, 101, 199, "names")];
    let values: Vec<_> = values.collect();
    assert_eq!(values.len(), 12, "{output}");
    for ((depth, x, y, name), shown) in expected.into_iter().zip(values.chunks(3)) {
        assert_eq!(shown[0], format!("(int) {depth}"), "{output}");
        assert_eq!(shown[1], format!("(point)  (x = {x}, y = {y})"), "{output}");
        assert!(shown[2].ends_with(&format!("\"{name}\"")), "{output}");
    }
}

/// Adds a thread whose frames are the callers of the first one's.
fn add_thread(manifest: &mut Json) {
    let mut thread = manifest["threads"][0].clone();
    thread["name"] = json!("worker");
    thread["frames"].as_array_mut().unwrap().remove(0);
    manifest["threads"].as_array_mut().unwrap().push(thread);
}

/// LLDB asks for locals without naming the thread.
#[test]
fn only_the_chosen_thread_has_values() {
    let Some(lldb) = program("lldb") else { return };
    let directory = changed("recursive", add_thread);
    for (chosen, depth, bare) in [("0", 4, 5..9), ("1", 3, 4..9)] {
        let args = ["changed.core", FILE[0], FILE[1], "--thread", chosen];
        let output = session(&directory, &lldb, &args, &["thread list", "p depth", "bt all"]);
        assert!(output.contains("name = 'main'") && output.contains("name = 'worker'"), "{output}");
        assert!(output.contains(&format!("(int) {depth}\n")), "{output}");
        let shown = output.replace("(lldb) bt all", "(lldb) bt");
        let frames = backtrace(&shown);
        assert_eq!(frames.len(), 9, "{output}");
        for (i, (frame, is_bare)) in frames.iter().enumerate() {
            assert_eq!(*is_bare, bare.contains(&i), "{output}");
            assert_eq!(frame.1.is_none(), *is_bare, "{output}");
            let is_start = [if chosen == "0" { 4 } else { 3 }, 8].contains(&i);
            assert_eq!(frame.0, if is_start { "_start" } else { "walk" });
        }
        let warning = format!("only thread {chosen} (");
        let output = corestream(directory.path(), ["debug"])
            .args(args)
            .args([&format!("--lldb={lldb}"), "--", "-b"])
            .output()
            .unwrap();
        assert!(crate::tool::stderr(&output).contains(&warning), "{output:?}");
    }
}

/// A second instance of the module, with another memory, called the first one.
#[test]
fn frames_of_an_instance_with_another_memory_have_no_values() {
    let Some(lldb) = program("lldb") else { return };
    let directory = changed("recursive", |manifest| {
        let memory = manifest["memories"][0].clone();
        manifest["memories"].as_array_mut().unwrap().push(memory);
        let mut instance = manifest["instances"][0].clone();
        instance["memories"] = json!([1]);
        manifest["instances"].as_array_mut().unwrap().push(instance);
        let frames = manifest["threads"][0]["frames"].as_array_mut().unwrap();
        for frame in frames.iter_mut().skip(3) {
            frame["instance"] = json!(1);
        }
    });
    let commands = ["bt", "frame select 2", "p depth", "frame select 3", "frame variable"];
    let output = session(&directory, &lldb, &["changed.core", FILE[0], FILE[1]], &commands);
    let frames = backtrace(&output);
    let bare: Vec<_> = frames.iter().map(|(_, is_bare)| *is_bare).collect();
    assert_eq!(bare, [false, false, false, true, true], "{output}");
    assert!(output.contains("(int) 2\n"), "{output}");
    assert!(!output.contains("(int) depth = "), "{output}");
}

#[test]
fn further_memories_have_addresses_of_their_own() {
    let Some(lldb) = program("lldb") else { return };
    let directory = tempfile::tempdir().unwrap();
    for kind in ["core", "wasm"] {
        let name = format!("recursive.{kind}");
        fs::copy(Path::new(GUESTS).join(&name), directory.path().join(&name)).unwrap();
    }
    succeed(directory.path(), ["extract", "recursive.core", "--all", "parts"]);
    fs::write(directory.path().join("parts/second.mem"), b"second memory").unwrap();
    let path = directory.path().join("parts/manifest.json");
    let mut manifest: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = json!({ "image": "second.mem", "minimum": 1 });
    manifest["memories"].as_array_mut().unwrap().push(added);
    fs::write(&path, manifest.to_string()).unwrap();
    succeed(directory.path(), ["dump", "--manifest", "parts/manifest.json", "-o", "changed.core"]);
    let commands = ["memory read -c 13 0x100000000", "memory region --all"];
    let output = session(&directory, &lldb, &["changed.core", FILE[0], FILE[1]], &commands);
    assert!(output.contains("second memory"), "{output}");
    assert!(output.contains("memory 0\n") && output.contains("memory 1\n"), "{output}");
}

/// What was excluded is an error and never zeros, and memory equals what `extract` writes.
#[test]
fn excluded_memory_is_an_error() {
    let Some(lldb) = program("lldb") else { return };
    let directory = changed("recursive", |_| ());
    let path = directory.path();
    let excluded = ["--exclude", "0:0x10000..0x10100", "--force"];
    let args = ["dump", "--manifest", "parts/manifest.json", "-o", "changed.core"];
    succeed(path, args.into_iter().chain(excluded));
    let commands = [
        "settings set target.process.disable-memory-cache true",
        "memory region 0x10004",
        "p depth",
        "p name",
        "memory read --force --binary --outfile stack.bin 0xff00 0x10000",
        "memory read 0x10004",
    ];
    let output = session(path, &lldb, &["changed.core", FILE[0], FILE[1]], &commands);
    assert!(output.contains("error: memory read failed for 0x10004"), "{output}");
    assert!(
        output.contains("[0x0000000000010000-0x0000000000010100) --- memory 0, excluded\n"),
        "{output}"
    );
    assert!(!output.contains("\"es\"") && output.contains("(int) 4\n"), "{output}");
    succeed(path, ["extract", "recursive.core", "--memory", "0", "-o", "whole.mem"]);
    let (stack, whole) = (fs::read(path.join("stack.bin")), fs::read(path.join("whole.mem")));
    assert!(stack.unwrap() == whole.unwrap()[0xff00..0x10000]);
}

/// A guest without a file shows addresses, and one with names only shows them.
#[test]
fn guests_without_debugging_information_have_backtraces() {
    let Some(lldb) = program("lldb") else { return };
    let output = session(GUESTS, &lldb, &["recursive.core"], &["bt"]);
    assert_eq!(output.split("(lldb) bt").nth(1).unwrap().matches("frame #").count(), 5, "{output}");
    let args = ["values-c-stripped.core", "--symbols", "values-c-stripped.wasm"];
    let output = session(GUESTS, &lldb, &args, &["bt"]);
    let expected = inspected(Path::new(GUESTS), args[0], &[args[2]], 0);
    let found: Vec<_> = backtrace(&output).into_iter().map(|(frame, _)| frame.0).collect();
    assert_eq!(found.len(), expected.len(), "{output}");
}

/// Numbers of a guest with 64-bit addresses are right, and a warning names the limits.
#[test]
fn a_guest_with_64_bit_addresses_shows_its_numbers() {
    let Some(lldb) = program("lldb") else { return };
    let args = ["wide.core", "--symbols", "wide.wasm"];
    let output =
        session(GUESTS, &lldb, &args, &["frame variable", "memory read -c 8 -f d -s 8 0x10000"]);
    for value in ["count = 3", "ratio = 2.5", "result = 2", "number = 42"] {
        assert!(output.contains(value), "{value}: {output}");
    }
    let mut command = corestream(Path::new(GUESTS), ["debug"]);
    let output = command.args(args).args([&format!("--lldb={lldb}"), "--", "-b"]).output().unwrap();
    assert!(crate::tool::stderr(&output).contains("truncates pointers to 32 bits"), "{output:?}");
}

/// LLDB 22 takes an expression in such a frame for Objective-C, and aborts, unless the language is set.
#[test]
fn expressions_work_in_frames_without_debugging_information() {
    let Some(lldb) = program("lldb") else { return };
    let output = session(GUESTS, &lldb, &["recursive.core"], &["p 1+1"]);
    assert!(output.contains("(int) 2\n"), "{output}");
    let directory = changed("recursive", add_thread);
    let args = ["changed.core", FILE[0], FILE[1]];
    let output = session(&directory, &lldb, &args, &["p depth * 2", "thread select 2", "p 1+1"]);
    assert!(output.contains("(int) 8\n") && output.contains("(int) 2\n"), "{output}");
}

/// The module that was checked is served, and not the file that has its name by now.
#[test]
fn a_guest_that_was_built_again_is_not_read() {
    let Some(lldb) = program("lldb") else { return };
    let directory = tempfile::tempdir().unwrap();
    let guest = Path::new(GUESTS);
    let module = directory.path().join("guest.wasm");
    fs::copy(guest.join("values-c-O0-dwarf4.wasm"), &module).unwrap();
    let dump = fs::canonicalize(guest.join("values-c-O0-dwarf4.core")).unwrap();
    let args = [dump.to_str().unwrap(), "--symbols", "guest.wasm"];
    let server = super::Server::start(directory.path(), &args);
    fs::remove_file(&module).unwrap();
    fs::copy(guest.join("values-cpp-O0-dwarf4.wasm"), &module).unwrap();
    let output = std::process::Command::new(lldb)
        .args(["--no-lldbinit", "-b", "-o", &server.command(), "-o", "bt"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("innermost(level=4) at values.c:524"), "{text}");
    assert!(!text.contains("values.cpp"), "{text}");
    assert_eq!(server.stop().0, Some(143));
}

/// LLDB would load the companion that the module names, without a check.
#[test]
fn a_companion_that_was_not_given_is_not_loaded() {
    let Some(lldb) = program("lldb") else { return };
    let args = ["values-c-external.core", "--symbols", "values-c-external.wasm"];
    let output = session(GUESTS, &lldb, &args, &["bt"]);
    assert!(!output.contains(" at values.c:"), "{output}");
    assert!(output.contains("also pass that file"), "{output}");
}

/// A flipped bit in a frame.
#[test]
fn a_damaged_dump_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(Path::new(GUESTS).join("recursive.core")).unwrap();
    let name = b"main";
    let at = bytes.windows(4).position(|bytes| bytes == name).unwrap() + 12;
    bytes[at] ^= 2;
    fs::write(directory.path().join("damaged.core"), bytes).unwrap();
    let server = super::Server::start(directory.path(), &["damaged.core"]);
    let (_, message) = server.stop();
    assert!(
        message.contains("warning: damaged.core: ") && message.contains("can be wrong"),
        "{message}"
    );
}

/// A signal ends LLDB too. SIGINT only ends its command.
#[test]
fn a_signal_ends_lldb_too() {
    let Some(lldb) = program("lldb") else { return };
    let directory = tempfile::tempdir().unwrap();
    let ends = waiting::stop_signals().into_iter().filter(|(end, ..)| *end != Signal::INT);
    for (end, _, code) in ends {
        let mut process = corestream(Path::new(GUESTS), ["debug", "recursive.core"])
            .args([FILE[0], FILE[1], &format!("--lldb={lldb}"), "--", "--no-lldbinit"])
            .env("XDG_RUNTIME_DIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("stop reason") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        signal(&process, Signal::INT);
        signal(&process, end);
        io::copy(&mut output, &mut io::sink()).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(code));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

/// A file from another build is an error that names the frame.
#[test]
fn a_file_from_another_build_is_refused() {
    let mut command = corestream(Path::new(GUESTS), ["debug"]);
    let output = command.args(["build_a.core", "--symbols", "build_b.wasm"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = crate::tool::stderr(&output);
    assert!(message.contains("build_b.wasm is not module 0 of the dump: frame "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

/// Sparse and dense dumps of gigabytes open at once, because nothing is loaded.
#[test]
#[ignore = "slow: 10 s, 5 GiB of disk"]
fn opens_dumps_of_gigabytes() {
    let Some(lldb) = program("lldb") else { return };
    // The guest uses the first 128 KiB.
    let small = CoreDumpFile::open(Path::new(GUESTS).join("wide.core")).unwrap();
    let mut start = vec![0; 128 << 10];
    small.memory(MemoryIndex(0)).unwrap().read(0, &mut start).unwrap();
    let dense: Vec<_> = (0_u32..1 << 18).flat_map(|i| (i | 1).to_le_bytes()).collect();
    for (name, len, part) in
        [("sparse", 16_usize << 30, vec![0; 1 << 20]), ("dense", 5 << 30, dense)]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::copy(Path::new(GUESTS).join("wide.wasm"), path.join("wide.wasm")).unwrap();
        let mut first = part.clone();
        first[..start.len()].copy_from_slice(&start);
        let mut last = part.clone();
        last[(1 << 20) - 8..].copy_from_slice(b"the end\0");
        let memory = Repeated::between(&first, &part, &last, len);
        let mut dump = CoreDump::new("wide.wasm");
        let image = MemoryImage::from_slice(memory.bytes());
        let ty = MemoryType::wasm64(len as u64 >> 16);
        let memory = dump.add_memory(Memory::new(ty, image));
        let module = dump.add_module("wide.wasm");
        dump.add_instance(Instance::new(module).with_memories([memory]));
        let thread = small.thread(0).unwrap();
        dump.add_thread(Thread::new("main").with_frames(thread.frames().map(Result::unwrap)));
        let plan = Dumper::new().plan(&dump).unwrap();
        plan.write_file(path.join("large.core")).unwrap();
        let mut command = corestream(path, ["debug", "large.core", "--symbols", "wide.wasm"]);
        let read = format!("memory read -c 7 {:#x}", len - 8);
        command.args([&format!("--lldb={lldb}"), "--", "-b", "-o", "bt", "-o", &read]);
        let start = Instant::now();
        let (output, peak) = peak_anon(&mut command);
        let text = String::from_utf8(output.stdout).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let _ = writeln!(io::stderr(), "{name}: {seconds:.2} s, {peak} bytes");
        assert!(text.contains("wide.wasm`sum(count=3") && text.contains("the end"), "{text}");
        assert!(peak < 32 << 20, "{peak}");
    }
}
