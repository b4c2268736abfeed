//! Dumps of image files and manifests, and the usage errors of `dump`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::common::decode;
use crate::process_memory::peak_anon;
use crate::tool::{NO_ARGS, corestream, names, shell, stderr, tool_path, write_image};

/// Returns a directory with `guest.mem`, an image of two pages.
fn directory() -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; 131_072];
    image[1000..3000].fill(1);
    image[69_999] = 2;
    write_image(directory.path().join("guest.mem"), &image);
    (directory, image)
}

fn start(directory: &Path, args: &[&str]) -> Command {
    let mut command = corestream(directory, ["dump"]);
    command.args(args);
    command
}

fn dump(directory: &Path, args: &[&str]) -> Output {
    start(directory, args).output().unwrap()
}

#[test]
fn dumps_an_image_to_a_file_and_to_standard_output() {
    let (directory, image) = directory();
    let output = dump(directory.path(), &["--memory", "guest.mem", "-o", "guest.core"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let path = directory.path().join("guest.core");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(path).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "guest.mem");
    assert_eq!(decoded.memories[0].initial, 2);
    assert_eq!(decoded.contents(0, image.len()), image);

    // The same bytes go to standard output, which may be a pipe or a file.
    let piped = dump(directory.path(), &["--memory", "guest.mem", "-o", "-"]);
    assert!(piped.stdout == bytes);
    let file = File::create(directory.path().join("redirected")).unwrap();
    let mut command = start(directory.path(), &["--memory", "guest.mem", "-o", "-"]);
    assert!(command.stdout(file).status().unwrap().success());
    assert!(fs::read(directory.path().join("redirected")).unwrap() == bytes);
}

#[test]
fn writes_to_a_fifo_in_place() {
    let (directory, image) = directory();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for force in [&[][..], &["--force"]] {
        let reader = Command::new("cat").arg(&fifo).stdout(Stdio::piped()).spawn().unwrap();
        let mut args = vec!["--memory", "guest.mem", "-o", "fifo"];
        args.extend(force);
        assert!(dump(directory.path(), &args).status.success());
        let bytes = reader.wait_with_output().unwrap().stdout;
        assert_eq!(decode(&bytes).contents(0, image.len()), image);
    }
    assert_eq!(names(directory.path()), ["fifo", "guest.mem"]);
}

#[test]
fn takes_the_type_of_a_memory_from_its_options() {
    let (directory, image) = directory();
    let first = "guest.mem,memory64,page-size=1,maximum=200000,shared";
    let args = ["--name", "two", "--memory", first, "--memory", "guest.mem", "-o", "-"];
    let output = dump(directory.path(), &[&args[..], &["--max-segments", "1"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let decoded = decode(&output.stdout);
    assert_eq!(decoded.name, "two");
    assert_eq!(decoded.segments.len(), 2);
    let ty = decoded.memories[0];
    assert!(ty.memory64 && ty.shared);
    assert_eq!((ty.initial, ty.maximum, ty.page_size_log2), (131_072, Some(200_000), Some(0)));
    for memory in [0, 1] {
        assert_eq!(decoded.contents(memory, image.len()), image);
    }
}

#[test]
fn dumps_the_example_of_a_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/guest.json");
    let example = example.to_str().unwrap();
    let output =
        dump(directory.path(), &["--manifest", example, "-o", "guest.core", "--stats", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let bytes = fs::read(directory.path().join("guest.core")).unwrap();
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "guest.wasm");
    assert_eq!(decoded.threads[0].0, "main");
    assert_eq!(decoded.threads[0].1.len(), 3);
    let image = fs::read(Path::new(example).with_extension("mem")).unwrap();
    assert_eq!(decoded.contents(0, image.len()), image);

    let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(stats["dump_bytes"], bytes.len());
    assert_eq!(stats["segments"], decoded.segments.len());
    assert_eq!(stats["image_bytes"], image.len());
}

/// The process needs less than 16 MiB of anonymous memory for an image of 1 TiB, and for an image with far more gaps
/// than the budget.
#[test]
fn needs_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let sparse = File::create(directory.path().join("sparse.mem")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    for i in 1..=64 {
        sparse.write_all_at(&vec![1; 1 << 20], i << 33).unwrap();
    }
    drop(sparse);
    let mut gaps = vec![1; 64 << 20];
    gaps.chunks_mut(128).for_each(|object| object[40..].fill(0));
    write_image(directory.path().join("gaps.mem"), gaps);
    for (memory, segments) in [("sparse.mem,memory64", 64), ("gaps.mem", 100_000)] {
        let args = ["--memory", memory, "-o", "out", "--force", "--stats", "json"];
        let mut command = start(directory.path(), &args);
        let (output, peak) = peak_anon(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(stats["segments"], segments);
        assert!((1..16 << 20).contains(&peak), "{peak} bytes");
    }
}

#[test]
fn reports_usage_errors_in_one_line_and_leaves_nothing() {
    let (directory, _) = directory();
    let dir = directory.path();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("old.core"), "old").unwrap();
    fs::write(dir.join("bad.json"), "{\n  \"nam\": 1 }").unwrap();
    fs::write(dir.join("range.json"), r#"{ "instances": [{ "module": 3 }] }"#).unwrap();
    fs::write(
        dir.join("small.json"),
        r#"{ "memories": [{ "image": "guest.mem", "minimum": 1 }] }"#,
    )
    .unwrap();
    fs::write(dir.join("ok.json"), r#"{ "memories": [{ "image": "guest.mem" }] }"#).unwrap();
    fs::hard_link(dir.join("guest.mem"), dir.join("same.mem")).unwrap();
    symlink("nothing", dir.join("nowhere")).unwrap();
    let huge = File::create(dir.join("huge.mem")).unwrap();
    huge.set_len((1 << 32) + 1).unwrap();
    let before = names(dir);
    let memory = ["--memory", "guest.mem"];
    for (args, code, expected) in [
        (vec!["-o", "new"], 2, "nothing to dump: name an image with --memory, or a --manifest"),
        (
            vec!["--memory", "none.mem", "-o", "new"],
            1,
            "none.mem: cannot open: No such file or directory (os error 2)",
        ),
        (vec!["--memory", "sub", "-o", "new"], 1, "sub: is a directory, not a regular file"),
        (
            vec!["--memory", "huge.mem", "-o", "new"],
            1,
            "huge.mem: 65537 pages exceed the maximum of 65536 for a 32-bit memory; write huge.mem,memory64",
        ),
        (
            vec!["--memory", "guest.mem,shared", "-o", "new"],
            1,
            "guest.mem: a shared memory needs a maximum, such as guest.mem,shared,maximum=2",
        ),
        (
            vec!["--manifest", "bad.json", "-o", "new"],
            1,
            "bad.json: unknown field `nam`, expected one of `name`, `modules`, `memories`, `globals`, \
             `instances`, `threads`, `notes`, `trap`, `captured_at`, `module_identities` at line 2 column 7",
        ),
        (
            vec!["--manifest", "range.json", "-o", "new"],
            1,
            "range.json: instance 0: module index 3 is out of range; there are 0 modules",
        ),
        (
            vec!["--manifest", "small.json", "-o", "new"],
            1,
            "small.json: memory 0: the image of 131072 bytes is larger than the memory of 65536 bytes; the \
             memory needs at least 2 pages",
        ),
        (
            [&memory[..], &["-o", "old.core"]].concat(),
            1,
            "old.core: exists; use --force to overwrite it",
        ),
        ([&memory[..], &["-o", "sub"]].concat(), 1, "sub: is a directory; name a file in it"),
        (
            [&memory[..], &["-o", "none/new"]].concat(),
            1,
            "none/new: no such directory: none; create it first",
        ),
        (
            [&memory[..], &["-o", "none/"]].concat(),
            1,
            "none/: no such directory, and the file name is missing",
        ),
        (
            [&memory[..], &["-o", "guest.mem/new"]].concat(),
            1,
            "guest.mem/new: cannot access: Not a directory (os error 20)",
        ),
        (
            [&memory[..], &["-o", "nowhere"]].concat(),
            1,
            "nowhere: is a dangling symbolic link; use --force to replace it",
        ),
        (
            [&memory[..], &["-o", "guest.mem", "--force"]].concat(),
            1,
            "guest.mem: is an input (guest.mem); write to another file",
        ),
        (
            [&memory[..], &["-o", "same.mem", "--force"]].concat(),
            1,
            "same.mem: is an input (guest.mem); write to another file",
        ),
        (
            vec!["--manifest", "ok.json", "-o", "ok.json", "--force"],
            1,
            "ok.json: is an input (ok.json); write to another file",
        ),
        (
            vec!["--manifest", "ok.json", "-o", "same.mem", "--force"],
            1,
            "same.mem: is an input (guest.mem); write to another file",
        ),
        (
            vec!["--manifest", "name\n.json", "-o", "new"],
            1,
            "name\\n.json: cannot read: No such file or directory (os error 2)",
        ),
        (
            [&memory[..], &["-o", "%x"]].concat(),
            2,
            "-o %x: unknown pattern %x; expected %p (process id), %t (Unix time), %n (process name) or %% (percent sign)",
        ),
        (
            [&memory[..], &["-o", "new", "--max-segments", "0"]].concat(),
            2,
            "invalid value '0' for '--max-segments <N>': expected 1 to 100000; see --help",
        ),
        (
            [&memory[..], &["-o", "new", "--max-segments", "100001"]].concat(),
            2,
            "invalid value '100001' for '--max-segments <N>': expected 1 to 100000; see --help",
        ),
        (
            [&memory[..], &["-o", "new", "--threads", "65536"]].concat(),
            2,
            "invalid value '65536' for '--threads <N>': expected 0 to 65535; see --help",
        ),
        (
            vec!["--memory", "guest.mem"],
            2,
            "the following required arguments were not provided: \
             <--output <PATH>|--to <PEER>|--fd <N>|--dry-run>; see --help",
        ),
        (
            vec!["--memory", "guest.mem,memory65", "-o", "new"],
            2,
            "invalid value 'guest.mem,memory65' for '--memory <IMAGE>': unknown option memory65; expected memory64, shared, changing, maximum=PAGES|SIZE or page-size=1; see --help",
        ),
        (
            vec!["--memory", "guest.mem", "-o", "new", "--forse"],
            2,
            "unexpected argument '--forse' found (a similar argument exists: '--force'); see --help",
        ),
        (
            [&memory[..], &["-o", "/dev/full"]].concat(),
            1,
            "/dev/full: 0 of 2234 bytes written: No space left on device (os error 28)",
        ),
    ] {
        let output = dump(dir, &args);
        assert_eq!(stderr(&output), format!("corestream: {expected}\n"), "{args:?}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(names(dir), before, "{args:?}");
        assert_eq!(fs::read(dir.join("old.core")).unwrap(), b"old");
    }
    // With --force, a complete file replaces the old one.
    let output = dump(dir, &[&memory[..], &["-o", "old.core", "--force"]].concat());
    assert!(output.status.success());
    decode(&fs::read(dir.join("old.core")).unwrap());
    assert_eq!(names(dir), before);
}

#[test]
fn reports_a_reader_that_goes_away() {
    let (directory, _) = directory();
    write_image(directory.path().join("dense.mem"), vec![1; 8 << 20]);
    let mut command = start(directory.path(), &["--memory", "dense.mem", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.starts_with("corestream: standard output: "), "{message}");
    assert!(message.ends_with(" bytes written: Broken pipe (os error 32)\n"), "{message}");
}

#[test]
fn reports_an_image_that_cannot_be_read() {
    let (directory, _) = directory();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(directory.path().join("guest.mem"), fs::Permissions::from_mode(0o0))
        .unwrap();
    let mut command = start(directory.path(), &["--memory", "guest.mem", "-o", "new"]);
    if rustix::process::getuid().is_root() {
        // Root can read everything. The user `nobody` can run only programs in a world-accessible directory.
        let copy = directory.path().join("corestream");
        // Copied by another process. Otherwise a process forked meanwhile would hold the copy open for writing.
        let mut copies = Command::new("cp");
        assert!(copies.arg(tool_path()).arg(&copy).status().unwrap().success());
        command = Command::new("./corestream");
        command.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", "new"]);
        command.uid(65_534);
    }
    let output = command.output().unwrap();
    let expected = "corestream: guest.mem: cannot open: Permission denied (os error 13)\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), expected));
    assert!(!directory.path().join("new").exists());
}

#[test]
fn fills_patterns_in_the_name_of_the_output() {
    let (directory, _) = directory();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let mut command = start(directory.path(), &["--memory", "guest.mem"]);
    command.args(["--name", "../evil\n\u{1b}[31m", "-o", "100%%-%n-%p-%t"]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let prefix = format!("100%-_._evil__[31m-{id}-");
    let name = names(directory.path()).into_iter().find(|name| name != "guest.mem").unwrap();
    let time: u64 = name.strip_prefix(&prefix).unwrap().parse().unwrap();
    assert!((before..=now()).contains(&time));
    let bytes = fs::read(directory.path().join(name)).unwrap();
    assert_eq!(decode(&bytes).name, "../evil\n\u{1b}[31m");
}

#[test]
fn only_the_owner_can_read_a_dump_whatever_the_umask() {
    let (directory, _) = directory();
    for umask in ["000", "777"] {
        let line = "umask $1; exec \"$0\" dump --memory guest.mem -o $1 --sync";
        assert!(shell(directory.path(), line, [umask]).status.success());
        let mode = directory.path().join(umask).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "umask {umask}");
    }
}

/// `/dev/stdout` and similar names mean the descriptor itself: it is never replaced, and is written from its position
/// on.
#[test]
fn writes_to_named_descriptors_in_place() {
    let (directory, image) = directory();
    let path = directory.path().join("out");
    symlink("/dev/stdout", directory.path().join("link")).unwrap();
    let piped = dump(directory.path(), &["--memory", "guest.mem", "-o", "/dev/stdout"]).stdout;
    assert_eq!(decode(&piped).contents(0, image.len()), image);
    let before = fs::symlink_metadata("/dev/stdout").unwrap().file_type();
    for output in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"] {
        for force in [&[][..], &["--force"]] {
            fs::write(&path, "kept").unwrap();
            let inode = path.metadata().unwrap().ino();
            let mut file = File::options().write(true).open(&path).unwrap();
            file.seek(SeekFrom::End(0)).unwrap();
            let mut command = start(directory.path(), &["--memory", "guest.mem", "-o", output]);
            command.args(force);
            let done = command.stdout(file).output().unwrap();
            assert!(done.status.success(), "{output}: {}", stderr(&done));
            let bytes = fs::read(&path).unwrap();
            assert!(bytes[..4] == *b"kept" && bytes[4..] == piped, "{output}");
            assert_eq!(path.metadata().unwrap().ino(), inode);
        }
    }
    assert_eq!(fs::symlink_metadata("/dev/stdout").unwrap().file_type(), before);
    assert!(directory.path().join("link").is_symlink());
    // An input as standard output is refused too.
    let input = File::options().append(true).open(directory.path().join("guest.mem")).unwrap();
    let mut command = start(directory.path(), &["--memory", "guest.mem", "-o", "-"]);
    let done = command.stdout(input).output().unwrap();
    assert!(stderr(&done).contains("standard output: is an input (guest.mem)"));
    assert_eq!(fs::read(directory.path().join("guest.mem")).unwrap(), image);
}

#[test]
fn writes_to_a_socket_in_place() {
    let (directory, image) = directory();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let output = dump(directory.path(), &["--memory", "guest.mem", "-o", "socket", "--force"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(decode(&reader.join().unwrap()).contents(0, image.len()), image);
    // A process forked meanwhile can hold the listener open for a moment.
    while UnixStream::connect(&path).is_ok() {
        std::thread::yield_now();
    }
    let output = dump(directory.path(), &["--memory", "guest.mem", "-o", "socket", "--force"]);
    let message = "corestream: socket: cannot connect: Connection refused (os error 111)\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), message));
    assert_eq!(names(directory.path()), ["guest.mem", "socket"]);
}

#[test]
fn a_dry_run_describes_the_dump_and_writes_nothing() {
    let (directory, _) = directory();
    let args = ["--memory", "guest.mem", "-o", "new"];
    let dry = dump(directory.path(), &[&args[..], &["--dry-run"]].concat());
    assert!(dry.status.success(), "{}", stderr(&dry));
    assert_eq!(names(directory.path()), ["guest.mem"]);
    assert!(dump(directory.path(), &args).status.success());
    let bytes = fs::read(directory.path().join("new")).unwrap();
    let decoded = decode(&bytes);
    let data: usize = decoded.segments.iter().map(|segment| segment.data.len()).sum();
    let message = String::from_utf8(dry.stdout).unwrap();
    let (plan, disk) = message.rsplit_once("disk ").unwrap();
    let segments = decoded.segments.len();
    let expected =
        format!("segments  {segments}\ndata      {data} bytes\ndump      {} bytes\n", bytes.len());
    assert_eq!(plan, expected);
    assert!(disk.trim().ends_with("bytes free, the dump fits"), "{disk}");
    // A dry run does not require an output.
    let dry = dump(directory.path(), &["--memory", "guest.mem", "--dry-run"]);
    assert_eq!(String::from_utf8(dry.stdout).unwrap(), expected);
}

#[test]
fn a_dry_run_reports_a_dump_that_does_not_fit_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let huge = File::create(directory.path().join("huge.mem")).unwrap();
    let free = rustix::fs::statvfs(directory.path()).unwrap();
    let len = free.f_bavail * free.f_frsize + (1 << 30);
    huge.set_len(len).unwrap();
    // With a budget of one segment, everything between the first and the last byte is kept.
    huge.write_all_at(b"x", 0).unwrap();
    huge.write_all_at(b"x", len - 1).unwrap();
    let args = ["--memory", "huge.mem,memory64", "-o", "new", "--max-segments", "1"];
    let dry = dump(directory.path(), &[&args[..], &["--dry-run"]].concat());
    let printed = String::from_utf8(dry.stdout).unwrap();
    assert!(
        printed.lines().any(|line| line.ends_with("bytes free, the dump does not fit")),
        "{printed}"
    );
}

#[test]
fn reads_holes_that_are_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let image = File::create(directory.path().join("sparse.mem")).unwrap();
    image.write_all_at(b"x", 1 << 20).unwrap();
    let whole = 17 << 16;
    image.set_len(whole).unwrap();
    drop(image);
    for (args, method, scanned) in
        [(&[][..], "seek", 1..65_536), (&["--no-trust-holes"], "whole", whole..whole + 1)]
    {
        let common = ["--memory", "sparse.mem", "-o", "/dev/null", "--stats", "json"];
        let output = dump(directory.path(), &[&common[..], args].concat());
        let stats: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(stats["extent_methods"][0], method);
        assert!(scanned.contains(&stats["scanned_bytes"].as_u64().unwrap()));
        assert_eq!(stats["data_bytes"], 1);
    }
}

#[test]
fn reads_a_manifest_from_standard_input() {
    let (directory, image) = directory();
    let mut command = start(directory.path(), &["--manifest", "-", "-o", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = br#"{ "name": "piped", "memories": [{ "image": "guest.mem" }] }"#;
    child.stdin.take().unwrap().write_all(text).unwrap();
    let bytes = child.wait_with_output().unwrap().stdout;
    let decoded = decode(&bytes);
    assert_eq!(decoded.name, "piped");
    assert_eq!(decoded.contents(0, image.len()), image);
}

#[test]
fn does_not_overwrite_the_file_on_standard_input() {
    let (directory, _) = directory();
    let text = r#"{ "memories": [{ "image": "guest.mem" }] }"#;
    fs::write(directory.path().join("m.json"), text).unwrap();
    let mut command = start(directory.path(), &["--manifest", "-", "-o", "m.json", "--force"]);
    let input = File::open(directory.path().join("m.json")).unwrap();
    let output = command.stdin(input).output().unwrap();
    let message = "corestream: m.json: is an input (/dev/stdin); write to another file\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(1)));
    assert_eq!(fs::read_to_string(directory.path().join("m.json")).unwrap(), text);
}

/// A limit on the size of files is an error like a full disk: its signal does not end the process.
/// The message has the argument to write, with the options that were given.
#[test]
fn names_the_option_that_a_memory_needs() {
    let (directory, _) = directory();
    File::create(directory.path().join("big.mem")).unwrap().set_len((4 << 30) + 1).unwrap();
    for (memory, expected) in [
        (
            "guest.mem,shared",
            "guest.mem: a shared memory needs a maximum, such as guest.mem,shared,maximum=2\n",
        ),
        ("big.mem", "; write big.mem,memory64\n"),
    ] {
        let message = stderr(&dump(directory.path(), &["--memory", memory, "--dry-run"]));
        assert!(message.ends_with(expected), "{message}");
        assert!(!message.contains("(memory64)"), "{message}");
        let remedy = expected.rsplit(' ').next().unwrap().trim();
        let output = dump(directory.path(), &["--memory", remedy, "--dry-run"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn reports_a_limit_on_the_size_of_files() {
    let (directory, _) = directory();
    write_image(directory.path().join("dense.mem"), vec![1; 4 << 20]);
    let line = "ulimit -f 1000; exec \"$0\" dump --memory dense.mem -o new";
    let output = shell(directory.path(), line, NO_ARGS);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).ends_with("File too large (os error 27)\n"), "{}", stderr(&output));
    assert_eq!(names(directory.path()), ["dense.mem", "guest.mem"]);
}

#[test]
fn warns_of_an_image_that_is_written_to_meanwhile() {
    let (directory, _) = directory();
    write_image(directory.path().join("dense.mem"), vec![1; 8 << 20]);
    let mut command = start(directory.path(), &["--memory", "dense.mem", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4096]).unwrap();
    let image = File::options().write(true).open(directory.path().join("dense.mem")).unwrap();
    image.write_all_at(b"new", 100).unwrap();
    stdout.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    let message = "corestream: warning: dense.mem: was written to while it was dumped; the dump may contain old and new bytes, and marks memory 0 as changing\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (message, Some(0)));
}

#[test]
fn takes_paths_of_any_bytes_and_with_commas() {
    let (directory, image) = directory();
    for name in [&b"a,b"[..], b"\xff.mem", b"new\nline"] {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(directory.path().join(name), &image).unwrap();
        let mut command = start(directory.path(), &["-o", "-", "--memory"]);
        command.arg(name);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(decode(&output.stdout).contents(0, image.len()), image);
    }
}
