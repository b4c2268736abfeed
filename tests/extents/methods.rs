//! The ways to ask the kernel: their names, what they cannot see, and what replaces them if they fail.

use corestream::{Dumper, ErrorKind, ExtentMethod};
use rustix::mm::MprotectFlags;

use super::area::Area;
use super::environment::{self, require};
use super::{MIB, alone, check, common, dump_of, extent_bytes, page, smaps, strace, userfaultfd};

#[test]
fn names_the_method_in_the_statistics() {
    let _alone = alone();
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    for (method, name) in
        [(ExtentMethod::PagemapScan, "pagemap-scan"), (ExtentMethod::Pagemap, "pagemap")]
    {
        let plan = match Dumper::new().extent_method(Some(method)).plan(&dump) {
            Ok(plan) => plan,
            Err(error) => {
                environment::report_missing(name, error);
                continue;
            }
        };
        assert_eq!(plan.stats().extent_methods, [method]);
        assert_eq!(plan.stats().extent_methods[0].to_string(), name);
        assert!(plan.stats().mapping_method.is_some());
        assert_eq!(extent_bytes(&plan), 0);
    }
    let whole = Dumper::new().extent_method(Some(ExtentMethod::Whole));
    for dumper in [whole, Dumper::new().trust_holes(false)] {
        let plan = dumper.plan(&dump).unwrap();
        assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
        assert_eq!(plan.stats().mapping_method, None);
        assert_eq!(extent_bytes(&plan), MIB);
    }
    let error = Dumper::new().extent_method(Some(ExtentMethod::Seek)).plan(&dump).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert_eq!(error.to_string(), "extent_method: seek applies to files, not to live memory");
}

/// A process without free descriptors cannot ask the kernel.
#[test]
fn reads_everything_if_the_kernel_cannot_be_asked() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let _alone = alone();
    let area = Area::new(MIB);
    area.fill(5000..6000, 1);
    let dump = dump_of(&[area.bytes()]);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let plan = Dumper::new().plan(&dump);
    let forced = Dumper::new().extent_method(Some(ExtentMethod::Pagemap)).plan(&dump);
    setrlimit(Resource::Nofile, before).unwrap();

    let plan = plan.unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    assert_eq!(extent_bytes(&plan), MIB);
    let error = forced.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    let message = error.to_string();
    assert!(message.starts_with("extent_method: pagemap is unavailable here: "), "{message}");
}

/// Where a userfaultfd is open, a page that was never touched can have data.
#[test]
fn reads_memory_while_a_userfaultfd_is_open() {
    let _alone = alone();
    /// `UFFD_USER_MODE_ONLY`, which needs no privilege.
    const USER_MODE_ONLY: u32 = 1;
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC
        | rustix::mm::UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: it is registered for no memory.
    let userfaultfd = require!("userfaultfd", unsafe { rustix::mm::userfaultfd(flags) });
    let area = Area::new(MIB);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    drop(userfaultfd);
    let plan = Dumper::new().plan(&dump).unwrap();
    assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
}

/// Only a child has the descriptor, so only `VmFlags` shows it in this process.
#[test]
fn reads_memory_that_another_process_supplies() {
    let _alone = alone();
    for method in [None, Some(ExtentMethod::Pagemap), Some(ExtentMethod::Smaps)] {
        let area = Area::new(4 * MIB);
        let supplied = MIB..2 * MIB;
        let range = area.at(supplied.start).addr()..area.at(supplied.end).addr();
        let supplier = userfaultfd::Supplier::start(range, page(), 7);
        let supplier =
            require!("userfaultfd", supplier.ok_or("it does not exist, or is not allowed"));
        let dump = dump_of(&[area.bytes()]);
        let plan = Dumper::new().extent_method(method).plan(&dump).unwrap();
        assert_ne!(plan.stats().extent_methods, [ExtentMethod::Whole]);
        assert_eq!(extent_bytes(&plan), MIB, "{method:?}");
        let bytes = plan.to_vec().unwrap();
        let contents = common::decode(&bytes).contents(0, 4 * MIB);
        assert!(contents.iter().enumerate().all(|(i, b)| (*b == 7) == supplied.contains(&i)));
        drop(supplier);
    }
}

#[test]
fn skips_untouched_mappings_by_smaps() {
    let _alone = alone();
    let area = Area::new(64 * MIB);
    // Different permissions make three mappings.
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(16 * MIB..32 * MIB, MprotectFlags::READ) };
    let dump = dump_of(&[area.bytes()]);
    let plan = smaps().plan(&dump).unwrap();
    assert_eq!(plan.stats().extent_methods, [ExtentMethod::Smaps]);
    assert_eq!(plan.stats().extent_methods[0].to_string(), "smaps");
    assert_eq!(extent_bytes(&plan), 0);
    drop(plan);
    drop(dump);
    area.fill(5 * MIB..5 * MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    assert_eq!(extent_bytes(&smaps().plan(&dump).unwrap()), 16 * MIB);
    check(&[area.bytes()]);
}

/// The variable that makes [`falls_back_without_the_pagemap`] the process that strace runs.
const UNDER_STRACE: &str = "CORESTREAM_TEST_UNDER_STRACE";

/// Runs [`falls_back_without_the_pagemap`] under strace, with faults. Returns its standard output.
fn run_with_faults(calls: &str, path: Option<&str>, faults: &[String]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = strace::traced(&log, calls, faults);
    if let Some(path) = path {
        command.args(["-P", path]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "methods::falls_back_without_the_pagemap",
        "--nocapture",
        "--test-threads=1",
    ]);
    let output = command.env(UNDER_STRACE, "1").output().unwrap();
    assert!(strace::faults(&log) > 0, "nothing was injected");
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{message}{}", String::from_utf8_lossy(&output.stderr));
    message
}

/// Returns the line that [`print_extents`] prints.
fn line_of(method: &str, bytes: usize) -> String {
    format!("found by {method}: {bytes} bytes")
}

/// Dumps with the default dumper, and prints how it found the extents.
fn print_extents() {
    let area = Area::new(32 * MIB);
    // SAFETY: not borrowed, and still readable.
    unsafe { area.protect(16 * MIB..32 * MIB, MprotectFlags::READ) };
    area.fill(MIB..MIB + 1, 1);
    let dump = dump_of(&[area.bytes()]);
    let plan = Dumper::new().plan(&dump).unwrap();
    println!("{}", line_of(&plan.stats().extent_methods[0].to_string(), extent_bytes(&plan)));
    println!("notes: {:?}", plan.stats().extent_notes);
    let bytes = plan.to_vec().unwrap();
    let segments = common::decode(&bytes).segments;
    assert_eq!((segments.len(), segments[0].address), (1, MIB as u64));
}

/// Without the pagemap, the dumper uses smaps, and a note says so.
#[test]
fn falls_back_without_the_pagemap() {
    if std::env::var_os(UNDER_STRACE).is_some() {
        return print_extents();
    }
    // The process under strace inherits limits that other tests set.
    let _alone = alone();
    require!(strace);
    for error in ["EPERM", "ENOENT", "EACCES"] {
        let path = "/proc/self/pagemap";
        let text = run_with_faults("openat", Some(path), &[format!("openat:error={error}")]);
        assert!(text.contains(&line_of("smaps", 16 * MIB)), "{text}");
        assert!(text.contains("notes: [\"cannot use the pagemap ("), "{text}");
    }
    // Without the ioctls, the entries of the pagemap remain.
    for error in ["EPERM", "ENOTTY", "EINVAL", "ENOSYS"] {
        let text = run_with_faults("ioctl", None, &[format!("ioctl:error={error}")]);
        assert!(text.contains(&line_of("pagemap", page())), "{text}");
        assert!(text.contains("notes: []"), "{text}");
    }
    // Without smaps, another process may supply the untouched pages.
    let path = "/proc/self/smaps";
    let text = run_with_faults("openat", Some(path), &["openat:error=EACCES".into()]);
    assert!(text.contains(&line_of("whole", 32 * MIB)), "{text}");
    assert!(text.contains("notes: [\"cannot find untouched pages ("), "{text}");
}
