//! Dumps that are damaged, truncated, rewritten, or partly unreadable.

use std::fs::{self, File};

use corestream::limits::MAX_LISTED_SEGMENTS;
use serde_json::Value;
use tempfile::TempDir;

use crate::environment::require;
use crate::fuse::{Faults, Fuse};
use crate::guest::directory;
use crate::tool::{self, corestream, drop_caches, names, ok, run, stderr, write_image};
use crate::{common, foreign};

/// Every subcommand finds damage: exit code 3, the place, and what is affected.
#[test]
fn rejects_a_damaged_dump_without_salvage() {
    let (directory, image) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let at = whole.windows(100).position(|bytes| bytes == [1; 100]).unwrap() + 500;
    let mut flipped = whole.clone();
    flipped[at] ^= 0x10;
    fs::write(dir.join("flipped.core"), &flipped).unwrap();
    fs::write(dir.join("cut.core"), &whole[..at]).unwrap();

    let index = whole.windows(17).position(|bytes| bytes == b"\x10corestream.index").unwrap();
    // The section has an id and a size of two bytes before its name.
    let block = format!("0x0..{:#x}", index - 3);
    let reason = format!(
        "checksum mismatch (bytes {block}); affects memory 0 0x3e8..=0x1116f, memory 2 \
         0x3e8..=0x1116f"
    );
    for dump in ["flipped.core", "-"] {
        let name = if dump == "-" { "standard input" } else { dump };
        let mut command = corestream(dir, ["verify", dump]);
        if dump == "-" {
            command.stdin(File::open(dir.join("flipped.core")).unwrap());
        }
        let output = command.output().unwrap();
        let expected = format!("corestream: {name}: is damaged: {reason}\n");
        assert_eq!((stderr(&output), output.status.code()), (expected, Some(3)));
        assert!(output.stdout.is_empty());
    }
    let refused = run(dir, ["extract", "flipped.core", "--memory", "0", "-o", "new"]);
    let expected =
        format!("corestream: flipped.core: {reason}; --salvage extracts the readable parts\n");
    assert_eq!((stderr(&refused), refused.status.code()), (expected, Some(3)));
    assert!(!dir.join("new").exists());
    let salvage = ["--memory", "0", "-o", "new", "--salvage"];
    let taken = run(dir, [&["extract", "flipped.core"][..], &salvage].concat());
    assert_eq!(taken.status.code(), Some(3));
    let mut expected = image.clone();
    expected[1500] ^= 0x10;
    expected.resize(131_072, 0);
    assert!(fs::read(dir.join("new")).unwrap() == expected);

    // Truncated in the middle of the first segment.
    let message = format!("cut.core: truncated: {at} of {} bytes", whole.len());
    let output = run(dir, ["verify", "cut.core"]);
    let line = format!("corestream: {message}\n");
    assert_eq!((stderr(&output), output.status.code()), (line, Some(3)));
    let output = run(dir, ["inspect", "cut.core"]);
    assert_eq!(
        (stderr(&output), output.status.code()),
        (format!("corestream: {message}\n"), Some(3))
    );
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("0: a.wasm function 3 at 0x11"), "{shown}");
    let taken = run(dir, ["extract", "cut.core", "--all", "out", "--salvage"]);
    assert_eq!(taken.status.code(), Some(3), "{}", stderr(&taken));
    assert_eq!(names(&dir.join("out")), ["manifest.json", "memory-0.mem", "memory-2.mem"]);
    let taken = run(dir, ["extract", "cut.core", "--memory", "0", "-o", "cut.mem", "--salvage"]);
    assert_eq!(taken.status.code(), Some(3));
    // The memory is zero before the first segment, of which 500 bytes are left.
    let missing = "memory 0: 0x5dc..=0x1ffff is not in the dump; the image has zeros there";
    assert!(stderr(&taken).contains(missing), "{}", stderr(&taken));
}

/// A dump made from the manifest of a damaged dump does not claim to have the lost bytes.
#[test]
fn marks_lost_ranges_in_the_manifest() {
    let (directory, _) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let at = whole.windows(100).position(|bytes| bytes == [1; 100]).unwrap() + 500;
    fs::write(dir.join("cut.core"), &whole[..at]).unwrap();
    let output = run(dir, ["extract", "cut.core", "--all", "out", "--salvage"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("out/manifest.json")).unwrap()).unwrap();
    let lost = serde_json::json!([{ "first": 1500, "last": 131_071 }]);
    assert_eq!(manifest["memories"][0]["left_out"], lost);
    let note = "129572 bytes of memory 0 were lost in the damaged dump";
    assert_eq!(manifest["notes"][0], note);

    ok(dir, ["dump", "--manifest", "out/manifest.json", "-o", "again.core"]);
    let shown = ok(dir, ["inspect", "again.core"]);
    assert!(shown.contains("coverage partial, 129572 bytes missing\n"), "{shown}");
    assert!(shown.contains(&format!("note: {note}\n")), "{shown}");

    // Extracted again, the dump is undamaged and has the same ranges and notes.
    ok(dir, ["extract", "again.core", "--all", "more"]);
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(read("more/manifest.json"), read("out/manifest.json"));
}

/// A damaged byte before the data loses only what its section says. The rest is extracted, with exit code 3.
#[test]
fn salvages_memories_after_a_damaged_section() {
    let (directory, image) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let after = |name: &[u8]| {
        whole.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len()
    };
    for (what, at, byte) in [
        ("modules", after(b"\x0bcoremodules"), 0x7f),
        ("stack", after(b"\x09corestack"), 0x33),
        ("first byte", 0, 0x01),
        ("header", after(b"\x0acorestream"), 0x09),
    ] {
        let mut bad = whole.clone();
        bad[at] = byte;
        fs::write(dir.join("bad.core"), &bad).unwrap();
        let refused = run(dir, ["extract", "bad.core", "--memory", "0", "-o", "new"]);
        assert_eq!(refused.status.code(), Some(3), "{what}: {}", stderr(&refused));
        assert!(!dir.join("new").exists());
        let args = ["extract", "bad.core", "--memory", "0", "-o", "new", "--salvage"];
        let output = run(dir, args);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
        let mut expected = image.clone();
        expected.resize(131_072, 0);
        assert!(fs::read(dir.join("new")).unwrap() == expected, "{what}");
        fs::remove_file(dir.join("new")).unwrap();
        let output = run(dir, ["inspect", "bad.core"]);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
    }
    // Truncated between two sections.
    fs::write(dir.join("bad.core"), &whole[..10 + usize::from(whole[9])]).unwrap();
    for command in ["verify", "inspect"] {
        let output = run(dir, [command, "bad.core"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains("no section `coremodules`"), "{message}");
    }
}

/// Damages each byte of a dump that `is_chosen`. Whatever is lost: `--salvage` extracts the original contents, or warns
/// that they may be wrong.
fn check_salvage(is_chosen: impl Fn(usize) -> bool) {
    let (directory, image) = directory();
    let dir = directory.path();
    let mut expected = image;
    expected.resize(131_072, 0);
    for checksums in [true, false] {
        let options: &[&str] = if checksums { &[] } else { &["--no-checksum"] };
        let args = ["dump", "--manifest", "guest.json", "-o", "guest.core", "--force"];
        ok(dir, [&args[..], options].concat());
        let whole = fs::read(dir.join("guest.core")).unwrap();
        ok(dir, ["extract", "guest.core", "--all", "whole"]);
        let manifest = fs::read(dir.join("whole/manifest.json")).unwrap();
        fs::remove_dir_all(dir.join("whole")).unwrap();
        let data = whole.windows(2000).position(|bytes| bytes == [1; 2000]).unwrap();
        let index = whole.windows(17).position(|bytes| bytes == b"\x10corestream.index").unwrap();
        for at in (0..data + 3).filter(|at| is_chosen(*at)) {
            // A bit near the top of a number, or all bits. In addition, by turns: nothing, junk at the end, a lost
            // index, or an index that has moved.
            let mut bad = whole.clone();
            bad[at] ^= if at % 2 == 0 { 0x40 } else { 0xff };
            let kind = at % 5;
            match kind {
                0 => {}
                1 => bad.push(0x55),
                2 => bad.truncate(index + 7),
                3 => bad.insert(at, bad[at]),
                _ => drop(bad.remove(at)),
            }
            let case = format!("byte {at:#x}, checksums: {checksums}");
            fs::write(dir.join("bad.core"), &bad).unwrap();
            let output = run(dir, ["extract", "bad.core", "--all", "out", "--salvage"]);
            let message = stderr(&output);
            // Without checksums, a name that has become another name is not noticed.
            let unseen = !checksums && kind == 0 && output.status.success();
            assert!(unseen || output.status.code() == Some(3), "{case}: {message}");
            if unseen {
                fs::remove_dir_all(dir.join("out")).unwrap();
                continue;
            }
            let Ok(found) = fs::read(dir.join("out/manifest.json")) else {
                // Nothing is left if bytes within the first sections have moved.
                assert!(kind > 2 && !dir.join("out").exists(), "{case}: {message}");
                continue;
            };
            let unchecked = message.contains("the extracted data may be wrong");
            assert_eq!(unchecked, !checksums || kind > 1, "{case}: {message}");
            let doubtful = unchecked || message.contains("manifest.json (names, sizes of ");
            assert!(doubtful || found == manifest, "{case}: {message}");
            let memory = fs::read(dir.join("out/memory-0.mem")).unwrap_or_default();
            let doubtful = unchecked || message.contains("memory 0 0x3e8..=");
            assert!(doubtful || memory == expected, "{case}: {message}");
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
}

#[test]
fn salvages_no_wrong_byte_without_a_warning() {
    // A prime, so that every kind of damage is among them.
    check_salvage(|at| at % 13 == 7);
}

#[test]
#[ignore = "slow: 7 s"]
fn salvages_no_wrong_byte_without_a_warning_wherever_the_damage_is() {
    check_salvage(|_| true);
}

/// If a memory is missing because of damage, the message and the exit code say so.
#[test]
fn reports_a_memory_that_damage_has_lost() {
    let (directory, _) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    let core = common::own::end_of_core(&whole);
    fs::write(dir.join("cut.core"), &whole[..core]).unwrap();
    let before = names(dir);
    let output = run(dir, ["extract", "cut.core", "--memory", "0", "--salvage", "-o", "image"]);
    assert_eq!(output.status.code(), Some(3));
    let message = stderr(&output);
    let start = "corestream: cut.core: there is no memory 0; the dump has 0; ";
    assert!(message.starts_with(start) && message.contains("the dump ends here"), "{message}");
    assert_eq!(names(dir), before);
}

/// A dump that another tool has rewritten is not reported as damaged.
#[test]
fn reports_a_rewritten_dump() {
    let (directory, _) = directory();
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    // A section between `core` and `corestream`.
    let core = common::own::end_of_core(&whole);
    let bytes = [&whole[..core], b"\0\x02\x01x", &whole[core..]].concat();
    fs::write(dir.join("rewritten.core"), &bytes).unwrap();
    let message = ok(dir, ["verify", "rewritten.core"]);
    let expected = format!(
        "rewritten.core: rewritten, {} bytes in 4 segments, another tool has moved or changed its \
         sections: only its structure can be checked, because its checksums belong to the original\n",
        bytes.len()
    );
    assert_eq!(message, expected);
    let shown = ok(dir, ["inspect", "rewritten.core"]);
    assert!(
        shown.contains("bytes, rewritten by another tool, so its checksums are void\n"),
        "{shown}"
    );
    let output = run(dir, ["extract", "rewritten.core", "--all", "out"]);
    assert_eq!(output.status.code(), Some(0));
    let message = "warning: another tool has rewritten the dump, so checksums cannot show whether anything \
                is missing or wrong\n";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    ok(dir, ["dump", "--manifest", "out/manifest.json", "-o", "again.core"]);
    assert!(fs::read(dir.join("again.core")).unwrap() == whole);
}

/// The size of a memory may be what is damaged. An image that is too large for the file system does not cost the
/// others.
#[test]
fn salvages_other_memories_if_one_is_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    write_image(dir.join("a.mem"), vec![1; 65_536]);
    for pages in [1_u64 << 31, 1 << 47] {
        let manifest = format!(
            r#"{{ "memories": [{{ "image": "a.mem", "minimum": "{pages}", "memory64": true }}, {{ "image": "a.mem" }}] }}"#
        );
        fs::write(dir.join("guest.json"), manifest).unwrap();
        ok(dir, ["dump", "--manifest", "guest.json", "-o", "guest.core", "--force"]);
        let refused = run(dir, ["extract", "guest.core", "--all", "out"]);
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert!(!dir.join("out").exists());
        let mut bad = fs::read(dir.join("guest.core")).unwrap();
        bad[1000] ^= 2;
        fs::write(dir.join("bad.core"), bad).unwrap();
        let output = run(dir, ["extract", "bad.core", "--all", "out", "--salvage"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{message}");
        let expected =
            "warning: memory 0 was not extracted: out/memory-0.mem: cannot set the length";
        assert!(message.contains(expected), "{message}");
        assert_eq!(names(&dir.join("out")), ["manifest.json", "memory-1.mem"]);
        assert!(fs::read(dir.join("out/memory-1.mem")).unwrap() == vec![1; 65_536]);
        let manifest: Value =
            serde_json::from_slice(&fs::read(dir.join("out/manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["memories"][0]["image"], Value::Null);
        assert_eq!(manifest["memories"][0]["left_out"][0]["first"], 0);
        assert_eq!(manifest["memories"][1]["image"], "memory-1.mem");
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// A file system that fails to read some sectors: everything else is extracted, and the lost ranges are reported.
#[test]
fn salvages_everything_but_an_unreadable_sector() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let (directory, _) = directory();
    let dir = directory.path();
    let mut image: Vec<u8> =
        (0_u32..3 << 20).map(|i| (i / 4096 + i).to_le_bytes()[0] | 1).collect();
    image.resize(4 << 20, 0);
    write_image(dir.join("guest.mem"), &image);
    for checksums in [true, false] {
        let options: &[&str] = if checksums { &[] } else { &["--no-checksum"] };
        let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--force"];
        ok(dir, [&args[..], options].concat());
        let dump = fs::read(dir.join("guest.core")).unwrap();
        fuse.set(Faults::default());
        let path = fuse.path().join("guest.core");
        fs::write(&path, &dump).unwrap();
        let name = path.to_str().unwrap();
        // In the middle of the data, and at its end.
        let bad = [(1 << 20) + 8192..(1 << 20) + 12_288, (2 << 20) + 4096..(2 << 20) + 4097];
        fuse.set(Faults { read: bad.to_vec(), ..Faults::default() });
        drop_caches(&path);
        let pages = [0x10_2000..0x10_3000, 0x20_1000..0x20_2000];
        let eio = "Input/output error (os error 5)";
        let why =
            format!("cannot read bytes 0x102000..0x103000: {eio}; and 1 more unreadable range");
        if checksums {
            let output = run(dir, ["verify", name]);
            let expected = format!("corestream: {name}: {why}\n");
            assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
            assert!(output.stdout.is_empty());
        }
        drop_caches(&path);
        for target in [&["--memory", "0", "-o", "new"][..], &["--all", "new"]] {
            let output = run(dir, [&["extract", name][..], target].concat());
            let message = stderr(&output);
            assert!(message.contains("cannot read bytes 0x102000..0x103000: "), "{message}");
            assert!(
                message.contains(eio)
                    && message.ends_with("; --salvage extracts the readable parts\n"),
                "{message}"
            );
            assert_eq!(output.status.code(), Some(1));
            assert!(!dir.join("new").exists());
        }
        drop_caches(&path);
        let output = run(dir, ["extract", name, "--memory", "0", "-o", "new", "--salvage"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{message}");
        let end = format!("corestream: {name}: only the readable parts were extracted: {why}\n");
        assert!(message.ends_with(&end), "{message}");
        let shown = tool::json(dir, ["inspect", "guest.core", "--json"]);
        let part = &shown["memories"][0]["data"][0];
        let offset = usize::try_from(part["offset"].as_u64().unwrap()).unwrap();
        assert_eq!(part["address"], 0);
        let mut expected = image.clone();
        for page in pages {
            let range =
                format!("warning: {name}: cannot read bytes {:#x}..{:#x}\n", page.start, page.end);
            assert!(message.contains(&range), "{message}");
            let (first, last) = (page.start - offset, page.end - offset - 1);
            let line = format!(
                "warning: memory 0: cannot read {first:#x}..={last:#x}; the image has zeros there\n"
            );
            assert!(message.contains(&line), "{message}");
            expected[first..=last].fill(0);
        }
        assert!(fs::read(dir.join("new")).unwrap() == expected);
        fs::remove_file(dir.join("new")).unwrap();
        drop_caches(&path);
        let output = run(dir, ["extract", name, "--all", "new", "--salvage"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let manifest: Value =
            serde_json::from_slice(&fs::read(dir.join("new/manifest.json")).unwrap()).unwrap();
        let first = 0x10_2000 - offset;
        let unread = serde_json::json!({ "first": first, "last": first + 4095 });
        assert_eq!(manifest["memories"][0]["left_out"][0], unread);
        let note = "8192 bytes of memory 0 were lost in the damaged dump";
        assert_eq!(manifest["notes"], serde_json::json!([note]));
        fs::remove_dir_all(dir.join("new")).unwrap();
        // In the sections that everything else requires.
        fuse.set(Faults { read: std::iter::once(0..1).collect(), ..Faults::default() });
        drop_caches(&path);
        for command in [&["inspect"][..], &["verify"], &["extract", "--memory", "0", "-o", "new"]] {
            let output = run(dir, [command, &[name]].concat());
            let expected = format!("cannot read bytes 0x0..0x1000: {eio}");
            assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
            assert_eq!(output.status.code(), Some(1));
        }
        // The index is at the other end, and has enough to extract the rest.
        drop_caches(&path);
        let output = run(dir, ["extract", name, "--memory", "0", "-o", "new", "--salvage"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(
            message.contains(&format!("warning: {name}: cannot read bytes 0x0..0x1000\n")),
            "{message}"
        );
        let size = "warning: memory 0: its size is lost; the image ends with the last page that has data\n";
        assert!(message.contains(size), "{message}");
        let zeros = 0x1000 - offset;
        let lost =
            format!("memory 0: cannot read 0x0..={:#x}; the image has zeros there\n", zeros - 1);
        assert!(message.contains(&lost), "{message}");
        let mut expected = image[..3 << 20].to_vec();
        expected[..zeros].fill(0);
        assert!(fs::read(dir.join("new")).unwrap() == expected);
        fs::remove_file(dir.join("new")).unwrap();
    }
}

/// Opening a dump limits the number of segments. The verifier does not.
#[test]
#[ignore = "slow: 3 s"]
fn rejects_a_dump_with_too_many_segments() {
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    let count = MAX_LISTED_SEGMENTS + 1000;
    let mut data = Vec::new();
    common::own::leb(&mut data, count);
    // One byte at every second address, which is encoded in five bytes.
    for i in 0..count {
        let digit = |n: usize| u8::try_from((i * 2) >> (7 * n) & 0x7f).unwrap();
        let address = [digit(0) | 0x80, digit(1) | 0x80, digit(2) | 0x80, digit(3) | 0x80, 0];
        data.extend([&[0, 0x41][..], &address, &[0x0b, 1, b'x']].concat());
    }
    let (modules, instances) = (b"\x0bcoremodules\0", b"\x0dcoreinstances\0");
    let sections: [(u8, &[u8]); 5] =
        [foreign::CORE, (0, modules), (0, instances), (5, &[1, 0, 100]), (11, &data)];
    fs::write(dir.join("many.core"), foreign::module(&sections)).unwrap();
    ok(dir, ["verify", "many.core"]);
    let message = format!("over the limit of {MAX_LISTED_SEGMENTS} segments");
    for args in [
        &["inspect", "many.core"][..],
        &["extract", "many.core", "--memory", "0", "-o", "image"],
        &["extract", "many.core", "--all", "everything"],
    ] {
        let output = run(dir, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(&message), "{args:?}: {}", stderr(&output));
        assert_eq!(names(dir), ["many.core"], "{args:?}");
    }
    let args = ["extract", "many.core", "--memory", "0", "-o", "image", "--salvage"];
    let output = run(dir, args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&message), "{}", stderr(&output));
    assert!(stderr(&output).lines().count() < 20, "one line for each missing range");
    assert_eq!(names(dir), ["image", "many.core"]);
}
