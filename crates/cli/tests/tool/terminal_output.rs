//! Output on a terminal: no binary data, colours, the width, and progress.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::environment::require;
use crate::terminal::Terminal;
use crate::tool::{corestream, names, ok, signal, stderr, succeed, tool_path, write_image};
use crate::{strace, waiting};

/// Returns a directory with `guest.mem`, which is larger than the buffer of a pipe.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![1; 4 << 20];
    image[70_000..90_000].fill(0);
    write_image(directory.path().join("guest.mem"), &image);
    directory
}

#[test]
fn writes_a_dump_to_a_terminal_only_with_force() {
    let directory = directory();
    let terminal = Terminal::new();
    for output in ["-", &terminal.path, "/dev/stdout"] {
        let mut command =
            corestream(directory.path(), ["dump", "--memory", "guest.mem", "-o", output]);
        let done = command.stdout(terminal.open()).output().unwrap();
        let shown = if output == "-" { "standard output" } else { output };
        let expected = format!(
            "corestream: {shown}: is a terminal, and the output is binary; redirect it, name a file \
             with -o, or use --force\n"
        );
        assert_eq!((done.status.code(), stderr(&done)), (Some(2), expected));
        // A dump that fits into the buffer of the terminal.
        command.args(["--force", "--only", "0:0..100"]);
        let done = command.stdout(terminal.open()).output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
    }
}

#[test]
fn colours_maps_only_on_a_terminal() {
    let directory = directory();
    ok(directory.path(), ["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    let map = |term: &str, no_color: Option<&str>, on_terminal: bool| {
        let mut command = corestream(directory.path(), ["inspect", "guest.core", "--map"]);
        command
            .env("LC_ALL", "C")
            .env("TERM", term)
            .env_remove("NO_COLOR")
            .envs(no_color.map(|value| ("NO_COLOR", value)));
        if !on_terminal {
            return String::from_utf8(command.output().unwrap().stdout).unwrap();
        }
        let mut terminal = Terminal::new();
        let mut child = command.stdout(terminal.open()).spawn().unwrap();
        drop(command);
        let shown = terminal.rest();
        assert!(child.wait().unwrap().success());
        shown.replace('\r', "")
    };
    let plain = map("xterm", None, false);
    assert!(
        plain.contains("each cell ") && plain.contains('#') && !plain.contains('\x1b'),
        "{plain}"
    );
    assert_eq!(map("xterm", Some("1"), true), plain);
    assert_eq!(map("dumb", None, true), plain);
    // An empty NO_COLOR has no effect.
    for no_color in [None, Some("")] {
        let coloured = map("xterm", no_color, true);
        assert!(coloured.contains("\x1b[2m."), "{coloured}");
        let signs = ["\x1b[0m", "\x1b[2m", "\x1b[32m"];
        assert_eq!(signs.iter().fold(coloured, |text, sign| text.replace(sign, "")), plain);
    }
}

#[test]
fn inspect_fills_the_width_of_the_terminal() {
    let directory = directory();
    let name = "n".repeat(300);
    let dump = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--name", &name];
    ok(directory.path(), dump);
    let inspect = |columns: Option<&str>| {
        let mut command = corestream(directory.path(), ["inspect", "guest.core", "--map"]);
        command.env("LC_ALL", "C").env("NO_COLOR", "1").env_remove("COLUMNS");
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        command
    };
    let piped = |columns: Option<&str>| {
        String::from_utf8(inspect(columns).output().unwrap().stdout).unwrap()
    };
    for (columns, name, cells) in [(40, 32, 16), (60, 52, 32), (80, 72, 64), (132, 124, 64)] {
        let set = columns.to_string();
        let text = piped(Some(&set));
        // Only on a terminal are names truncated.
        let whole = format!("core dump of {}", "n".repeat(300));
        assert_eq!(text.lines().next().unwrap(), whole);
        let row = text.lines().find(|line| line.starts_with("0x")).unwrap();
        assert_eq!(row.split_once(' ').unwrap().1.len(), cells, "{text}");
        // The width of the terminal takes precedence over the environment.
        let mut terminal = Terminal::with_columns(columns);
        let mut child = inspect(Some("77")).stdout(terminal.open()).spawn().unwrap();
        let on_terminal = terminal.rest().replace('\r', "");
        assert!(child.wait().unwrap().success());
        let truncated = format!("core dump of {}…", "n".repeat(name));
        assert_eq!(on_terminal, text.replace(&whole, &truncated));
    }
    // The default is 80.
    for columns in [None, Some(""), Some("0"), Some("many")] {
        assert_eq!(piped(columns), piped(Some("80")));
    }
}

/// Starts a dump to a pipe that is not read yet.
fn start_stuck(directory: &TempDir, args: &[&str], term: &str, stderr: impl Into<Stdio>) -> Child {
    let mut command = corestream(directory.path(), ["dump", "--memory", "guest.mem", "-o", "-"]);
    command.args(args).env("TERM", term).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()
}

/// Reads all of the dump, which must then succeed.
fn drain(child: &mut Child) -> Vec<u8> {
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(waiting::exit(child).success());
    bytes
}

#[test]
fn prints_a_line_per_second_on_request() {
    let directory = directory();
    let start = Instant::now();
    let mut child = start_stuck(&directory, &["--progress", "always"], "xterm", Stdio::piped());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut message: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
    let len = drain(&mut child).len();
    message.extend(lines.map(Result::unwrap));
    // The first line comes after a second, and the last line says that the dump is written.
    let most = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!((3..=most).contains(&message.len()), "{message:#?}");
    let last = message.pop().unwrap();
    assert!(last.starts_with("corestream: standard output: written, 3.98 MiB in "), "{last}");
    assert_eq!(len / 1024, (4 << 10) - 20);
    for line in message {
        let line = line.strip_prefix("corestream: standard output: writing ").unwrap();
        let (done, rest) = line.split_once(" of 3.98 MiB, ").unwrap();
        // The pipe holds at most 1 MiB.
        assert!(["0 B", "1.00 MiB"].contains(&done) || done.ends_with(" KiB"), "{line}");
        assert!(rest.contains("B/s"), "{line}");
    }
}

/// The progress of an extraction counts the bytes of all its memories.
#[test]
#[ignore = "slow: 5 s"]
fn progress_of_an_extraction_counts_all_memories() {
    require!(strace);
    let directory = directory();
    let memories = ["--memory", "guest.mem", "--memory", "guest.mem"];
    ok(directory.path(), [&["dump", "-o", "guest.core"], &memories[..]].concat());
    // Each memory is written in parts, and each part takes half a second.
    let mut command = strace::traced(
        &directory.path().join("log"),
        "pwrite64",
        &["pwrite64:delay_enter=500000".into()],
    );
    command.arg(tool_path()).current_dir(directory.path());
    command.args(["extract", "guest.core", "--all", "all", "--progress", "always"]);
    let output = command.args(["--threads", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    let mut lines: Vec<_> = text.lines().collect();
    let last = lines.pop().unwrap();
    assert!(last.starts_with("corestream: guest.core: extracted, 7.96 MiB in "), "{text}");
    let done = |line: &str| {
        let line = line.strip_prefix("corestream: guest.core: extracting ").unwrap();
        let (done, rest) = line.split_once(" of 7.96 MiB, ").unwrap();
        assert!(rest.contains("B/s"), "{line}");
        match done.strip_suffix(" MiB") {
            Some(done) => done.parse::<f64>().unwrap(),
            None => 0.0,
        }
    };
    let done: Vec<_> = lines.iter().map(|line| done(line)).collect();
    assert!(done.len() >= 2 && done.is_sorted(), "{text}");
    // More than one memory.
    assert!(done.iter().any(|done| *done > 3.98), "{text}");
}

#[test]
fn shows_that_it_waits_for_a_reader() {
    let directory = directory();
    let fifo = |name: &str| {
        let path = directory.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        path
    };
    let start = |name: &str, stderr: Stdio| {
        let args = ["dump", "--memory", "guest.mem", "-o", name, "--progress", "always"];
        let mut command = corestream(directory.path(), args);
        command.env("TERM", "xterm").stderr(stderr).spawn().unwrap()
    };
    // Both begin at the same time, because each waits a second for its message.
    let (first, second) = (fifo("first"), fifo("second"));
    let mut terminal = Terminal::new();
    let mut on_terminal = start("second", terminal.open().into());
    let mut child = start("first", Stdio::piped());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "corestream: first: waiting for a reader");
    fs::read(&first).unwrap();
    assert!(waiting::exit(&mut child).success());
    let last = lines.last().unwrap();
    assert!(last.starts_with("corestream: first: written, 3.98 MiB in "), "{last}");

    terminal.until("waiting for a reader");
    fs::read(&second).unwrap();
    assert!(waiting::exit(&mut on_terminal).success());
    assert!(terminal.rest().ends_with("\r\x1b[2K"));
}

#[test]
fn shows_a_bar_until_the_dump_is_done() {
    let directory = directory();
    let check = |args: &[&str]| {
        let mut terminal = Terminal::new();
        let mut child = start_stuck(&directory, args, "xterm", terminal.open());
        let shown = terminal.until("B/s");
        let line = &shown[shown.find("writing [").unwrap()..];
        assert!(line.contains(" of 3.98 MiB, "), "{line}");
        drain(&mut child);
        let rest = terminal.rest();
        assert!(!rest.contains('\n') && rest.ends_with("\r\x1b[2K"), "{rest:?}");
        // In 80 columns.
        let drawn = shown + &rest;
        let widest = drawn.split("\r\x1b[2K").map(|line| line.chars().count()).max();
        assert!(widest.unwrap() <= 80, "{drawn:?}");
    };
    // At the same time, because each waits a second for its bar.
    thread::scope(|scope| {
        for args in [&[][..], &["--progress", "auto"], &["--progress", "always"]] {
            scope.spawn(move || check(args));
        }
    });
}

#[test]
fn shows_no_progress_of_a_short_dump_or_without_a_terminal() {
    let directory = directory();
    let short = ["dump", "--memory", "guest.mem", "-o", "guest.core", "--progress", "always"];
    assert_eq!(stderr(&succeed(directory.path(), short)), "");

    let terminals: Vec<_> = (0..2).map(|_| Terminal::new()).collect();
    let mut children = vec![
        start_stuck(&directory, &["--progress", "never"], "xterm", terminals[0].open()),
        start_stuck(&directory, &[], "dumb", terminals[1].open()),
        start_stuck(&directory, &[], "xterm", Stdio::piped()),
    ];
    // A bar would be there after a second.
    thread::sleep(Duration::from_millis(1200));
    for child in &mut children {
        drain(child);
    }
    for mut terminal in terminals {
        assert_eq!(terminal.rest(), "");
    }
    let mut message = String::new();
    children[2].stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(message, "");
}

#[test]
fn a_signal_removes_the_bar_and_the_file() {
    let directory = directory();
    let mut terminal = Terminal::new();
    let mut child = start_stuck(&directory, &[], "xterm", terminal.open());
    terminal.until("B/s");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest = terminal.rest();
    let message = "\r\x1b[2Kcorestream: stopped by SIGINT, the output is incomplete\r\n";
    assert!(rest.ends_with(message), "{rest:?}");
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

/// A terminal without room for a bar shows as much of the text as fits into one line.
#[test]
fn a_narrow_terminal_has_no_bar() {
    let directory = directory();
    let check = |columns: u16| {
        let mut terminal = Terminal::with_columns(columns);
        let mut child = start_stuck(&directory, &[], "xterm", terminal.open());
        let shown = terminal.until("writing ");
        drain(&mut child);
        let drawn = shown + &terminal.rest();
        assert!(!drawn.contains(" ["), "{drawn:?}");
        let lines = drawn.split("\r\x1b[2K").flat_map(|line| line.split(['\r', '\n']));
        let widest = lines.map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.into(), "{columns}: {drawn:?}");
    };
    // At the same time, because each waits a second for its text.
    thread::scope(|scope| {
        for columns in [60, 40, 12] {
            scope.spawn(move || check(columns));
        }
    });
}

/// Returns a terminal that takes nothing, as after Ctrl-S.
fn full_terminal() -> Terminal {
    let terminal = Terminal::new();
    let file = terminal.open();
    rustix::io::ioctl_fionbio(&file, true).unwrap();
    while (&file).write(&[b'x'; 256]).is_ok() {}
    terminal
}

#[test]
fn a_dump_does_not_wait_for_a_full_terminal() {
    let directory = directory();
    let terminal = full_terminal();
    let mut child = start_stuck(&directory, &[], "xterm", terminal.open());
    // Until it would show a bar.
    thread::sleep(Duration::from_millis(1200));
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(waiting::exit(&mut child).code(), Some(0));
}

#[test]
fn a_signal_ends_a_dump_on_a_full_terminal() {
    let directory = directory();
    let check = |args: &[&str], wait| {
        let terminal = full_terminal();
        let mut child = start_stuck(&directory, args, "xterm", terminal.open());
        thread::sleep(Duration::from_millis(wait));
        signal(&child, Signal::TERM);
        assert_eq!(waiting::exit(&mut child).code(), Some(143));
    };
    // A dump that has failed, and only has to print why.
    let check_failed = || {
        let terminal = full_terminal();
        let args = ["dump", "--memory", "there is none", "-o", "guest.core"];
        let mut command = corestream(directory.path(), args);
        let mut child = command.stderr(terminal.open()).spawn().unwrap();
        thread::sleep(Duration::from_millis(500));
        signal(&child, Signal::TERM);
        waiting::exit(&mut child);
    };
    // At the same time, because they mostly wait.
    thread::scope(|scope| {
        scope.spawn(|| check(&[], 1200));
        scope.spawn(|| check(&["--progress", "never"], 100));
        scope.spawn(check_failed);
    });
}
