//! Each system call of a snapshot fails with each error, injected by strace. The dump is right or there is an error, and
//! the guest always goes on.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use corestream::snapshot::{Faults, SnapshotOptions};
use corestream::{Dumper, Error};

use crate::alone;
use crate::area::{Area, PAGE, byte};
use crate::cases::numbered;
use crate::environment::require;
use crate::sigbus;
use crate::strace;

/// Makes [`a_snapshot`] run, with this kind of faults.
const FAULTS: &str = "CORESTREAM_TEST_FAULTS";

/// The system calls of a snapshot, and the errors that they return.
const INJECTED: [(&str, &[&str]); 7] = [
    ("userfaultfd", &["EPERM", "ENOSYS", "EMFILE"]),
    ("ioctl", &["ENOMEM", "EAGAIN", "EINVAL", "EPERM", "ENOENT", "EBUSY", "EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("read", &["EAGAIN", "EINTR", "EINVAL", "EIO"]),
    ("madvise", &["ENOMEM", "EINVAL", "EAGAIN"]),
    ("clone3", &["EAGAIN"]),
];

/// Takes a snapshot, possibly without success. The guest writes to each page once before and once after the freeze.
#[test]
fn a_snapshot() {
    let Ok(faults) = std::env::var(FAULTS) else { return };
    sigbus::install();
    let faults = if faults == "signal" { Faults::Signal } else { Faults::Thread };
    let area = numbered(16);
    let result = take(&SnapshotOptions::new().faults(faults), &area);
    // The guest goes on after a snapshot that has failed, and the next one does not find remains of it.
    (0..16).for_each(|page| area.write(page * PAGE, 0xee));
    let next = take(&SnapshotOptions::new().faults(faults), &area);
    for core in [result, next].into_iter().flatten() {
        let contents: Vec<_> = (0..16).map(|page| byte(&core, 0, page * PAGE)).collect();
        assert_eq!(contents, [0xcc; 16]);
    }
}

fn take(options: &SnapshotOptions, area: &Area) -> Result<Vec<u8>, Error> {
    // SAFETY: the area outlives the snapshot, and only this thread writes to it.
    let prepared = unsafe { options.prepare(&[area.live()]) };
    // The guest goes on whether it succeeds or not.
    (0..16).for_each(|page| area.write(page * PAGE, 0xcc));
    let prepared = prepared?;
    prepared.protect_again()?;
    let snapshot = prepared.freeze(Area::dump(&[area]));
    (0..8).for_each(|page| area.write(page * PAGE, 0xdd));
    let snapshot = snapshot?;
    let core = Dumper::new().threads(1).plan(&snapshot.dump)?.to_vec()?;
    (8..16).for_each(|page| area.write(page * PAGE, 0xdd));
    snapshot.finish()?;
    Ok(core)
}

/// Runs [`a_snapshot`] with one fault. Returns whether the fault was injected.
fn inject(directory: &Path, faults: &str, call: &str, error: &str, k: usize) -> bool {
    let log = directory.join("log");
    let injection = format!("{call}:error={error}:when={k}");
    let mut command = strace::traced(&log, call, std::slice::from_ref(&injection));
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "inject::a_snapshot", "--test-threads=1"]).env(FAULTS, faults);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{faults}: {injection}: the process hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A process that was not even loaded has taken no snapshot.
    let has_begun = text.contains("running 1 test");
    assert!(output.status.success() || !has_begun, "{faults}: {injection}: {text}{errors}");
    strace::faults(&log) > 0
}

#[test]
#[ignore = "starts hundreds of processes"]
fn no_failing_system_call_harms_the_guest() {
    let alone = require!("userfaultfd", alone());
    require!(strace);
    drop(alone);
    let directory = tempfile::tempdir().unwrap();
    let mut injected = 0;
    for faults in ["thread", "signal"] {
        for (call, errors) in INJECTED {
            for error in errors {
                // Threads have counters of their own, and some rounds of a thread are a matter of time.
                let calls =
                    (1..60).take_while(|k| inject(directory.path(), faults, call, error, *k));
                injected += calls.count();
            }
        }
    }
    assert!(injected > 100, "only {injected} faults were injected");
}
