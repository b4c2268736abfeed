//! Dumps that exclude ranges: how they are made, inspected, verified and restored.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{decode, own};
use crate::tool::{self, names, run, stderr, succeed, write_image};

const SECRET: &[u8] = b"a key that nobody else may have";
/// The address of the secret, and the range that is excluded for it.
const AT: usize = 2000;
const EXCLUDE: &str = "0:0x7d0..2031";

/// Runs the tool, which must succeed. Returns its standard output and standard error.
fn ok(directory: &Path, args: &[&str]) -> (String, String) {
    let output = succeed(directory, args);
    (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
}

/// Returns a directory with the image of a guest that has a secret, and the image without the secret.
fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; 131_072];
    image[1000..3000].fill(1);
    image[69_999] = 2;
    image[AT..AT + SECRET.len()].copy_from_slice(SECRET);
    write_image(directory.path().join("guest.mem"), &image);
    write_image(directory.path().join("other.mem"), [7; 200]);
    image[AT..AT + SECRET.len()].fill(0);
    (directory, image)
}

/// Returns whether the bytes contain a part of the secret.
fn shows(bytes: &[u8]) -> bool {
    bytes.windows(8).any(|window| SECRET.windows(8).any(|part| part == window))
}

#[test]
fn excludes_a_secret_and_reports_it_everywhere() {
    let (directory, mut image) = directory();
    let dir = directory.path();
    assert!(shows(&fs::read(dir.join("guest.mem")).unwrap()));
    for options in [
        &[][..],
        &["--max-segments", "1", "--threads", "1"],
        &["--no-trust-holes", "--no-checksum", "--threads", "2"],
    ] {
        let made = |from: &[&str], to| {
            let args = [&["dump", "-o", to, "--force"], from, options].concat();
            let message = ok(dir, &args).1;
            (fs::read(dir.join(to)).unwrap(), message)
        };
        let images = ["--memory", "other.mem,page-size=1", "--memory", "guest.mem"];
        let secret = format!("1:{}", &EXCLUDE[2..]);
        let rest = ["--exclude", &secret, "--only", "0:..100"];
        let (bytes, message) = made(&[&images[..], &rest].concat(), "guest.core");
        let line = "excluded on request: 100 bytes in 1 range of memory 0, \
                    31 bytes in 1 range of memory 1";
        assert_eq!(message, format!("corestream: {line}\n"));
        assert!(!shows(&bytes));
        image.resize(2 * 65_536, 0);
        let decoded = decode(&bytes);
        assert!(decoded.contents(1, image.len()) == image);
        assert!(decoded.contents(0, 100) == [7; 100]);
        assert_eq!(decoded.segments.iter().filter(|s| s.memory == 0).count(), 1);

        let (verdict, _) = ok(dir, &["verify", "guest.core"]);
        assert!(verdict.starts_with("guest.core: intact but partial, "), "{verdict}");
        assert!(verdict.ends_with(&format!("; {line}\n")), "{verdict}");
        let (shown, _) = ok(dir, &["inspect", "guest.core"]);
        for part in [
            "\n  partial: memory ranges were excluded on purpose\n",
            "\n     coverage partial, 100 bytes missing\n     missing 0x64..=0xc7\n",
            "\n     coverage partial, 31 bytes missing\n     missing 0x7d0..=0x7ee\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let shown = tool::json(dir, ["inspect", "guest.core", "--json"]);
        assert_eq!(shown["partial"], json!(true));
        assert_eq!(shown["memories"][1]["coverage"], json!("partial"));
        let excluded = json!([{ "first": 2000, "last": 2030 }]);
        assert_eq!(shown["memories"][1]["left_out"], excluded);

        let args = ["extract", "guest.core", "--memory", "1", "-o", "out.mem", "--force"];
        let zeros = "the image has zeros there";
        let of_one = "excluded on request: 31 bytes in 1 range of memory 1";
        assert_eq!(ok(dir, &args).1, format!("corestream: {of_one}; {zeros}\n"));
        assert!(fs::read(dir.join("out.mem")).unwrap() == image);

        let (_, message) = ok(dir, &["extract", "guest.core", "--all", "out"]);
        assert_eq!(message, format!("corestream: {line}; {zeros}\n"));
        let manifest = fs::read_to_string(dir.join("out/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["memories"][1]["left_out"], excluded);
        let (again, message) = made(&["--manifest", "out/manifest.json"], "again.core");
        assert_eq!(message, format!("corestream: {line}\n"));
        assert!(again == bytes);
        for name in names(&dir.join("out")) {
            assert!(!shows(&fs::read(dir.join("out").join(name)).unwrap()));
        }
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// Ranges add up, adjacent ranges become one, and an open end is the end of the memory.
#[test]
fn merges_excluded_ranges() {
    let (directory, image) = directory();
    let dir = directory.path();
    let dump = |ranges: &[&str]| {
        let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--force"];
        let message = ok(dir, &[&args, ranges].concat()).1;
        let shown = tool::json(dir, ["inspect", "guest.core", "--json"]);
        let ranges = shown["memories"][0]["left_out"].as_array().unwrap().clone();
        let of =
            |range: &Value| (range["first"].as_u64().unwrap(), range["last"].as_u64().unwrap());
        (ranges.iter().map(of).collect::<Vec<_>>(), message)
    };
    let (ranges, _) =
        dump(&["--exclude", "0:5..9", "--exclude", "0:..2", "--exclude", "0:8..0x10"]);
    assert_eq!(ranges, [(0, 1), (5, 15)]);
    let (ranges, _) = dump(&["--only", "0:100..0x80", "--exclude", "0:0x7f..", "--only", "0:..1"]);
    assert_eq!(ranges, [(1, 99), (127, 131_071)]);
    let (ranges, message) = dump(&["--exclude", "0:.."]);
    assert_eq!(ranges, [(0, 131_071)]);
    assert!(message.contains("131072 bytes in 1 range of memory 0"));
    // Nothing is excluded.
    let (ranges, message) = dump(&["--only", "0:..", "--exclude", "0:131072.."]);
    assert_eq!((ranges, message.as_str()), (vec![], ""));
    let (verdict, _) = ok(dir, &["verify", "guest.core"]);
    assert!(verdict.contains(": intact, ") && !verdict.contains("partial"), "{verdict}");
    let bytes = fs::read(dir.join("guest.core")).unwrap();
    assert!(decode(&bytes).contents(0, 131_072)[..AT] == image[..AT] && shows(&bytes));
}

#[test]
fn does_not_scan_or_count_excluded_ranges() {
    let (directory, _) = directory();
    let dir = directory.path();
    write_image(dir.join("dense.mem"), vec![3; 1 << 20]);
    let args = ["dump", "--memory", "dense.mem", "--only", "0:0x1001..0x2001", "-o", "dense.core"];
    let (_, message) = ok(dir, &[&args[..], &["--stats", "json"]].concat());
    let (line, stats) = message.split_once('\n').unwrap();
    assert_eq!(line, "corestream: excluded on request: 1044480 bytes in 2 ranges of memory 0");
    let stats: Value = serde_json::from_str(stats).unwrap();
    for (key, value) in [
        ("extent_bytes", 4096),
        ("data_bytes", 4096),
        ("segments", 1),
        ("left_out_bytes", 1_044_480),
        ("left_out_ranges", 2),
    ] {
        assert_eq!(stats[key], json!(value), "{key}");
    }
    let (plan, _) = ok(dir, &[&args[..5], &["--dry-run"]].concat());
    assert!(plan.contains("\nexcluded  1044480 bytes in 2 ranges\n"), "{plan}");
    let (plan, _) = ok(dir, &["dump", "--memory", "dense.mem", "--dry-run"]);
    assert!(!plan.contains("excluded"), "{plan}");
}

/// A memory of all addresses, which no file system can hold, with its last address excluded.
#[test]
fn excludes_ranges_of_a_memory_of_all_addresses() {
    let (directory, _) = directory();
    let dir = directory.path();
    let guest = r#"{ "memories": [{ "minimum": "281474976710656", "memory64": true,
                      "left_out": [{ "first": "18446744073709551615", "last": "18446744073709551615" }] }] }"#;
    fs::write(dir.join("guest.json"), guest).unwrap();
    let args = ["dump", "--manifest", "guest.json", "--memory", "guest.mem,memory64"];
    let ranges = ["--exclude", "0:9007199254740993..0x8000000000000001", "--exclude", "1:1.."];
    ok(dir, &[&args[..], &ranges, &["-o", "guest.core"]].concat());
    let (shown, _) = ok(dir, &["inspect", "guest.core"]);
    for range in
        ["0x20000000000001..=0x8000000000000000", "0xffffffffffffffff..=0xffffffffffffffff"]
    {
        assert!(shown.contains(&format!("     missing {range}\n")), "{shown}");
    }
    ok(dir, &["extract", "guest.core", "--all", "out"]);
    ok(dir, &["dump", "--manifest", "out/manifest.json", "-o", "again.core"]);
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    assert!(read("guest.core") == read("again.core"));
    // The largest excluded range.
    let (verdict, _) = {
        ok(dir, &["dump", "--manifest", "guest.json", "--exclude", "0:..", "-o", "all.core"]);
        ok(dir, &["verify", "all.core"])
    };
    assert!(verdict.contains("18446744073709551616 bytes in 1 range of memory 0"), "{verdict}");
}

#[test]
fn reports_invalid_ranges_in_one_line() {
    let (directory, _) = directory();
    let dir = directory.path();
    let before = names(dir);
    for (ranges, expected) in [
        (
            ["--exclude", "0:0x20..0x10"],
            "the range 0x20..0x10 is empty; its start must be below its end",
        ),
        (
            ["--exclude", "0:4096"],
            "invalid range \"4096\"; expected START..END, such as 0x1000..0x2000",
        ),
        (["--exclude", "0"], "expected MEMORY:START..END, such as 0:0x1000..0x2000"),
        (["--exclude", "0:1kib..2KiB"], "unknown unit \"kib\", did you mean 1KiB?"),
        (["--only", "x:1..2"], "invalid memory index \"x\"; expected a number such as 0"),
        (["--only", "0:1..0x1ffffffffffffffff"], "0x1ffffffffffffffff does not fit in 64 bits"),
        (["--exclude", "1:1..2"], "--exclude 1:1..2: no memory 1; the guest has 1 memory"),
        (["--only", "4294967296:.."], "--only 4294967296:..: no memory 4294967296"),
        (
            ["--exclude", "0:1..131073"],
            "memory 0: excluded range 0x1..0x20001 extends past the end of the memory (0x20000 bytes)",
        ),
        (["--only", "0:131073.."], "memory 0: kept range 0x20001.. extends past the end"),
    ] {
        let args = [&["dump", "--memory", "guest.mem", "-o", "guest.core"][..], &ranges].concat();
        let output = run(dir, &args);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with("corestream: ") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(names(dir), before);
    }
    // For a range in a manifest, the error names the manifest.
    let text = r#"{ "memories": [{ "minimum": 1, "left_out": [{ "first": 1, "last": 65536 }] }] }"#;
    fs::write(dir.join("guest.json"), text).unwrap();
    let output = run(dir, ["dump", "--manifest", "guest.json", "-o", "guest.core"]);
    let expected = "corestream: guest.json: memory 0: excluded range 0x1..=0x10000 extends past the \
                    end of the memory (0x10000 bytes)\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), expected));
}

/// Without its index, a dump does not tell which ranges were excluded.
#[test]
fn salvages_a_truncated_dump_with_excluded_ranges() {
    let (directory, image) = directory();
    let dir = directory.path();
    let args = ["dump", "--memory", "guest.mem", "--exclude", EXCLUDE, "-o", "guest.core"];
    ok(dir, &args);
    let bytes = fs::read(dir.join("guest.core")).unwrap();
    fs::write(dir.join("cut.core"), &bytes[..own::index_of(&bytes)]).unwrap();
    let output = run(dir, ["extract", "cut.core", "--memory", "0", "--salvage", "-o", "out.mem"]);
    assert_eq!(output.status.code(), Some(3));
    let message = stderr(&output);
    assert!(message.contains("warning: memory 0: 0x7d0..=0x7ee is not in the dump"), "{message}");
    assert!(fs::read(dir.join("out.mem")).unwrap()[..image.len()] == image);

    // With its index it does, even if something else is damaged.
    let damaged = fs::File::options().write(true).open(dir.join("guest.core")).unwrap();
    damaged.write_all_at(&[9], own::index_of(&bytes) as u64 - 1).unwrap();
    let args = ["extract", "guest.core", "--all", "out", "--salvage"];
    let output = run(dir, args);
    assert_eq!(output.status.code(), Some(3));
    let message = stderr(&output);
    assert!(
        message.contains("excluded on request: 31 bytes in 1 range of memory 0; the image"),
        "{message}"
    );
    let manifest = fs::read_to_string(dir.join("out/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["memories"][0]["left_out"], json!([{ "first": 2000, "last": 2030 }]));
}
