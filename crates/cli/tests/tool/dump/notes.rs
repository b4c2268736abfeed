//! Notes of a dump: lines in which its writer says what is missing, and how memories were read.

use std::fs;

use corestream::limits::{MAX_NOTE_BYTES, MAX_NOTES};
use corestream::{CoreDump, CoreDumpFile, Dumper, ErrorKind};

use crate::environment::require;
use crate::strace;
use crate::tool::{json, ok, stderr, succeed, tool_path, write_image};

fn notes(dump: &CoreDump<'_>) -> Vec<String> {
    let bytes = Dumper::new().plan(dump).unwrap().to_vec().unwrap();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    dump.notes().map(Result::unwrap).collect()
}

#[test]
fn notes_survive_the_round_trip() {
    let mut dump = CoreDump::new("guest");
    assert!(notes(&dump).is_empty());
    dump.notes = vec!["stopped by the time limit".into(), String::new(), "żółć".into()];
    assert_eq!(notes(&dump), dump.notes);
}

#[test]
fn limits_the_number_and_length_of_notes() {
    let mut dump = CoreDump::new("guest");
    // The limit is in the middle of a character.
    dump.notes = vec!["x".to_string() + &"é".repeat(MAX_NOTE_BYTES); MAX_NOTES + 1];
    let notes = notes(&dump);
    assert_eq!(notes.len(), MAX_NOTES);
    assert!(notes.iter().all(|note| note.len() == MAX_NOTE_BYTES - 1), "{}", notes[0].len());
}

/// Returns a dump by another writer with one section of notes.
fn with_notes(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0\0\x07\x04core\0\0".to_vec();
    bytes.push(0);
    bytes.push(u8::try_from(body.len() + 17).unwrap());
    bytes.push(16);
    bytes.extend(b"corestream.notes");
    bytes.extend(body);
    bytes
}

#[test]
fn rejects_too_many_notes_and_skips_an_unknown_version() {
    let open = |body: &[u8]| {
        CoreDumpFile::salvage_slice(&with_notes(body)).map(|dump| {
            let damage = dump.damage().map(ToString::to_string).unwrap_or_default();
            (dump.notes().map(Result::unwrap).collect::<Vec<_>>(), damage)
        })
    };
    let (read, _) = open(&[1, 0, 0, 0, 1, 2, b'h', b'i']).unwrap();
    assert_eq!(read, ["hi"]);
    let (read, _) = open(&[2, 0, 0, 0, 9, 9, 9]).unwrap();
    assert!(read.is_empty());
    let (read, damage) = open(&[1, 0, 0, 0, 65]).unwrap();
    assert!(read.is_empty() && damage.contains("corestream.notes"), "{damage}");
    let (_, damage) = open(&[1, 0, 0, 0, 1, 1, 0xff]).unwrap();
    assert!(damage.contains("note 0") && damage.contains("UTF-8"), "{damage}");
}

/// The dump, the report of `inspect` and the manifest note that the holes of an image were in doubt.
#[test]
fn notes_how_a_doubtful_image_was_read() {
    require!(strace);
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![7; 2 << 16]);
    let mut command =
        strace::traced(&directory.path().join("log"), "lseek", &["lseek:error=ENXIO".to_string()]);
    command.arg(tool_path());
    command.args(["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    let output = command.current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let text = ok(directory.path(), ["inspect", "guest.core"]);
    let line = text.lines().find(|line| line.starts_with("  note: memory 0: ")).unwrap_or(&text);
    assert!(line.contains("SEEK_DATA") && line.ends_with("was read"), "{line}");

    let json = json(directory.path(), ["inspect", "guest.core", "--json"]);
    assert!(json["notes"][0].as_str().unwrap().starts_with("memory 0: "), "{json}");

    ok(directory.path(), ["extract", "guest.core", "--all", "all"]);
    ok(directory.path(), ["dump", "--manifest", "all/manifest.json", "-o", "again.core"]);
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    assert!(read("guest.core") == read("again.core"));
}

/// A small image of zeros is extracted as a hole. Small holes are always read, so that is not worth a note in the dump.
#[test]
fn has_no_note_about_a_small_hole() {
    let directory = tempfile::tempdir().unwrap();
    for len in [4096, 65_536] {
        write_image(directory.path().join("dense.mem"), vec![0; len]);
        fs::File::create(directory.path().join("hole.mem")).unwrap().set_len(len as u64).unwrap();
        for image in ["dense.mem", "hole.mem"] {
            let memory = format!("{image},page-size=1");
            let run = |args: &[&str]| succeed(directory.path(), args);
            let dump = ["dump", "--memory", &memory, "-o", "guest.core", "--force"];
            let output = run(&[&dump[..], &["--stats", "json"]].concat());
            let stats: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
            // The statistics say why the hole was read.
            let notes = stats["extent_notes"].as_array().unwrap();
            assert_eq!(notes.len(), usize::from(image == "hole.mem"), "{stats}");

            run(&["extract", "guest.core", "--all", "all"]);
            run(&["dump", "--manifest", "all/manifest.json", "-o", "again.core", "--force"]);
            let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
            assert!(read("guest.core") == read("again.core"), "{image} of {len} bytes");
            let bytes = read("again.core");
            assert_eq!(CoreDumpFile::from_slice(&bytes).unwrap().notes().len(), 0);
            fs::remove_dir_all(directory.path().join("all")).unwrap();
        }
    }
}

/// A manifest already has the note about its image.
#[test]
fn does_not_repeat_a_note() {
    require!(strace);
    let directory = tempfile::tempdir().unwrap();
    write_image(directory.path().join("guest.mem"), vec![7; 2 << 16]);
    let dump = |args: &[&str]| {
        let mut command =
            strace::traced(&directory.path().join("log"), "lseek", &["lseek:error=ENXIO".into()]);
        command.arg(tool_path()).arg("dump").args(args);
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    dump(&["--memory", "guest.mem", "-o", "guest.core"]);
    ok(directory.path(), ["extract", "guest.core", "--all", "all"]);
    dump(&["--manifest", "all/manifest.json", "-o", "again.core"]);
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    assert!(read("guest.core") == read("again.core"));
    let bytes = read("again.core");
    assert_eq!(CoreDumpFile::from_slice(&bytes).unwrap().notes().len(), 1);
}

#[test]
fn takes_notes_from_a_manifest() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.json"), r#"{ "notes": ["a\u001b[31mb"] }"#).unwrap();
    ok(directory.path(), ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    assert!(ok(directory.path(), ["inspect", "guest.core"]).contains("\n  note: a\\u{1b}[31mb\n"));
    let error = CoreDumpFile::from_slice(&with_notes(&[1])).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Truncated), "{error}");
}
