//! Sources that misreport their length, and sources that change: the reader gives old bytes, new bytes or an error, and
//! does not panic.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use corestream::read::{Content, MemoryView, ReadAt, Verifier};
use corestream::{CoreDumpFile, ErrorKind};

use super::{dumps, long, message, open, shown};
use crate::common::Random;
use crate::questions::{Answers, QUESTIONS, ask, without_files};

/// A source with another length than its bytes.
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
fn takes_a_source_with_less_length_as_truncated() {
    for (name, bytes) in dumps().iter().filter(|(_, bytes)| bytes.len() < 10_000) {
        for len in (0..bytes.len()).step_by(3) {
            let (source, cut) = (WithLen(bytes, || Ok(len as u64)), &bytes[..len]);
            for salvage in [false, true] {
                let of = |source| shown(open(source, salvage), message);
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
fn rejects_a_source_with_too_much_length() {
    for (name, bytes) in dumps() {
        let real = bytes.len() as u64;
        for more in [1, 100, 1 << 20, 1 << 40, u64::MAX - real] {
            let source = WithLen(&bytes, || Ok(real + more));
            for salvage in [false, true] {
                let Err(error) = open(&source, salvage) else {
                    panic!("{name}, {more} bytes more: no error");
                };
                assert_eq!(error.kind(), ErrorKind::Input, "{name}, {more} bytes more: {error}");
            }
            let error = Verifier::new().threads(2).verify(&source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input, "{name}, {more} bytes more: {error}");
        }
    }
}

#[test]
fn reports_a_failure_to_get_the_length() {
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
fn asks_for_the_length_once() {
    for (name, bytes) in dumps() {
        let calls = AtomicUsize::new(0);
        // Later calls return other lengths.
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

/// A source that becomes shorter.
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
fn reports_a_source_that_became_shorter() {
    for (name, bytes) in dumps() {
        let whole = bytes.len() as u64;
        let source = Shrinking(&bytes, AtomicU64::new(whole));
        let dump = open(&source, false).unwrap();
        let expected = ask(&dump, without_files());
        let mut failed = 0;
        for len in (0..bytes.len() as u64).step_by(bytes.len() / 100 + 1) {
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
        assert!(failed > 50, "{name}: {failed}");
        source.1.store(whole, Ordering::Relaxed);
        for (answers, expected) in ask(&dump, without_files()).iter().zip(&expected) {
            answers.assert_all(expected, name);
        }
    }
}

#[test]
fn ends_every_list_at_the_first_error() {
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

/// A source whose bytes change at some read.
struct Changing {
    bytes: RwLock<Vec<u8>>,
    new: Vec<u8>,
    left: AtomicUsize,
}

impl Changing {
    /// Returns a source that has `new` bytes from read `k` on.
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

/// Changes of a byte.
static MASKS: [u8; 3] = [0x01, 0x80, 0xff];

/// Checks answers that may come from old or new bytes.
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
            "{what}: {item}, expected {:?} or {:?}",
            old.items.get(i),
            new.items.get(i)
        );
    }
}

/// Returns the answers of a dump after its bytes have changed.
fn after_a_change(dump: &CoreDumpFile<'_>, source: &Changing, new: &[u8]) -> Vec<Answers> {
    let old = std::mem::replace(&mut *source.bytes.write().unwrap(), new.to_vec());
    let answers = ask(dump, without_files());
    *source.bytes.write().unwrap() = old;
    answers
}

/// Changes each byte of an open dump in the ways that `masks_of` returns for the length of the dump and the offset.
fn check_changes_of_an_open_dump(masks_of: impl Fn(usize, usize) -> &'static [u8]) {
    for (name, bytes) in dumps().iter().filter(|(_, bytes)| bytes.len() < 3000) {
        let source = Changing::at(bytes, Vec::new(), usize::MAX);
        let dump = open(&source, false).unwrap();
        let old = ask(&dump, without_files());
        for i in 0..bytes.len() {
            for mask in masks_of(bytes.len(), i) {
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
                        // The open dump knows the places of segments.
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

#[test]
fn gives_old_or_new_bytes_after_a_change() {
    check_changes_of_an_open_dump(
        |_, i| if i % 4 == 0 { &MASKS[i / 4 % 3..=i / 4 % 3] } else { &[] },
    );
}

#[test]
#[ignore = "slow: 3 s"]
fn gives_old_or_new_bytes_after_a_change_of_every_byte() {
    // One change of each byte of a long dump.
    check_changes_of_an_open_dump(|len, i| if len < 500 { &MASKS } else { &MASKS[i % 3..=i % 3] });
}

/// Returns the bytes of the known ranges of a memory, whose segments are in `dump`.
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
fn survives_any_bytes_in_an_open_dump() {
    let mut random = Random(17);
    for (name, bytes) in dumps() {
        let source = Changing::at(&bytes, Vec::new(), usize::MAX);
        let dump = open(&source, false).unwrap();
        let old = ask(&dump, without_files());
        let mut others: Vec<Vec<u8>> =
            [0, 1, 0x7f, 0x80, 0xff].map(|b| vec![b; bytes.len()]).into();
        // Random bytes, small bytes, and the same bytes at other offsets.
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

/// The bytes of a dump become those of another dump.
#[test]
fn survives_changes_while_opening() {
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

/// A source that reads from either of two dumps at random.
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
fn survives_a_source_that_always_changes() {
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
