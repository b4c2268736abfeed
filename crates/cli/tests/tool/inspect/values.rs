//! Values of variables. Each guest prints the expected text of its variables before it traps.
//!
//! `tests/guests/values/build` builds the guests. Some copies are committed. With `CORESTREAM_GUESTS`, these tests use
//! the guests in that directory.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::tool::{corestream, stderr};

/// The committed guests.
const COMMITTED: &str = "tests/guests/values";

/// Variables of unoptimized guests without a value: the linker has removed them, because the compiler has used their
/// values instead.
const REMOVED: [&str; 2] = ["innermost.note", "::alias"];

fn directory() -> PathBuf {
    std::env::var_os("CORESTREAM_GUESTS").map_or(COMMITTED.into(), PathBuf::from)
}

fn is_committed() -> bool {
    std::env::var_os("CORESTREAM_GUESTS").is_none()
}

/// Runs `inspect` on the dump of a guest, with these symbol files.
fn inspect(guest: &str, files: &[&str], more: &[&str]) -> (String, String) {
    let directory = directory();
    let mut command = corestream(&directory, ["inspect"]);
    command.arg(format!("{guest}.core")).args(more);
    for file in files {
        command.args(["--symbols", file]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{guest}: {}", stderr(&output));
    (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
}

/// Values by `function.variable`, or `::variable` if it is static. A name that is shadowed has several.
type Values = BTreeMap<String, Vec<String>>;

/// Returns the values that the guest printed.
fn expected(guest: &str) -> Values {
    let text = fs::read_to_string(directory().join(format!("{guest}.txt"))).unwrap();
    let mut values = Values::new();
    for line in text.lines() {
        let (name, value) = line.split_once(" = ").unwrap();
        values.entry(name.into()).or_default().push(value.into());
    }
    assert!(values.len() > 70, "{guest}");
    values
}

/// Returns the values in the JSON report, as text.
fn reported(guest: &str, files: &[&str]) -> Values {
    let (text, _) =
        inspect(guest, files, &["--json", "--max-depth", "20", "--max-elements", "100"]);
    let json: Json = serde_json::from_str(&text).unwrap();
    let mut values = Values::new();
    let mut add = |prefix: &str, variables: &Json| {
        for variable in variables.as_array().unwrap() {
            let name = format!("{prefix}{}", variable["name"].as_str().unwrap());
            assert!(!variable["type"].as_str().unwrap().is_empty(), "{variable}");
            values.entry(name).or_default().push(show(&variable["value"]));
        }
    };
    for frame in json["threads"][0]["frames"].as_array().unwrap() {
        let inlined = frame["inlined"].as_array().into_iter().flatten();
        for position in inlined.chain([frame]) {
            if let Some(variables) = position.get("variables") {
                add(&format!("{}.", short_name(position["name"].as_str().unwrap())), variables);
            }
        }
    }
    for unit in json["statics"].as_array().into_iter().flatten() {
        add("::", &unit["variables"]);
    }
    values
}

/// Returns the values in the text report.
fn printed(guest: &str, files: &[&str]) -> Values {
    let (text, _) = inspect(guest, files, &["--max-depth", "20", "--max-elements", "100"]);
    let mut values = Values::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match line.trim_start().split_once(" = ") {
            Some((name, value)) if indent == 7 || (indent == 2 && prefix == "::") => {
                values.entry(format!("{prefix}{name}")).or_default().push(value.into());
            }
            _ if line.starts_with("statics of ") => prefix = "::".into(),
            _ if indent == 5 => {
                let name = line.trim_start().split(" at ").next().unwrap();
                prefix = format!("{}.", short_name(name.trim_end_matches(" inlined")));
            }
            _ => {}
        }
    }
    values
}

/// Returns the name of a function without its namespace and its parameters.
fn short_name(name: &str) -> &str {
    let name = name.split('(').next().unwrap();
    name.rsplit([':', '.']).next().unwrap()
}

/// Writes a value of the JSON report as the guests write it.
fn show(value: &Json) -> String {
    let of = |key: &str| value.get(key);
    let list = |values: &Json| -> String {
        values.as_array().unwrap().iter().map(show).collect::<Vec<_>>().join(", ")
    };
    match value {
        Json::Null => return "null".into(),
        Json::Bool(_) | Json::Number(_) => return value.to_string(),
        Json::String(number) => return number.clone(),
        _ => {}
    }
    if let Some(reason) = of("unknown") {
        format!("? ({})", reason.as_str().unwrap())
    } else if let Some(float) = of("float") {
        float.as_str().unwrap().into()
    } else if let Some(character) = of("character") {
        let byte = of("value").unwrap().as_u64().unwrap();
        match character.as_str().unwrap() {
            "\u{fffd}" => format!("'\\x{byte:02x}'"),
            character => format!("'{}'", escape(character.as_bytes(), '\'')),
        }
    } else if let Some(name) = of("enumerator") {
        name.as_str().unwrap().into()
    } else if let Some(address) = of("pointer") {
        let address = address.as_u64().unwrap();
        match of("target") {
            None => format!("{address:#x}"),
            Some(text) if text.get("address") == Some(&Json::from(address)) => {
                format!("{address:#x} {}", show(text))
            }
            Some(target) => format!("{address:#x} -> {}", show(target)),
        }
    } else if let Some(text) = of("text") {
        let bytes = match of("bytes").filter(|bytes| !bytes.is_null()) {
            Some(hex) => {
                let hex = hex.as_str().unwrap();
                let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                (0..hex.len()).step_by(2).map(byte).collect()
            }
            None => text.as_str().unwrap().as_bytes().to_vec(),
        };
        assert_eq!(of("length").unwrap().as_u64(), Some(bytes.len() as u64));
        format!("\"{}\"", escape(&bytes, '"'))
    } else if let Some(elements) = of("elements") {
        let count = elements.as_array().unwrap().len() as u64;
        assert_eq!(of("length").unwrap().as_u64(), Some(count));
        format!("[{}]", list(elements))
    } else if let Some(members) = of("members") {
        let member = |member: &Json| match member["name"].as_str() {
            Some(name) => format!("{name} = {}", show(&member["value"])),
            None => show(&member["value"]),
        };
        let members: Vec<_> = members.as_array().unwrap().iter().map(member).collect();
        format!("{{{}}}", members.join(", "))
    } else if let Some(members) = of("tuple") {
        format!("({})", list(members))
    } else if let Some(name) = of("variant") {
        let name = name.as_str().unwrap();
        match of("data").unwrap() {
            Json::Null => name.into(),
            data if data.get("tuple").is_some() => format!("{name}{}", show(data)),
            data => format!("{name} {}", show(data)),
        }
    } else {
        let (real, imaginary) = (show(&value["real"]), show(&value["imaginary"]));
        match imaginary.strip_prefix('-') {
            Some(absolute) => format!("{real} - {absolute}i"),
            None => format!("{real} + {imaginary}i"),
        }
    }
}

fn escape(bytes: &[u8], quote: char) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\0' => text.push_str("\\0"),
                '\\' => text.push_str("\\\\"),
                c if c == quote => write!(text, "\\{c}").unwrap(),
                c if c.is_ascii_control() => write!(text, "\\x{:02x}", u32::from(c)).unwrap(),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").unwrap();
        }
    }
    text
}

/// Returns the guests in the directory, without those that need other files.
fn guests() -> Vec<String> {
    let mut guests = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let needs_files = ["split", "stripped", "external"].iter().any(|kind| name.contains(kind));
        if let Some(guest) = name.strip_suffix(".core")
            && guest.starts_with("values-")
            && !needs_files
        {
            guests.push(guest.to_owned());
        }
    }
    guests.sort();
    assert!(guests.len() >= 6, "{guests:?}");
    guests
}

/// Compares all values of a guest, and returns the reasons of those that are unknown.
fn compare(guest: &str, files: &[&str]) -> Values {
    let (expected, reported) = (expected(guest), reported(guest, files));
    let printed = printed(guest, files);
    let is_unoptimized = ["O0", "types", "split", "Debug"].iter().any(|kind| guest.contains(kind))
        && !guest.contains("wasmopt");
    let mut unknown = Values::new();
    for (name, expected) in &expected {
        // Optimized code may have no entry for a variable.
        let Some(found) = reported.get(name) else {
            assert!(!is_unoptimized, "{guest}: {name} is missing");
            unknown.insert(name.clone(), vec!["no entry".into()]);
            continue;
        };
        assert_eq!(printed.get(name), Some(found), "{guest}: {name}: text and JSON differ");
        // Variables that shadow each other are in the order of their scopes, outer ones first.
        assert_eq!(expected.len(), found.len(), "{guest}: {name}: {found:?}");
        for (expected, found) in expected.iter().zip(found) {
            assert!(agrees(found, expected), "{guest}: {name}: {found}, not {expected}");
            if found.contains("? (") {
                let is_removed =
                    REMOVED.contains(&name.as_str()) && found.ends_with("by the linker)");
                assert!(!is_unoptimized || is_removed, "{guest}: {name} = {found}");
                unknown.entry(name.clone()).or_default().push(found.clone());
            }
        }
    }
    unknown
}

/// Returns whether a value is the expected one, except for members that are unknown.
fn agrees(found: &str, expected: &str) -> bool {
    let Some((known, rest)) = found.split_once("? (") else { return found == expected };
    let Some(expected) = expected.strip_prefix(known) else { return false };
    // The reason may have parentheses and text of its own.
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let rest = &rest[end.unwrap() + 1..];
    (0..=expected.len())
        .filter(|skipped| expected.is_char_boundary(*skipped))
        .any(|skipped| agrees(rest, &expected[skipped..]))
}

#[test]
fn known_members_are_compared() {
    for (found, expected) in [("{a = 1, b = 2}", "{a = 1, b = 2}"), ("? (gone (long))", "7")] {
        assert!(agrees(found, expected));
    }
    assert!(agrees("{a = ? (gone), b = 2}", "{a = 1, b = 2}"));
    assert!(!agrees("{a = ? (gone), b = 3}", "{a = 1, b = 2}"));
    assert!(!agrees("{a = 1, b = ? (gone)}", "{a = 2, b = 2}"));
}

/// At -O0, every variable in scope has its value. In optimized code, every value is right, and the file
/// `GUEST.unknown` lists those that are unknown, with their reasons. `CORESTREAM_UPDATE=1` writes these files.
#[test]
fn every_value_is_the_one_that_the_guest_printed() {
    for guest in guests() {
        let unknown = compare(&guest, &[&format!("{guest}.wasm")]);
        let mut text = String::new();
        for (name, reasons) in &unknown {
            for reason in reasons {
                writeln!(text, "{name} = {reason}").unwrap();
            }
        }
        let path = directory().join(format!("{guest}.unknown"));
        if !is_committed() {
            continue;
        }
        if std::env::var_os("CORESTREAM_UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "{guest}");
    }
}

#[test]
fn reads_split_dwarf_files_and_packages() {
    for guest in ["values-c-split", "values-c-split4"] {
        let module = format!("{guest}.wasm");
        for kind in ["dwo", "dwp"] {
            let split = format!("{guest}.{kind}");
            let unknown = compare(guest, &[&module, &split]);
            assert_eq!(unknown.len(), 1, "{guest} {kind}: {unknown:?}");
            // The order does not matter.
            assert_eq!(compare(guest, &[&split, &module]), unknown);
        }
        // Without the file, a line says where the variables are.
        let (text, _) = inspect(guest, &[&module], &[]);
        let line = format!(
            "     the functions and variables are in another file; also pass that file: {guest}.dwo\n"
        );
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn reads_the_debugging_information_of_a_companion() {
    let companion = "values-c-companion.wasm";
    for guest in ["values-c-stripped", "values-c-external"] {
        let module = format!("{guest}.wasm");
        let unknown = compare(guest, &[&module, companion]);
        assert!(unknown.len() < 70, "{unknown:?}");
        assert_eq!(compare(guest, &[companion, &module]), unknown);
        // The module alone has no source positions.
        let (text, warning) = inspect(guest, &[&module], &[]);
        assert!(!text.contains(" at ./values.c:"), "{text}");
        let names_the_file =
            warning.ends_with("is in another file; also pass that file: values-c-companion.wasm\n");
        assert_eq!(names_the_file, guest == "values-c-external", "{warning}");
    }
    let (_, warning) = inspect("values-c-stripped", &[companion], &[]);
    assert!(warning.ends_with(": has no code; also pass the module that ran\n"), "{warning}");
}

/// Returns a module without its debugging information. With `is_padded`, the sizes of its functions take five bytes, as
/// some linkers write them, so that addresses of the code differ.
fn strip(wasm: &[u8], is_padded: bool) -> Vec<u8> {
    let mut stripped = wasm[..8].to_vec();
    let section = |id: u8, contents: &[u8], to: &mut Vec<u8>| {
        to.push(id);
        write_leb(contents.len(), 1, to);
        to.extend(contents);
    };
    let mut code = Vec::new();
    let mut bodies = 0;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            wasmparser::Payload::CustomSection(section)
                if section.name().starts_with(".debug_") => {}
            wasmparser::Payload::CodeSectionStart { count, .. } => {
                bodies = count;
                write_leb(count as usize, 1, &mut code);
            }
            wasmparser::Payload::CodeSectionEntry(body) => {
                let range = body.range();
                let range =
                    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                write_leb(range.len(), if is_padded { 5 } else { 1 }, &mut code);
                code.extend(&wasm[range]);
                bodies -= 1;
                if bodies == 0 {
                    section(10, &code, &mut stripped);
                }
            }
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    let range =
                        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    section(id, &wasm[range], &mut stripped);
                }
            }
        }
    }
    stripped
}

/// Writes a LEB128 of at least `len` bytes.
fn write_leb(mut value: usize, len: usize, to: &mut Vec<u8>) {
    for i in 1.. {
        let more = value > 0x7f || i < len;
        to.push(u8::try_from(value & 0x7f).unwrap() | u8::from(more) << 7);
        value >>= 7;
        if !more {
            break;
        }
    }
}

#[test]
fn the_order_of_a_stripped_file_and_a_whole_one_does_not_matter() {
    let guest = "values-c-O0-dwarf5";
    let whole = directory().join(format!("{guest}.wasm"));
    let temporary = tempfile::tempdir().unwrap();
    for is_padded in [false, true] {
        let stripped = temporary.path().join("stripped.wasm");
        let bytes = strip(&fs::read(&whole).unwrap(), is_padded);
        wasmparser::validate(&bytes).unwrap();
        fs::write(&stripped, bytes).unwrap();
        let path = |path: &Path| fs::canonicalize(path).unwrap().to_str().unwrap().to_owned();
        let (whole, stripped) = (path(&whole), path(&stripped));
        let alone = inspect(guest, &[&whole], &[]);
        for files in [[&*whole, &*stripped], [&*stripped, &*whole]] {
            assert_eq!(inspect(guest, &files, &[]), alone);
        }
    }
}

/// Neither file has a build id, so the functions decide.
#[test]
fn debugging_information_of_another_build_is_not_used() {
    let guest = "values-cpp-O1-dwarf5";
    let whole = fs::read(directory().join(format!("{guest}.wasm"))).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let stripped = temporary.path().join("stripped.wasm");
    fs::write(&stripped, strip(&whole, false)).unwrap();
    let stripped = stripped.to_str().unwrap();
    let companion = "values-c-companion.wasm";
    let (text, warning) = inspect(guest, &[stripped, companion], &[]);
    let begin = format!(
        "corestream: warning: {companion} is not module 0 of the dump: it has a function at code offset 0x"
    );
    assert!(warning.starts_with(&begin) && warning.lines().count() == 1, "{warning}");
    assert!(warning.ends_with(&format!(" that {stripped} does not have\n")), "{warning}");
    assert_eq!(text, inspect(guest, &[], &[]).0);
}

/// The function with the trap has another index in the other build, and so has its caller.
#[test]
fn a_file_from_another_build_shows_nothing_as_fact() {
    for (dump, other) in [("build_a", "build_b"), ("build_b", "build_a")] {
        let (text, warning) = inspect(dump, &[&format!("{dump}.wasm")], &[]);
        assert!(
            text.contains("     f at ./build_a.c:") || text.contains("     f at ./build_b.c:"),
            "{text}"
        );
        assert!(warning.is_empty(), "{text}{warning}");

        let file = format!("{other}.wasm");
        let (text, warning) = inspect(dump, &[&file], &[]);
        let begin = format!("corestream: warning: {file} is not module 0 of the dump: frame ");
        assert!(warning.starts_with(&begin) && warning.lines().count() == 1, "{warning}");
        assert_eq!(text, inspect(dump, &[], &[]).0);

        let (text, _) = inspect(dump, &[&file], &["--json"]);
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["symbol_files"][0]["verdict"], "mismatch");
        assert!(json["symbol_files"][0]["reason"].as_str().unwrap().starts_with("frame "));
        let frames = json["threads"][0]["frames"].as_array().unwrap();
        assert!(frames.iter().all(|frame| frame.get("name").is_none()), "{text}");
    }
}

/// The dump records the SHA-256 of the module. A copy without its debugging information has another one.
#[test]
fn the_verdict_says_how_sure_it_is() {
    let verdict = |guest: &str, files: &[&str]| {
        let (text, _) = inspect(guest, files, &["--json"]);
        let json: Json = serde_json::from_str(&text).unwrap();
        json["symbol_files"][0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("values-c-O0-dwarf5", &["values-c-O0-dwarf5.wasm"]), "certain");
    let stripped = ["values-c-stripped.wasm", "values-c-companion.wasm"];
    // Nothing but its functions says that the companion belongs to the module.
    assert_eq!(verdict("values-c-stripped", &stripped), "plausible");
    assert_eq!(verdict("values-c-stripped", &["values-c-external.wasm"]), "plausible");
    assert_eq!(verdict("values-c-stripped", &["values-zig-Debug.wasm"]), "mismatch");
}

#[test]
fn limits_depth_elements_text_and_pointers() {
    let guest = "values-c-O0-dwarf5";
    let file = format!("{guest}.wasm");
    let shown = |options: &[&str]| {
        let (text, _) = inspect(guest, &[&file], options);
        text.lines().filter_map(|line| line.trim().split_once(" = ")).fold(
            HashMap::new(),
            |mut values: HashMap<String, String>, (name, value)| {
                values.entry(name.into()).or_insert(value.into());
                values
            },
        )
    };
    let values = shown(&["--max-depth", "1"]);
    assert_eq!(values["matrix"], "[..., ...]");
    let values = shown(&["--max-elements", "2"]);
    assert_eq!(values["numbers"], "[1, -2, ... 2 more]");
    assert_eq!(values["shade"], "{red = 255, green = 128, ... 1 more}");
    let values = shown(&["--max-text", "3"]);
    assert_eq!(values["full"], "\"ful\"...");
    assert!(values["title"].ends_with(" \"sta\"..."), "{}", values["title"]);
    let values = shown(&["--max-pointers", "0"]);
    assert!(values["list"].starts_with("0x") && !values["list"].contains("->"));
    let values = shown(&["--max-pointers", "2"]);
    assert!(values["list"].matches("->").count() == 2, "{}", values["list"]);
    let values = shown(&["--max-values", "4"]);
    assert_eq!(values["numbers"], "[1, -2, ... 2 more]");
    // Statics of the source files of the frames, of all files, and none.
    assert!(shown(&[]).contains_key("tally") && shown(&["--statics", "all"]).contains_key("tally"));
    assert!(!shown(&["--statics", "none"]).contains_key("tally"));
}

#[test]
fn shows_the_source_around_a_position() {
    let guest = "build_a";
    let directory = tempfile::tempdir().unwrap();
    let shown = || {
        let path = directory.path().to_str().unwrap();
        inspect(guest, &["build_a.wasm"], &["--source", path]).0
    };
    let without = inspect(guest, &["build_a.wasm"], &[]).0;
    assert_eq!(shown(), without);
    let source = fs::read_to_string(Path::new(COMMITTED).join("build_a.c")).unwrap();
    fs::write(directory.path().join("build_a.c"), &source).unwrap();
    let text = shown();
    assert!(text.contains("     > "), "{text}");
    let main = source.lines().position(|line| line.contains("int main")).unwrap() + 1;
    let line = source.lines().nth(main - 1).unwrap();
    assert!(text.contains(&format!("     > {main:>5} | {line}\n")), "{text}");
    // Another version of the file has fewer lines.
    let path = directory.path().join("build_a.c");
    fs::write(&path, "").unwrap();
    let refused = format!("       {} is not shown: it has only 0 lines\n", path.display());
    let text = shown();
    assert_eq!(text.matches(&refused).count(), 1, "{text}");
    assert_eq!(text.replace(&refused, ""), without);
}

/// DWARF 5 records a hash of each source file.
#[test]
fn shows_only_the_version_of_a_source_file_that_was_compiled() {
    let guest = "values-c-O0-dwarf5";
    let file = format!("{guest}.wasm");
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let source = fs::read_to_string(Path::new(COMMITTED).join("values.c")).unwrap();
    fs::write(old.join("values.c"), format!("{source}\n")).unwrap();
    let shown = |directories: &[&PathBuf]| {
        let paths = directories.iter().flat_map(|path| ["--source", path.to_str().unwrap()]);
        inspect(guest, &[&file], &paths.collect::<Vec<_>>()).0
    };
    let refused = format!(
        "       {}/values.c is not shown: its MD5 is not that of the compiled file\n",
        old.display()
    );
    let text = shown(&[&old]);
    assert_eq!(text.matches(&refused).count(), 1, "{text}");
    assert_eq!(text.replace(&refused, ""), shown(&[]));
    // The other directory has the version with the hash.
    fs::write(new.join("values.c"), &source).unwrap();
    let text = shown(&[&old, &new]);
    assert!(text.contains("     > ") && !text.contains(&refused), "{text}");
}
