//! Faults in system calls, injected by strace.
//!
//! Each system call that writes or reads a dump or an image fails with each error, or a signal comes with it, on a file, a
//! pipe and a socket. The output is complete, or it is absent and a line says why. By default, the tests try a sample of
//! these faults. The slow tests, which are ignored, try all of them.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "a test prints how many faults it has injected")]

#[path = "../../../tests/common/environment.rs"]
mod environment;
#[path = "../../../tests/common/strace.rs"]
mod strace;
#[path = "../../../tests/common/tool.rs"]
mod tool;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use corestream::read::Verifier;
use corestream::{CoreDumpFile, MemoryIndex};
use environment::require;
use strace::Call;
use tempfile::TempDir;
use tool::{kept_path, names, ok, stderr, tool_path};

/// System calls that write, make or name files, or prepare for that.
const WRITES: &str = "write,writev,pwrite64,pwritev,pwritev2,fallocate,ftruncate,fsync,fdatasync,linkat,\
                      rename,renameat,renameat2,unlink,unlinkat,fchmod,chmod,fchmodat,openat,close,mkdir,\
                      mkdirat,sendmsg,sendto,vmsplice,splice,sendfile,fcntl,clone,clone3";

/// System calls that read, or find out what there is to read.
const READS: &str = "read,readv,pread64,preadv,lseek,mmap,statx,openat";

const ERRORS: [&str; 9] =
    ["EIO", "ENOSPC", "EINTR", "EAGAIN", "EDQUOT", "EFBIG", "EPERM", "EINVAL", "ENOSYS"];

/// The errors that a read can return.
const READ_ERRORS: [&str; 5] = ["EIO", "EINTR", "EAGAIN", "EINVAL", "ENOSYS"];

/// The number of trials that run at the same time. A trial mostly waits.
const AT_ONCE: usize = 4;

/// By default one of this many trials runs. It is a prime, so that the sample has every error and signal.
const SAMPLE: usize = 23;

/// All trials run.
const ALL: usize = 1;

/// A command, its input and its output.
#[derive(Clone, Copy)]
struct Case {
    /// The arguments. `guest.mem` and `guest.core` stand for the inputs.
    args: &'static [&'static str],
    input: Option<&'static str>,
    output: Stream,
    /// Whether a file `new` exists.
    old: bool,
    /// Whether the file system is made to have no `O_TMPFILE`.
    named: bool,
}

/// The kind of standard output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stream {
    File,
    Pipe,
    Socket,
}

impl Case {
    const fn new(args: &'static [&'static str]) -> Self {
        Self { args, input: None, output: Stream::File, old: false, named: false }
    }

    const fn to(self, output: Stream) -> Self {
        Self { output, ..self }
    }

    const fn old(self) -> Self {
        Self { old: true, ..self }
    }

    const fn named(self) -> Self {
        Self { named: true, ..self }
    }
}

/// The inputs, and the outputs that are expected.
struct Guest {
    directory: TempDir,
    dump: Vec<u8>,
    image: Vec<u8>,
    /// The image as a file that cannot change.
    sealed: fs::File,
}

impl Guest {
    /// Makes a guest with two large parts, which are lent to pipes and sockets, and a small part every `step` bytes between
    /// them.
    fn new(step: usize) -> Self {
        let mut image = vec![0; 40 << 16];
        image[100..1_400_100].fill(3);
        image[1_500_000..2_000_000].chunks_mut(step).for_each(|part| part[..300].fill(7));
        image[2_010_000..2_600_000].fill(5);
        for (i, byte) in image.iter_mut().enumerate().filter(|(_, byte)| **byte != 0) {
            *byte ^= i.to_le_bytes()[1] & 0xf0;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.mem");
        fs::write(&path, &image).unwrap();
        // The image is never old enough for its times to count, so that each run makes the same calls.
        let later = SystemTime::now() + Duration::from_secs(86_400);
        fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
        ok(directory.path(), ["dump", "--memory", "guest.mem", "-o", "guest.core"]);
        let dump = fs::read(directory.path().join("guest.core")).unwrap();
        Self { directory, dump, sealed: sealed(&image), image }
    }

    /// Runs the tool under strace.
    fn run(&self, case: &Case, calls: &str, injections: &[String]) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let (work, log) = (directory.path().join("work"), directory.path().join("log"));
        fs::create_dir(&work).unwrap();
        if case.old {
            fs::write(work.join("new"), "old").unwrap();
        }
        let mut command = strace::traced(&log, calls, injections);
        command.current_dir(&work).arg(tool_path());
        let place = |arg: &str| match arg {
            // Only pages of a sealed file are lent.
            "guest.mem" if case.output != Stream::File => {
                format!("/proc/{}/fd/{}", std::process::id(), self.sealed.as_raw_fd()).into()
            }
            "guest.mem" | "guest.core" => self.directory.path().join(arg).into_os_string(),
            arg => arg.into(),
        };
        command.args(case.args.iter().map(|arg| place(arg)));
        if matches!(case.args[0], "dump" | "extract") {
            // With more threads, it is random which thread makes which call.
            command.args(["--threads", "1"]);
        }
        command.stdin(match case.input {
            Some(name) => fs::File::open(self.directory.path().join(name)).unwrap().into(),
            None => Stdio::null(),
        });
        command.stderr(Stdio::piped());
        let reading = match case.output {
            Stream::File => {
                command.stdout(fs::File::create(directory.path().join("stdout")).unwrap());
                None
            }
            Stream::Pipe => {
                let (reader, writer) = std::io::pipe().unwrap();
                command.stdout(writer);
                Some(OwnedFd::from(reader))
            }
            Stream::Socket => {
                let (reader, writer) = UnixStream::pair().unwrap();
                command.stdout(OwnedFd::from(writer));
                Some(reader.into())
            }
        };
        let reading = reading.map(|reader| thread::spawn(move || read_all(reader.into())));
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        drop(command);
        let stdout = match reading {
            Some(reading) => reading.join().unwrap(),
            None => fs::read(directory.path().join("stdout")).unwrap(),
        };
        let faults = strace::faults(&log);
        Run { output, stdout, faults, calls: strace::calls(&log), directory }
    }
}

/// Makes a memfd that cannot be written to any more.
fn sealed(bytes: &[u8]) -> fs::File {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let memfd = memfd_create("guest.mem", MemfdFlags::ALLOW_SEALING).unwrap();
    let mut memfd = fs::File::from(memfd);
    memfd.write_all(bytes).unwrap();
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    memfd
}

fn read_all(mut reader: fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The result of a trial.
struct Run {
    output: Output,
    stdout: Vec<u8>,
    faults: usize,
    calls: Vec<Call>,
    directory: TempDir,
}

/// A fault, and the call in which it comes.
struct Trial<'c> {
    call: &'c Call,
    /// The fault for strace: `error=EIO`, or `signal=SIGTERM`.
    fault: String,
    /// The numbers of the calls of that name.
    when: String,
}

impl Trial<'_> {
    fn has(&self, errors: &[&str]) -> bool {
        errors.iter().any(|error| self.fault.strip_prefix("error=") == Some(error))
    }

    fn is_signal(&self) -> bool {
        self.fault.starts_with("signal=")
    }
}

/// Returns the trials for `calls`: each error once at each call, the errors of a full or broken disk also from there on, and
/// each signal. Calls with the name of `always` fail from that call on.
fn trials<'c>(calls: &'c [Call], always: Option<&Call>) -> Vec<Trial<'c>> {
    let mut trials = Vec::new();
    for call in calls {
        let when = match always {
            Some(first) if first.name == call.name => format!("{}..{}", first.k, call.k),
            _ => call.k.to_string(),
        };
        let mut add =
            |fault: String, when: &str| trials.push(Trial { call, fault, when: when.into() });
        let reads = READS.split(',').any(|name| name == call.name) && !is_new(&call.line);
        for error in if reads { &READ_ERRORS[..] } else { &ERRORS } {
            add(format!("error={error}"), &when);
        }
        // Messages are written by `write` too.
        if call.name != "write" {
            for error in ["EIO", "ENOSPC"] {
                add(format!("error={error}"), &format!("{}+", call.k));
            }
        }
        for signal in ["SIGINT", "SIGTERM", "SIGKILL"] {
            add(format!("signal={signal}"), &call.k.to_string());
        }
    }
    trials
}

/// Runs the tool without a fault, and then with every n-th of the faults at the calls that `choose` selects, a few at the
/// same time. Returns the number of faults.
fn try_all(
    guest: &Guest,
    case: &Case,
    names: &str,
    every: usize,
    choose: impl Fn(&[Call]) -> Vec<Call>,
    check: impl Fn(Option<&Trial<'_>>, &Run) + Sync,
) -> usize {
    let first = guest.run(case, names, &[]);
    check(None, &first);
    let unnamed = first.calls.iter().find(|call| call.line.contains("O_TMPFILE"));
    let always = unnamed.filter(|_| case.named);
    assert!(!case.named || always.is_some(), "the file system here has no unnamed files");
    let deny = always.map(|call| format!("openat:error=EOPNOTSUPP:when={}", call.k));
    let plain = guest.run(case, names, deny.as_slice());
    check(None, &plain);
    let mut calls = choose(&plain.calls);
    // A fault before the denied call is the same as without the denial.
    calls.retain(|call| always.is_none_or(|always| always.name != call.name || always.k < call.k));
    let trials: Vec<_> = trials(&calls, always).into_iter().step_by(every).collect();
    let (next, faults) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Trial { call, fault, when } = trial;
                    let mut injections = vec![format!("{}:{fault}:when={when}", call.name)];
                    if always.is_some_and(|always| always.name != call.name) {
                        injections.extend(deny.clone());
                    }
                    let run = guest.run(case, names, &injections);
                    check(Some(trial), &run);
                    let denied = usize::from(always.is_some());
                    // There is no fault if a signal should come at a later `openat`: strace cannot deny one and
                    // interrupt another, and an unnamed file opens fewer.
                    faults.fetch_add(run.faults.saturating_sub(denied), Ordering::Relaxed);
                }
            });
        }
    });
    let faults = faults.into_inner();
    println!(
        "{:?} to {:?}: {} calls, {} runs, {faults} faults",
        case.args,
        case.output,
        calls.len(),
        trials.len()
    );
    faults
}

/// Returns whether these are the arguments of an `openat` that makes a file, or opens its directory.
fn is_new(line: &str) -> bool {
    ["O_TMPFILE", "O_CREAT", "\".\""].iter().any(|part| line.contains(part))
}

/// Returns whether the command must succeed or fail with a fault. `None` means that both are right.
fn must_succeed(case: &Case, trial: &Trial<'_>) -> Option<bool> {
    let Call { name, line, .. } = trial.call;
    if trial.is_signal() {
        return None;
    }
    match name.as_str() {
        // A read may be only a check, or there is another way.
        _ if READS.split(',').any(|read| read == name) && !(name == "openat" && is_new(line)) => {
            None
        }
        // These calls are only a faster way, or start another thread.
        "clone3" | "clone" | "splice" | "sendfile" => Some(true),
        "fcntl" => line.contains("PIPE_SZ").then_some(true),
        // A file with a name is used instead.
        "openat" if line.contains("O_TMPFILE") => (!trial.when.ends_with('+')).then_some(true),
        // There is another way to link, and then a copy.
        "linkat" => Some(true),
        // A link is used instead.
        "renameat2" => Some(true),
        // The trial file is then used for the output.
        "unlinkat" => Some(true),
        "renameat" if trial.has(&["EINTR"]) => Some(true),
        // Only one `close` reports errors of the file.
        "close" => None,
        // The directory of `--all` was made with the right mode.
        "fchmodat" if trial.has(&["EPERM", "EINVAL", "ENOSYS"]) => Some(true),
        // `syncfs` does not require the right to read the directory of the file.
        "openat"
            if line.contains("\".\"")
                && !line.contains("O_PATH")
                && trial.has(&["EPERM"])
                && !trial.when.contains("..") =>
        {
            Some(true)
        }
        "fallocate" => Some(!trial.has(&["EIO", "ENOSPC", "EDQUOT", "EFBIG"])),
        "write" | "writev" | "sendmsg" | "pwrite64" | "fsync" | "ftruncate" | "openat"
        | "fchmod" | "fchmodat"
            if trial.has(&["EINTR"]) =>
        {
            Some(true)
        }
        "write" | "writev" | "sendmsg" if trial.has(&["EAGAIN"]) => {
            Some(case.output != Stream::File)
        }
        // Some file systems have no `fsync`.
        "fsync" if trial.has(&["EINVAL"]) => None,
        _ => Some(false),
    }
}

/// Checks that the output is complete, or absent with a message.
fn check_written(guest: &Guest, case: &Case, trial: Option<&Trial<'_>>, run: &Run) {
    let what = match trial {
        Some(Trial { call, fault, when }) => {
            format!("{fault} at {} {when}: {}", call.name, call.line)
        }
        None => "no fault".into(),
    };
    let message = stderr(&run.output);
    let what = format!("{:?}, {what}\n{message}", case.args);
    let expected = if case.args[0] == "dump" { &guest.dump } else { &guest.image };
    let work = run.directory.path().join("work");
    let names = names(&work);
    let named = case.args.contains(&"new");
    let status = run.output.status;
    if let Some(success) = trial.map_or(Some(true), |trial| must_succeed(case, trial)) {
        assert_eq!(status.success(), success, "{what}");
    }
    if status.success() {
        // A lease that is refused in this way means that a process has the image open for writing. A memfd without
        // seals counts as changing too.
        let refused = |trial: &Trial<'_>| {
            let line = &trial.call.line;
            line.contains("F_GET_SEALS")
                || trial.has(&["EAGAIN"]) && line.contains("F_SETLEASE, F_RDLCK")
        };
        if !message.is_empty() && trial.is_some_and(refused) {
            assert!(
                message.contains("was open for writing") && message.lines().count() == 1,
                "{what}"
            );
            return;
        }
        assert_eq!(message, "", "{what}");
        match named {
            true => assert_complete(&work.join("new"), expected, &what),
            false => assert!(is_same(&run.stdout, expected), "{what}"),
        }
        assert_eq!(names, if named { &["new"][..] } else { &[] }, "{what}");
        return;
    }
    // A signal can come before the tool handles it.
    let killed = status.signal().is_some() && trial.is_some_and(Trial::is_signal);
    let code = match trial.map(|trial| trial.fault.as_str()) {
        Some("signal=SIGINT") => 130,
        Some("signal=SIGTERM") => 143,
        _ => 1,
    };
    assert!(killed || status.code() == Some(code), "{status}: {what}");
    let line = message.starts_with("corestream: ")
        && message.lines().count() == 1
        && message.ends_with('\n');
    assert!(killed || line && message.chars().all(|c| c == '\n' || !c.is_control()), "{what}");
    assert!(run.stdout.len() <= expected.len() && expected.starts_with(&run.stdout), "{what}");
    let new = work.join("new");
    // The file is complete and has its name: only the last `fsync`, of its directory, has failed.
    let is_named = message.contains("its directory cannot be synced");
    match fs::read(&new) {
        Ok(_) if is_named => {
            assert_eq!(trial.unwrap().call.name, "fsync", "{what}");
            assert_complete(&new, expected, &what);
        }
        Ok(bytes) if case.old && bytes == b"old" => {}
        // The signal came after the file was complete.
        Ok(_) if killed => assert_complete(&new, expected, &what),
        Ok(_) => panic!("something has the final name: {what}"),
        Err(_) if new.is_dir() => assert!(killed, "{what}"),
        Err(_) => assert!(!case.old && !is_named, "the file is gone: {what}"),
    }
    // A finished file that got no name stays, and is complete.
    let kept = kept_path(&message).and_then(|path| Some(path.file_name()?.to_str()?.to_string()));
    if let Some(kept) = &kept {
        let failed = &trial.unwrap().call.name;
        assert!(matches!(failed.as_str(), "renameat" | "openat"), "{what}");
        assert_complete(&work.join(kept), expected, &what);
    }
    // A killed process cannot remove a file that has a name while it is written. For a file without a name, an empty
    // trial file can be left.
    let partial = |name: &String| {
        let has_name = case.named || case.args.contains(&"--all") || case.old;
        let is_empty = || fs::read(work.join(name)).is_ok_and(|bytes| bytes.is_empty());
        status.signal() == Some(9) && name.ends_with(".partial") && (has_name || is_empty())
    };
    let is_other =
        |name: &&String| *name != "new" && Some(*name) != kept.as_ref() && !partial(name);
    let others: Vec<_> = names.iter().filter(is_other).collect();
    assert!(others.is_empty(), "{others:?} is left: {what}");
}

/// Returns whether these are the expected bytes, or an intact dump of the same memory with a note about how it was read.
fn is_same(bytes: &[u8], expected: &[u8]) -> bool {
    if bytes == expected {
        return true;
    }
    let Ok(dump) = CoreDumpFile::from_slice(bytes) else { return false };
    let whole = Verifier::new().threads(1).verify(bytes).is_ok_and(|verdict| verdict.is_intact());
    let expected = CoreDumpFile::from_slice(expected).unwrap();
    let memory = |dump: &CoreDumpFile<'_>| {
        let mut memory = Vec::new();
        dump.memory(MemoryIndex(0)).unwrap().write_to(&mut memory).unwrap();
        memory
    };
    whole && dump.notes().len() == 1 && memory(&dump) == memory(&expected)
}

/// Checks that a file, or the directory of `extract --all`, is complete.
fn assert_complete(path: &Path, expected: &[u8], what: &str) {
    let mode = path.metadata().unwrap().permissions().mode() & 0o777;
    if !path.is_dir() {
        assert!(is_same(&fs::read(path).unwrap(), expected), "{what}");
        assert_eq!(mode, 0o600, "{what}");
        return;
    }
    assert_eq!(mode, 0o700, "{what}");
    assert_eq!(names(path), ["manifest.json", "memory-0.mem"]);
    assert_complete(&path.join("memory-0.mem"), expected, what);
    let manifest = fs::read(path.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["memories"][0]["image"], "memory-0.mem");
}

/// Returns the calls that write the output, without those of every program at its start.
fn writing(calls: &[Call]) -> Vec<Call> {
    let is_write = |call: &Call| matches!(&*call.name, "write" | "writev" | "pwrite64" | "sendmsg");
    let written = calls.iter().rposition(is_write).unwrap_or(calls.len());
    let writes = |(i, call): &(usize, &Call)| match call.name.as_str() {
        "openat" => is_new(&call.line),
        "fcntl" => !call.line.contains("F_GETFD"),
        // Before the last write, only inputs are closed.
        "close" => *i > written,
        _ => true,
    };
    calls.iter().enumerate().filter(writes).map(|(_, call)| call.clone()).collect()
}

/// Returns the calls from the first one that looks at an input.
fn reading(calls: &[Call]) -> Vec<Call> {
    let first = |call: &Call| call.line.contains("/guest.") || call.line.starts_with("0, \"");
    let calls = calls.iter().skip_while(|call| !first(call));
    // A program whose allocator gets no memory ends.
    calls.filter(|call| call.name != "mmap" || !call.line.contains("ANONYMOUS")).cloned().collect()
}

const DUMP: Case = Case::new(&["dump", "--memory", "guest.mem", "-o", "new"]);
const DUMP_SYNC: Case = Case::new(&["dump", "--memory", "guest.mem", "-o", "new", "--sync"]);
const REPLACE: Case =
    Case::new(&["dump", "--memory", "guest.mem", "-o", "new", "--sync", "--force"]);
const DUMP_OUT: Case = Case::new(&["dump", "--name=guest.mem", "--memory", "guest.mem", "-o", "-"]);
const EXTRACT: Case = Case::new(&["extract", "guest.core", "--memory", "0", "-o", "new"]);
const EXTRACT_ALL: Case = Case::new(&["extract", "guest.core", "--all", "new"]);
const EXTRACT_OUT: Case = Case::new(&["extract", "guest.core", "--memory", "0"]);

fn try_writing(every: usize, step: usize, cases: &[Case]) {
    let guest = Guest::new(step);
    for case in cases {
        let check = |trial: Option<&Trial<'_>>, run: &Run| check_written(&guest, case, trial, run);
        let faults = try_all(&guest, case, WRITES, every, writing, check);
        assert!(faults > 100 / every, "{faults}");
    }
}

const TO_FILES: [Case; 4] = [DUMP_SYNC, DUMP.named(), REPLACE.old(), REPLACE.old().named()];
const TO_STREAMS: [Case; 3] = [DUMP_OUT, DUMP_OUT.to(Stream::Pipe), DUMP_OUT.to(Stream::Socket)];
const IMAGES: [Case; 4] = [EXTRACT, EXTRACT.named(), EXTRACT_ALL, EXTRACT_OUT.to(Stream::Pipe)];

#[test]
fn a_dump_to_a_file_is_complete_or_absent() {
    require!(strace);
    try_writing(SAMPLE, 1000, &TO_FILES);
}

#[test]
#[ignore = "slow: 30 s"]
fn a_dump_to_a_file_is_complete_or_absent_after_any_fault() {
    require!(strace);
    try_writing(ALL, 1000, &TO_FILES);
}

#[test]
fn a_dump_to_a_stream_is_complete_or_fails() {
    require!(strace);
    try_writing(SAMPLE, 1000, &TO_STREAMS);
}

#[test]
#[ignore = "slow: 13 s"]
fn a_dump_to_a_stream_is_complete_or_fails_after_any_fault() {
    require!(strace);
    try_writing(ALL, 1000, &TO_STREAMS);
}

#[test]
fn an_image_is_complete_or_absent() {
    require!(strace);
    try_writing(SAMPLE, 200_000, &IMAGES);
}

#[test]
#[ignore = "slow: 14 s"]
fn an_image_is_complete_or_absent_after_any_fault() {
    require!(strace);
    try_writing(ALL, 200_000, &IMAGES);
}

/// Checks that what was read is right, or that an error says why not.
fn check_read(guest: &Guest, case: &Case, trial: Option<&Trial<'_>>, run: &Run) {
    if case.args.contains(&"new") {
        return check_written(guest, case, trial, run);
    }
    let message = stderr(&run.output);
    let (call, fault) =
        trial.map_or((String::new(), ""), |t| (format!("{:?}", t.call), t.fault.as_str()));
    let what = format!("{:?}, {fault} at {call}\n{message}", case.args);
    let shown = String::from_utf8_lossy(&run.stdout);
    let of_input =
        |trial: &Trial<'_>| trial.call.name == "read" && trial.call.line.starts_with("0,");
    if trial.is_some_and(|trial| of_input(trial) && trial.has(&["EINTR", "EAGAIN"])) {
        assert!(run.output.status.success(), "{what}");
    }
    match run.output.status.code() {
        Some(0) => {
            assert!(message.is_empty() && shown.contains(": intact, "), "{what}{shown}");
            assert!(shown.contains(&guest.dump.len().to_string()), "{what}");
        }
        Some(1 | 3) => {
            assert!(run.stdout.is_empty() && message.lines().count() == 1, "{what}{shown}")
        }
        Some(130 | 143) => assert!(fault.starts_with("signal="), "{what}"),
        _ => assert!(fault.starts_with("signal="), "{what}"),
    }
}

fn try_reading(every: usize) {
    let guest = Guest::new(200_000);
    let verify_input = Case { input: Some("guest.core"), ..Case::new(&["verify", "-"]) };
    for case in [Case::new(&["verify", "guest.core"]), verify_input, EXTRACT, DUMP] {
        let check = |trial: Option<&Trial<'_>>, run: &Run| check_read(&guest, &case, trial, run);
        let faults = try_all(&guest, &case, READS, every, reading, check);
        assert!(faults > 50 / every, "{faults}");
    }
}

#[test]
fn reports_an_input_that_cannot_be_read() {
    require!(strace);
    try_reading(SAMPLE);
}

#[test]
#[ignore = "slow: 7 s"]
fn reports_an_input_that_cannot_be_read_after_any_fault() {
    require!(strace);
    try_reading(ALL);
}

/// No thread can be started.
#[test]
fn completes_a_dump_without_threads_and_a_signal_ends_it() {
    require!(strace);
    let guest = Guest::new(200_000);
    let none: Vec<String> =
        ["clone3", "clone"].map(|name| format!("{name}:error=EAGAIN:when=1+")).into();
    for case in [DUMP, DUMP_OUT.to(Stream::Pipe), DUMP_OUT.to(Stream::Socket), EXTRACT_ALL] {
        let run = guest.run(&case, WRITES, &none);
        assert!(run.faults > 0);
        check_written(&guest, &case, None, &run);
    }
    for name in ["TERM", "INT"] {
        let mut injections = none.clone();
        injections.push(format!("writev:signal=SIG{name}:when=2"));
        let run = guest.run(&DUMP, WRITES, &injections);
        let expected = if name == "TERM" { 15 } else { 2 };
        assert_eq!(run.output.status.signal(), Some(expected), "{}", stderr(&run.output));
        assert!(names(&run.directory.path().join("work")).is_empty());
    }
}
