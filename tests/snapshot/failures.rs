//! Snapshots whose thread dies, that end while others use them, and in processes that may do less.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use corestream::internals::kill_thread;
use corestream::snapshot::{AtLimit, Faults, SnapshotOptions};
use corestream::{Dumper, ErrorKind, ExtentMethod};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

use crate::alone;
use crate::area::{Area, PAGE, byte};
use crate::cases::{each_kind_of_fault, freeze, numbered, prepare, write};
use crate::environment::{probe_root, require};
use crate::sigbus;

#[test]
fn a_dead_thread_is_an_error_and_the_guest_goes_on() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        for pages_before in [0, 10, 200] {
            let area = numbered(200);
            let snapshot = freeze(&options, &[&area]);
            (0..pages_before).for_each(|page| area.write(page * PAGE, 0));
            kill_thread(&snapshot);
            (0..200).for_each(|page| area.write(page * PAGE, 0));
            // The thread dies a moment later.
            let end = Instant::now() + Duration::from_secs(30);
            let error = loop {
                match snapshot.check() {
                    Err(error) => break error,
                    Ok(()) => assert!(Instant::now() < end, "the thread lives"),
                }
            };
            assert_eq!(error.kind(), ErrorKind::Image);
            let cause = "the thread that handles the writes of the guest has failed";
            assert_eq!(error.to_string(), cause);
            assert!(Dumper::new().plan(&snapshot.dump).and_then(|plan| plan.to_vec()).is_err());
            assert!(snapshot.finish().is_err());
            let snapshot = freeze(&options, &[&area]);
            area.write(0, 1);
            assert_eq!(byte(&write(&snapshot).unwrap(), 0, 0), 0);
            snapshot.finish().unwrap();
        }
    });
}

/// Makes [`a_writer_that_waits`] run, with this kind of faults.
const WAITS: &str = "CORESTREAM_TEST_WAITS";

/// A process whose guest waits forever for a dump.
#[test]
fn a_writer_that_waits() {
    let Ok(faults) = std::env::var(WAITS) else { return };
    sigbus::install();
    let faults = if faults == "signal" { Faults::Signal } else { Faults::Thread };
    let options = SnapshotOptions::new().faults(faults).copy_limit(0);
    let area = numbered(16);
    let _snapshot = freeze(&options.at_limit(AtLimit::Wait), &[&area]);
    thread::scope(|scope| {
        scope.spawn(|| area.write(0, 7));
        // The parent kills this process.
        io::Write::write_all(&mut io::stdout(), b"\nwaiting\n").unwrap();
    });
}

#[test]
fn a_killed_process_ends_although_its_writer_waits() {
    let _alone = require!("userfaultfd", alone());
    for faults in ["thread", "signal"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "failures::a_writer_that_waits", "--nocapture"]);
        command.env(WAITS, faults).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line == "waiting"));
        // The writer waits in the kernel or in the handler by now.
        thread::sleep(Duration::from_millis(10));
        assert!(child.try_wait().unwrap().is_none(), "the writer waits");
        child.kill().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{faults}: the process hangs");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The writer waits for a thread that dies.
#[test]
fn a_waiting_writer_goes_on_when_the_thread_dies() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let options = options.copy_limit(0).at_limit(AtLimit::Wait);
        let area = numbered(16);
        let snapshot = freeze(&options, &[&area]);
        thread::scope(|scope| {
            let writer = scope.spawn(|| area.write(0, 7));
            thread::sleep(Duration::from_millis(10));
            assert!(!writer.is_finished());
            kill_thread(&snapshot);
            writer.join().unwrap();
        });
        assert_eq!(area.read(0), 7);
        assert!(snapshot.finish().is_err());
    });
}

/// A host function that prints writes to the guest. Neither the dump nor the handling of faults may print.
#[test]
fn a_writer_that_waits_at_the_limit_may_hold_standard_error() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(16);
        let snapshot = freeze(&options.copy_limit(0).at_limit(AtLimit::Wait), &[&area]);
        let core = thread::scope(|scope| {
            let (locked, is_locked) = mpsc::channel();
            let area = &area;
            scope.spawn(move || {
                let _standard_error = io::stderr().lock();
                locked.send(()).unwrap();
                area.write(15 * PAGE, 7);
            });
            is_locked.recv().unwrap();
            thread::sleep(Duration::from_millis(10));
            write(&snapshot).unwrap()
        });
        assert_eq!((byte(&core, 0, 15 * PAGE), area.read(15 * PAGE)), (16, 7));
        snapshot.finish().unwrap();
    });
}

#[test]
fn a_dump_returns_if_the_snapshot_ends_meanwhile() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        for _ in 0..50 {
            let area = numbered(16);
            let mut snapshot = freeze(&options.clone().release_when_read(false), &[&area]);
            let dump = std::mem::take(&mut snapshot.dump);
            let has_begun = AtomicBool::new(false);
            thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    loop {
                        let result = Dumper::new().plan(&dump).and_then(|plan| plan.to_vec());
                        has_begun.store(true, Ordering::Release);
                        match result {
                            Ok(core) => assert_eq!(byte(&core, 0, 3 * PAGE), 4),
                            Err(error) => break error,
                        }
                    }
                });
                while !has_begun.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                snapshot.finish().unwrap();
                area.write(3 * PAGE, 0xff);
                let error = writer.join().unwrap();
                assert!(error.to_string().ends_with("the snapshot has ended"), "{error}");
            });
        }
    });
}

/// Another userfaultfd may supply pages that were never touched.
#[test]
fn the_userfaultfd_of_another_owner_still_counts() {
    let _alone = require!("userfaultfd", alone());
    let (area, other) = (numbered(16), numbered(64));
    let snapshot = freeze(&SnapshotOptions::new(), &[&area]);
    let methods = || {
        let dump = Area::dump(&[&other]);
        Dumper::new().plan(&dump).unwrap().stats().extent_methods.clone()
    };
    assert_ne!(methods(), [ExtentMethod::Whole]);
    // SAFETY: it registers nothing.
    let foreign = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }.unwrap();
    assert_eq!(methods(), [ExtentMethod::Whole]);
    drop(foreign);
    assert_ne!(methods(), [ExtentMethod::Whole]);
    snapshot.finish().unwrap();
}

#[test]
fn another_thread_writes_by_process_vm_writev() {
    let _alone = require!("userfaultfd", alone());
    let area = numbered(64);
    let snapshot = freeze(&SnapshotOptions::new(), &[&area]);
    let source = vec![0xee_u8; 64 * PAGE];
    let local = libc::iovec { iov_base: source.as_ptr().cast_mut().cast(), iov_len: source.len() };
    let remote = libc::iovec { iov_base: area.at(0).cast(), iov_len: area.len };
    // SAFETY: both ranges exist, and the second one may be overwritten.
    let written = unsafe {
        libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    assert_eq!(written.cast_unsigned(), 64 * PAGE, "{}", io::Error::last_os_error());
    assert!(area.bytes().iter().all(|byte| *byte == 0xee));
    let core = write(&snapshot).unwrap();
    assert!((0..64).all(|page| byte(&core, 0, page * PAGE) == (page + 1).to_le_bytes()[0]));
    snapshot.finish().unwrap();
}

/// Each snapshot begins as soon as the last one has ended, on pages that were just written to.
#[test]
fn snapshots_follow_each_other_at_once() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let area = numbered(64);
        for round in 1..100 {
            let prepared = prepare(&options, &[&area]).unwrap();
            (0..64).step_by(3).for_each(|page| area.write(page * PAGE, round));
            let snapshot = prepared.freeze(Area::dump(&[&area])).unwrap();
            (0..64).step_by(2).for_each(|page| area.write(page * PAGE, 0xff));
            let core = write(&snapshot).unwrap();
            snapshot.finish().unwrap();
            let expected = |page: usize| match page {
                page if page.is_multiple_of(3) => round,
                page if page.is_multiple_of(2) && round > 1 => 0xff,
                page => (page + 1).to_le_bytes()[0],
            };
            for page in 0..64 {
                assert_eq!(byte(&core, 0, page * PAGE), expected(page), "{round}: page {page}");
            }
        }
    });
}

/// Runs itself again, in a process that then gives up its privileges.
#[test]
fn a_process_without_privileges_needs_signals() {
    const CHILD: &str = "CORESTREAM_TEST_UNPRIVILEGED";

    let alone = require!("userfaultfd", alone());
    require!("root", probe_root());
    if std::env::var_os(CHILD).is_none() {
        // The child waits for no lock of this process.
        drop(alone);
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "failures::a_process_without_privileges_needs_signals"]);
        let output = child.env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let nobody = 65_534;
    // SAFETY: changes the credentials of this process, and lets it read its own files in /proc.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(nobody, nobody, nobody), 0);
        assert_eq!(libc::setresuid(nobody, nobody, nobody), 0);
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
    }
    let area = numbered(16);
    let sysctl = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    if sysctl.trim() == "0" && std::fs::File::open("/dev/userfaultfd").is_err() {
        let error = prepare(&SnapshotOptions::new(), &[&area]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(error.to_string().contains("cannot use userfaultfd"), "{error}");
    }
    let snapshot = freeze(&SnapshotOptions::new().faults(Faults::Signal), &[&area]);
    (0..16).for_each(|page| area.write(page * PAGE, 0xff));
    let core = write(&snapshot).unwrap();
    assert!((0..16).all(|page| byte(&core, 0, page * PAGE) == (page + 1).to_le_bytes()[0]));
    assert_eq!(snapshot.finish().unwrap().copied_pages, 16);
}

/// The end waits for readers, so that the memory may be unmapped.
#[test]
fn memory_may_be_unmapped_once_a_snapshot_is_finished() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        for i in 0..100 {
            let area = numbered(256);
            let owner = Arc::new(());
            let options = options.clone().keep_alive(owner.clone()).release_when_read(false);
            let mut snapshot = freeze(&options, &[&area]);
            drop(options);
            let dump = std::mem::take(&mut snapshot.dump);
            thread::scope(|scope| {
                let (begun, has_begun) = mpsc::channel();
                let dump = &dump;
                scope.spawn(move || {
                    begun.send(()).unwrap();
                    // Until the snapshot has ended.
                    while Dumper::new().plan(dump).and_then(|plan| plan.to_vec()).is_ok() {}
                });
                has_begun.recv().unwrap();
                thread::sleep(Duration::from_micros(50 * i));
                snapshot.finish().unwrap();
                assert_eq!(Arc::strong_count(&owner), 1, "the snapshot has no owner any more");
                drop(area);
            });
        }
    });
}

#[test]
fn memories_that_the_dump_does_not_contain_are_not_copied() {
    let _alone = require!("userfaultfd", alone());
    each_kind_of_fault(|options| {
        let (dumped, other) = (numbered(16), numbered(64));
        // SAFETY: the areas outlive the snapshot, and only this thread writes to them.
        let prepared =
            unsafe { options.copy_limit(16 << 12).prepare(&[other.live(), dumped.live()]) };
        let prepared = prepared.unwrap();
        (0..64).step_by(2).for_each(|page| other.write(page * PAGE, 0));
        let snapshot = prepared.freeze(Area::dump(&[&dumped])).unwrap();
        (0..64).for_each(|page| other.write(page * PAGE, 1));
        (0..16).for_each(|page| dumped.write(page * PAGE, 100));
        let core = write(&snapshot).unwrap();
        assert!((0..16_u8).all(|page| byte(&core, 0, usize::from(page) * PAGE) == page + 1));
        assert!(snapshot.finish().unwrap().copied_pages <= 16);
    });
}
