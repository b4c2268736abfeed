//! Hostile names: newlines, escapes, NUL, direction marks, invalid UTF-8, 100,000 bytes. Dumps keep them, and output shows
//! them without control characters.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Output;

use corestream::{
    CoreDump, CoreDumpFile, Dumper, Memory, MemoryImage, MemoryType, Thread, Visible,
};
use tempfile::TempDir;

use crate::common::decode;
use crate::tool::{corestream, names, run, stderr, write_image};

/// Characters that control a terminal, or that it shows as something else.
const TRICKS: &str =
    "a\nb\r\t\u{1b}]0;title\u{7}\u{1b}[31m\u{9b}2J\u{7f}\0\u{202e}txt\u{2028}\u{200b}";

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![7; 70_000]);
    directory
}

/// Returns whether a character must not be shown.
fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\n' || "\u{202e}\u{2028}\u{200b}".contains(c)
}

/// Checks that output has no hidden characters. Returns standard output, or the one line on standard error.
fn shown(output: &Output) -> String {
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8(text.clone()).unwrap();
    assert!(!text.contains(is_hidden), "{text:?}");
    if output.status.success() {
        assert!(!stderr(output).contains(is_hidden));
    } else {
        assert!(text.starts_with("corestream: ") && text.ends_with('\n'), "{text:?}");
        assert_eq!(text.lines().count(), 1, "{text:?}");
    }
    text
}

/// Returns a dump in which everything has this name.
fn dump_named(name: &str) -> Vec<u8> {
    let mut dump = CoreDump::new(name);
    let bytes = [7; 70_000];
    dump.add_memory(Memory::new(MemoryType::wasm32(2), MemoryImage::from_slice(&bytes)));
    dump.add_module(name);
    dump.add_thread(Thread::new(name));
    assert!(!format!("{dump}").contains(|c: char| c.is_control() && c != '\n'));
    Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
}

#[test]
fn keeps_names_in_a_dump_and_escapes_them_in_output() {
    let directory = directory();
    let long = "\u{1b}é".repeat(40_000);
    for name in [TRICKS, &long, ""] {
        let bytes = dump_named(name);
        let decoded = decode(&bytes);
        let kept = &name[..name.floor_char_boundary(100_000)];
        assert!(decoded.name == kept && decoded.modules[0] == kept && decoded.threads[0].0 == kept);
        fs::write(directory.path().join("core"), &bytes).unwrap();
        let run = |args: &[&str]| {
            shown(&corestream(directory.path(), args).env_remove("COLUMNS").output().unwrap())
        };
        assert!(run(&["verify", "core"]).starts_with("core: intact, "));
        // Outside of a terminal, names are whole.
        let whole = corestream::Visible(kept).to_string();
        let first = run(&["inspect", "core"]).lines().next().unwrap().to_owned();
        let first = first.strip_prefix("core dump of ").unwrap();
        match whole.chars().count() {
            ..=4096 => assert_eq!(first, whole),
            _ => assert!(whole.starts_with(first.strip_suffix('…').unwrap()), "{first}"),
        }
        let json: serde_json::Value =
            serde_json::from_str(&run(&["inspect", "core", "--json"])).unwrap();
        assert!(json["name"] == kept && json["modules"][0] == kept);
        assert!(json["threads"][0]["name"] == kept);
        // Names survive an extraction.
        run(&["extract", "core", "--all", "all"]);
        let args = ["dump", "--manifest", "all/manifest.json", "-o", "again"];
        run(&args);
        // The only difference is the note that a name was cut.
        let again = fs::read(directory.path().join("again")).unwrap();
        assert_eq!(again == bytes, kept == name);
        assert!(decode(&again).name == kept);
        fs::remove_dir_all(directory.path().join("all")).unwrap();
        fs::remove_file(directory.path().join("again")).unwrap();
    }
}

#[test]
fn escapes_names_of_files_in_output() {
    let directory = directory();
    let tricks = TRICKS.replace('\0', "");
    let paths = [
        OsString::from(&tricks),
        OsString::from_vec(b"\xff\xfe\x1b[31m\n".to_vec()),
        OsString::from("é\n".repeat(40)),
    ];
    for path in &paths {
        let run = |args: &[&OsStr]| shown(&self::run(directory.path(), args));
        let [dump, memory, output, guest] = ["dump", "--memory", "-o", "guest.mem"].map(OsStr::new);
        // The file does not exist.
        let none = run(&[dump, memory, path, output, OsStr::new("new")]);
        assert!(none.contains("No such file"), "{none}");
        assert!(
            run(&[dump, OsStr::new("--manifest"), path, output, guest]).contains("No such file")
        );
        for command in ["verify", "inspect", "extract"] {
            let args = [OsStr::new(command), path, memory, OsStr::new("0")];
            let args = if command == "extract" { &args[..] } else { &args[..2] };
            assert!(run(args).contains("No such file"));
        }
        // The file is made, and then exists.
        assert_eq!(run(&[dump, memory, guest, output, path]), "");
        assert!(run(&[dump, memory, guest, output, path]).contains("exists; use --force"));
        assert!(run(&[OsStr::new("verify"), path]).contains(": intact, "));
        let within = Path::new(path).join("new");
        assert!(
            run(&[dump, memory, guest, output, within.as_os_str()]).contains("Not a directory")
        );
        // As an image, it gives its name to the process.
        assert_eq!(run(&[dump, memory, path, output, OsStr::new("of-it")]), "");
        let bytes = fs::read(directory.path().join("of-it")).unwrap();
        assert_eq!(decode(&bytes).name, path.to_string_lossy());
        fs::remove_file(directory.path().join("of-it")).unwrap();
        fs::remove_file(directory.path().join(path)).unwrap();
    }
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

#[test]
fn errors_of_the_library_have_one_line() {
    let directory = directory();
    let path = directory.path().join("a\n\u{1b}[31mb");
    let opened = MemoryImage::open(&path).err().unwrap().to_string();
    let read = CoreDumpFile::open(&path).err().unwrap().to_string();
    let dump = CoreDump::new("guest");
    let plan = Dumper::new().plan(&dump).unwrap();
    let written = plan.write_file(path.join("new")).unwrap_err().to_string();
    for error in [opened, read, written] {
        assert!(
            error.contains("a\\n\\u{1b}[31mb") && !error.contains(char::is_control),
            "{error:?}"
        );
    }
    // The library and the tool escape a name in the same way.
    let name = TRICKS.replace(['/', '\0'], "");
    let error = MemoryImage::open(directory.path().join(&name)).err().unwrap().to_string();
    let line = shown(&run(directory.path(), ["inspect", &name]));
    let visible = Visible(&name).to_string();
    assert!(error.contains(&visible) && line.contains(&visible), "{error:?}, {line:?}");
}

#[test]
fn patterns_replace_hostile_characters() {
    let directory = directory();
    let long = "\u{1b}/é".repeat(30_000);
    for name in [TRICKS.replace('\0', ""), long, "../../guest.mem".into(), ".".into()] {
        // An argument has at most 128 KiB, and no NUL.
        let args = ["dump", "--memory", "guest.mem", "--name", &name, "-o", "core-%n"];
        assert_eq!(shown(&run(directory.path(), args)), "");
        let made: Vec<_> =
            names(directory.path()).into_iter().filter(|n| n != "guest.mem").collect();
        assert_eq!(made.len(), 1);
        assert!(made[0].starts_with("core-") && !made[0].contains(char::is_control), "{made:?}");
        let bytes = fs::read(directory.path().join(&made[0])).unwrap();
        assert!(decode(&bytes).name == name[..name.floor_char_boundary(100_000)]);
        fs::remove_file(directory.path().join(&made[0])).unwrap();
    }
    // A name that is too long for a file is an error, and leaves nothing.
    for pattern in ["%n".repeat(3), "x".repeat(300), "x".repeat(100_000)] {
        let name = "n".repeat(1000);
        let args = ["dump", "--memory", "guest.mem", "--name", &name, "-o", &pattern];
        assert!(
            shown(&run(directory.path(), args)).ends_with("File name too long (os error 36)\n")
        );
    }
    // Arguments and manifests that are not text, or not a path.
    let not_text = OsStr::from_bytes(b"\xff\n\x1b[31m");
    for args in [
        [OsStr::new("--name"), not_text],
        [OsStr::new("--stats"), OsStr::new("a\n\u{1b}[31m")],
        [OsStr::new("--to"), OsStr::new("tcp:a\n\u{1b}[31m")],
        [OsStr::new("--memory"), OsStr::new("a,\n\u{1b}[31m")],
    ] {
        let dry_run = ["dump", "--memory", "guest.mem", "--dry-run"];
        let mut command = corestream(directory.path(), dry_run);
        command.args(args);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        shown(&output);
    }
    for text in [r#"{ "memories": [{ "image": "a\u0000b" }] }"#, "{ \"\u{1b}[31m\": 1 }"] {
        fs::write(directory.path().join("m.json"), text).unwrap();
        let args = ["dump", "--manifest", "m.json", "-o", "new"];
        let output = run(directory.path(), args);
        assert_eq!(output.status.code(), Some(1));
        shown(&output);
    }
    assert_eq!(names(directory.path()), ["guest.mem", "m.json"]);
}
