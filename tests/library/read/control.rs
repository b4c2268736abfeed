//! Cancelling and progress while a dump is opened or verified, within every list that can take long.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use corestream::read::{OpenOptions, ReadAt, Verifier};
use corestream::{
    Cancel, CoreDump, Dumper, ErrorKind, Frame, Memory, MemoryImage, MemoryType, Progress, Stage,
    Thread,
};

/// The length of a long list: the reader checks for cancellation more often.
const MANY: usize = 100_000;

/// Returns an unsigned LEB128 that is padded to five bytes.
fn leb(number: usize) -> Vec<u8> {
    let digit = |i: u32| u8::try_from(number >> (7 * i) & 0x7f).unwrap();
    vec![digit(0) | 0x80, digit(1) | 0x80, digit(2) | 0x80, digit(3) | 0x80, digit(4)]
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [vec![id], leb(body.len()), body.to_vec()].concat()
}

fn custom(name: &str, body: &[u8]) -> Vec<u8> {
    section(0, &[leb(name.len()), name.into(), body.to_vec()].concat())
}

/// Returns a list of `count` items.
fn list(count: usize, item: &[u8]) -> Vec<u8> {
    [leb(count), item.repeat(count)].concat()
}

/// Returns a dump by another tool with these sections and the required ones.
fn foreign(sections: &[Vec<u8>]) -> Vec<u8> {
    let mut dump = [b"\0asm\x01\0\0\0".to_vec(), custom("core", b"\0\x01p")].concat();
    for name in ["coremodules", "coreinstances"] {
        let is_there =
            |section: &Vec<u8>| section.windows(name.len()).any(|w| w == name.as_bytes());
        if !sections.iter().any(is_there) {
            dump.extend(custom(name, b"\0"));
        }
    }
    dump.extend(sections.concat());
    dump
}

/// Dumps that each have one long list, with the name of that list.
static DUMPS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(dumps);

fn dumps() -> Vec<(&'static str, Vec<u8>)> {
    let segments = section(11, &list(MANY, b"\0\x41\0\x0b\x01x"));
    let memory = section(5, b"\x01\0\x01");
    // This list has 24 MiB. The reader tries 4 KiB of frames at once.
    let frames = list(4 << 20, b"\0\0\x07\x03\0\0");
    let mut guest = CoreDump::new("guest");
    guest.add_thread(Thread::new("main").with_frames(vec![Frame::new(None, 1, 2); MANY]));
    let own_frames = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    // Every other one of 20,000 pages holds data.
    let mut image = vec![0; 20_000 * 4096];
    image.chunks_mut(8192).for_each(|pages| pages[..4096].fill(7));
    let mut guest = CoreDump::new("guest");
    let ty = MemoryType::wasm32(1250);
    guest.add_memory(Memory::new(ty, MemoryImage::from_slice(&image)));
    let indexed = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let plain = Dumper::new().plan(&CoreDump::new("guest")).unwrap().to_vec().unwrap();
    let appended = [plain, custom("x", b"").repeat(MANY)].concat();
    vec![
        ("modules", foreign(&[custom("coremodules", &list(MANY, b"\0\x01m"))])),
        ("instances", foreign(&[custom("coreinstances", &list(MANY, b"\0\0\0\0"))])),
        ("globals", foreign(&[section(6, &list(MANY, b"\x7f\x01\x41\0\x0b"))])),
        ("frames", foreign(&[custom("corestack", &[b"\0\x01t".to_vec(), frames].concat())])),
        ("segments", foreign(&[memory, segments])),
        ("sections", foreign(&[custom("x", b"").repeat(MANY)])),
        ("frames in the standard layout", own_frames),
        ("segments of an index", indexed),
        ("appended sections", appended),
    ]
}

/// A source that cancels when a byte from `at` on is read.
struct Cancelling<'b> {
    bytes: &'b [u8],
    at: u64,
    cancel: Cancel,
}

impl ReadAt for Cancelling<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.at {
            self.cancel.cancel("the test says so");
        }
        self.bytes.read_exact_at(buffer, offset)
    }
}

#[test]
fn cancels_opening_within_every_list() {
    for (what, bytes) in DUMPS.iter() {
        let options = OpenOptions::new();
        options.clone().open_source(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let cancel = Cancel::new();
        // The reader reads the index last, and a part of it before it first checks for cancellation there.
        let at = if what.contains("index") { bytes.len() as u64 - 1000 } else { 0 };
        let source = Cancelling { bytes, at, cancel: cancel.clone() };
        let result = options.cancel(Some(cancel)).open_source(source);
        let error = result.err().unwrap_or_else(|| panic!("{what}: not cancelled"));
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
        assert!(error.to_string().contains("the test says so"), "{error}");
    }
}

#[test]
fn cancels_verifying_within_every_list() {
    for (what, bytes) in DUMPS.iter() {
        let cancel = Cancel::new();
        let source = Cancelling { bytes, at: 0, cancel: cancel.clone() };
        let result = Verifier::new().cancel(Some(cancel)).verify(source);
        let error = result.err().unwrap_or_else(|| panic!("{what}: not cancelled"));
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
    }
}

/// Cancels at the first read of a checksum block. The verifier has one thread, so it must not read many blocks after that.
#[test]
fn cancels_verifying_between_blocks() {
    struct Blocks<'b> {
        bytes: &'b [u8],
        cancel: Cancel,
        count: AtomicU32,
    }

    impl ReadAt for Blocks<'_> {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            if buffer.len() >= 1 << 19 {
                self.count.fetch_add(1, Ordering::Relaxed);
                self.cancel.cancel("the test says so");
            }
            self.bytes.read_exact_at(buffer, offset)
        }
    }

    let image = vec![7; 16 << 20];
    let mut guest = CoreDump::new("guest");
    guest.add_memory(Memory::new(MemoryType::wasm32(256), MemoryImage::from_slice(&image)));
    let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let cancel = Cancel::new();
    let source = Blocks { bytes: &bytes, cancel: cancel.clone(), count: AtomicU32::new(0) };
    let error = Verifier::new().threads(1).cancel(Some(cancel)).verify(&source).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    let count = source.count.load(Ordering::Relaxed);
    assert!((1..=2).contains(&count), "{count} blocks were read");
}

/// A list of a few very long items.
#[test]
fn cancels_opening_between_long_items() {
    let mut instance = vec![0, 0];
    instance.extend(list(1_000_000, b"\0"));
    instance.push(0);
    let bytes = foreign(&[custom("coreinstances", &list(40, &instance))]);
    let cancel = Cancel::new();
    let source = Cancelling { bytes: &bytes, at: 10 << 20, cancel: cancel.clone() };
    let options = OpenOptions::new().cancel(Some(cancel.clone()));
    assert_eq!(options.open_source(source).unwrap_err().kind(), ErrorKind::Cancelled);

    let log = Log::default();
    OpenOptions::new().progress(log.watcher()).open_source(&bytes).unwrap();
    assert!(log.take().len() > 20);
}

#[test]
fn does_not_begin_cancelled_work() {
    let own = Dumper::new().plan(&CoreDump::new("guest")).unwrap().to_vec().unwrap();
    for bytes in [own, foreign(&[])] {
        let cancel = Cancel::new();
        cancel.cancel("never mind");
        let cancel = Some(cancel);
        let opened = OpenOptions::new().cancel(cancel.clone()).open_source(&bytes);
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Cancelled);
        let verifier = Verifier::new().cancel(cancel);
        assert_eq!(verifier.verify(&bytes).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(verifier.verify_stream(&bytes[..]).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

/// The damaged dump has lost its header, so the reader searches it for the name of the index.
#[test]
fn cancels_the_search_for_an_index() {
    /// The first bytes of a dump, and gigabytes of other bytes.
    struct Long(Cancel);

    impl ReadAt for Long {
        fn len(&self) -> io::Result<u64> {
            Ok(4 << 30)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            if offset > 1 << 20 {
                assert!(!self.0.is_cancelled(), "a read after the cancellation");
                self.0.cancel("enough");
            }
            buffer.fill(0xff);
            b"\0asm\x01\0\0\0"[..].iter().enumerate().for_each(|(i, byte)| {
                if let Some(to) =
                    i.checked_sub(usize::try_from(offset).unwrap()).and_then(|i| buffer.get_mut(i))
                {
                    *to = *byte;
                }
            });
            Ok(())
        }
    }

    let cancel = Cancel::new();
    let options = OpenOptions::new().salvage(true).cancel(Some(cancel.clone()));
    let error = options.open_source(Long(cancel)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

/// Records the progress of a stage.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Progress>>>);

impl Log {
    fn watcher(&self) -> impl Fn(Progress) + Send + Sync + 'static + use<> {
        let log = self.0.clone();
        move |progress| log.lock().unwrap().push(progress)
    }

    /// Takes the record. Checks that it never goes back, and has one stage and one total.
    fn take(&self) -> Vec<Progress> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        assert!(told.is_sorted_by_key(|progress| progress.done), "{told:?}");
        assert!(told.iter().all(|p| (p.stage, p.total) == (told[0].stage, told[0].total)));
        told
    }
}

#[test]
fn reports_progress_within_long_lists() {
    for (what, bytes) in DUMPS.iter() {
        let len = bytes.len() as u64;
        let log = Log::default();
        OpenOptions::new().progress(log.watcher()).open_source(bytes).unwrap();
        let told = log.take();
        let (first, last) = (told[0], told[told.len() - 1]);
        assert_eq!((first.stage, first.done, first.total), (Stage::Open, 0, len), "{what}");
        assert_eq!(last.done, len, "{what}");
        let complete = told.iter().filter(|progress| progress.done == len).count();
        assert!(complete <= 2, "{what}: all bytes were reported {complete} times");
        let of_a_list = |told: &[Progress]| told.iter().filter(|p| p.done % len != 0).count();
        if !what.contains("index") && !what.contains("appended") {
            assert!(of_a_list(&told) >= 1, "{what}: {told:?}");
        }

        // With checksums, bytes count when their checksum is computed, and without them when they are parsed.
        assert!(Verifier::new().progress(log.watcher()).verify(bytes).unwrap().is_intact());
        let told = log.take();
        assert_eq!((told[0].stage, told[0].done, told[0].total), (Stage::Verify, 0, len));
        assert_eq!(told[told.len() - 1].done, len, "{what}");
        assert!(of_a_list(&told) >= 1, "{what}: {told:?}");
    }
}

#[test]
fn reports_all_bytes_of_a_stream() {
    let mut image = vec![0; 3 << 20];
    image[..2 << 20].fill(7);
    let mut guest = CoreDump::new("guest");
    guest.add_memory(Memory::new(MemoryType::wasm32(48), MemoryImage::from_slice(&image)));
    let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let log = Log::default();
    let verifier = Verifier::new().progress(log.watcher());
    assert!(verifier.verify_stream(&bytes[..]).unwrap().is_intact());
    let told = log.take();
    let last = told[told.len() - 1];
    let len = bytes.len() as u64;
    assert_eq!((last.stage, last.done, last.total), (Stage::Verify, len, len));
    // A dump of another tool does not state its length.
    let bytes = foreign(&[]);
    assert!(verifier.verify_stream(&bytes[..]).unwrap().is_intact());
    assert_eq!(log.take(), []);
}

/// The stream fails while the work is cancelled.
#[test]
fn reports_the_failure_of_a_cancelled_stream() {
    struct Failing(Cancel);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.cancel("too late");
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    let cancel = Cancel::new();
    let verifier = Verifier::new().cancel(Some(cancel.clone()));
    let error = verifier.verify_stream(Failing(cancel.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::ConnectionReset);
    // The next one does not even begin.
    let error = verifier.verify_stream(Failing(cancel)).unwrap_err();
    assert_eq!((error.kind(), error.io_error().is_none()), (ErrorKind::Cancelled, true));
}
