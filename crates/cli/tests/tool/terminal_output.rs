//! The tool at a terminal: binary, colours, and how far a dump has come.
#![allow(clippy::print_stdout, reason = "a test that does not run says so")]

use crate::{strace, terminal, tool, waiting};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use terminal::Terminal;
use tool::{names, stderr};

fn corestream() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("corestream"))
}

/// A directory with `guest.mem`, which no pipe holds as a whole.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![1; 4 << 20];
    image[70_000..90_000].fill(0);
    fs::write(directory.path().join("guest.mem"), &image).unwrap();
    directory
}

#[test]
fn a_terminal_is_written_to_only_by_force() {
    let directory = directory();
    let terminal = Terminal::new();
    for output in ["-", &terminal.path, "/dev/stdout"] {
        let mut command = corestream();
        command.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", output]);
        let done = command.stdout(terminal.open()).output().unwrap();
        let shown = if output == "-" { "standard output" } else { output };
        let expected = format!(
            "corestream: {shown}: is a terminal, and the output is binary; redirect it, name a file \
             with -o, or use --force\n"
        );
        assert_eq!((done.status.code(), stderr(&done)), (Some(2), expected));
        // One that is small enough for a terminal that nobody reads.
        command.args(["--force", "--only", "0:0..100"]);
        let done = command.stdout(terminal.open()).output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
    }
}

#[test]
fn maps_have_colours_on_terminals_only() {
    let directory = directory();
    let mut dump = corestream();
    dump.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    assert!(dump.status().unwrap().success());
    let map = |term: &str, no_color: Option<&str>, on_terminal: bool| {
        let mut command = corestream();
        command.current_dir(directory.path()).args(["inspect", "guest.core", "--map"]);
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
    // Set to nothing is not set.
    for no_color in [None, Some("")] {
        let coloured = map("xterm", no_color, true);
        assert!(coloured.contains("\x1b[2m."), "{coloured}");
        let signs = ["\x1b[0m", "\x1b[2m", "\x1b[32m"];
        assert_eq!(signs.iter().fold(coloured, |text, sign| text.replace(sign, "")), plain);
    }
}

#[test]
fn inspect_fills_the_columns_that_there_are() {
    let directory = directory();
    let name = "n".repeat(300);
    let mut dump = corestream();
    dump.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", "guest.core"]);
    assert!(dump.args(["--name", &name]).status().unwrap().success());
    let inspect = |columns: Option<&str>| {
        let mut command = corestream();
        command.current_dir(directory.path()).args(["inspect", "guest.core", "--map"]);
        command.env("LC_ALL", "C").env("NO_COLOR", "1").env_remove("COLUMNS");
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        command
    };
    let piped = |columns: Option<&str>| {
        String::from_utf8(inspect(columns).output().unwrap().stdout).unwrap()
    };
    for (columns, name, cells) in [(40, 24, 16), (60, 36, 32), (80, 48, 64), (132, 78, 64)] {
        let set = columns.to_string();
        let text = piped(Some(&set));
        assert_eq!(text.lines().next().unwrap(), format!("core dump of {}…", "n".repeat(name)));
        let row = text.lines().find(|line| line.starts_with("0x")).unwrap();
        assert_eq!(row.split_once(' ').unwrap().1.len(), cells, "{text}");
        // A terminal knows better than the environment.
        let mut terminal = Terminal::with_columns(columns);
        let mut child = inspect(Some("77")).stdout(terminal.open()).spawn().unwrap();
        let on_terminal = terminal.rest().replace('\r', "");
        assert!(child.wait().unwrap().success());
        assert_eq!(on_terminal, text);
    }
    // As if there were 80.
    for columns in [None, Some(""), Some("0"), Some("many")] {
        assert_eq!(piped(columns), piped(Some("80")));
    }
}

/// A dump to a pipe that nobody reads yet.
fn stuck(directory: &TempDir, args: &[&str], term: &str, stderr: impl Into<Stdio>) -> Child {
    let mut command = corestream();
    command.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", "-"]);
    command.args(args).env("TERM", term).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()
}

/// Takes all of the dump.
fn drain(child: &mut Child) -> Vec<u8> {
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(waiting::exit(child).success());
    bytes
}

#[test]
fn a_line_a_second_where_it_is_asked_for() {
    let directory = directory();
    let start = Instant::now();
    let mut child = stuck(&directory, &["--progress", "always"], "xterm", Stdio::piped());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    let len = drain(&mut child).len();
    said.extend(lines.map(Result::unwrap));
    // The first one comes after a second, as each does, and the last one says that it is written.
    let most = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!((4..=most).contains(&said.len()), "{said:#?}");
    let last = said.pop().unwrap();
    assert!(last.starts_with("corestream: standard output: written, 3.98 MiB in "), "{last}");
    assert_eq!(len / 1024, (4 << 10) - 20);
    for line in said {
        let line = line.strip_prefix("corestream: standard output: writing ").unwrap();
        let (done, rest) = line.split_once(" of 3.98 MiB, ").unwrap();
        // What was taken is what a pipe holds, at most a MiB, but for the part of a batch.
        assert!(["0 B", "1.00 MiB"].contains(&done) || done.ends_with(" KiB"), "{line}");
        assert!(rest.contains("B/s"), "{line}");
    }
}

/// Two memories of equal size are one run: lines count the bytes of both, and so does the last one.
#[test]
fn an_extraction_of_two_memories_is_one_run() {
    if !strace::works() {
        return;
    }
    let directory = directory();
    let mut dump = corestream();
    dump.current_dir(directory.path()).args(["dump", "-o", "guest.core"]);
    dump.args(["--memory", "guest.mem", "--memory", "guest.mem"]);
    assert!(dump.status().unwrap().success());
    // Each memory is written in parts, of which each takes half a second.
    let mut command = strace::traced(
        &directory.path().join("log"),
        "pwrite64",
        &["pwrite64:delay_enter=500000".into()],
    );
    command.arg(assert_cmd::cargo::cargo_bin!("corestream")).current_dir(directory.path());
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
    // More than one memory has.
    assert!(done.iter().any(|done| *done > 3.98), "{text}");
}

/// Nothing is said to be scanned or written while nobody is there.
#[test]
fn what_is_waited_for_is_shown() {
    let directory = directory();
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let dump = || {
        let mut command = corestream();
        command.current_dir(directory.path()).args(["dump", "--memory", "guest.mem", "-o", "fifo"]);
        command.args(["--progress", "always"]).env("TERM", "xterm");
        command
    };
    let mut child = dump().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "corestream: fifo: waiting for a reader");
    fs::read(&fifo).unwrap();
    assert!(waiting::exit(&mut child).success());
    let last = lines.last().unwrap();
    assert!(last.starts_with("corestream: fifo: written, 3.98 MiB in "), "{last}");

    let mut terminal = Terminal::new();
    let mut child = dump().stderr(terminal.open()).spawn().unwrap();
    terminal.until("waiting for a reader");
    fs::read(&fifo).unwrap();
    assert!(waiting::exit(&mut child).success());
    assert!(terminal.rest().ends_with("\r\x1b[2K"));
}

#[test]
fn a_bar_on_a_terminal_that_goes_when_it_is_done() {
    let directory = directory();
    for args in [&[][..], &["--progress", "auto"], &["--progress", "always"]] {
        let mut terminal = Terminal::new();
        let mut child = stuck(&directory, args, "xterm", terminal.open());
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
    }
}

#[test]
fn nothing_of_a_short_dump_or_where_it_is_not_wanted() {
    let directory = directory();
    let mut command = corestream();
    command.current_dir(directory.path()).args([
        "dump",
        "--memory",
        "guest.mem",
        "-o",
        "guest.core",
    ]);
    let output = command.args(["--progress", "always"]).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));

    let terminals: Vec<_> = (0..2).map(|_| Terminal::new()).collect();
    let mut children = vec![
        stuck(&directory, &["--progress", "never"], "xterm", terminals[0].open()),
        stuck(&directory, &[], "dumb", terminals[1].open()),
        stuck(&directory, &[], "xterm", Stdio::piped()),
    ];
    thread::sleep(Duration::from_millis(1500));
    for child in &mut children {
        drain(child);
    }
    for mut terminal in terminals {
        assert_eq!(terminal.rest(), "");
    }
    let mut said = String::new();
    children[2].stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_signal_leaves_no_bar_and_no_file() {
    let directory = directory();
    let mut terminal = Terminal::new();
    let mut child = stuck(&directory, &[], "xterm", terminal.open());
    terminal.until("B/s");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest = terminal.rest();
    let said = "\r\x1b[2Kcorestream: stopped by SIGINT, the output is incomplete\r\n";
    assert!(rest.ends_with(said), "{rest:?}");
    assert_eq!(names(directory.path()), ["guest.mem"]);
}

/// In a terminal without room for a bar is what fits of the text, in one line.
#[test]
fn a_narrow_terminal_has_no_bar() {
    let directory = directory();
    for columns in [60, 40, 12] {
        let mut terminal = Terminal::with_columns(columns);
        let mut child = stuck(&directory, &[], "xterm", terminal.open());
        let shown = terminal.until("writing ");
        drain(&mut child);
        let drawn = shown + &terminal.rest();
        assert!(!drawn.contains(" ["), "{drawn:?}");
        let lines = drawn.split("\r\x1b[2K").flat_map(|line| line.split(['\r', '\n']));
        let widest = lines.map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.into(), "{columns}: {drawn:?}");
    }
}

/// A terminal that takes nothing, as after Ctrl-S.
fn full_terminal() -> Terminal {
    let terminal = Terminal::new();
    let file = terminal.open();
    rustix::io::ioctl_fionbio(&file, true).unwrap();
    while (&file).write(&[b'x'; 256]).is_ok() {}
    terminal
}

#[test]
fn no_dump_waits_for_a_terminal() {
    let directory = directory();
    let terminal = full_terminal();
    let mut child = stuck(&directory, &[], "xterm", terminal.open());
    thread::sleep(Duration::from_millis(1500));
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(waiting::exit(&mut child).code(), Some(0));
}

#[test]
fn signals_end_what_a_terminal_holds_up() {
    let directory = directory();
    for (args, wait) in [(&[][..], 1500), (&["--progress", "never"], 100)] {
        let terminal = full_terminal();
        let mut child = stuck(&directory, args, "xterm", terminal.open());
        thread::sleep(Duration::from_millis(wait));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(waiting::exit(&mut child).code(), Some(143));
    }
    // Where there is nothing to do any more but to say it.
    let mut command = corestream();
    let terminal = full_terminal();
    command.args(["dump", "--memory", "there is none", "-o", "guest.core"]);
    let mut child = command.current_dir(directory.path()).stderr(terminal.open()).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    waiting::exit(&mut child);
}
