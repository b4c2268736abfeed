//! `corestream bench`: its figures are complete and consistent, and it leaves nothing. No test asserts how long something
//! takes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::environment::require;
use crate::tool::{NO_ARGS, corestream, names, ok, run, shell, signal, stderr};
use crate::userfaultfd::probe;
use crate::waiting::{catches, has_a_file, wait_until};

const STAGES: [&str; 6] = ["extents", "scan", "plan", "first_byte", "write", "whole"];
const PERCENTILES: [&str; 5] =
    ["min_seconds", "p50_seconds", "p90_seconds", "p99_seconds", "max_seconds"];

/// Starts a bench that does not end by itself.
fn start(directory: &Path, to: &str) -> Child {
    let args = ["bench", "guest.mem", "--runs", "100000", "--to", to];
    let mut command = corestream(directory, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns the JSON that a bench prints. It prints nothing else.
fn json(directory: &Path, args: &[&str]) -> Value {
    let output = run(directory, [&["bench", "--json"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns a directory with `guest.mem`: two pieces of data, far from each other. Its length is not a multiple of a page.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("guest.mem")).unwrap();
    image.write_all_at(&[1; 300_000], 8192).unwrap();
    image.write_all_at(&[2; 100_000], 64 << 20).unwrap();
    directory
}

/// Checks the percentiles and the samples of one stage.
fn check_times(times: &Value, runs: u64) {
    let percentiles = PERCENTILES.map(|key| times[key].as_f64().unwrap());
    assert!(percentiles.is_sorted() && percentiles[0] >= 0.0, "{times}");
    let samples = times["samples_seconds"].as_array().unwrap();
    let samples: Vec<f64> = samples.iter().map(|sample| sample.as_f64().unwrap()).collect();
    assert_eq!(samples.len() as u64, runs);
    for percentile in percentiles {
        assert!(samples.contains(&percentile), "{percentile} is not among the samples: {times}");
    }
}

#[test]
fn figures_are_consistent_for_every_destination() {
    let directory = directory();
    let args = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--stats", "json"];
    let dumped = run(directory.path(), args);
    // A line before the statistics warns of the length of the image.
    let dumped = stderr(&dumped);
    let dumped: Value = serde_json::from_str(dumped.lines().last().unwrap()).unwrap();
    let dump_bytes = directory.path().join("guest.core").metadata().unwrap().len();
    for (to, copies) in [
        ("null", &[][..]),
        ("file", &["write_all", "write_all_preallocated"]),
        ("pipe", &["write_all"]),
        ("tcp", &["write_all"]),
    ] {
        let figures = json(directory.path(), &["guest.mem", "--to", to, "--runs", "3"]);
        assert_eq!((&figures["to"], &figures["image"]), (&to.into(), &"guest.mem".into()));
        assert_eq!((&figures["runs"], &figures["runs_not_counted"]), (&3.into(), &1.into()));
        assert_eq!(figures["dump_bytes"], dump_bytes);
        for same in ["memory_bytes", "image_bytes", "extent_bytes", "data_bytes", "segments"] {
            assert_eq!(figures[same], dumped[same], "{same}");
        }
        assert_eq!(figures["plain_read_bytes"], figures["extent_bytes"]);
        for same in ["extent_methods", "scanner", "threads"] {
            assert_eq!(figures[same], dumped[same], "{same}");
        }

        let stages = figures["stages"].as_object().unwrap();
        assert_eq!(stages.len(), STAGES.len());
        STAGES.iter().for_each(|stage| check_times(&stages[*stage], 3));
        let limits = figures["limits"].as_object().unwrap();
        assert_eq!(limits.len(), 1 + copies.len(), "{limits:?}");
        check_times(&limits["plain_read"], 3);
        copies.iter().for_each(|copy| check_times(&limits[*copy], 3));

        // In each run, a part of a stage takes no longer than the stage.
        for i in 0..3 {
            let of = |stage: &str| stages[stage]["samples_seconds"][i].as_f64().unwrap();
            assert!(of("scan") + of("plan") <= of("first_byte"));
            assert!(of("first_byte") < of("whole") && of("write") < of("whole"));
        }

        let p50 = |times: &Value| times["p50_seconds"].as_f64().unwrap();
        let ratio = |key: &str| figures["ratios"][key].as_f64().unwrap();
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        near(ratio("scan_to_plain_read"), p50(&stages["scan"]) / p50(&limits["plain_read"]));
        for limit in limits.keys().filter(|key| copies.is_empty() || *key != "plain_read") {
            near(ratio(&format!("whole_to_{limit}")), p50(&stages["whole"]) / p50(&limits[limit]));
        }
        let speed = figures["speeds"]["dump_bytes_per_second"].as_f64().unwrap();
        near(speed * p50(&stages["whole"]), figures["dump_bytes"].as_f64().unwrap());
    }
    assert_eq!(names(directory.path()), ["guest.core", "guest.mem"]);
}

#[test]
fn the_table_has_a_row_for_each_figure() {
    let directory = directory();
    let text = ok(directory.path(), ["bench", "guest.mem", "--runs", "2", "--threads", "1"]);
    for row in [
        "image     guest.mem, 67208864 bytes",
        "data      400000 bytes in 2 segments",
        "to        file: a new one for each run in .",
        "runs      2, after 1 uncounted run; the image is mapped and cached",
    ] {
        assert!(text.lines().any(|line| line == row), "{row}\n{text}");
    }
    let scanner = text.lines().find(|line| line.starts_with("scanner")).unwrap();
    assert!(scanner.ends_with(", 1 thread"), "{scanner}");
    // Each row has five percentiles.
    for row in [
        "extents, part of scan",
        "scan",
        "plan",
        "first byte",
        "write",
        "whole",
        "plain read",
        "write_all",
        "write_all, preallocated",
    ] {
        let times = text.lines().filter_map(|line| line.strip_prefix(row));
        let times = times.map(|line| line.split_whitespace().map(str::parse::<f64>));
        let times = times.filter_map(|times| times.collect::<Result<Vec<_>, _>>().ok());
        assert!(times.into_iter().any(|times| times.len() == 5), "{row}\n{text}");
    }
    for row in ["scan / plain read", "whole / write_all", "whole / (plain read + write_all)"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{row}  "))), "{row}\n{text}");
    }
}

#[test]
fn takes_the_options_of_a_dump() {
    let directory = directory();
    let image = "guest.mem,memory64,page-size=1,maximum=70000000";
    let args = [image, "--to", "null", "--runs", "1", "--threads", "1"];
    let args = [&args[..], &["--max-segments", "1", "--no-trust-holes", "--no-checksum"]].concat();
    let figures = json(directory.path(), &args);
    let len = directory.path().join("guest.mem").metadata().unwrap().len();
    for all in ["memory_bytes", "image_bytes", "extent_bytes", "plain_read_bytes"] {
        assert_eq!(figures[all], len, "{all}");
    }
    assert_eq!((&figures["segments"], &figures["threads"]), (&1.into(), &1.into()));
    assert_eq!((&figures["checksums"], &figures["runs"]), (&false.into(), &1.into()));
    fs::create_dir(directory.path().join("disk")).unwrap();
    let with = json(directory.path(), &[&args[..args.len() - 1], &["--dir", "disk"]].concat());
    assert_eq!((&with["checksums"], &with["dir"]), (&true.into(), &"disk".into()));
    assert!(with["dump_bytes"].as_u64() > figures["dump_bytes"].as_u64());
}

#[test]
fn has_no_ratios_for_an_image_without_data() {
    let directory = tempfile::tempdir().unwrap();
    File::create(directory.path().join("empty.mem")).unwrap();
    File::create(directory.path().join("hole.mem")).unwrap().set_len(10 << 20).unwrap();
    for (image, len) in [("empty.mem", 0), ("hole.mem", 10 << 20)] {
        for to in ["null", "file", "pipe", "tcp"] {
            let figures = json(directory.path(), &[image, "--to", to, "--runs", "1"]);
            assert_eq!((&figures["image_bytes"], &figures["segments"]), (&len.into(), &0.into()));
            assert_eq!(figures["ratios"]["scan_to_plain_read"], Value::Null);
            assert_eq!(figures["ratios"]["whole_to_write_all"].is_null(), to == "null");
            assert_eq!(figures["speeds"]["scan_bytes_per_second"], Value::Null);
        }
        let text = ok(directory.path(), ["bench", image, "--runs", "1"]);
        let ratio = text.lines().find(|line| line.starts_with("scan / plain read")).unwrap();
        assert!(ratio.ends_with(" -"), "{ratio}");
    }
}

#[test]
fn reports_usage_errors_in_one_line() {
    let directory = directory();
    let large = File::create(directory.path().join("large.mem")).unwrap();
    large.set_len((4 << 30) + 1).unwrap();
    for (args, code, message) in [
        (&[][..], 2, "the following required arguments were not provided: <IMAGE>"),
        (
            &["guest.mem", "--writes", "5"],
            2,
            "the argument '[IMAGE]' cannot be used with '--writes <RATE>'",
        ),
        (
            &["guest.mem", "--live", "64MiB"],
            2,
            "the argument '[IMAGE]' cannot be used with '--live",
        ),
        (&["--live", "0"], 2, "invalid value '0' for '--live <SIZE>': must be at least 1 byte"),
        (
            &["--live", "1MiB", "--writes", "-1"],
            2,
            "invalid value '-1' for '--writes <RATE>': expected 0 to ",
        ),
        (&["--live", "1024TiB"], 1, "--live 1125899906842624: no machine has that much memory"),
        (&["--live", "60TiB"], 1, "a guest of 65970697666560 bytes needs "),
        (&["guest.mem", "--to", "disk"], 2, "invalid value 'disk' for '--to <TO>'"),
        (&["guest.mem", "--runs", "0"], 2, "invalid value '0' for '--runs <N>'"),
        (&["guest.mem", "--threads", "-1"], 2, "invalid value '-1' for '--threads <N>'"),
        (&["guest.mem,memory65"], 2, "invalid value 'guest.mem,memory65' for '[IMAGE]'"),
        (&["none.mem"], 1, "none.mem: cannot open: No such file"),
        (&["."], 1, ".: is a directory, not a regular file"),
        (&["large.mem"], 1, "large.mem: "),
        (&["guest.mem", "--dir", "none"], 1, "none: cannot create a file in it: No such file"),
        (&["guest.mem", "--dir", "guest.mem"], 1, "guest.mem: cannot create a file in it: Not a"),
    ] {
        let output = run(directory.path(), [&["bench"], args].concat());
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
        assert!(line.starts_with(&format!("corestream: {message}")), "{args:?}: {line}");
        assert!(line.lines().count() == 1 && output.stdout.is_empty(), "{line}");
    }
    assert_eq!(names(directory.path()), ["guest.mem", "large.mem"]);
}

#[test]
fn reports_files_without_room() {
    let directory = directory();
    let line = r#"ulimit -f 8; exec "$0" bench guest.mem"#;
    let output = shell(directory.path(), line, NO_ARGS);
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.starts_with("corestream: .: ") && line.contains("File too large"), "{line}");
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

#[test]
fn a_signal_ends_a_bench_and_leaves_nothing() {
    let directory = directory();
    let path = directory.path().canonicalize().unwrap();
    for to in ["file", "pipe"] {
        for (number, name, code) in [
            (Signal::INT, "SIGINT", Some(130)),
            (Signal::TERM, "SIGTERM", Some(143)),
            (Signal::KILL, "", None),
        ] {
            let child = start(&path, to);
            if to == "file" {
                wait_until(|| has_a_file(&child, &path));
            } else {
                // It has opened the image, which it does after it has set its signal handlers.
                let maps = format!("/proc/{}/maps", child.id());
                wait_until(|| fs::read_to_string(&maps).unwrap().contains("guest.mem"));
                wait_until(|| catches(&child, Signal::INT));
            }
            signal(&child, number);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), code);
            if code.is_some() {
                let message = format!("corestream: stopped by {name}, the output is incomplete\n");
                assert_eq!(stderr(&output), message);
            }
            assert!(output.stdout.is_empty());
            assert_eq!(names(&path), ["guest.mem"]);
        }
    }
}

#[test]
fn reports_an_image_that_changes() {
    for cut in [true, false] {
        let directory = directory();
        let path = directory.path().canonicalize().unwrap();
        let image = File::options().write(true).open(path.join("guest.mem")).unwrap();
        let child = start(&path, "file");
        wait_until(|| has_a_file(&child, &path));
        if cut {
            image.set_len(5).unwrap();
        } else {
            // A third segment makes the dump longer.
            image.write_all_at(&[3; 1000], 32 << 20).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let message = if cut { " truncated " } else { "modified" };
        assert!(line.contains(message) && line.lines().count() == 1, "{line}");
        assert!(output.stdout.is_empty());
        assert_eq!(names(&path), ["guest.mem"]);
    }
}

#[test]
fn figures_of_a_running_guest_are_consistent() {
    require!("userfaultfd", probe());
    let directory = tempfile::tempdir().unwrap();
    for (to, faults, writes) in
        [("null", "thread", "1000"), ("file", "signal", "unlimited"), ("pipe", "signal", "0")]
    {
        let args = ["--live", "16000000", "--to", to, "--faults", faults, "--writes", writes];
        let figures = json(directory.path(), &[&args[..], &["--runs", "2"]].concat());
        // Rounded up to whole pages.
        assert_eq!(figures["guest_bytes"], 245 << 16);
        assert_eq!((&figures["to"], &figures["faults"]), (&to.into(), &faults.into()));
        assert_eq!((&figures["writes"], &figures["runs"]), (&writes.into(), &2.into()));
        assert_eq!(
            (&figures["failed_snapshots"], &figures["huge_pages"]),
            (&0.into(), &false.into())
        );
        for times in ["pause", "prepare", "dump", "stop_and_dump"] {
            check_times(&figures[times], 2);
        }
        let phases = figures["phases"].as_object().unwrap();
        assert_eq!(phases.len(), 5);
        let of = |phase: &str, figure: &str| phases[phase][figure].as_f64().unwrap();
        for phase in ["before", "prepare", "dump", "finish", "after"] {
            check_times(&phases[phase]["largest_gap"], 2);
            check_times(&phases[phase]["p95_gap"], 2);
            for i in 0..2 {
                let at = |gap: &str| phases[phase][gap]["samples_seconds"][i].as_f64().unwrap();
                assert!(at("p95_gap") <= at("largest_gap"), "{phase}: {figures}");
            }
        }
        assert!(of("before", "iterations_per_second") > 0.0);
        assert_eq!(of("before", "writes_per_second") > 0.0, writes != "0");
        let kept = |figure: &str| of("dump", figure) / of("before", figure);
        let ratio = |key: &str| figures["ratios"][key].as_f64();
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        near(ratio("iterations_kept").unwrap(), kept("iterations_per_second"));
        match ratio("writes_kept") {
            Some(ratio) => near(ratio, kept("writes_per_second")),
            None => assert_eq!(writes, "0"),
        }
        let p50 = |times: &str| figures[times]["p50_seconds"].as_f64().unwrap();
        near(ratio("stop_and_dump_to_pause").unwrap(), p50("stop_and_dump") / p50("pause"));
        if writes == "0" {
            assert_eq!(
                (&figures["copied_pages"], &figures["peak_copy_bytes"]),
                (&0.0.into(), &0.into())
            );
        } else {
            assert!(figures["peak_copy_bytes"].as_u64().unwrap() >= 4096);
        }
    }
    let args = ["bench", "--live", "1MiB", "--huge-pages", "--to", "null", "--runs", "1"];
    let text = ok(directory.path(), args);
    for row in [
        "guest     1048576 bytes, all touched, in huge pages",
        "writes    1000 pages per second",
        "runs      1, after 1 uncounted run",
    ] {
        assert!(text.lines().any(|line| line == row), "{row}\n{text}");
    }
    for row in ["pause ", "stop and dump ", "finish ", "stop and dump / pause "] {
        assert!(text.lines().any(|line| line.starts_with(row)), "{row}\n{text}");
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_bench_whose_snapshots_all_fail_is_an_error() {
    require!("userfaultfd", probe());
    let directory = tempfile::tempdir().unwrap();
    let args = ["bench", "--live", "64MiB", "--writes", "unlimited", "--copy-limit", "8KiB"];
    let output = run(directory.path(), [&args[..], &["--runs", "1"]].concat());
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    let message =
        "corestream: every snapshot failed: memory 0: the guest wrote to more pages than the limit";
    assert!(line.starts_with(message) && line.lines().count() == 1, "{line}");
    assert!(output.stdout.is_empty() && names(directory.path()).is_empty());
}

#[test]
fn a_signal_ends_a_bench_of_a_running_guest() {
    require!("userfaultfd", probe());
    let directory = tempfile::tempdir().unwrap();
    let args = ["bench", "--live", "64MiB", "--runs", "100000"];
    let mut command = corestream(directory.path(), args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| catches(&child, Signal::TERM));
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    let message = "corestream: stopped by SIGTERM, the output is incomplete\n";
    assert_eq!(stderr(&output), message);
    assert!(output.stdout.is_empty() && names(directory.path()).is_empty());
}
