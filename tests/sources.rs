//! Sources of a program's own, which lend no bytes: how much of them is read, and what becomes of those that fail, that do
//! not know their length, and that change.

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/foreign.rs"]
mod foreign;
#[path = "common/questions.rs"]
mod questions;
#[path = "common/sparse.rs"]
mod sparse;
#[path = "common/writers.rs"]
mod writers;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, RwLock};

use common::Random;
use common::own::{self, Own};
use common::reading::{PAGE, Said, facts, guest, images, known, small};
use corestream::read::{OpenOptions, ReadAt, Verdict, Verifier};
use corestream::*;
use counting::{Counting, assert_refused};
use proptest::prelude::*;
use questions::{Answers, QUESTIONS, ask, without_files};
use tempfile::NamedTempFile;

/// What a reader may read of a dump besides its index to open it.
const BESIDES_INDEX: u64 = 64 << 10;

/// Bytes that a read of a header may go on into the contents after it: a reader does not know how long a header is.
const READ_AHEAD: u64 = 4 << 10;

/// A guest with lists of many items.
fn long_lists() -> CoreDump<'static> {
    let mut guest = known();
    for i in 0..300 {
        guest.add_global(Global::constant(GlobalValue::I64(i64::MAX >> (i % 64))));
        let identity = ModuleIdentity::new().with_sha256([u8::try_from(i % 256).unwrap(); 32]);
        let module = guest.add_module(Module::new("long ".repeat(20)).with_identity(identity));
        let instance = guest.add_instance(Instance::new(module).with_globals([GlobalIndex(0)]));
        if i % 30 == 0 {
            let frame = |at| Frame::new(instance, at, at).with_locals([Value::I64(at.into())]);
            guest.add_thread(Thread::new(format!("thread {i}")).with_frames((0..200).map(frame)));
        }
    }
    guest
}

/// A dump with lists and segments that no single read gets.
fn long() -> Vec<u8> {
    let mut image = vec![0; 8 * PAGE];
    for (i, part) in (1..).zip(image.chunks_mut(PAGE / 2)) {
        part[..9000].fill(i);
    }
    let mut guest = long_lists();
    guest.add_memory(Memory::new(MemoryType::wasm32(8), MemoryImage::from_slice(&image)));
    Dumper::new().plan(&guest).unwrap().to_vec().unwrap()
}

/// Dumps that are not damaged: of this project with and without checksums, partial, with all facts, long, as another tool
/// has rewritten one, and of others in two layouts.
fn dumps() -> Vec<(&'static str, Vec<u8>)> {
    let foreign = small();
    let partial = Own {
        flags: 1,
        block_log2: 8,
        left_out: vec![(0, 200, 300), (1, 5000, 6000)],
        changing: vec![1],
    };
    let own = Own::default().dump(&foreign);
    // The sections before the memory, which have two bytes of size, swapped.
    let name = |name: &str| own.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    let (modules, instances) = (name("coremodules") - 3, name("coreinstances") - 3);
    let end = name("corestack") - 3;
    let (before, rest) = (&own[..own::end_of_core(&own)], &own[end..]);
    let header = &own[own::end_of_core(&own)..modules];
    let (modules, instances) = (&own[modules..instances], &own[instances..end]);
    let rewritten = [before, instances, header, modules, rest].concat();
    vec![
        ("own", own.clone()),
        ("without checksums", Own { block_log2: 0, ..Own::default() }.dump(&foreign)),
        ("partial", partial.dump(&foreign)),
        ("facts", facts()),
        ("long", long()),
        ("rewritten", rewritten),
        ("foreign", foreign),
        ("WasmEdge", writers::wasmedge(b"guest")),
    ]
}

/// Dumps that can be salvaged only.
fn damaged() -> Vec<(&'static str, Vec<u8>)> {
    let own = Own::default().dump(&small());
    let long = long();
    let flipped = |at: usize| {
        let mut flipped = own.clone();
        flipped[at] ^= 0x55;
        flipped
    };
    vec![
        ("cut", own[..own.len() / 2].to_vec()),
        ("without an end", own[..own.len() - 1].to_vec()),
        ("long, cut", long[..long.len() / 2].to_vec()),
        ("first byte", flipped(0)),
        ("header", flipped(own::end_of_core(&own) + 20)),
        ("a list", flipped(own.windows(9).position(|w| w == b"corestack").unwrap() + 9)),
        ("index", flipped(own::index_of(&own) + 30)),
    ]
}

fn open(source: &dyn ReadAt, salvage: bool) -> Result<CoreDumpFile<'_>> {
    OpenOptions::new().salvage(salvage).threads(2).open_source(source)
}

/// The text of an error, or what was had.
fn shown<T>(result: Result<T>, show: impl Fn(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(error) => format!("{error:?}"),
    }
}

/// Checks that a failed read was an error. Where a dump is damaged, what was found before and after the failure may tell all
/// the same: then nothing of it is missing.
fn assert_failed<T>(
    result: Result<T>,
    show: impl Fn(T) -> String,
    damaged: Option<&str>,
    what: &str,
) {
    match (result, damaged) {
        (Err(error), _) if error.kind() == ErrorKind::Input => assert_refused(&error, what),
        (result, damaged) => assert_eq!(Some(&*shown(result, show)), damaged, "{what}"),
    }
}

fn said(dump: CoreDumpFile<'_>) -> String {
    format!("{:?}", Said::by(&dump))
}

#[test]
fn a_failed_read_fails_what_needs_it() {
    let all = dumps().into_iter().map(|dump| (dump, false));
    for ((name, bytes), is_damaged) in all.chain(damaged().into_iter().map(|dump| (dump, true))) {
        for salvage in [false, true] {
            let expected = shown(open(&bytes, salvage), said);
            let damaged = is_damaged.then_some(&*expected);
            for k in 0.. {
                let source = Counting::new(&bytes[..]);
                let (opened, has_failed) = source.failing_at(k, || open(&source, salvage));
                let what = format!("{name}: read {k}, salvaging: {salvage}");
                if !has_failed {
                    assert!(shown(opened, said) == expected && k > 0, "{what}");
                    break;
                }
                assert_failed(opened, said, damaged, &what);
                let (opened, _) = source.failing_from(k, || open(&source, salvage));
                assert_refused(&opened.err().unwrap_or_else(|| panic!("{what}: it opens")), &what);
            }
        }
        for threads in [1, 2] {
            let verifier = Verifier::new().threads(threads);
            let show = |verdict: Verdict| format!("{verdict:?}");
            let expected = shown(verifier.verify(&bytes), show);
            for k in 0.. {
                let source = Counting::new(&bytes[..]);
                let (verdict, has_failed) = source.failing_at(k, || verifier.verify(&source));
                let what = format!("{name}: read {k} by {threads} threads");
                if !has_failed {
                    assert!(shown(verdict, show) == expected && k > 0, "{what}");
                    break;
                }
                assert_failed(verdict, show, is_damaged.then_some(&*expected), &what);
                let (verdict, _) = source.failing_from(k, || verifier.verify(&source));
                assert_refused(&verdict.expect_err(&what), &what);
            }
        }
    }
}

proptest! {
    /// Whatever is wrong with a dump, a read that fails is not taken for a part of it.
    #[test]
    fn a_failed_read_of_any_dump_is_no_damage(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        k in 0..12_usize,
        salvage in any::<bool>(),
    ) {
        static DUMPS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
            dumps().into_iter().filter(|(_, bytes)| bytes.len() < 3000).collect()
        });
        let (name, bytes) = which.get(&DUMPS);
        let mut bytes = bytes.clone();
        changes.iter().for_each(|(at, value)| *at.get_mut(&mut bytes) = *value);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let source = Counting::new(&bytes[..]);
        let expected = shown(open(&bytes, salvage), said);
        let (opened, has_failed) = source.failing_at(k, || open(&source, salvage));
        match has_failed {
            true => assert_failed(opened, said, Some(&expected), name),
            false => prop_assert_eq!(shown(opened, said), expected),
        }
        if let (opened, true) = source.failing_from(k, || open(&source, salvage)) {
            assert_refused(&opened.err().unwrap(), name);
        }
        let verifier = Verifier::new().threads(1);
        let show = |verdict: Verdict| format!("{verdict:?}");
        let expected = shown(verifier.verify(&bytes), show);
        let (verdict, has_failed) = source.failing_at(k, || verifier.verify(&source));
        match has_failed {
            true => assert_failed(verdict, show, Some(&expected), name),
            false => prop_assert_eq!(shown(verdict, show), expected),
        }
        if let (verdict, true) = source.failing_from(k, || verifier.verify(&source)) {
            assert_refused(&verdict.unwrap_err(), name);
        }
    }
}

#[test]
fn a_failed_read_fails_one_question_of_an_open_dump() {
    for (name, bytes) in dumps().into_iter().chain(damaged()) {
        let source = Counting::new(&bytes[..]);
        let dump = open(&source, true).unwrap();
        let expected = ask(&open(&bytes, true).unwrap(), &QUESTIONS);
        let mut failed = 0;
        for ((about, ask), expected) in QUESTIONS.iter().zip(&expected) {
            let mut k = 0;
            loop {
                let what = format!("{name}: {about}, read {k}");
                let (answers, has_failed) = source.failing_at(k, || ask(&dump));
                if !has_failed {
                    answers.assert_all(expected, &what);
                    break;
                }
                let error = answers.error.as_ref();
                assert_refused(error.unwrap_or_else(|| panic!("{what}: no error")), &what);
                answers.assert_first(expected, &what);
                // It was the read that has failed, and not the dump.
                ask(&dump).assert_all(expected, &what);
                k += 1;
            }
            failed += k;
        }
        assert!(failed > 5, "{name}: {failed} reads");
    }
}

/// The bytes of an index are read again for its checksum: that it does not hold hides no read that has failed before.
#[test]
fn a_failed_read_of_a_damaged_index_is_an_error() {
    let mut bytes = Own::default().dump(&small());
    let at = own::index_of(&bytes) + 30;
    bytes[at] ^= 0x55;
    for k in 0.. {
        let source = Counting::new(&bytes[..]);
        let (opened, has_failed) = source.failing_at(k, || open(&source, true));
        if !has_failed {
            break;
        }
        let what = format!("read {k}, at {:#x}", source.take_reads()[k].start);
        assert_refused(&opened.err().unwrap_or_else(|| panic!("{what}: it opens")), &what);
    }
}

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
        use ErrorKind::{CutOff, Damaged, Format, Input, Unsupported};
        let kinds = [CutOff, Damaged, Format, Input, Unsupported];
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
fn known_bytes(memory: &read::MemoryView<'_>, dump: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for content in memory.contents() {
        let (first, last) = content.addresses().clone().into_inner();
        let len = usize::try_from(last - first).unwrap() + 1;
        match content {
            read::Content::Data { offset, .. } => {
                bytes.extend(&dump[usize::try_from(offset).unwrap()..][..len]);
            }
            read::Content::Zero(_) => bytes.resize(bytes.len() + len, 0),
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

/// The bytes that are in both lists of ranges, of which the second one is in order.
fn overlap(reads: &[Range<u64>], ranges: &[Range<u64>]) -> u64 {
    let overlap = |read: &Range<u64>| {
        let from = ranges.partition_point(|range| range.end <= read.start);
        let ranges = ranges[from..].iter().take_while(|range| range.start < read.end);
        ranges.map(|range| range.end.min(read.end) - range.start.max(read.start)).sum::<u64>()
    };
    reads.iter().map(overlap).sum()
}

/// Where the contents of memories are in a dump, in order.
fn payload(dump: &CoreDumpFile<'_>) -> Vec<Range<u64>> {
    let segments = dump.memories().flat_map(|memory| memory.segments());
    let payload = segments.map(|segment| {
        let (first, last) = segment.addresses.into_inner();
        segment.offset..segment.offset + (last - first) + 1
    });
    let mut payload: Vec<_> = payload.collect();
    payload.sort_by_key(|range| range.start);
    payload
}

/// Checks that no read begins in the contents of memories, and that those that begin before them reach no more than
/// [`READ_AHEAD`] into them.
fn assert_beside(reads: &[Range<u64>], payload: &[Range<u64>], what: &str) {
    for read in reads {
        let after = payload.partition_point(|range| range.end <= read.start);
        let is_inside = payload.get(after).is_some_and(|range| range.contains(&read.start));
        assert!(!is_inside, "{what}: read {read:x?}");
    }
    let (beyond, calls) = (overlap(reads, payload), reads.len() as u64);
    assert!(beyond <= READ_AHEAD * calls, "{what}: {beyond} bytes of contents by {calls} calls");
}

/// A dump in a file, and the bytes of its index.
struct InFile {
    file: NamedTempFile,
    index: u64,
}

/// Dumps in files: small; with segments in gigabytes of memory; with 100,000 segments and 5 GiB of contents. All have the
/// same lists.
fn files() -> Vec<(&'static str, InFile)> {
    let images = images();
    let dense = NamedTempFile::new().unwrap();
    dense.as_file().set_len(3 << 30).unwrap();
    for at in (0..3 << 30).step_by(64 << 20) {
        dense.as_file().write_all_at(&[7; 5000], at).unwrap();
    }
    let mut large = guest(&images);
    let image = MemoryImage::open(dense.path()).unwrap();
    large.add_memory(Memory::new(MemoryType::wasm32(3 << 14), image));
    let written = [guest(&images), large].map(|guest| {
        let file = NamedTempFile::new().unwrap();
        let plan = Dumper::new().plan(&guest).unwrap();
        plan.write_to(&mut FileSink::new(file.as_file())).unwrap();
        let mut head = vec![0; 4096.min(usize::try_from(plan.len()).unwrap())];
        ReadAt::read_exact_at(file.as_file(), &mut head, 0).unwrap();
        InFile { index: plan.len() - own::index_of(&head) as u64, file }
    });
    let sparse = sparse::sparse(guest(&[]), 100_000, 50_000);
    let sparse = InFile { file: sparse.file, index: sparse.index };
    let [small, large] = written;
    vec![("small", small), ("large", large), ("100,000 segments", sparse)]
}

#[test]
fn opening_and_listing_read_no_contents() {
    for (name, InFile { file, index }) in files() {
        let metadata = file.as_file().metadata().unwrap();
        assert!(metadata.blocks() * 512 < 1 << 30, "{name} is not sparse");
        let source = Counting::new(File::open(file.path()).unwrap());
        let dump = open(&source, false).unwrap();
        let reads = source.take_reads();
        let payload = payload(&dump);
        let index = metadata.len() - index..metadata.len();
        let bytes: u64 = reads.iter().map(|read| read.end - read.start).sum();
        let of_index = overlap(&reads, std::slice::from_ref(&index));
        assert!(of_index <= index.end - index.start, "{name}: {of_index} bytes of the index");
        assert!(bytes - of_index <= BESIDES_INDEX, "{name}: {} bytes", bytes - of_index);
        assert_beside(&reads, &payload, name);
        assert_eq!(source.lengths(), 1);

        let lists = &QUESTIONS[..13];
        assert_eq!((lists[0].0, lists[12].0), ("modules", "a thread"));
        for (about, ask) in lists {
            let answers = ask(&dump);
            assert!(answers.error.is_none());
            let reads = source.take_reads();
            assert_beside(&reads, &payload, about);
        }
        // Where contents are is known without them.
        let memory = dump.memories().last().unwrap();
        let (coverage, contents) = (memory.coverage(), memory.contents().count());
        assert!(
            contents as u64 >= coverage.segments
                && coverage.segments == memory.segments().len() as u64
        );
        assert!(source.take_reads().is_empty(), "{name}");
    }
}

/// Without an index the header of each segment is read, and little of what follows it.
#[test]
fn opening_without_an_index_takes_one_call_for_each_segment() {
    let (count, len) = (500, 50_000);
    let mut data = wasm_encoder::DataSection::new();
    for i in 0..count {
        data.active(0, &foreign::address(i * 2 * len, false), std::iter::repeat_n(7, 50_000));
    }
    let bytes = foreign::foreign(&[(1 << 10, false)], &data);
    let source = Counting::new(&bytes[..]);
    let dump = open(&source, false).unwrap();
    let (reads, payload) = (source.take_reads(), payload(&dump));
    assert_eq!(payload.len() as u64, count);
    // There is a section before the segments, and some after them.
    assert!(reads.len() as u64 <= count + 2, "{} calls", reads.len());
    assert_beside(&reads, &payload, "foreign");
}

#[test]
fn reading_takes_one_call_for_each_segment() {
    let mut random = Random(3);
    for (name, InFile { file, .. }) in files() {
        let source = Counting::new(File::open(file.path()).unwrap());
        let dump = open(&source, false).unwrap();
        source.take_reads();
        for memory in dump.memories() {
            let segments: Vec<_> = memory.segments().collect();
            for _ in 0..200 {
                let Some(last) = segments.len().checked_sub(1) else { continue };
                let i = random.below(segments.len() as u64);
                let (first, end) = segments[i].addresses.clone().into_inner();
                if end - first >= 15 {
                    let address = first + random.below(end - first - 14) as u64;
                    memory.read(address, &mut [0; 16]).unwrap();
                    let offset = segments[i].offset + (address - first);
                    let (reads, expected) = (source.take_reads(), offset..offset + 16);
                    assert_eq!(reads, std::slice::from_ref(&expected), "{name}: {address:#x}");
                }
                // To the last byte of some later segment: one call for each, and no byte beside them.
                let to = last.min(i + random.below(10));
                let len = segments[to].addresses.end() - first + 1;
                if len > 1 << 20 {
                    continue;
                }
                memory.read(first, &mut vec![0; usize::try_from(len).unwrap()]).unwrap();
                let expected: Vec<_> = segments[i..=to]
                    .iter()
                    .map(|segment| {
                        let len = segment.addresses.end() - segment.addresses.start() + 1;
                        segment.offset..segment.offset + len
                    })
                    .collect();
                assert_eq!(source.take_reads(), expected, "{name}: {first:#x}");
            }
            // What is between segments is zero.
            let zero = memory.contents().find(|content| matches!(content, read::Content::Zero(_)));
            if let Some(zero) = zero {
                memory.read(*zero.addresses().start(), &mut [1]).unwrap();
                assert!(source.take_reads().is_empty(), "{name}");
            }
        }
    }
}
