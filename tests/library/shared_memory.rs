//! Shared memories: a dump of a memory that threads write to is valid, has the planned length, and is right where they
//! do not write.
#![allow(unsafe_code, reason = "implements a handle of memory that other threads write to")]

use crate::common;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Random, Stop, decode};
use corestream::{
    CoreDump, Dumper, ErrorKind, Memory, MemoryImage, MemoryType, Piece, SharedBytes,
};

const PAGE: usize = 65_536;

/// A byte range of shared words.
#[derive(Clone)]
struct Words {
    words: Arc<[AtomicU64]>,
    start: usize,
    len: Arc<AtomicU64>,
}

impl Words {
    fn new(len: usize) -> Self {
        let words = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        Self { words, start: 0, len: Arc::new(AtomicU64::new(len as u64)) }
    }

    fn set(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Relaxed);
    }

    fn resize(&self, len: usize) {
        self.len.store(len as u64, Ordering::Relaxed);
    }
}

// SAFETY: the words live as long as the handle, and all writes are atomic. One test makes the memory shorter, which is
// an error, but not unsafe.
unsafe impl SharedBytes for Words {
    fn bytes(&self) -> &[UnsafeCell<u8>] {
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).unwrap();
        assert!(self.start + len <= 8 * self.words.len());
        // SAFETY: the range is within the words, as asserted above.
        unsafe {
            let start = self.words.as_ptr().cast::<UnsafeCell<u8>>().add(self.start);
            std::slice::from_raw_parts(start, len)
        }
    }
}

fn dump_of(words: &Words) -> CoreDump<'static> {
    let image = MemoryImage::from_shared(words.clone());
    let pages = image.len().div_ceil(PAGE as u64);
    let ty = MemoryType::wasm32(pages).with_maximum(pages).with_shared();
    let mut dump = CoreDump::new("shared");
    dump.add_memory(Memory::new(ty, image));
    dump
}

/// Without writers, the dump has the content of a dump of the same bytes as a slice, at every alignment.
#[test]
fn dumps_a_shared_memory_like_a_slice() {
    let mut random = Random(4);
    let len = 3 * PAGE;
    let mut words = Words::new(len);
    for i in 0..200 {
        words.set(i * 3, random.next());
        words.set(random.below(len as u64 / 8), random.next() & 0xff00);
    }
    let bytes: Vec<_> =
        words.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
    for start in 0..17 {
        for cut in [0, 1, 9] {
            words.start = start;
            words.resize(len - start - cut);
            let shared = dump_of(&words);
            let mut borrowed = CoreDump::new("shared");
            let image = MemoryImage::from_slice(&bytes[start..len - cut]);
            borrowed.add_memory(Memory::new(shared.memories[0].ty, image));
            let dumper = Dumper::new().trust_holes(false);
            let expected = dumper.plan(&borrowed).unwrap();
            let plan = dumper.plan(&shared).unwrap();
            assert_eq!(plan.segments(), expected.segments(), "from {start}");
            let [plan, expected] = [plan, expected].map(|plan| plan.to_vec().unwrap());
            let contents = |bytes: &[u8]| decode(bytes).contents(0, len);
            assert!(contents(&plan) == contents(&expected), "from {start}");
        }
    }
}

#[test]
fn borrows_no_byte_of_a_shared_memory() {
    let words = Words::new(PAGE);
    words.set(0, 1);
    let image = MemoryImage::from_shared(words.clone());
    assert!(image.is_changing());
    assert_eq!(image.as_slice(), None);
    assert_eq!(image.len(), PAGE as u64);
    assert!(!MemoryImage::from_slice(&[1]).is_changing());

    /// A sink that rejects pieces within the memory.
    struct NothingBorrowed(std::ops::Range<usize>);

    impl corestream::Sink for NothingBorrowed {
        fn put(&mut self, pieces: &[Piece<'_>]) -> std::io::Result<usize> {
            for piece in pieces {
                assert!(piece.file.is_none());
                let bytes = piece.bytes.as_ptr_range();
                let (start, end) = (bytes.start.addr(), bytes.end.addr());
                assert!(end <= self.0.start || self.0.end <= start);
            }
            Ok(pieces.iter().map(|piece| piece.bytes.len()).sum())
        }
    }

    let range = words.words.as_ptr_range();
    let mut sink = NothingBorrowed(range.start.addr()..range.end.addr());
    let dump = dump_of(&words);
    Dumper::new().plan(&dump).unwrap().write_to(&mut sink).unwrap();
}

#[test]
fn dumps_while_threads_write() {
    let len = 64 * PAGE;
    let words = Words::new(len);
    // The first word of each 4 KiB does not change. The others change between zero and all ones.
    let stays = |i: usize| i.is_multiple_of(512);
    for i in (0..len / 8).filter(|i| stays(*i)) {
        words.set(i, i as u64 + 1);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in [7, 8] {
            let (words, stop) = (&words, &stop);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    let i = random.below(len as u64 / 8);
                    if !stays(i) {
                        words.set(i, if random.below(2) == 0 { 0 } else { u64::MAX });
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        for max_segments in [1, 10, 100_000] {
            for threads in [1, 2] {
                let dump = dump_of(&words);
                let dumper = Dumper::new().max_segments(max_segments).threads(threads);
                let plan = dumper.plan(&dump).unwrap();
                for _ in 0..2 {
                    let bytes = plan.to_vec().unwrap();
                    assert_eq!(bytes.len() as u64, plan.len());
                    // This validates the dump.
                    let decoded = decode(&bytes);
                    assert_eq!(decoded.segments.len(), plan.segments().len());
                    let contents = decoded.contents(0, len);
                    for (i, word) in contents.as_chunks::<8>().0.iter().enumerate() {
                        match stays(i) {
                            true => assert_eq!(u64::from_ne_bytes(*word), i as u64 + 1),
                            // A word can be half old and half new at the end of a read.
                            false => assert!(word.iter().all(|b| matches!(b, 0 | 0xff))),
                        }
                    }
                }
            }
        }
    });
}

/// The image has the length from when it was created. A memory that is shorter by now is an error.
#[test]
fn rejects_a_memory_that_shrank() {
    let words = Words::new(4 * PAGE);
    words.resize(2 * PAGE);
    words.set(1, 1);
    words.set(2 * PAGE / 8 - 1, 1);
    let dump = dump_of(&words);
    let plan = Dumper::new().max_segments(1).plan(&dump).unwrap();
    words.resize(4 * PAGE);
    words.set(3 * PAGE / 8, 1);
    let again = Dumper::new().max_segments(1).plan(&dump).unwrap();
    assert!(plan.to_vec().unwrap() == again.to_vec().unwrap());
    assert_eq!(plan.stats().image_bytes, 2 * PAGE as u128);

    words.resize(PAGE);
    let error = plan.to_vec().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image);
    assert!(error.to_string().starts_with("a shared memory ends at 0x10000"), "{error}");
    assert_eq!(Dumper::new().plan(&dump).unwrap_err().kind(), ErrorKind::Image);
}
