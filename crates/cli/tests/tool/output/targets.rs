//! Outputs that exist, are read-only or limited, or are written by several processes at once. A line says so, and existing
//! files stay.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::guest;
use crate::common::decode;
use crate::environment::require;
use crate::tool::{self, NO_ARGS, corestream, kept_path, names, run, stderr, tool_path};

const LEN: usize = 5 << 16;

fn shell(directory: &Path, line: &str) -> Output {
    tool::shell(directory, line, NO_ARGS)
}

/// The commands that write a dump and an image, without the name of the output.
const WRITERS: [&[&str]; 2] = [
    &["dump", "--memory", "guest.mem", "--force", "-o"],
    &["extract", "guest.core", "--memory", "0", "--force", "-o"],
];

#[track_caller]
fn check_failure(output: &Output, message: &str) {
    assert_eq!(
        (stderr(output), output.status.code()),
        (format!("corestream: {message}\n"), Some(1))
    );
}

#[test]
fn only_one_of_several_writers_gets_a_name() {
    let directory = guest(LEN);
    let dir = directory.path();
    let whole = fs::read(dir.join("guest.core")).unwrap();
    for writer in WRITERS {
        let force = writer.iter().filter(|arg| **arg == "--force").copied();
        let plain = writer.iter().filter(|arg| **arg != "--force").copied();
        for force in [Some(force), None] {
            let start = || -> Child {
                let mut command = corestream(dir, plain.clone());
                command.arg("new").args(force.clone().into_iter().flatten());
                command.stderr(Stdio::piped()).spawn().unwrap()
            };
            let started: Vec<_> = (0..8).map(|_| start()).collect();
            let outputs: Vec<_> =
                started.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
            let done = outputs.iter().filter(|output| output.status.success()).count();
            assert_eq!(done, if force.is_some() { 8 } else { 1 });
            for output in outputs.iter().filter(|output| !output.status.success()) {
                let message = stderr(output);
                assert_eq!(
                    (output.status.code(), message.lines().count()),
                    (Some(1), 1),
                    "{message}"
                );
                assert!(
                    message.starts_with("corestream: new: ") && message.contains("exists"),
                    "{message}"
                );
            }
            let expected = if writer[0] == "dump" { whole.clone() } else { image() };
            let message: Vec<_> = outputs.iter().map(stderr).collect();
            assert!(fs::read(dir.join("new")).unwrap() == expected, "{message:#?}");
            // Other finished files are kept, and the messages say where.
            for kept in outputs.iter().filter_map(|output| kept_path(&stderr(output))) {
                assert!(fs::read(dir.join(&kept)).unwrap() == expected);
                fs::remove_file(dir.join(kept)).unwrap();
            }
            assert_eq!(names(dir), ["guest.core", "guest.mem", "new"]);
            fs::remove_file(dir.join("new")).unwrap();
        }
    }
}

/// Returns the image of the memory, which has whole pages.
fn image() -> Vec<u8> {
    let mut image = vec![6; LEN];
    image.resize(LEN.next_multiple_of(65_536), 0);
    image
}

#[test]
fn replaces_links_and_rejects_directories() {
    let directory = guest(LEN);
    let dir = directory.path();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("kept"), "kept").unwrap();
    for (target, link) in
        [("sub", "to-directory"), ("loop", "loop"), ("kept", "to-file"), ("none", "to-none")]
    {
        symlink(target, dir.join(link)).unwrap();
    }
    let before = names(dir);
    for writer in WRITERS {
        let run = |name: &str| run(dir, [writer, &[name]].concat());
        check_failure(&run("sub"), "sub: is a directory; name a file in it");
        check_failure(&run("to-directory"), "to-directory: is a directory; name a file in it");
        let many = "cannot access: Too many levels of symbolic links (os error 40)";
        check_failure(&run("loop"), &format!("loop: {many}"));
        check_failure(&run("kept/new"), "kept/new: cannot access: Not a directory (os error 20)");
        let full = run("/dev/full");
        assert!(stderr(&full).ends_with("No space left on device (os error 28)\n"));
        assert_eq!(full.status.code(), Some(1));
        assert!(run("/dev/null").status.success());
        assert_eq!(names(dir), before);
        // The link is replaced, and not its target.
        for link in ["to-file", "to-none"] {
            let output = run(link);
            assert!(output.status.success(), "{}", stderr(&output));
            assert!(!dir.join(link).is_symlink() && dir.join(link).is_file());
            assert_eq!(fs::read(dir.join("kept")).unwrap(), b"kept");
            fs::remove_file(dir.join(link)).unwrap();
            symlink(if link == "to-file" { "kept" } else { "none" }, dir.join(link)).unwrap();
        }
        assert_eq!(names(dir), before);
    }
}

/// A user may not write to a directory, or may only read a file in it.
#[test]
fn keeps_read_only_files_and_directories() {
    let directory = guest(LEN);
    let dir = directory.path();
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    for name in ["guest.mem", "guest.core"] {
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    // Root can write everywhere. The user `nobody` can run only programs in a world-accessible directory.
    let root = rustix::process::getuid().is_root();
    let copied = Command::new("cp").arg(tool_path()).arg(dir.join("corestream")).status().unwrap();
    assert!(copied.success());
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/old"), "old").unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("./corestream");
        command.current_dir(dir).args(args);
        if root {
            command.uid(65_534).gid(65_534);
        }
        command.output().unwrap()
    };
    for (mode, code) in [(0o555, 1), (0o777, 0)] {
        fs::set_permissions(dir.join("sub"), Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(dir.join("sub/old"), Permissions::from_mode(0o444)).unwrap();
        for writer in WRITERS {
            for name in ["sub/new", "sub/old"] {
                let output = as_nobody(&[writer, &[name]].concat());
                let message = stderr(&output);
                assert_eq!(output.status.code(), Some(code), "{message}");
                let denied = "cannot create: Permission denied (os error 13)";
                let expected = format!("corestream: {name}: {denied}\n");
                // In a writable directory, a file can be replaced whatever its own mode.
                assert_eq!(message, if code == 0 { "" } else { &expected });
            }
        }
        let all = as_nobody(&["extract", "guest.core", "--all", "sub/all"]);
        assert_eq!(all.status.code(), Some(code), "{}", stderr(&all));
        if code == 1 {
            assert_eq!(names(&dir.join("sub")), ["old"]);
            assert_eq!(fs::read(dir.join("sub/old")).unwrap(), b"old");
        } else {
            assert_eq!(names(&dir.join("sub")), ["all", "new", "old"]);
            assert!(fs::read(dir.join("sub/old")).unwrap() == image());
        }
    }
    fs::set_permissions(dir.join("sub"), Permissions::from_mode(0o755)).unwrap();
}

/// The limit, in units of 512 bytes, is a third of what is written.
#[test]
fn a_limit_on_the_size_of_files_leaves_nothing() {
    let directory = guest(LEN);
    let dir = directory.path();
    let before = names(dir);
    for line in [
        "ulimit -f 200; exec \"$0\" dump --memory guest.mem -o new",
        "ulimit -f 200; exec \"$0\" dump --memory guest.mem -o -  > out",
        "ulimit -f 200; exec \"$0\" extract guest.core --memory 0 -o new",
        "ulimit -f 200; exec \"$0\" extract guest.core --memory 0 > out",
        "ulimit -f 200; exec \"$0\" extract guest.core --all new",
    ] {
        let output = shell(dir, line);
        let message = stderr(&output);
        assert_eq!(
            (output.status.code(), message.lines().count()),
            (Some(1), 1),
            "{line}: {message}"
        );
        assert!(
            message.starts_with("corestream: ")
                && message.ends_with("File too large (os error 27)\n")
        );
        let _ = fs::remove_file(dir.join("out"));
        assert_eq!(names(dir), before, "{line}");
    }
}

#[test]
fn reports_a_full_standard_output() {
    let directory = guest(LEN);
    for line in [
        "dump --memory guest.mem -o -",
        "dump --memory guest.mem --dry-run",
        "extract guest.core --memory 0",
        "inspect guest.core",
        "inspect guest.core --json",
        "verify guest.core",
        "completions bash",
    ] {
        let output = shell(directory.path(), &format!("exec \"$0\" {line} > /dev/full"));
        let message = stderr(&output);
        assert_eq!(
            (output.status.code(), message.lines().count()),
            (Some(1), 1),
            "{line}: {message}"
        );
        assert!(message.starts_with("corestream: standard output: "), "{line}: {message}");
        assert!(message.ends_with("No space left on device (os error 28)\n"), "{line}: {message}");
    }
}

#[test]
fn only_the_owner_can_read_extracted_files_whatever_the_umask() {
    let directory = guest(LEN);
    for umask in ["000", "777"] {
        let line = format!(
            "umask {umask}; \"$0\" extract guest.core --all all{umask} && \
             \"$0\" extract guest.core --memory 0 -o one{umask}"
        );
        let output = shell(directory.path(), &line);
        assert!(output.status.success(), "{}", stderr(&output));
        let mode = |path: String| {
            directory.path().join(path).metadata().unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode(format!("all{umask}")), 0o700);
        assert_eq!(mode(format!("all{umask}/memory-0.mem")), 0o600);
        assert_eq!(mode(format!("all{umask}/manifest.json")), 0o600);
        assert_eq!(mode(format!("one{umask}")), 0o600);
    }
}

/// There is too little address space to map the image.
#[test]
fn reads_an_image_that_cannot_be_mapped() {
    let directory = guest(LEN);
    let large = File::create(directory.path().join("large.mem")).unwrap();
    large.set_len(4 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, &[1; 5000], 3 << 30).unwrap();
    fs::write(directory.path().join("m.json"), r#"{ "memories": [{ "image": "large.mem" }] }"#)
        .unwrap();
    for image in ["--memory large.mem", "--manifest m.json"] {
        let line = format!("ulimit -v 2000000; exec \"$0\" dump {image} -o - --threads 2");
        let output = shell(directory.path(), &line);
        assert!(output.status.success(), "{}", stderr(&output));
        let decoded = decode(&output.stdout);
        assert_eq!(
            (decoded.segments[0].address, decoded.segments[0].data),
            (3 << 30, &[1; 5000][..])
        );
    }
}

/// A file system becomes full in the middle, because images are not preallocated.
#[test]
fn a_disk_that_becomes_full_leaves_nothing() {
    let directory = guest(LEN);
    fs::create_dir(directory.path().join("small")).unwrap();
    let script = "mount -t tmpfs -o size=128k none small || exit 77
                  \"$0\" extract guest.core --memory 0 -o small/new && exit 78
                  \"$0\" extract guest.core --all small/all && exit 78
                  ls -A small";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(tool_path());
    let output = match command.current_dir(directory.path()).output() {
        Ok(output) if matches!(output.status.code(), Some(0 | 78)) => Ok(output),
        Ok(output) => Err(stderr(&output)),
        Err(error) => Err(error.to_string()),
    };
    let output = require!("mount", output);
    assert_ne!(output.status.code(), Some(78), "{LEN} bytes fit into 128 KiB");
    let message = stderr(&output);
    assert_eq!(message.lines().count(), 2, "{message}");
    for line in message.lines() {
        assert!(line.starts_with("corestream: "), "{message}");
        assert!(line.ends_with("No space left on device (os error 28)"), "{message}");
    }
    assert!(output.stdout.is_empty(), "nothing is left in the directory");
}
