//! Sources whose reads fail: an error of the operation that needed the read, and never a verdict.

use std::sync::LazyLock;

use corestream::read::{Verdict, Verifier};
use corestream::{ErrorKind, Result};
use proptest::prelude::*;

use super::{damaged, dumps, message, open, shown};
use crate::common::own::{self, Own};
use crate::common::reading::small;
use crate::counting::{Counting, assert_refused};
use crate::questions::{QUESTIONS, ask};

/// Checks that a failed read was an error. With a damaged dump, the other reads may suffice for the full result, which
/// is `damaged`.
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

#[test]
fn reports_a_failed_read() {
    let all = dumps().into_iter().map(|dump| (dump, false));
    for ((name, bytes), is_damaged) in all.chain(damaged().into_iter().map(|dump| (dump, true))) {
        for salvage in [false, true] {
            let expected = shown(open(&bytes, salvage), message);
            let damaged = is_damaged.then_some(&*expected);
            for k in 0.. {
                let source = Counting::new(&bytes[..]);
                let (opened, has_failed) = source.failing_at(k, || open(&source, salvage));
                let what = format!("{name}: read {k}, salvaging: {salvage}");
                if !has_failed {
                    assert!(shown(opened, message) == expected && k > 0, "{what}");
                    break;
                }
                assert_failed(opened, message, damaged, &what);
                let (opened, _) = source.failing_from(k, || open(&source, salvage));
                assert_refused(&opened.err().unwrap_or_else(|| panic!("{what}: no error")), &what);
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
    /// A failed read is not taken for damage, whatever else is wrong with the dump.
    #[test]
    fn tells_failed_reads_from_damage(
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
        let expected = shown(open(&bytes, salvage), message);
        let (opened, has_failed) = source.failing_at(k, || open(&source, salvage));
        match has_failed {
            true => assert_failed(opened, message, Some(&expected), name),
            false => prop_assert_eq!(shown(opened, message), expected),
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
fn fails_one_question_of_an_open_dump() {
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
                // The dump works again after the failed read.
                ask(&dump).assert_all(expected, &what);
                k += 1;
            }
            failed += k;
        }
        assert!(failed > 5, "{name}: {failed} reads");
    }
}

/// The reader reads the index again for its checksum. A mismatch must not hide an earlier failure.
#[test]
fn reports_a_failed_read_of_a_damaged_index() {
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
