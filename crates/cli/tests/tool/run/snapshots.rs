//! Snapshots of running guests: `corestream run --snapshot-on` and `--snapshot-every`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use corestream::{CoreDumpFile, GlobalValue, Value};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::components::IMPORTS;
use super::{directory, run as tool};
use crate::environment::require;
use crate::receiver::Receiver;
use crate::tool::{names, stderr, tool_path};
use crate::userfaultfd::probe;
use crate::{strace, waiting};

/// The number of pages of the host that the guests write to.
const PAGES: u64 = 1024;

/// A function that writes the next number to the next page, in a guest whose text has `WRITE` in its place.
const WRITE: &str = r#"(global $n (mut i32) (i32.const 0))
    (func $write
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (i32.store
            (i32.mul (i32.rem_u (global.get $n) (i32.const 1024)) (i32.const 4096))
            (global.get $n)))"#;

/// A guest that writes the numbers 1, 2, 3 and so on to its pages in turn, forever. Page `p` then holds the latest number
/// with the remainder `p`.
const COUNTS: &str = r#"(module
    (memory 130)
    WRITE
    (func (export "_start")
        ;; More than a pipe holds.
        (memory.fill (i32.const 4259840) (i32.const 1) (i32.const 4194304))
        (loop (call $write) (br 0))))"#;

/// Such a guest that reads standard input after 5000 numbers, traps if it gets a byte, and returns if it gets none.
const READS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 130)
    WRITE
    (func (export "_start")
        ;; More than a pipe holds.
        (memory.fill (i32.const 4259840) (i32.const 1) (i32.const 4194304))
        (loop (call $write) (br_if 0 (i32.lt_u (global.get $n) (i32.const 5000))))
        ;; One buffer of 8 bytes after the pages, and room for the count.
        (i32.store (i32.const 4194304) (i32.const 4194320))
        (i32.store (i32.const 4194308) (i32.const 8))
        (drop (call $read (i32.const 0) (i32.const 4194304) (i32.const 1) (i32.const 4194312)))
        (if (i32.load (i32.const 4194312)) (then unreachable))))"#;

/// The guest that counts, as a component.
fn counting_component() -> String {
    COUNTS
        .replace("(module", "(component (core module $main")
        .replace("(export \"_start\")", "(export \"run\") (result i32)")
        .replace("(br 0))))", "(br 0)) unreachable))")
        + r#"(core instance $main (instantiate $main))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $run (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#
}

/// The guest that reads, as a component. Its memory belongs to another core instance.
fn reading_component() -> String {
    let imports = IMPORTS
        .replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 130)")
        .replace("(i32.const 1024)", "(i32.const 8454200)");
    format!(
        r#"(component {imports}
        (core module $main
            (import "libc" "memory" (memory 130))
            (import "wasi" "get-stdin" (func $get-stdin (result i32)))
            (import "wasi" "read" (func $read (param i32 i64 i32)))
            WRITE
            (func (export "run") (result i32)
                (memory.fill (i32.const 4259840) (i32.const 1) (i32.const 4194304))
                (loop (call $write) (br_if 0 (i32.lt_u (global.get $n) (i32.const 5000))))
                (call $read (call $get-stdin) (i64.const 8) (i32.const 4194304))
                ;; An error is the end of the input.
                (if (i32.eqz (i32.load8_u (i32.const 4194304))) (then unreachable))
                (i32.const 0)))
        (core instance $main (instantiate $main
            (with "libc" (instance $libc))
            (with "wasi" (instance
                (export "get-stdin" (func $get-stdin)) (export "read" (func $read))))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $run (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#
    )
}

/// A running guest.
struct Guest {
    directory: TempDir,
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Guest {
    /// Starts a guest called `guest.wat`, and waits until it runs.
    fn start(text: &str, args: &[&str]) -> Self {
        // The tool handles this signal once the guest runs.
        Self::start_until(Signal::TERM, text, args)
    }

    /// Starts a guest, and waits until the tool handles a signal.
    fn start_until(signal: Signal, text: &str, args: &[&str]) -> Self {
        let directory = directory("guest.wat", text.replace("WRITE", WRITE));
        let mut command = Command::new(tool_path());
        command.current_dir(directory.path()).args(["run", "guest.wat"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let guest = Self { directory, child, lines };
        waiting::wait_until(|| waiting::catches(&guest.child, signal));
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a FIFO in the directory.
    fn fifo(&self, name: &str) -> PathBuf {
        let fifo = self.path(name);
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        fifo
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Returns the next line on standard error.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// Requests a snapshot, and returns the line about it.
    fn snapshot(&mut self) -> String {
        self.signal(Signal::USR1);
        self.line()
    }

    /// Closes standard input, waits for the end, and returns the exit code and the other lines on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let status = waiting::exit(&mut self.child);
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(waiting::exit(&mut self.child).code(), Some(143));
    }
}

impl Drop for Guest {
    /// Ends a guest whose test has failed.
    fn drop(&mut self) {
        // Fails if the guest has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that a dump has the memory and the global of a counting guest at one moment. Returns its number.
fn check(path: &Path) -> u64 {
    let dump = CoreDumpFile::open(path).unwrap();
    let mut notes = dump.notes().map(|note| note.unwrap().to_string());
    assert!(notes.all(|note| note.starts_with("frozen in the host call")));
    let memory = dump.memory(0.into()).unwrap();
    let number = |page: u64| {
        let mut bytes = [0; 4];
        memory.read(page * 4096, &mut bytes).unwrap();
        u64::from(u32::from_le_bytes(bytes))
    };
    let numbers: Vec<u64> = (0..PAGES).map(number).collect();
    let latest = *numbers.iter().max().unwrap();
    for (page, number) in (0..PAGES).zip(&numbers) {
        let expected = (latest.saturating_sub(PAGES - 1)..=latest).find(|n| n % PAGES == page);
        assert_eq!(*number, expected.unwrap_or(0), "page {page}, latest number {latest}");
    }
    assert!(dump.verify().unwrap().is_intact());
    latest
}

#[test]
fn dumps_a_running_guest_on_each_signal() {
    require!("userfaultfd", probe());
    let mut guest = Guest::start(COUNTS, &["--snapshot-on", "USR1,USR2", "-o", "g.core"]);
    let mut latest = 0;
    for i in 1..=5 {
        guest.signal(if i == 3 { Signal::USR2 } else { Signal::USR1 });
        let line = guest.line();
        let start = format!("corestream: g.{i}.core: snapshot {i}: pause ");
        assert!(line.starts_with(&start) && line.contains(" copied aside, "), "{line}");
        let now = check(&guest.path(&format!("g.{i}.core")));
        // The first one may come before the first number.
        assert!(i == 1 || now > latest, "{now} after {latest}");
        latest = now;
    }
    let dump = CoreDumpFile::open(guest.path("g.5.core")).unwrap();
    let frames: Vec<_> = dump
        .threads()
        .next()
        .unwrap()
        .unwrap()
        .frames()
        .map(|frame| frame.unwrap().function)
        .collect();
    assert_eq!(frames.last(), Some(&1), "{frames:?}");
    assert!(dump.trap().is_none());
    assert!(dump.module_identity(0.into()).unwrap().is_known());
    drop(dump);
    assert_eq!(names(guest.directory.path()).len(), 6);
    guest.stop();
}

#[test]
fn dumps_a_running_component() {
    require!("userfaultfd", probe());
    for more in [&[][..], &["--locals"]] {
        let args = [&["--snapshot-on", "USR1", "-o", "g.core"], more].concat();
        let mut guest = Guest::start(&counting_component(), &args);
        let mut latest = 0;
        for i in 1..=3 {
            let line = guest.snapshot();
            let start = format!("corestream: g.{i}.core: snapshot {i}: pause ");
            assert!(line.starts_with(&start) && line.contains(" copied aside, "), "{line}");
            let path = guest.path(&format!("g.{i}.core"));
            let now = check(&path);
            assert!(i == 1 || now > latest, "{now} after {latest}");
            latest = now;
            let dump = CoreDumpFile::open(&path).unwrap();
            let module = dump.modules().next().unwrap().unwrap();
            assert_eq!(module, "main");
            assert!(dump.module_identity(0.into()).unwrap().is_known());
            let thread = dump.threads().next().unwrap().unwrap();
            let frames: Vec<_> = thread.frames().map(|frame| frame.unwrap()).collect();
            assert_eq!(frames.last().unwrap().function, 1);
            assert!(frames.iter().all(|frame| frame.instance == Some(0.into())));
            assert_eq!(dump.globals().count(), 1);
        }
        guest.stop();
    }
}

#[test]
fn dumps_a_component_that_waits_in_a_host_call() {
    require!("userfaultfd", probe());
    let mut guest = Guest::start(&reading_component(), &["--snapshot-on", "USR1"]);
    waiting::wait_until(|| waiting::is_asleep(&guest.child));
    for i in 1..=2 {
        let line = guest.snapshot();
        let start = format!("corestream: guest.wat.{i}.core: snapshot {i}:");
        assert!(line.starts_with(&start), "{line}");
        let path = guest.path(&format!("guest.wat.{i}.core"));
        assert_eq!(check(&path), 5000);
        let dump = CoreDumpFile::open(&path).unwrap();
        let notes: Vec<_> = dump.notes().map(|note| note.unwrap()).collect();
        assert_eq!(notes, ["frozen in the host call input-stream.blocking-read"]);
        let is_number = |global: corestream::Result<corestream::Global>| {
            global.unwrap().value == GlobalValue::I32(5000)
        };
        assert!(dump.globals().any(is_number));
    }
    std::io::Write::write_all(guest.child.stdin.as_mut().unwrap(), b"x").unwrap();
    let directory = guest.directory.path().to_path_buf();
    assert_eq!(waiting::exit(&mut guest.child).code(), Some(134));
    assert!(CoreDumpFile::open(directory.join("guest.wat.core")).unwrap().trap().is_some());
}

#[test]
fn a_component_that_ends_leaves_its_snapshots() {
    require!("userfaultfd", probe());
    let guest = Guest::start(&reading_component(), &["--snapshot-every", "0.1"]);
    waiting::wait_until(|| names(guest.directory.path()).len() > 3);
    let directory = guest.directory.path().to_path_buf();
    check(&directory.join("guest.wat.1.core"));
    let (code, rest) = guest.end();
    assert_eq!(code, Some(0), "{rest}");
}

/// A global that is not exported, a memory with 64-bit addresses, and a function that waits forever.
const WAITS: &str = r#"(module
    (memory 1 1 shared)
    (memory i64 1)
    (global $g (mut i64) (i64.const -7))
    (func $wait (param $x i32) (result i32)
        (i64.store 1 (i64.const 8) (i64.const 77))
        (memory.atomic.wait32 0 (i32.const 0) (i32.const 0) (i64.const -1)))
    (func (export "_start") (drop (call $wait (i32.const 5)))))"#;

#[test]
fn dumps_locals_shared_memories_and_a_guest_in_an_atomic_wait() {
    require!("userfaultfd", probe());
    for locals in [false, true] {
        let locals_option = if locals { &["--locals"][..] } else { &[] };
        let args = [&["--snapshot-on", "USR1", "-o", "g.core"], locals_option].concat();
        let mut guest = Guest::start(WAITS, &args);
        waiting::wait_until(|| waiting::is_asleep(&guest.child));
        let line = guest.snapshot();
        assert!(line.contains("g.1.core: snapshot 1: pause "), "{line}");
        let dump = CoreDumpFile::open(guest.path("g.1.core")).unwrap();
        let thread = dump.threads().next().unwrap().unwrap();
        let frames: Vec<_> = thread.frames().map(|frame| frame.unwrap()).collect();
        assert!(frames.iter().map(|frame| frame.function).eq([0, 1]), "{frames:?}");
        assert!(frames.iter().all(|frame| frame.instance == Some(0.into())));
        let expected = if locals { &[Value::I32(5)][..] } else { &[] };
        assert_eq!(frames[0].locals, expected);
        let memories: Vec<_> = (0..2).map(|i| dump.memory(i.into()).unwrap()).collect();
        assert_eq!(
            memories.iter().map(|m| m.coverage().changing).collect::<Vec<_>>(),
            [true, false]
        );
        let mut bytes = [0; 8];
        memories[1].read(8, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 77);
        let instance = dump.instances().next().unwrap().unwrap();
        assert_eq!(instance.memories, [Some(0.into()), Some(1.into())]);
        assert_eq!(dump.globals().next().unwrap().unwrap().value, GlobalValue::I64(-7));
        guest.stop();
    }
}

#[test]
fn dumps_a_guest_at_intervals_to_the_names_of_a_pattern() {
    require!("userfaultfd", probe());
    let args = ["--snapshot-every", "0.05", "--snapshot-on", "USR1", "-o", "%c-%n.core"];
    let mut guest = Guest::start(COUNTS, &args);
    for i in 1..=3 {
        let line = guest.line();
        assert!(
            line.starts_with(&format!("corestream: {i}-guest.wat.core: snapshot {i}:")),
            "{line}"
        );
        check(&guest.path(&format!("{i}-guest.wat.core")));
    }
    guest.stop();
}

#[test]
fn dumps_a_guest_that_waits_in_a_host_call() {
    require!("userfaultfd", probe());
    let mut guest = Guest::start(READS, &["--snapshot-on", "USR1"]);
    waiting::wait_until(|| waiting::is_asleep(&guest.child));
    for i in 1..=2 {
        let line = guest.snapshot();
        assert!(
            line.starts_with(&format!("corestream: guest.wat.{i}.core: snapshot {i}:")),
            "{line}"
        );
        let path = guest.path(&format!("guest.wat.{i}.core"));
        assert_eq!(check(&path), 5000);
        let dump = CoreDumpFile::open(&path).unwrap();
        let notes: Vec<_> = dump.notes().map(|note| note.unwrap()).collect();
        assert!(notes.iter().any(|note| note == "frozen in the host call fd_read"), "{notes:?}");
        let frames = dump.threads().next().unwrap().unwrap().frames().count();
        assert_eq!(frames, 1);
        let global = dump.globals().next().unwrap().unwrap();
        assert_eq!(global.value, GlobalValue::I32(5000));
    }
    assert_eq!(guest.end(), (Some(0), String::new()));
}

#[test]
fn a_trap_after_snapshots_gets_a_dump_of_its_own() {
    require!("userfaultfd", probe());
    for (pattern, first, trap) in [("g.core", "g.1.core", "g.core"), ("g%c", "g1", "g2")] {
        let mut guest = Guest::start(READS, &["--snapshot-on", "USR1", "-o", pattern]);
        waiting::wait_until(|| waiting::is_asleep(&guest.child));
        assert!(guest.snapshot().starts_with(&format!("corestream: {first}: snapshot 1:")));
        std::io::Write::write_all(guest.child.stdin.as_mut().unwrap(), b"x").unwrap();
        let directory = guest.directory.path().to_path_buf();
        let core = fs::read(directory.join(first)).unwrap();
        let status = waiting::exit(&mut guest.child);
        assert_eq!(status.code(), Some(134));
        assert!(CoreDumpFile::open(directory.join(trap)).unwrap().trap().is_some());
        assert_eq!(fs::read(directory.join(first)).unwrap(), core);
    }
}

/// The reader of a FIFO takes nothing until the guest has ended.
#[test]
fn a_guest_that_ends_waits_for_its_snapshot() {
    require!("userfaultfd", probe());
    let mut guest = Guest::start(READS, &["--snapshot-on", "USR1", "-o", "g%c.core", "--force"]);
    let fifo = guest.fifo("g1.core");
    waiting::wait_until(|| waiting::is_asleep(&guest.child));
    guest.signal(Signal::USR1);
    let mut reader = fs::File::open(&fifo).unwrap();
    let mut core = vec![0; 8];
    reader.read_exact(&mut core).unwrap();
    drop(guest.child.stdin.take());
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(guest.child.try_wait().unwrap().is_none(), "the tool waits for the reader");
    reader.read_to_end(&mut core).unwrap();
    assert!(guest.line().starts_with("corestream: g1.core: snapshot 1:"));
    let copy = guest.path("copy.core");
    fs::write(&copy, core).unwrap();
    assert_eq!(check(&copy), 5000);
    assert_eq!(guest.end().0, Some(0));
}

/// Waits for standard input, and traps.
const READS_AND_TRAPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 130)
    (func (export "_start")
        ;; More than a pipe holds.
        (memory.fill (i32.const 65536) (i32.const 1) (i32.const 8000000))
        (i32.store (i32.const 0) (i32.const 16))
        (i32.store (i32.const 4) (i32.const 1))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        unreachable))"#;

/// The reader of a FIFO takes nothing. A signal then ends the tool with the code of the trap.
#[test]
fn a_trap_is_reported_before_a_snapshot_is_dumped() {
    require!("userfaultfd", probe());
    let args = ["--snapshot-on", "USR1", "-o", "g%c.core", "--force"];
    let mut guest = Guest::start(READS_AND_TRAPS, &args);
    let fifo = guest.fifo("g1.core");
    waiting::wait_until(|| waiting::is_asleep(&guest.child));
    guest.signal(Signal::USR1);
    let mut reader = fs::File::open(&fifo).unwrap();
    reader.read_exact(&mut [0; 8]).unwrap();
    drop(guest.child.stdin.take());
    let line = guest.line();
    assert!(line.starts_with("corestream: guest.wat: wasm trap: wasm `unreachable`"), "{line}");
    guest.signal(Signal::TERM);
    assert_eq!(waiting::exit(&mut guest.child).code(), Some(134));
    assert_eq!(names(guest.directory.path()), ["g1.core", "guest.wat"]);
    let (_, rest) = guest.end();
    assert!(rest.contains("corestream: no core dump: stopped by SIGTERM"), "{rest}");
}

#[test]
fn sends_snapshots_to_a_receiver() {
    require!("userfaultfd", probe());
    let received = tempfile::tempdir().unwrap();
    let receiver = Receiver::tcp(received.path(), &["-o", "%n.core"]);
    let to = receiver.address.clone();
    let mut guest = Guest::start(COUNTS, &["--snapshot-on", "USR1", "--to", &to]);
    let line = guest.snapshot();
    assert!(line.starts_with(&format!("corestream: {to}: snapshot 1: pause ")), "{line}");
    check(&received.path().join("guest.wat.core"));
    guest.stop();
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.end().0, Some(143));
}

#[test]
fn a_snapshot_at_its_limit_fails_or_waits() {
    require!("userfaultfd", probe());
    let args = ["--snapshot-on", "USR1", "--copy-limit", "64KiB", "-o", "g.core"];
    let mut guest = Guest::start(COUNTS, &args);
    // The guest writes to all pages again and again, faster than they are dumped.
    let line = (0..20).map(|_| guest.snapshot()).find(|line| line.contains("no snapshot"));
    let line = line.expect("one snapshot reaches the limit");
    assert!(
        line.contains(": the guest wrote to more pages than the limit for copies allows"),
        "{line}"
    );
    guest.stop();

    let mut guest = Guest::start(COUNTS, &[&args[..], &["--at-copy-limit", "wait"]].concat());
    for i in 1..=5 {
        let line = guest.snapshot();
        assert!(line.contains(&format!(": snapshot {i}: pause ")), "{line}");
        check(&guest.path(&format!("g.{i}.core")));
    }
    guest.stop();
}

#[test]
fn a_failed_snapshot_leaves_nothing_and_the_guest_goes_on() {
    require!("userfaultfd", probe());
    let directory = directory("guest.wat", COUNTS.replace("WRITE", WRITE));
    let args = ["guest.wat", "--snapshot-on", "USR1", "-o", "out/g%c.core"];
    let output = tool(directory.path(), &args);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));

    let mut guest = Guest::start(COUNTS, &["--snapshot-on", "USR1", "-o", "g.core"]);
    fs::write(guest.path("g.1.core"), "older").unwrap();
    let line = guest.snapshot();
    assert_eq!(line, "corestream: no snapshot 1: g.1.core: exists; use --force to overwrite it");
    assert_eq!(fs::read(guest.path("g.1.core")).unwrap(), b"older");
    assert!(guest.snapshot().contains("g.2.core: snapshot 2: pause "));
    assert_eq!(names(guest.directory.path()), ["g.1.core", "g.2.core", "guest.wat"]);
    guest.stop();
}

/// The reader of the FIFO takes nothing.
#[test]
fn a_signal_during_a_snapshot_ends_the_tool() {
    require!("userfaultfd", probe());
    let mut guest = Guest::start(COUNTS, &["--snapshot-on", "USR1", "-o", "g%c", "--force"]);
    let fifo = guest.fifo("g1");
    guest.signal(Signal::USR1);
    let _reader = fs::File::open(&fifo).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    guest.signal(Signal::TERM);
    let line = guest.line();
    assert!(line.starts_with("corestream: stopped by SIGTERM"), "{line}");
    assert_eq!(waiting::exit(&mut guest.child).code(), Some(143));
    assert_eq!(names(guest.directory.path()), ["g1", "guest.wat"]);
}

/// Without `PAGEMAP_SCAN`, memory cannot be protected.
#[test]
fn copies_or_stops_the_guest_if_its_memory_cannot_be_protected() {
    require!(strace);
    for (limit, how) in [("64MiB", "all memory copied"), ("1MiB", "the guest stood still")] {
        let directory = directory("guest.wat", READS.replace("WRITE", WRITE));
        let log = directory.path().join("log");
        let mut command = strace::traced(&log, "ioctl", &["ioctl:error=ENOTTY".into()]);
        command.arg(tool_path()).current_dir(directory.path());
        command.args(["run", "guest.wat", "--snapshot-on", "USR1", "--copy-limit", limit]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // The tool is the child of strace.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let tool =
            || fs::read_to_string(&children).unwrap().split_whitespace().next()?.parse().ok();
        let is_waiting = |tool: i32| {
            let status = fs::read_to_string(format!("/proc/{tool}/status")).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
            // The tool handles SIGTERM once the guest runs.
            mask & 1 << (Signal::TERM.as_raw() - 1) != 0 && status.contains("State:\tS")
        };
        waiting::wait_until(|| tool().is_some_and(is_waiting));
        kill_process(Pid::from_raw(tool().unwrap()).unwrap(), Signal::USR1).unwrap();
        let line = lines.next().unwrap().unwrap();
        assert!(
            line.starts_with("corestream: the guest stands still while its memory is copied"),
            "{line}"
        );
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(": snapshot 1: pause ") && line.contains(how), "{line}");
        let path = directory.path().join("guest.wat.1.core");
        assert_eq!(check(&path), 5000);
        let dump = CoreDumpFile::open(&path).unwrap();
        let notes: Vec<_> = dump.notes().map(|note| note.unwrap()).collect();
        assert!(notes.iter().any(|note| note == "frozen in the host call fd_read"), "{notes:?}");
        drop(child.stdin.take());
        assert_eq!(waiting::exit(&mut child).code(), Some(0));
    }
}

#[test]
fn a_request_while_the_guest_is_compiled_is_kept() {
    require!("userfaultfd", probe());
    let others = "(func (param i32) (result i32) (i32.load (local.get 0)))".repeat(2000);
    let text = COUNTS.replace("WRITE", &format!("WRITE {others}"));
    let mut guest = Guest::start_until(Signal::USR1, &text, &["--snapshot-on", "USR1"]);
    let line = guest.snapshot();
    assert!(line.starts_with("corestream: guest.wat.1.core: snapshot 1: pause "), "{line}");
    check(&guest.path("guest.wat.1.core"));
    guest.stop();
}

#[test]
fn refuses_devices_without_a_number_in_the_name() {
    let directory = directory("guest.wat", COUNTS.replace("WRITE", WRITE));
    let args = ["guest.wat", "--snapshot-on", "USR1", "-o", "/dev/null"];
    let output = tool(directory.path(), &args);
    assert_eq!(output.status.code(), Some(125));
    let message = "corestream: -o /dev/null: is not a regular file; add %c to the name";
    assert!(stderr(&output).starts_with(message), "{}", stderr(&output));
}

#[test]
fn refuses_signals_that_are_in_use() {
    let directory = directory("guest.wat", COUNTS.replace("WRITE", WRITE));
    for (signals, cause) in [
        ("SEGV", "cannot be used, because the engine uses it"),
        ("USR1,SIGTERM", "cannot be used, because it ends the tool"),
        ("KILL", "cannot be used, because no process can handle it"),
        ("FOO", "unknown signal; expected one of USR1, USR2"),
    ] {
        let output = tool(directory.path(), &["guest.wat", "--snapshot-on", signals]);
        assert_eq!(output.status.code(), Some(2), "{signals}");
        assert!(stderr(&output).contains(cause), "{}", stderr(&output));
    }
    assert_eq!(names(directory.path()), ["guest.wat"]);
}
