//! Every value that `lldb-dap` shows is the one that the guest printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use corestream::{CoreDumpFile, MemoryIndex};
use serde_json::json;

use super::dap::Dap;
use super::expected::{Found, Tree, compare};
use super::{GUESTS, Server, program};

/// Returns the values that a guest printed, by function and variable. A name that is shadowed has several.
fn printed(guest: &str) -> BTreeMap<String, Vec<Tree>> {
    let text = fs::read_to_string(Path::new(GUESTS).join(format!("{guest}.txt"))).unwrap();
    let mut values = BTreeMap::<_, Vec<_>>::new();
    for line in text.lines() {
        let (name, value) = line.split_once(" = ").unwrap();
        values.entry(name.to_owned()).or_default().push(Tree::parse(value));
    }
    values
}

/// The results of a comparison, by variable.
#[derive(Default)]
struct Results {
    /// The number of scalars that are right.
    right: usize,
    missing: Vec<(String, String)>,
    other_forms: Vec<String>,
}

/// Compares the locals of all frames of a guest with what it printed.
fn check(guest: &str, files: &[&str]) -> Option<Results> {
    let dap = program("lldb-dap")?;
    let server = Server::of_guest(guest, files);
    let (mut dap, stopped) = Dap::attach(&dap, &server.command());
    assert!(stopped["description"].as_str().unwrap().starts_with("wasm trap: "), "{stopped}");
    let values = printed(guest);
    let (mut results, mut wrong) = (Results::default(), Vec::new());
    for frame in dap.frames(1) {
        let function = frame["name"].as_str().unwrap();
        let function = function.trim_end_matches(" [inlined]").split('(').next().unwrap();
        let function = function.rsplit([':', '.']).next().unwrap().to_owned();
        let mut seen = BTreeMap::<String, usize>::new();
        for variable in dap.scope(&frame, "Locals") {
            let name = variable["name"].as_str().unwrap();
            // LLDB adds the line of the declaration to names that are shadowed.
            let name = name.split(" @ ").next().unwrap().to_owned();
            let index = seen.entry(name.clone()).or_default();
            let of = format!("{function}.{name}");
            let Some(expected) = values.get(&of) else { continue };
            let Some(expected) = expected.get(*index) else { panic!("{guest}: another {of}") };
            *index += 1;
            match compare(&mut dap, &variable, expected) {
                Found::Right(count) => results.right += count,
                Found::Missing(reason) => results.missing.push((of, reason)),
                Found::OtherForm => results.other_forms.push(of),
                Found::Wrong(what) => wrong.push(format!("{of}: {what}: {variable}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{guest}: {wrong:#?}");
    dap.disconnect();
    assert_eq!(server.stop().0, Some(143));
    Some(results)
}

/// At -O0, with one thread and one instance, LLDB shows every value. Other forms are those that only the language has,
/// such as enumerations with data, whose members LLDB names differently.
#[test]
fn every_value_of_an_unoptimized_guest_is_right() {
    for (guest, right, other_forms) in [
        ("values-c-O0-dwarf5", 174, 4),
        ("values-c-O0-dwarf4", 174, 4),
        ("values-cpp-O0-dwarf4", 87, 10),
        ("values-rs-O0-dwarf5", 79, 84),
    ] {
        let Some(found) = check(guest, &[&format!("{guest}.wasm")]) else { return };
        let Results { missing, .. } = found;
        // LLDB has no size for the unit type.
        assert!(missing.iter().all(|(name, _)| name == "compounds.unit"), "{guest}: {missing:?}");
        assert_eq!((found.right, found.other_forms.len()), (right, other_forms), "{guest}");
    }
}

/// Returns why LLDB shows no value, as a limit of LLDB or of the guest (`docs/lldb.md`).
fn limit(reason: &str) -> &'static str {
    match reason {
        reason if reason.contains("variable not available") => {
            "LLDB looks at the position of the youngest frame, or the compiler kept no value"
        }
        reason if reason.contains("no location") => "the compiler kept no value",
        reason if reason.contains("DW_OP_WASM_location") => {
            "the server does not know the value, or it may be wrong"
        }
        reason if reason.contains("no register context") => "LLDB counts inlined frames as frames",
        reason if reason.contains("could not get size of type void") => "LLDB knows no such type",
        reason if reason.contains("read memory") => "the linker has removed the variable",
        reason => panic!("{reason}"),
    }
}

/// Values that an optimizing compiler has made unreliable are errors in LLDB, and others are right. `GUEST.lldb` lists
/// the errors with the limits that cause them. `CORESTREAM_UPDATE=1` writes these files.
#[test]
fn no_value_of_an_optimized_guest_is_wrong() {
    for (guest, companion) in [
        ("values-c-O2-dwarf5", None),
        ("values-c-O1-dwarf4", None),
        ("values-c-lto2", None),
        ("values-c-wasmopt-O1", None),
        ("values-c-wasmopt-O0", None),
        ("values-cpp-O1-dwarf5", None),
        ("values-cpp-O2-dwarf4", None),
        ("values-rs-O2-dwarf4", None),
        ("values-c-stripped", Some("values-c-companion.wasm")),
        ("values-c-external", Some("values-c-companion.wasm")),
    ] {
        let module = format!("{guest}.wasm");
        let files: Vec<_> = [&*module].into_iter().chain(companion).collect();
        let Some(found) = check(guest, &files) else { return };
        let mut text = format!("{} right\n", found.right);
        for (name, reason) in &found.missing {
            writeln!(text, "{name}: {}", limit(reason)).unwrap();
        }
        let path = Path::new(GUESTS).join(format!("{guest}.lldb"));
        if std::env::var_os("CORESTREAM_UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "{guest}");
    }
}

/// What VS Code asks for besides the variables of frames.
#[test]
fn static_variables_and_memory_are_right() {
    let guest = "values-c-O0-dwarf5";
    let Some(dap) = program("lldb-dap") else { return };
    let server = Server::of_guest(guest, &[&format!("{guest}.wasm")]);
    let (mut dap, _) = Dap::attach(&dap, &server.command());
    let values = printed(guest);
    let frames = dap.frames(1);
    let mut right = 0;
    for variable in dap.scope(&frames[0], "Globals") {
        let name = variable["name"].as_str().unwrap().trim_start_matches("::");
        let Some(expected) = values.get(&format!("::{name}")) else { continue };
        match compare(&mut dap, &variable, &expected[0]) {
            Found::Right(count) => right += count,
            Found::Missing(reason) => assert!(limit(&reason).starts_with("the linker"), "{name}"),
            Found::OtherForm => {}
            Found::Wrong(what) => panic!("{name}: {what}: {variable}"),
        }
    }
    assert!(right > 5, "{right}");

    let dump = CoreDumpFile::open(Path::new(GUESTS).join(format!("{guest}.core"))).unwrap();
    let mut expected = vec![0; 64];
    dump.memory(MemoryIndex(0)).unwrap().read(0xfd90, &mut expected).unwrap();
    let read = json!({ "memoryReference": "0xfd90", "count": 64 });
    let data = dap.request("readMemory", read)["data"].as_str().unwrap().to_owned();
    assert_eq!(decode_base64(&data), expected);
    let evaluated = dap.request(
        "evaluate",
        json!({ "expression": "level * 2", "frameId": frames[0]["id"], "context": "watch" }),
    );
    assert_eq!(evaluated["result"], "8");
    // A dump does not run: the guest stops again at the same place.
    dap.request("continue", json!({ "threadId": 1 }));
    dap.wait(|message| message["event"] == "stopped");
    assert_eq!(dap.frames(1)[0]["line"], frames[0]["line"]);
    dap.disconnect();
    assert_eq!(server.stop().0, Some(143));
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|other| *other == digit).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}
