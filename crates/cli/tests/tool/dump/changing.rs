//! Images that another process writes to while they are dumped: the dump is valid and marked, and the tool warns. Images
//! that cannot change are written without a copy, and are not marked.
#![allow(unsafe_code, reason = "writers map the image, and descriptors are passed to the tool")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corestream::read::{IntactDump, Verdict, Verifier};
use corestream::{
    Change, CoreDump, CoreDumpFile, Dumper, FileSink, Memory, MemoryImage, MemoryIndex, MemoryType,
    Piece, PipeSink, Sink, SocketSink,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;

use crate::ends::ends;
use crate::environment::{self, require};
use crate::tool::{corestream, ok, run, stderr, tool_path, write_image};
use crate::{mapped, strace, tool};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Returns a directory with an image `guest.mem` that no process has open, and the path of the image.
fn directory(len: usize) -> (TempDir, PathBuf) {
    directory_in(&std::env::temp_dir(), len)
}

fn directory_in(parent: &Path, len: usize) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(parent).unwrap();
    let path = directory.path().join("guest.mem");
    let bytes: Vec<u8> = (0..len).map(|i| (i / 7 % 251 + 1).to_le_bytes()[0]).collect();
    write_image(&path, bytes);
    (directory, path)
}

/// Writes to an image until it is dropped.
struct Writer {
    stop: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// Through a shared mapping whose descriptor is closed.
    Mapping,
    /// By `pwrite`.
    Pwrite,
    /// Through a shared mapping, whole pages that alternate between zeros and other bytes.
    ZeroPages,
}

impl Writer {
    fn start(path: &Path, how: How) -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let file = File::options().read(true).write(true).open(path).unwrap();
        let map = memmap2::MmapRaw::map_raw(&file).unwrap();
        let mut file = match how {
            How::Pwrite => Some(file),
            How::Mapping | How::ZeroPages => None,
        };
        let work = move || {
            for round in (1_u8..=250).cycle() {
                for at in (0..map.len()).step_by(PAGE) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match (&mut file, how) {
                        (Some(file), _) => file.write_all_at(&[round], at as u64).unwrap(),
                        (None, How::ZeroPages) => {
                            let value = if round.is_multiple_of(2) { 0 } else { round };
                            (at..at + PAGE).for_each(|at| store(&map, at, value));
                        }
                        (None, _) => store(&map, at, round),
                    }
                }
            }
        };
        Self { stop, thread: Some(thread::spawn(work)) }
    }
}

fn store(map: &memmap2::MmapRaw, at: usize, value: u8) {
    assert!(at < map.len());
    // SAFETY: the byte is in the mapping, which outlives the reference, and this process accesses it only by atomics.
    let byte = unsafe { AtomicU8::from_ptr(map.as_mut_ptr().add(at)) };
    byte.store(value, Ordering::Relaxed);
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || joined.is_none_or(|joined| joined.is_ok()));
    }
}

fn start(directory: &Path, args: &[&str], stdout: impl Into<Stdio>) -> Child {
    corestream(directory, args).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs the tool with its output to one of [`TARGETS`]. Returns what it printed, and the dump that arrived.
fn dump_to(target: &str, directory: &Path, args: &[&str]) -> (Output, Vec<u8>) {
    let new = directory.join("new.core");
    let run =
        |args: &[&str], stdout: Stdio| start(directory, args, stdout).wait_with_output().unwrap();
    if target == "file" {
        let output = run(&[args, &["-o", "new.core", "--force"]].concat(), Stdio::null());
        return (output, fs::read(new).unwrap_or_default());
    }
    let args = [args, &["-o", "-"]].concat();
    if target == "standard output" {
        let output = run(&args, File::create(&new).unwrap().into());
        return (output, fs::read(new).unwrap());
    }
    let (reader, writer) = ends(target);
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes).unwrap();
        bytes
    });
    let output = run(&args, writer.into());
    (output, reading.join().unwrap())
}

/// Verifies a dump, which must be intact.
#[track_caller]
fn whole(bytes: &[u8]) -> IntactDump {
    match Verifier::new().threads(2).verify(bytes).unwrap() {
        Verdict::Intact(whole) => whole,
        Verdict::Damaged(damage) => panic!("{damage}"),
    }
}

const TARGETS: [&str; 5] = ["file", "standard output", "pipe", "unix", "tcp"];

#[test]
fn marks_an_image_that_is_written_to() {
    let (directory, path) = directory(16 * MIB);
    for how in [How::Mapping, How::Pwrite] {
        let _writer = Writer::start(&path, how);
        for (target, memory) in
            TARGETS.into_iter().flat_map(|t| [(t, "guest.mem"), (t, "guest.mem,changing")])
        {
            let (output, bytes) = dump_to(target, directory.path(), &["dump", "--memory", memory]);
            let printed = stderr(&output);
            assert!(output.status.success(), "{how:?} to {target}: {printed}");
            assert_eq!(whole(&bytes).changing, [MemoryIndex(0)], "{how:?} to {target}");
            let start = "corestream: warning: guest.mem: was ";
            let end = " while it was dumped; the dump may contain old and new bytes, and marks memory 0 \
                       as changing\n";
            assert!(printed.starts_with(start) && printed.ends_with(end), "{how:?}: {printed}");
            assert_eq!(printed.lines().count(), 1);
        }
    }
}

/// Opens a file with each constructor of the library.
fn images(path: &Path) -> [(&'static str, MemoryImage<'static>); 5] {
    [
        ("open", MemoryImage::open(path).unwrap()),
        ("from_file", MemoryImage::from_file(File::open(path).unwrap()).unwrap()),
        ("map", mapped::open(path)),
        ("map_file", mapped::from_file(File::open(path).unwrap())),
        ("mark_changing", mapped::open(path).mark_changing()),
    ]
}

fn dump_of(image: MemoryImage<'_>) -> CoreDump<'_> {
    let pages = image.len().div_ceil(65_536);
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm32(pages), image));
    dump
}

#[test]
fn every_constructor_and_sink_of_the_library_marks_the_image() {
    let (directory, path) = directory(4 * MIB);
    let _writer = Writer::start(&path, How::Mapping);
    for (name, image) in images(&path) {
        let dump = dump_of(image);
        for threads in [1, 2] {
            let plan = Dumper::new().threads(threads).plan(&dump).unwrap();
            let mut all = vec![plan.to_vec().unwrap()];
            for kind in ["pipe", "unix", "tcp"] {
                let (reader, writer) = ends(kind);
                let reading = thread::spawn(move || {
                    let mut bytes = Vec::new();
                    File::from(reader).read_to_end(&mut bytes).unwrap();
                    bytes
                });
                match kind {
                    "pipe" => plan.write_to(&mut PipeSink::new(&writer)).unwrap(),
                    _ => plan.write_to(&mut SocketSink::new(&writer)).unwrap(),
                }
                drop(writer);
                all.push(reading.join().unwrap());
            }
            let file = File::create(directory.path().join("new")).unwrap();
            plan.write_to(&mut FileSink::new(&file)).unwrap();
            all.push(fs::read(directory.path().join("new")).unwrap());
            for bytes in all {
                assert_eq!(whole(&bytes).changing, [MemoryIndex(0)], "{name}");
            }
            let changes: Vec<_> = plan.changes().map(|(memory, _)| memory).collect();
            assert_eq!(changes, [MemoryIndex(0)], "{name}");
        }
    }
}

/// The scan looks at some bytes twice. Pages that become zero in between make no empty segments.
fn check_zeroed_pages(rounds: usize) {
    let (_directory, path) = directory(MIB);
    let _writers = [Writer::start(&path, How::ZeroPages), Writer::start(&path, How::ZeroPages)];
    let dump = dump_of(mapped::open(&path));
    for round in 0..rounds {
        let dumper =
            Dumper::new().max_segments([1, 3, 40, 100_000][round % 4]).threads(1 + round % 2);
        let plan = dumper.plan(&dump).unwrap();
        assert!(plan.segments().iter().all(|segment| segment.len > 0), "round {round}");
        whole(&plan.to_vec().unwrap());
    }
}

#[test]
fn pages_that_become_zero_during_the_scan_make_no_empty_segments() {
    check_zeroed_pages(40);
}

#[test]
#[ignore = "slow: 5 s"]
fn pages_that_become_zero_during_any_of_many_scans_make_no_empty_segments() {
    check_zeroed_pages(600);
}

#[test]
fn neither_marks_nor_warns_of_an_image_that_does_not_change() {
    let (directory, path) = directory(4 * MIB);
    for target in TARGETS {
        let args = ["dump", "--memory", "guest.mem", "--stats", "json"];
        let (output, bytes) = dump_to(target, directory.path(), &args);
        let printed = stderr(&output);
        assert!(output.status.success() && !printed.contains("warning"), "{target}: {printed}");
        let stats: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(stats["changing_memories"], serde_json::json!([]));
        assert_eq!(whole(&bytes).changing, [], "{target}");
    }
    // A rename changes the times of a file, but not its bytes.
    let dump = dump_of(MemoryImage::open(&path).unwrap());
    let plan = Dumper::new().plan(&dump).unwrap();
    fs::rename(&path, directory.path().join("renamed.mem")).unwrap();
    assert_eq!(whole(&plan.to_vec().unwrap()).changing, []);
}

/// A shared mapping without a descriptor counts as a writer, even if nothing writes to it.
#[test]
fn marks_an_image_with_a_writable_mapping() {
    let (directory, path) = directory(MIB);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    drop(file);
    let args = ["dump", "--memory", "guest.mem", "--stats", "json"];
    let (output, bytes) = dump_to("file", directory.path(), &args);
    let printed = stderr(&output);
    let (warning, stats) = printed.split_once('\n').unwrap();
    assert_eq!(
        warning,
        "corestream: warning: guest.mem: was open for writing while it was dumped; the dump may contain old and new bytes, and marks memory 0 as changing"
    );
    let stats: serde_json::Value = serde_json::from_str(stats).unwrap();
    assert_eq!(stats["changing_memories"], serde_json::json!([0]));
    assert_eq!(whole(&bytes).changing, [MemoryIndex(0)]);
    drop(map);
}

/// A writer that runs `interlude` at the first write.
struct Interlude<'i>(Option<Box<dyn FnOnce() + 'i>>);

impl Write for Interlude<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(interlude) = self.0.take() {
            interlude();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer opens the image, writes and closes it during the dump, when the image has had some `age`. On tmpfs, a page that
/// was read through a mapping can be written without a change of the times.
fn check_writer_during_the_dump(age: Duration) {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm } else { &std::env::temp_dir() };
    let (_directory, path) = directory_in(parent, MIB);
    let write_through_mapping = || {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let map = memmap2::MmapRaw::map_raw(&file).unwrap();
        // SAFETY: the first two bytes are in the mapping, which is accessed only by atomics.
        let [first, second] =
            [0, 1].map(|i| unsafe { AtomicU8::from_ptr(map.as_mut_ptr().add(i)) });
        // The read makes the page writable, so the kernel does not see the write. The bytes differ because a read and a
        // write of the same byte can become a single instruction.
        let value = second.load(Ordering::Relaxed);
        first.store(value.wrapping_add(100), Ordering::Relaxed);
    };
    let pwrite = || {
        File::options().write(true).open(&path).unwrap().write_all_at(b"new", 9).unwrap();
    };
    type Work<'w> = Box<dyn FnOnce() + 'w>;
    let works: [(&str, Work<'_>, Option<Change>); 4] = [
        ("nothing", Box::new(|| {}), None),
        ("read", Box::new(|| drop(fs::read(&path).unwrap())), None),
        ("mapping", Box::new(write_through_mapping), Some(Change::Writable)),
        ("pwrite", Box::new(pwrite), Some(Change::Written)),
    ];
    thread::sleep(age);
    for (name, work, expected) in works {
        let dump = dump_of(MemoryImage::open(&path).unwrap());
        let plan = Dumper::new().plan(&dump).unwrap();
        plan.write_to(&mut Interlude(Some(work))).unwrap();
        let change = plan.changes().next().map(|(_, change)| change);
        // Without leases, the times can tell more.
        assert_eq!(change.is_some(), expected.is_some(), "{name}: {change:?}");
        assert!(change >= expected, "{name}: {change:?}");
        // The mark stays.
        assert_eq!(whole(&plan.to_vec().unwrap()).changing.len(), usize::from(change.is_some()));
    }
    if parent == shm {
        // Removing the name does not change the contents.
        let dump = dump_of(MemoryImage::open(&path).unwrap());
        let plan = Dumper::new().plan(&dump).unwrap();
        let remove = || fs::remove_file(&path).unwrap();
        plan.write_to(&mut Interlude(Some(Box::new(remove)))).unwrap();
        assert_eq!(plan.changes().next(), None);
    }
}

#[test]
fn notices_a_writer_during_the_dump() {
    check_writer_during_the_dump(Duration::ZERO);
}

/// The times of an image count only when it is older than some seconds.
#[test]
#[ignore = "slow: 6 s"]
fn notices_a_writer_during_the_dump_of_an_older_image() {
    check_writer_during_the_dump(Duration::from_secs(6));
}

#[test]
fn the_option_changing_marks_any_image_without_a_warning() {
    let (directory, path) = directory(MIB);
    let memfd = File::from(memfd_create("guest", MemfdFlags::ALLOW_SEALING).unwrap());
    (&memfd).write_all(&fs::read(&path).unwrap()).unwrap();
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let memfd = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
    for image in ["guest.mem", &memfd] {
        let manifest = serde_json::json!({ "name": "guest.mem", "memories": [
            { "image": image, "changing": true },
            { "image": image },
            { "minimum": 3, "changing": true },
        ]});
        fs::write(directory.path().join("manifest.json"), manifest.to_string()).unwrap();
        let plain = ["dump", "--memory", &format!("{image},memory64,changing"), "--name", "x"];
        for (args, marked) in
            [(&plain[..], &[0][..]), (&["dump", "--manifest", "manifest.json"], &[0, 2])]
        {
            for target in ["file", "pipe"] {
                let (output, bytes) = dump_to(target, directory.path(), args);
                assert_eq!(stderr(&output), "", "{args:?}");
                let changing: Vec<_> = whole(&bytes).changing.iter().map(|m| m.0).collect();
                assert_eq!(changing, marked, "{args:?}");
            }
        }
    }
    let ok = |args: &[&str]| ok(directory.path(), args);
    // The last dump to a file is of the manifest with the memfd.
    assert!(ok(&["inspect", "new.core"]).contains("coverage changing while read"));
    assert!(ok(&["verify", "new.core"]).contains("memories 0, 2 changing while read"));
    let json = tool::json(directory.path(), ["inspect", "--json", "new.core"]);
    let marks: Vec<_> = (0..3).map(|i| json["memories"][i]["changing"].as_bool()).collect();
    assert_eq!(marks, [Some(true), None, Some(true)]);

    ok(&["extract", "new.core", "--all", "all"]);
    ok(&["dump", "--manifest", "all/manifest.json", "-o", "again.core"]);
    let [first, again] =
        ["new.core", "again.core"].map(|name| fs::read(directory.path().join(name)));
    assert!(first.unwrap() == again.unwrap(), "the mark survives the round trip");
}

/// How many bytes of an image a sink gets without a copy, and with their file.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    borrowed: u64,
    with_file: u64,
}

/// A sink that counts the bytes of pieces which are in `slice`.
struct Look<'s> {
    slice: &'s [u8],
    seen: Seen,
}

impl Sink for Look<'_> {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        for piece in pieces {
            let is_borrowed = self.slice.as_ptr_range().contains(&piece.bytes.as_ptr());
            let with_file = piece.file.is_some();
            self.seen.borrowed += if is_borrowed || with_file { piece.len() } else { 0 };
            self.seen.with_file += if with_file { piece.len() } else { 0 };
        }
        Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
    }
}

/// Dumps an image, which may be of a slice. Returns how the sink got its bytes, and whether the dump is marked.
fn seen_of(image: MemoryImage<'_>, slice: &[u8]) -> (Seen, bool) {
    let dump = dump_of(image);
    let plan = Dumper::new().plan(&dump).unwrap();
    let mut look = Look { slice, seen: Seen::default() };
    plan.write_to(&mut look).unwrap();
    let marked = !whole(&plan.to_vec().unwrap()).changing.is_empty();
    (look.seen, marked)
}

fn seen(image: MemoryImage<'_>) -> (Seen, bool) {
    seen_of(image, &[])
}

const LENT: Seen = Seen { borrowed: MIB as u64, with_file: MIB as u64 };
const BORROWED: Seen = Seen { borrowed: MIB as u64, with_file: 0 };
const COPIED: Seen = Seen { borrowed: 0, with_file: 0 };

#[test]
fn does_not_copy_an_image_that_cannot_change() {
    let (_directory, path) = directory(MIB);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(seen_of(MemoryImage::from_slice(&bytes), &bytes), (BORROWED, false));
    let changing = MemoryImage::from_slice(&bytes).mark_changing();
    assert_eq!(seen_of(changing, &bytes), (COPIED, true));
    assert_eq!(seen(MemoryImage::open(&path).unwrap()), (COPIED, false));
    assert_eq!(seen(mapped::open(&path)), (COPIED, false));
    for (seals, expected) in [
        (SealFlags::WRITE | SealFlags::SHRINK, (LENT, false)),
        (SealFlags::SHRINK | SealFlags::GROW, (COPIED, true)),
        // A mapping from before can still exist.
        (SealFlags::FUTURE_WRITE | SealFlags::SHRINK, (COPIED, true)),
    ] {
        let memfd = File::from(memfd_create("guest", MemfdFlags::ALLOW_SEALING).unwrap());
        memfd.write_all_at(&bytes, 0).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        let read = MemoryImage::from_file(memfd.try_clone().unwrap()).unwrap();
        assert_eq!(seen(read), (COPIED, expected.1), "{seals:?}");
        assert_eq!(seen(mapped::from_file(memfd)), expected, "{seals:?}");
    }
}

/// A file system that is mounted while this exists.
struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).unwrap();
        call("mount", &[args, &[at.to_str().unwrap()]].concat())?;
        Ok(Self(at.into()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = call("umount", &[self.0.to_str().unwrap()]);
    }
}

/// Runs a program, which must succeed.
fn call(command: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(command).args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

#[test]
fn lends_from_a_read_only_file_system_but_not_from_a_read_only_mount() {
    let (directory, path) = directory(MIB);
    let at = |name: &str| directory.path().join(name);
    let mounted = require!("mount", Mounted::new(&["-t", "tmpfs", "none"], &at("fs")));
    let image = at("fs").join("guest.mem");
    fs::copy(&path, &image).unwrap();
    let source = mounted.0.to_str().unwrap();
    let bind = Mounted::new(&["--bind", source], &at("bind")).unwrap();
    call("mount", &["-o", "remount,bind,ro", bind.0.to_str().unwrap()]).unwrap();
    // The bind mount is read-only, but the file system can be written to through its other mount.
    assert!(File::options().write(true).open(bind.0.join("guest.mem")).is_err());
    assert_eq!(seen(mapped::open(bind.0.join("guest.mem"))), (COPIED, false));

    call("mount", &["-o", "remount,ro", source]).unwrap();
    assert_eq!(seen(mapped::open(bind.0.join("guest.mem"))), (LENT, false));
    assert_eq!(seen(mapped::open(&image)), (LENT, false));
    assert_eq!(seen(MemoryImage::open(&image).unwrap()), (COPIED, false));
    for target in TARGETS {
        let args = ["dump", "--memory", image.to_str().unwrap()];
        let (output, bytes) = dump_to(target, directory.path(), &args);
        assert_eq!(stderr(&output), "");
        assert_eq!(whole(&bytes).changing, [], "{target}");
    }

    // The file system becomes writable before the end.
    let dump = dump_of(mapped::open(&image));
    let plan = Dumper::new().plan(&dump).unwrap();
    let remount = || call("mount", &["-o", "remount,rw", source]).unwrap();
    let error = plan.write_to(&mut Interlude(Some(Box::new(remount)))).unwrap_err();
    let message = "memory 0: the file system became writable while the image was dumped";
    assert_eq!(error.to_string(), message);

    // It becomes writable, is written to, and becomes read-only again before the end.
    for by_mapping in [false, true] {
        call("mount", &["-o", "remount,ro", source]).unwrap();
        let dump = dump_of(mapped::open(&image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let interlude = || {
            call("mount", &["-o", "remount,rw", source]).unwrap();
            let file = File::options().read(true).write(true).open(&image).unwrap();
            match by_mapping {
                true => store(&memmap2::MmapRaw::map_raw(&file).unwrap(), PAGE, 77),
                false => file.write_all_at(b"new", 0).unwrap(),
            }
            drop(file);
            call("mount", &["-o", "remount,ro", source]).unwrap();
        };
        let error = plan.write_to(&mut Interlude(Some(Box::new(interlude)))).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    // Without inotify, a remount would not be noticed, so the image is copied.
    if let Err(why) = strace::probe() {
        environment::report_missing("strace", why);
    } else {
        // Larger than a pipe, because the last bytes in a pipe are always copied.
        call("mount", &["-o", "remount,rw", source]).unwrap();
        fs::write(&image, vec![7; 4 * MIB]).unwrap();
        call("mount", &["-o", "remount,ro", source]).unwrap();
        for (injections, is_lent) in
            [(&[][..], true), (&["inotify_init1:error=EMFILE".into()], false)]
        {
            let log = directory.path().join("log");
            let mut command = strace::traced(&log, "inotify_init1,splice", injections);
            command.arg(tool_path()).stdout(Stdio::piped());
            command.args(["dump", "-o", "-", "--memory"]).arg(&image);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            whole(&output.stdout);
            assert_eq!(fs::read_to_string(&log).unwrap().contains("splice("), is_lent);
        }
    }
    drop(bind);
}

/// The times of an image that was not touched for some seconds reveal its writers. Then the dump needs no inotify instance,
/// which takes milliseconds to close.
#[test]
#[ignore = "slow: 6 s"]
fn notices_writers_by_the_times_of_an_older_image() {
    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("device");
    File::create(&device).unwrap().set_len(64 << 20).unwrap();
    let device = device.to_str().unwrap();
    let mounted = call("/usr/sbin/mkfs.ext4", &["-q", device])
        .and_then(|()| Mounted::new(&["-o", "loop", device], &directory.path().join("fs")));
    let mounted = require!("mount", mounted);
    let at = |name: &str| mounted.0.join(name);
    let write_through_mapping = |path: &Path| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        store(&memmap2::MmapRaw::map_raw(&file).unwrap(), PAGE, 77);
    };
    let writable = |path: &Path| File::options().write(true).open(path).unwrap();
    type Work<'w> = &'w dyn Fn(&Path);
    let works: [(&str, Work<'_>, Option<Change>); 7] = [
        ("nothing", &|_| {}, None),
        ("read", &|path| drop(fs::read(path).unwrap()), None),
        ("renamed", &|path| fs::rename(path, at("other")).unwrap(), None),
        ("removed", &|path| fs::remove_file(path).unwrap(), None),
        ("mapping", &write_through_mapping, Some(Change::Written)),
        ("pwrite", &|path| writable(path).write_all_at(b"new", 9).unwrap(), Some(Change::Written)),
        ("longer", &|path| writable(path).set_len(5 << 20).unwrap(), Some(Change::Written)),
    ];
    for (name, ..) in &works {
        fs::write(at(name), vec![7; 4 * MIB]).unwrap();
    }
    fs::write(at("guest.mem"), vec![7; 4 * MIB]).unwrap();
    thread::sleep(Duration::from_secs(6));
    for (name, work, expected) in works {
        let dump = dump_of(MemoryImage::open(at(name)).unwrap());
        let plan = Dumper::new().plan(&dump).unwrap();
        plan.write_to(&mut Interlude(Some(Box::new(|| work(&at(name)))))).unwrap();
        let change = plan.changes().next().map(|(_, change)| change);
        assert_eq!(change, expected, "{name}");
        if expected.is_some() {
            // The image has just been written to, so its times do not reveal the next write.
            let dump = dump_of(MemoryImage::open(at(name)).unwrap());
            let plan = Dumper::new().plan(&dump).unwrap();
            let work = || writable(&at(name)).write_all_at(b"newer", 1).unwrap();
            plan.write_to(&mut Interlude(Some(Box::new(work)))).unwrap();
            assert_eq!(plan.changes().map(|(_, change)| change).next(), expected, "{name} again");
        }
    }

    // The image is lent if its file system is read-only, and no write is missed.
    let remount = |how: &str| call("mount", &["-o", how, mounted.0.to_str().unwrap()]).unwrap();
    remount("remount,ro");
    let image = at("guest.mem");
    if let Err(why) = strace::probe() {
        environment::report_missing("strace", why);
    } else {
        let log = directory.path().join("log");
        let mut command = strace::traced(&log, "inotify_init1,splice", &[]);
        command.arg(tool_path()).stdout(Stdio::piped());
        let output = command.args(["dump", "-o", "-", "--memory"]).arg(&image).output().unwrap();
        assert_eq!(stderr(&output), "");
        whole(&output.stdout);
        let calls = fs::read_to_string(&log).unwrap();
        assert!(calls.contains("splice(") && !calls.contains("inotify"), "{calls}");
    }
    for by_mapping in [true, false] {
        let dump = dump_of(mapped::open(&image));
        let plan = Dumper::new().plan(&dump).unwrap();
        let interlude = || {
            remount("remount,rw");
            match by_mapping {
                true => write_through_mapping(&image),
                false => writable(&image).write_all_at(b"new", 0).unwrap(),
            }
            remount("remount,ro");
        };
        let error = plan.write_to(&mut Interlude(Some(Box::new(interlude)))).unwrap_err();
        let message = "memory 0: the file system became writable while the image was dumped";
        assert_eq!(error.to_string(), message, "by mapping: {by_mapping}");
    }
}

/// Another process holds a write lease on the image, and gives it up when the kernel asks, as a file server does.
#[test]
fn waits_for_a_write_lease() {
    let (directory, path) = directory(MIB);
    let args = ["dump", "--memory", "guest.mem", "-o", "guest.core"];
    ok(directory.path(), args);
    for (name, args) in [
        ("guest.mem", &["dump", "--memory", "guest.mem", "-o", "-"][..]),
        ("guest.core", &["extract", "guest.core", "--memory", "0", "-o", "-"]),
        ("guest.core", &["verify", "guest.core"]),
        ("guest.core", &["inspect", "guest.core"]),
    ] {
        let file = File::open(path.with_file_name(name)).unwrap();
        // SAFETY: these commands take an integer, and the descriptor is open. The signal is ignored by default.
        let ask = |command: libc::c_int, value: libc::c_int| unsafe {
            libc::fcntl(file.as_raw_fd(), command, value)
        };
        const F_SETSIG: libc::c_int = 10;
        assert_eq!(ask(F_SETSIG, libc::SIGURG), 0);
        let leased = match ask(libc::F_SETLEASE, libc::F_WRLCK) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        require!("leases", leased);
        let child = start(directory.path(), args, Stdio::piped());
        while ask(libc::F_GETLEASE, 0) == libc::F_WRLCK {
            thread::sleep(Duration::from_millis(1));
        }
        // The tool waits for the lease.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(ask(libc::F_SETLEASE, libc::F_UNLCK), 0);
        drop(file);
        let output = child.wait_with_output().unwrap();
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{args:?}");
    }
}

/// Writers open the image again and again while the tool checks for writers. No signal ends the tool, and no open fails or
/// waits for long.
#[test]
fn checking_for_writers_sends_no_signal_and_delays_no_open() {
    let (directory, path) = directory(64 << 10);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let mut opened = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                File::options().write(true).open(&path).unwrap();
                opened += 1;
            }
            opened
        });
        for _ in 0..50 {
            let args = ["dump", "--memory", "guest.mem", "-o", "-"];
            let output = run(directory.path(), args);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            whole(&output.stdout);
        }
        stop.store(true, Ordering::Relaxed);
        // An open can wait up to 45 seconds for a lease.
        assert!(opening.join().unwrap() > 1000);
    });
}

/// The library uses a descriptor of its own for leases: signal and owner of the caller's descriptor stay as they are.
#[test]
fn does_not_change_the_descriptor_of_the_caller() {
    let (_directory, path) = directory(MIB);
    let file = File::open(&path).unwrap();
    let own = file.try_clone().unwrap();
    let dump = dump_of(MemoryImage::from_file(file).unwrap());
    Dumper::new().plan(&dump).unwrap().write_to(&mut io::sink()).unwrap();
    // SAFETY: these commands take no pointer, and the descriptor is open.
    let ask = |command| unsafe { libc::fcntl(own.as_raw_fd(), command) };
    const F_GETSIG: libc::c_int = 11;
    assert_eq!((ask(F_GETSIG), ask(libc::F_GETOWN)), (0, 0));
    assert_eq!(ask(libc::F_GETLEASE), libc::F_UNLCK);
}

/// A write during a dump to a slow output is noticed at the end.
#[test]
fn marks_a_write_during_a_slow_dump() {
    let (directory, path) = directory(8 * MIB);
    let (reader, writer) = ends("pipe");
    let args = ["dump", "--memory", "guest.mem", "-o", "-"];
    let child = start(directory.path(), &args, writer);
    let mut reader = File::from(reader);
    let mut bytes = vec![0; 4096];
    reader.read_exact(&mut bytes).unwrap();
    // The last byte was not read yet: pipe and buffers hold less than the image.
    let image = File::options().write(true).open(&path).unwrap();
    image.write_all_at(&[0xee], (8 * MIB - 1) as u64).unwrap();
    drop(image);
    thread::sleep(Duration::from_millis(10));
    reader.read_to_end(&mut bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(stderr(&output).contains("guest.mem: was written to"));
    assert_eq!(whole(&bytes).changing, [MemoryIndex(0)]);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let mut last = [0];
    dump.memory(MemoryIndex(0)).unwrap().read((8 * MIB - 1) as u64, &mut last).unwrap();
    assert_eq!(last, [0xee]);
}
