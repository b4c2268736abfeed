//! Sources that do not know their length, and sources that change: old bytes, new bytes or an error, and no panic.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use corestream::read::{Content, MemoryView, ReadAt, Verifier};
use corestream::{CoreDumpFile, ErrorKind};

use super::{dumps, long, open, said, shown};
use crate::common::Random;
use crate::questions::{Answers, QUESTIONS, ask, without_files};

/// A source with a length of its own.
struct WithLen<'b, F>(&'b [u8], F);

impl<F: Fn() -> io::Result<u64> + Send + Sync> ReadAt for WithLen<'_, F> {
    fn len(&self) -> io::Result<u64> {
        self.1()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

#[test]
fn a_source_that_says_less_is_a_dump_that_is_cut() {
    for (name, bytes) in dumps().iter().filter(|(_, bytes)| bytes.len() < 10_000) {
        for len in 0..bytes.len() {
            let (source, cut) = (WithLen(bytes, || Ok(len as u64)), &bytes[..len]);
            for salvage in [false, true] {
                let of = |source| shown(open(source, salvage), said);
                assert_eq!(of(&source), of(&cut), "{name}: {len} bytes");
            }
            let verdict = |source| {
                shown(Verifier::new().threads(1).verify(source), |verdict| format!("{verdict:?}"))
            };
            assert_eq!(verdict(&source as &dyn ReadAt), verdict(&cut), "{name}: {len} bytes");
        }
    }
}

#[test]
fn a_source_that_says_more_is_an_error() {
    for (name, bytes) in dumps() {
        let real = bytes.len() as u64;
        for more in [1, 100, 1 << 20, 1 << 40, u64::MAX - real] {
            let source = WithLen(&bytes, || Ok(real + more));
            for salvage in [false, true] {
                let Err(error) = open(&source, salvage) else {
                    panic!("{name}, {more} bytes more: it opens");
                };
                assert_eq!(error.kind(), ErrorKind::Input, "{name}, {more} bytes more: {error}");
            }
            let error = Verifier::new().threads(2).verify(&source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input, "{name}, {more} bytes more: {error}");
        }
    }
}

#[test]
fn a_length_that_cannot_be_told_is_an_error() {
    for (name, bytes) in dumps() {
        let source = WithLen(&bytes, || Err(io::ErrorKind::ConnectionReset.into()));
        let opened = [false, true].map(|salvage| open(&source, salvage).err().unwrap());
        for error in opened.into_iter().chain([Verifier::new().verify(&source).unwrap_err()]) {
            assert_eq!(error.kind(), ErrorKind::Input, "{name}");
            assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::ConnectionReset, "{name}");
        }
    }
}

#[test]
fn the_length_is_asked_for_once() {
    for (name, bytes) in dumps() {
        let calls = AtomicUsize::new(0);
        // Another length from the second call on.
        let len = || match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(bytes.len() as u64),
            call => Ok([0, 1, u64::MAX][call % 3]),
        };
        let source = WithLen(&bytes, len);
        for salvage in [false, true] {
            calls.store(0, Ordering::Relaxed);
            let dump = open(&source, salvage).unwrap();
            let expected = ask(&open(&bytes, salvage).unwrap(), &QUESTIONS);
            for (answers, expected) in ask(&dump, &QUESTIONS).iter().zip(&expected) {
                answers.assert_all(expected, name);
            }
            assert_eq!((dump.len(), calls.load(Ordering::Relaxed)), (bytes.len() as u64, 1));
        }
        calls.store(0, Ordering::Relaxed);
        let verdict = Verifier::new().threads(2).verify(&source).unwrap();
        assert_eq!(verdict, Verifier::new().threads(1).verify(&bytes).unwrap(), "{name}");
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{name}");
    }
}

/// A source of which only the first bytes can be read any more.
struct Shrinking<'b>(&'b [u8], AtomicU64);

impl ReadAt for Shrinking<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.1.load(Ordering::Relaxed))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let len = usize::try_from(self.1.load(Ordering::Relaxed)).unwrap();
        self.0[..len].read_exact_at(buffer, offset)
    }
}

#[test]
fn a_dump_that_becomes_shorter_is_an_error() {
    for (name, bytes) in dumps() {
        let whole = bytes.len() as u64;
        let source = Shrinking(&bytes, AtomicU64::new(whole));
        let dump = open(&source, false).unwrap();
        let expected = ask(&dump, without_files());
        let mut failed = 0;
        for len in (0..bytes.len() as u64).step_by(bytes.len() / 300 + 1) {
            source.1.store(len, Ordering::Relaxed);
            for ((about, ask), expected) in without_files().iter().zip(&expected) {
                let what = format!("{name}: {about} with {len} bytes");
                let answers = ask(&dump);
                match &answers.error {
                    Some(error) => {
                        assert_eq!(error.kind(), ErrorKind::Input, "{what}: {error}");
                        let kind = error.io_error().unwrap().kind();
                        assert_eq!(kind, io::ErrorKind::UnexpectedEof, "{what}: {error}");
                        answers.assert_first(expected, &what);
                        failed += 1;
                    }
                    None => answers.assert_all(expected, &what),
                }
            }
        }
        assert!(failed > 100, "{name}: {failed}");
        source.1.store(whole, Ordering::Relaxed);
        for (answers, expected) in ask(&dump, without_files()).iter().zip(&expected) {
            answers.assert_all(expected, name);
        }
    }
}

#[test]
fn the_first_error_ends_every_list() {
    let bytes = long();
    let source = Shrinking(&bytes, AtomicU64::new(bytes.len() as u64));
    let dump = open(&source, false).unwrap();
    source.1.store(0, Ordering::Relaxed);
    let count = |items: &mut dyn Iterator<Item = bool>| items.take(2).collect::<Vec<_>>();
    for (what, are_errors) in [
        ("modules", count(&mut dump.modules().map(|item| item.is_err()))),
        ("notes", count(&mut dump.notes().map(|item| item.is_err()))),
        ("identities", count(&mut dump.module_identities().map(|item| item.is_err()))),
        ("instances", count(&mut dump.instances().map(|item| item.is_err()))),
        ("globals", count(&mut dump.globals().map(|item| item.is_err()))),
        ("threads", count(&mut dump.threads().map(|item| item.is_err()))),
    ] {
        assert_eq!(are_errors, [true], "{what}");
    }
}

/// A source whose bytes become others, at some read or at once.
struct Changing {
    bytes: RwLock<Vec<u8>>,
    new: Vec<u8>,
    left: AtomicUsize,
}

impl Changing {
    /// One that has these bytes, and `new` ones from read `k` on.
    fn at(bytes: &[u8], new: Vec<u8>, k: usize) -> Self {
        Self { bytes: RwLock::new(bytes.to_vec()), new, left: AtomicUsize::new(k) }
    }
}

impl ReadAt for Changing {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().unwrap().len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.wrapping_sub(1), Ordering::Relaxed);
        if left == 0 {
            self.bytes.write().unwrap().copy_from_slice(&self.new);
        }
        self.bytes.read().unwrap().as_slice().read_exact_at(buffer, offset)
    }
}

/// Checks answers that may be of old and of new bytes.
fn assert_old_or_new(found: &Answers, old: &Answers, new: &Answers, what: &str) {
    if let Some(error) = &found.error {
        use ErrorKind::{Damaged, Format, Input, Truncated, Unsupported};
        let kinds = [Truncated, Damaged, Format, Input, Unsupported];
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
    }
    for (i, item) in found.items.iter().enumerate() {
        let is_one = [old, new].iter().any(|answers| answers.items.get(i) == Some(item));
        assert!(
            is_one,
            "{what}: {item}, which was {:?}, is {:?}",
            old.items.get(i),
            new.items.get(i)
        );
    }
}

/// The answers of a dump whose bytes have changed, to all questions but that of its verdict.
fn after_a_change(dump: &CoreDumpFile<'_>, source: &Changing, new: &[u8]) -> Vec<Answers> {
    let old = std::mem::replace(&mut *source.bytes.write().unwrap(), new.to_vec());
    let answers = ask(dump, without_files());
    *source.bytes.write().unwrap() = old;
    answers
}

#[test]
fn a_dump_that_changes_after_it_was_opened_gives_old_bytes_or_new_ones() {
    for (name, bytes) in dumps().iter().filter(|(_, bytes)| bytes.len() < 3000) {
        let source = Changing::at(bytes, Vec::new(), usize::MAX);
        let dump = open(&source, false).unwrap();
        let old = ask(&dump, without_files());
        for i in 0..bytes.len() {
            // One change of each byte of a long dump.
            let masks = [0x01, 0x80, 0xff];
            for mask in if bytes.len() < 500 { &masks[..] } else { &masks[i % 3..=i % 3] } {
                let mut new = bytes.clone();
                new[i] ^= mask;
                let answers = after_a_change(&dump, &source, &new);
                let opened = open(&new, false);
                let of_new =
                    opened.as_ref().map_or_else(|_| Vec::new(), |d| ask(d, without_files()));
                for (at, (about, _)) in without_files().iter().enumerate() {
                    let what =
                        format!("{name}: {about} after byte {i:#x} has changed by {mask:#x}");
                    match *about {
                        // Where memories are was known before.
                        "read" => {
                            let expected: Vec<_> = dump
                                .memories()
                                .flat_map(|memory| known_bytes(&memory, &new))
                                .collect();
                            assert!(answers[at].bytes == expected, "{what}");
                        }
                        _ if about.starts_with("verify") => {}
                        _ if of_new.is_empty() => {}
                        _ => assert_old_or_new(&answers[at], &old[at], &of_new[at], &what),
                    }
                }
            }
        }
        ask(&dump, without_files()).iter().zip(&old).for_each(|(a, old)| a.assert_all(old, name));
    }
}

/// The bytes of the known ranges of a memory, whose segments are in `dump`.
fn known_bytes(memory: &MemoryView<'_>, dump: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for content in memory.contents() {
        let (first, last) = content.addresses().clone().into_inner();
        let len = usize::try_from(last - first).unwrap() + 1;
        match content {
            Content::Data { offset, .. } => {
                bytes.extend(&dump[usize::try_from(offset).unwrap()..][..len]);
            }
            Content::Zero(_) => bytes.resize(bytes.len() + len, 0),
            _ => {}
        }
    }
    bytes
}

#[test]
fn other_bytes_in_an_open_dump_do_not_panic() {
    let mut random = Random(17);
    for (name, bytes) in dumps() {
        let source = Changing::at(&bytes, Vec::new(), usize::MAX);
        let dump = open(&source, false).unwrap();
        let old = ask(&dump, without_files());
        let mut others: Vec<Vec<u8>> =
            [0, 1, 0x7f, 0x80, 0xff].map(|b| vec![b; bytes.len()]).into();
        // Random bytes, small ones, and the same bytes at other places.
        others.extend((0..50).map(|i| {
            (0..bytes.len()).map(|_| random.next().to_le_bytes()[0] >> (i % 8)).collect()
        }));
        others.extend((1..50).map(|by| {
            let mut rotated = bytes.clone();
            rotated.rotate_left(by);
            rotated
        }));
        for new in &others {
            for answers in after_a_change(&dump, &source, new) {
                assert_old_or_new(
                    &Answers { items: Vec::new(), ..answers },
                    &old[0],
                    &old[0],
                    name,
                );
            }
        }
    }
}

/// The bytes of a dump become those of another one while it is opened.
#[test]
fn a_dump_that_changes_while_it_is_opened_does_not_panic() {
    let dumps = dumps();
    for (name, bytes) in &dumps {
        for (_, other) in &dumps {
            let mut new = other.clone();
            new.resize(bytes.len(), 0);
            for k in 0..200 {
                for salvage in [false, true] {
                    let source = Changing::at(bytes, new.clone(), k);
                    match open(&source, salvage) {
                        Ok(dump) => {
                            let answers = ask(&dump, without_files());
                            for error in answers.iter().filter_map(|of| of.error.as_ref()) {
                                assert_ne!(error.kind(), ErrorKind::Internal, "{name}: {error}");
                            }
                        }
                        Err(error) => assert_ne!(error.kind(), ErrorKind::Internal, "{error}"),
                    }
                }
                let source = Changing::at(bytes, new.clone(), k);
                if let Err(error) = Verifier::new().threads(1).verify(&source) {
                    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
                }
                if source.left.load(Ordering::Relaxed) < usize::MAX / 2 {
                    break;
                }
            }
        }
    }
}

/// A source of two dumps: each read is of one of them.
struct Flickering<'b> {
    dumps: [&'b [u8]; 2],
    random: Mutex<Random>,
}

impl ReadAt for Flickering<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.dumps[0].len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let which = self.random.lock().unwrap().below(2);
        self.dumps[which].read_exact_at(buffer, offset)
    }
}

#[test]
fn a_dump_that_changes_all_the_time_does_not_panic() {
    let dumps = dumps();
    for (name, bytes) in dumps.iter().filter(|(name, _)| *name != "long") {
        for (_, other) in &dumps {
            let mut other = other.clone();
            other.resize(bytes.len(), 0);
            for seed in 1..30 {
                let random = Mutex::new(Random(seed));
                let source = Flickering { dumps: [bytes, &other], random };
                for salvage in [false, true] {
                    let Ok(dump) = open(&source, salvage) else { continue };
                    let answers = ask(&dump, without_files());
                    for error in answers.iter().filter_map(|of| of.error.as_ref()) {
                        assert_ne!(error.kind(), ErrorKind::Internal, "{name}: {error}");
                    }
                }
                if let Err(error) = Verifier::new().threads(1).verify(&source) {
                    assert_ne!(error.kind(), ErrorKind::Internal, "{name}: {error}");
                }
            }
        }
    }
}
