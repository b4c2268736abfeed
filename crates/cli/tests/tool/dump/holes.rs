//! Image files whose file system is wrong about their holes, files that cannot be an image, and file systems in which
//! reading a hole would allocate it.
#![allow(clippy::single_range_in_vec_init, reason = "images with one part")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use corestream::{CoreDump, Dumper, ExtentMethod, Memory, MemoryImage, MemoryType, Stats};
use rustix::fs::FallocateFlags;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Random, decode_any};
use crate::environment::require;
use crate::huge_pages::Pool;
use crate::tool::{names, run, stderr, succeed, tool_path, write_image};
use crate::{mapped, strace};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Returns a directory with `guest.mem`, and its bytes: `len` bytes with data in each of `parts`.
fn directory(len: usize, parts: &[std::ops::Range<usize>]) -> (TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; len];
    let file = File::create(directory.path().join("guest.mem")).unwrap();
    file.set_len(len as u64).unwrap();
    for part in parts {
        for (i, byte) in image[part.clone()].iter_mut().enumerate() {
            *byte = u8::try_from(i % 251).unwrap() + 1;
        }
        file.write_all_at(&image[part.clone()], part.start as u64).unwrap();
    }
    // Some file systems count the blocks only when they are written.
    file.sync_all().unwrap();
    (directory, image)
}

/// Dumps `guest.mem` with faults in the `lseek` calls on it. Returns the statistics, and the memory in the dump.
fn dump_with(directory: &Path, injection: &str, args: &[&str]) -> (Value, Vec<u8>) {
    let log = directory.join("log");
    let mut command = strace::traced(&log, "lseek", &[format!("lseek:{injection}")]);
    command.arg("-P").arg(directory.join("guest.mem"));
    command.arg(tool_path());
    command.args(["dump", "--memory", "guest.mem", "-o", "new", "--stats", "json"]).args(args);
    let output = command.current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{injection}: {}", stderr(&output));
    assert!(strace::faults(&log) > 0, "{injection}: nothing was injected");
    let stats = serde_json::from_slice(&output.stderr);
    let stats = stats.unwrap_or_else(|_| panic!("{injection}: {}", stderr(&output)));
    let bytes = fs::read(directory.join("new")).unwrap();
    fs::remove_file(directory.join("new")).unwrap();
    let dump = decode_any(&bytes);
    let len = directory.join("guest.mem").metadata().unwrap().len();
    (stats, dump.contents(0, usize::try_from(len).unwrap()))
}

#[test]
fn reads_a_file_that_claims_to_be_one_hole() {
    require!(strace);
    for (len, part) in [(4 * MIB, 0..4 * MIB), (4 * MIB, MIB..MIB + 1), (64 * KIB, 100..200)] {
        let (directory, image) = directory(len, &[part]);
        let (stats, memory) = dump_with(directory.path(), "error=ENXIO", &[]);
        assert!(memory == image);
        assert_eq!(stats["extent_methods"][0], "read-in-doubt");
        assert_eq!(stats["extent_bytes"], len);
        let note = stats["extent_notes"][0].as_str().unwrap();
        assert!(note.starts_with("memory 0: "), "{note}");
    }
}

/// Some answers of `lseek` are wrong, in any direction.
fn check_wrong_answers(is_chosen: impl Fn(usize) -> bool) {
    let parts = [0..MIB, 3 * MIB..4 * MIB, 6 * MIB + 4096..6 * MIB + 600_000, 9 * MIB..9 * MIB + 1];
    let (directory, image) = directory(10 * MIB, &parts);
    let mut injections = Vec::new();
    for retval in
        [0, 1, 4096, 4097, MIB, 3 * MIB, 6 * MIB + 500_000, 9 * MIB, 10 * MIB - 1, 1 << 30]
    {
        for when in ["1", "2", "3", "1+", "2+", "3+", "1+2", "2+2", "4+3"] {
            injections.push((format!("retval={retval}:when={when}"), "1"));
        }
    }
    for error in ["ENXIO", "EINVAL", "EIO", "EOPNOTSUPP", "ENOSYS", "EINTR"] {
        for when in ["1", "2", "3", "4", "1+", "2+", "3+", "2+2"] {
            injections.push((format!("error={error}:when={when}"), "2"));
        }
    }
    let chosen = injections.iter().enumerate().filter(|(i, _)| is_chosen(*i));
    for (_, (injection, threads)) in chosen {
        let (_, memory) = dump_with(directory.path(), injection, &["--threads", threads]);
        assert!(memory == image, "{injection}");
    }
}

#[test]
fn wrong_answers_lose_no_data() {
    require!(strace);
    check_wrong_answers(|i| i % 11 == 0);
}

#[test]
#[ignore = "slow: 5 s"]
fn no_wrong_answer_of_many_loses_data() {
    require!(strace);
    check_wrong_answers(|_| true);
}

/// Excluded ranges are not read even if the holes of the file are in doubt, and do not cause doubt.
#[test]
fn does_not_read_excluded_ranges_of_a_doubtful_file() {
    let (directory, image) = directory(8 * MIB, &[0..4 * MIB]);
    let honest = ["dump", "--memory", "guest.mem", "--exclude", "0:0x1000..0x300000", "-o", "new"];
    let output = run(directory.path(), [&honest[..], &["--stats", "json"]].concat());
    let printed = stderr(&output);
    let stats: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(stats["extent_methods"][0], "seek", "{printed}");
    assert_eq!(stats["extent_bytes"], MIB + 4096);
    fs::remove_file(directory.path().join("new")).unwrap();

    require!(strace);
    let log = directory.path().join("log");
    let mut command = strace::traced(&log, "lseek", &["lseek:error=ENXIO".into()]);
    command.arg("-P").arg(directory.path().join("guest.mem"));
    command.arg(tool_path()).args(honest);
    assert!(command.current_dir(directory.path()).status().unwrap().success());
    let bytes = fs::read(directory.path().join("new")).unwrap();
    let contents = decode_any(&bytes).contents(0, image.len());
    assert!(contents[..4096] == image[..4096] && contents[0x300000..] == image[0x300000..]);
    assert!(contents[4096..0x300000].iter().all(|byte| *byte == 0));
}

fn plan(image: MemoryImage<'_>, dumper: &Dumper) -> (Stats, Vec<u8>) {
    let mut dump = CoreDump::new("holes");
    let pages = image.len().div_ceil(65_536);
    dump.add_memory(Memory::new(MemoryType::wasm64(pages), image));
    let plan = dumper.plan(&dump).unwrap();
    (plan.stats().clone(), plan.to_vec().unwrap())
}

/// The holes of sparse files of all kinds are trusted, so only their data is read.
#[test]
fn trusts_the_holes_of_honest_files() {
    let len = 64_u64 << 30;
    let mut random = Random(11);
    let scattered: Vec<u64> = (0..2000).map(|_| random.next() % (len / 4096) * 4096).collect();
    let every_other: Vec<u64> = (0..4000).map(|i| (1 << 30) + i * 8192).collect();
    for (what, parts, part) in [
        ("nothing", vec![], 0),
        ("one byte", vec![5 << 30], 1),
        ("the last byte", vec![len - 1], 1),
        ("one part", vec![7 << 30], MIB),
        ("scattered pages", scattered, 4096),
        ("every other page", every_other, 4096),
        ("scattered bytes", (0..500).map(|i| i * 123_456_789 % len).collect(), 1),
    ] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        for at in &parts {
            file.write_all_at(&vec![1; part], *at).unwrap();
        }
        let (stats, _) = plan(MemoryImage::from_file(file).unwrap(), &Dumper::new());
        assert_eq!(stats.extent_methods, [ExtentMethod::Seek], "{what}");
        assert_eq!(stats.extent_notes, [""; 0], "{what}");
        // Extents are rounded to blocks.
        let most = (parts.len() * (part + 8192)) as u64;
        assert!(stats.extent_bytes <= most, "{what}: {} bytes", stats.extent_bytes);
    }
}

/// Blocks that are reserved and were never written do not cause doubt if the file system can tell them from others.
#[test]
fn trusts_the_holes_of_a_preallocated_file() {
    let file = tempfile::tempfile().unwrap();
    let len = 256 * MIB as u64;
    require!("fallocate", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len));
    for parts in 0..3 {
        if parts > 0 {
            file.write_all_at(&vec![1; MIB], parts * 50 * MIB as u64).unwrap();
        }
        file.sync_all().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= len);
        let image = MemoryImage::from_file(file.try_clone().unwrap()).unwrap();
        let (stats, bytes) = plan(image, &Dumper::new());
        // If the file system cannot tell, the whole file is read, which is also right.
        let tells = stats.extent_methods == [ExtentMethod::Seek];
        assert!(!tells || stats.extent_bytes == parts * MIB as u64, "{stats:?}");
        assert_eq!(stats.data_bytes, parts * MIB as u64);
        assert_eq!(decode_any(&bytes).segments.len() as u64, parts);
    }
}

/// A file that cannot be an image is an error, and never an empty memory.
#[test]
fn rejects_files_without_a_length() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let no_length = "the file has content but reports a length of 0, as files of /proc do; copy it to a \
                     regular file first";
    let device = "is a character device, not a regular file";
    let fifo = dir.join("fifo");
    for (path, why) in [
        ("/proc/version", no_length),
        ("/proc/self/maps", no_length),
        ("/dev/null", device),
        ("/dev/zero", device),
        ("/", "is a directory, not a regular file"),
        (fifo.to_str().unwrap(), "is a FIFO, not a regular file"),
        ("/proc/self/mem", "cannot read: "),
    ] {
        let check = |output: &Output, lead: &str| {
            let expected = format!("corestream: {lead}{path}: {why}");
            assert!(stderr(output).starts_with(&expected), "{}", stderr(output));
            assert_eq!(stderr(output).lines().count(), 1);
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(names(dir), ["fifo"]);
        };
        check(&run(dir, ["dump", "--memory", path, "-o", "new"]), "");
        check(&run(dir, ["dump", "--memory", path, "--dry-run"]), "");
        let manifest = format!(r#"{{ "memories": [{{ "image": {path:?} }}] }}"#);
        let manifest_path = tempfile::NamedTempFile::new().unwrap();
        fs::write(manifest_path.path(), manifest).unwrap();
        let args = ["dump", "-o", "new", "--manifest", manifest_path.path().to_str().unwrap()];
        check(&run(dir, args), &format!("{}: memory 0: ", manifest_path.path().display()));

        assert!(MemoryImage::open(path).is_err());
        if path != fifo.to_str().unwrap() {
            assert!(MemoryImage::from_file(File::open(path).unwrap()).is_err(), "{path}");
        }
    }
    let directory = File::open(dir).unwrap();
    assert!(MemoryImage::from_file(directory).is_err());
    let empty = tempfile::tempfile().unwrap();
    assert_eq!(MemoryImage::from_file(empty).unwrap().len(), 0);
}

#[test]
fn warns_of_images_that_are_empty_or_end_within_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    for (len, ty, warning) in [
        (0, "", "the image is empty; the memory has no data"),
        (
            1,
            "",
            "its length of 1 byte is not a multiple of the page size of 65536; the rest of the last page is zero",
        ),
        (
            65_537,
            ",memory64",
            "its length of 65537 bytes is not a multiple of the page size of 65536; the rest of the last page is zero",
        ),
        (1000, ",page-size=1", ""),
        (131_072, "", ""),
    ] {
        write_image(dir.join("guest.mem"), vec![1; len]);
        let output = succeed(dir, ["dump", "--memory", &format!("guest.mem{ty}"), "-o", "-"]);
        let expected = match warning {
            "" => String::new(),
            warning => format!("corestream: warning: guest.mem: {warning}\n"),
        };
        assert_eq!(stderr(&output), expected);
        let dump = decode_any(&output.stdout);
        let page = if ty.contains("page-size=1") { 1 } else { 65_536 };
        assert_eq!(dump.memories[0].initial, (len as u64).div_ceil(page));
        assert!(dump.contents(0, len).iter().all(|byte| *byte == 1));
        assert_eq!(dump.segments.iter().map(|segment| segment.data.len()).sum::<usize>(), len);
    }
    // A memory without pages can have an empty image.
    fs::write(dir.join("empty"), "").unwrap();
    for (minimum, lines) in [(r#", "minimum": 0"#, 0), ("", 1), (r#", "minimum": 1"#, 1)] {
        let manifest = format!(r#"{{ "memories": [{{ "image": "empty"{minimum} }}] }}"#);
        fs::write(dir.join("guest.json"), manifest).unwrap();
        let output = run(dir, ["dump", "--manifest", "guest.json", "-o", "-"]);
        assert_eq!(stderr(&output).lines().count(), lines, "{}", stderr(&output));
    }
}

/// Makes a sparse file of 64 MiB, of which 3 pages are written.
fn fill(file: &File) {
    file.set_len(64 * MIB as u64).unwrap();
    for at in [0, 20 * MIB as u64 + 5, 64 * MIB as u64 - 100] {
        file.write_all_at(&[7; 100], at).unwrap();
    }
}

#[test]
fn reading_holes_of_a_memfd_allocates_nothing() {
    for is_mapped in [true, false] {
        let memfd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memfd);
        fill(&file);
        let blocks = || file.metadata().unwrap().blocks();
        let before = blocks();
        let image = || {
            let file = file.try_clone().unwrap();
            if is_mapped { mapped::from_file(file) } else { MemoryImage::from_file(file).unwrap() }
        };
        let (trusting, expected) = plan(image(), &Dumper::new());
        assert_eq!(trusting.extent_methods, [ExtentMethod::Seek]);
        assert_eq!(blocks(), before);
        for threads in [1, 2] {
            let dumper = Dumper::new().trust_holes(false).threads(threads);
            let (reading, bytes) = plan(image(), &dumper);
            assert_eq!(reading.extent_bytes, 64 * MIB as u64);
            assert!(bytes == expected);
            assert_eq!(blocks(), before, "reading holes allocates them");
        }
    }
}

/// A file system that is mounted while this exists.
struct Mount(TempDir);

impl Mount {
    /// Mounts a file system.
    ///
    /// # Errors
    /// Returns the reason if it cannot be mounted here.
    fn new(kind: &str, options: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", kind, "-o", options, "none"]).arg(directory.path());
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(Self(directory)) } else { Err(stderr(&output)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
        assert!(status.success() || thread::panicking());
    }
}

/// The tmpfs has room only for the data. A hole that is allocated does not fit.
#[test]
fn reads_holes_of_an_image_in_a_full_tmpfs() {
    let mount = require!("mount", Mount::new("tmpfs", "size=64k"));
    let file = File::create_new(mount.path("guest.mem")).unwrap();
    fill(&file);
    // An image that is open for writing counts as changing.
    drop(file);
    let directory = tempfile::tempdir().unwrap();
    let path = mount.path("guest.mem");
    let blocks = || path.metadata().unwrap().blocks();
    let before = blocks();
    let path = path.to_str().unwrap();
    for args in [&[][..], &["--no-trust-holes"]] {
        let common = ["dump", "--memory", path, "--name", "guest", "-o", "-"];
        let output = succeed(directory.path(), [&common[..], args].concat());
        assert_eq!(stderr(&output), "");
        assert_eq!(decode_any(&output.stdout).segments.len(), 3);
        assert_eq!(blocks(), before);
    }
}

/// The image has 8 huge pages, of which one has data. The pool has 4.
#[test]
fn an_image_in_hugetlbfs_takes_no_huge_pages() {
    const HUGE: usize = 2 * MIB;
    let pool = Pool::new(4).ok_or("the pool of huge pages cannot be changed");
    let _pool = require!("hugetlb", pool);
    let mount = require!("hugetlb", Mount::new("hugetlbfs", "pagesize=2M"));
    let path = mount.path("guest.mem");
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    file.set_len(8 * HUGE as u64).unwrap();
    write_huge(&file, 3 * HUGE, HUGE);
    let before = (Pool::free(), Pool::reserved());
    for dumper in [Dumper::new(), Dumper::new().trust_holes(false)] {
        let image = mapped::open(&path);
        assert_eq!(image.as_slice(), None, "the image is read, not mapped");
        let (stats, bytes) = plan(image, &dumper);
        assert_eq!(stats.data_bytes, HUGE as u64);
        let contents = decode_any(&bytes).contents(0, 8 * HUGE);
        let is_data = |at: usize| (3 * HUGE..4 * HUGE).contains(&at);
        assert!(contents.iter().enumerate().all(|(at, byte)| (*byte == 9) == is_data(at)));
        assert_eq!((Pool::free(), Pool::reserved()), before);
    }
    let directory = tempfile::tempdir().unwrap();
    succeed(directory.path(), ["dump", "--memory", path.to_str().unwrap(), "-o", "new"]);
    assert_eq!((Pool::free(), Pool::reserved()), before);
}

/// Writes to a file of hugetlbfs, which is possible only through a mapping.
#[allow(unsafe_code, reason = "a mapping")]
fn write_huge(file: &File, at: usize, len: usize) {
    // SAFETY: no other process maps or truncates the file.
    let mut map =
        unsafe { memmap2::MmapOptions::new().offset(at as u64).len(len).map_mut(file).unwrap() };
    map.fill(9);
}

/// Only some of the threads can be started.
#[test]
fn uses_the_threads_that_can_be_started() {
    require!(strace);
    let (directory, image) = directory(64 * MIB, &[0..64 * MIB]);
    let mut used = Vec::new();
    for first_that_fails in [1, 4, 6, 100] {
        let log = directory.path().join("log");
        let none = format!("error=EAGAIN:when={first_that_fails}+");
        let none = ["clone3", "clone"].map(|name| format!("{name}:{none}"));
        let mut command = strace::traced(&log, "clone3,clone", &none);
        command.arg(tool_path());
        command.args(["dump", "--memory", "guest.mem", "-o", "-", "--stats", "json"]);
        let output =
            command.args(["--threads", "8"]).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let stats: Value = serde_json::from_slice(&output.stderr).unwrap();
        used.push(stats["threads"].as_u64().unwrap());
        assert!(decode_any(&output.stdout).contents(0, image.len()) == image);
    }
    assert!(used.is_sorted() && used[0] == 1 && used[3] == 8, "{used:?}");
    assert!(used[1..3].iter().any(|threads| (2..8).contains(threads)), "{used:?}");
}
