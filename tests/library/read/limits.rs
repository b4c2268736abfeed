//! Dumps at the limits of the reader, and one item over them: opening, verifying and listing name the limit.

use crate::{common, foreign, writers};
use common::own::{self, Own};
use common::reading::Unlent;
use corestream::limits::{
    MAX_DATA_SECTIONS, MAX_FRAME_VALUES, MAX_GLOBALS, MAX_LISTED, MAX_LISTED_SEGMENTS,
    MAX_LISTED_THREADS, MAX_MEMORIES, MAX_OVERLAPPING_SEGMENTS,
};
use corestream::read::{OpenOptions, ReadAt, Verdict, Verifier};
use corestream::{CoreDumpFile, Error, ErrorKind, Result};
use foreign::{CORE, list, module};

/// Returns the body of a section of the core specification with `count` items.
fn vector(count: usize, item: &[u8]) -> Vec<u8> {
    list("", &[], count, item).split_off(1)
}

/// Returns a dump with these sections, and with empty lists of modules and instances if they have none.
fn dump(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut all = vec![CORE];
    for empty in [&b"\x0bcoremodules\0"[..], b"\x0dcoreinstances\0"] {
        let name = &empty[..empty.len() - 1];
        if !sections.iter().any(|(_, body)| body.starts_with(name)) {
            all.push((0, empty));
        }
    }
    all.extend(sections);
    module(&all)
}

fn assert_names(error: &Error, limit: usize, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
    let (text, limit) = (error.to_string(), format!("limit of {limit}"));
    let after = text.split_once(&limit).map(|(_, after)| after);
    let has_limit = after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_digit()));
    assert!(has_limit, "{what}: expected the {limit}: {text}");
}

fn open<'b>(source: impl ReadAt + 'b) -> Result<CoreDumpFile<'b>> {
    OpenOptions::new().threads(1).open_source(source)
}

/// Returns the verdicts of a slice, of a source that lends nothing, and of a stream.
fn verdicts(bytes: &[u8]) -> [Result<Verdict>; 3] {
    let verifier = Verifier::new().threads(1);
    [verifier.verify(bytes), verifier.verify(Unlent(bytes)), verifier.verify_stream(bytes)]
}

/// Checks that opening and verifying accept a dump at the limit, and reject one with one item more.
fn assert_limit(what: &str, limit: usize, dump: impl Fn(usize) -> Vec<u8>) {
    let most = dump(limit);
    open(&most[..]).unwrap_or_else(|error| panic!("{what}: {error}"));
    open(Unlent(&most)).unwrap_or_else(|error| panic!("{what}: {error}"));
    verdicts(&most).into_iter().for_each(|verdict| {
        let verdict = verdict.unwrap();
        assert!(verdict.is_intact(), "{what}: {verdict:?}");
    });
    drop(most);
    assert_refused(what, limit, &dump(limit + 1));
}

/// Checks that opening and verifying reject a dump.
fn assert_refused(what: &str, limit: usize, bytes: &[u8]) {
    for opened in [open(bytes), open(Unlent(bytes))] {
        assert_names(&opened.expect_err(what), limit, what);
    }
    for verdict in verdicts(bytes) {
        assert_names(&verdict.expect_err(what), limit, what);
    }
    // Salvaging names the limit as the damage.
    let salvaged = CoreDumpFile::salvage_slice(bytes).expect(what);
    assert_names(salvaged.damage().expect(what), limit, what);
}

#[test]
#[ignore = "slow: 2 s"]
fn rejects_long_lists_over_their_limits() {
    let modules = |count| {
        let modules = list("coremodules", &[], count, &[0, 0]);
        dump(&[(0, &modules)])
    };
    assert_limit("modules", MAX_LISTED, modules);
    let instances = |count| {
        let instances = list("coreinstances", &[], count, &[0; 4]);
        dump(&[(0, &instances)])
    };
    assert_limit("instances", MAX_LISTED, instances);
}

#[test]
fn rejects_lists_over_their_limits() {
    let threads = |count| {
        let stack = b"\x09corestack\0\0\0";
        dump(&vec![(0, &stack[..]); count])
    };
    assert_limit("threads", MAX_LISTED_THREADS, threads);
    let globals = |count| dump(&[(6, &vector(count, &[0x7f, 0, 0x41, 0, 0x0b]))]);
    assert_limit("globals", MAX_GLOBALS, globals);
    let memories = |count| dump(&[(5, &vector(count, &[0, 1]))]);
    assert_limit("memories", MAX_MEMORIES, memories);
}

/// Returns a dump of another writer with `count` segments of `len` bytes each, `step` bytes apart.
fn segments(count: usize, step: usize, len: usize) -> Vec<u8> {
    let mut data = wasm_encoder::DataSection::new();
    for i in 0..count as u64 {
        let address = foreign::address(i * step as u64, true);
        data.active(0, &address, std::iter::repeat_n(7, len));
    }
    foreign::foreign(&[(1 << 20, true)], &data)
}

/// A verifier keeps no segments, so it has no limit on them.
#[test]
fn rejects_segments_over_their_limits() {
    for (what, limit, step, len) in
        [("segments", MAX_LISTED_SEGMENTS, 2, 1), ("overlapping", MAX_OVERLAPPING_SEGMENTS, 1, 2)]
    {
        assert!(open(&segments(limit, step, len)[..]).is_ok(), "{what}");
        let bytes = segments(limit + 1, step, len);
        for opened in [open(&bytes[..]), open(Unlent(&bytes))] {
            assert_names(&opened.expect_err(what), limit, what);
        }
        for verdict in verdicts(&bytes) {
            let Verdict::Intact(intact) = verdict.unwrap() else { panic!("{what}") };
            assert_eq!(intact.segments, limit as u64 + 1, "{what}");
        }
    }
}

/// Each section of this dump has one segment.
#[test]
fn rejects_sections_with_segments_over_their_limit() {
    let with_sections = |count: usize| {
        let mut bodies = vec![Vec::new()];
        bodies.resize(count, b"\x0fcorestream.data".to_vec());
        for (address, body) in (0..).zip(&mut bodies) {
            body.extend([1, 0, 0x41]);
            own::signed(body, address * 2);
            body.extend(b"\x0b\x01x");
        }
        let sections = bodies.iter().enumerate();
        let data = sections.map(|(i, body)| (if i == 0 { 11 } else { 0 }, &body[..]));
        let sections: Vec<_> = [(5, &[1, 0, 3][..])].into_iter().chain(data).collect();
        Own::default().dump(&dump(&sections))
    };
    assert_limit("sections", MAX_DATA_SECTIONS, with_sections);
}

/// Without checksums, an unreadable section may be damage. An intact list over its limit is not.
#[test]
fn tells_limits_from_damage_without_checksums() {
    let thread = list("corestack", &[0, 0], 0, &[]);
    let own = Own { block_log2: 0, ..Own::default() };
    for (threads, is_over) in [(MAX_LISTED_THREADS, false), (MAX_LISTED_THREADS + 1, true)] {
        let sections = vec![(0, &thread[..]); threads];
        let bytes = own.dump(&dump(&sections));
        match open(&bytes) {
            Ok(dump) => assert!(!is_over && dump.threads().len() == threads),
            Err(error) => assert_names(&error, MAX_LISTED_THREADS, "threads"),
        }
        for verdict in [Verifier::new().verify(&bytes), Verifier::new().verify_stream(&bytes[..])] {
            match verdict {
                Ok(verdict) => assert!(!is_over && verdict.is_intact()),
                Err(error) => assert_names(&error, MAX_LISTED_THREADS, "threads"),
            }
        }
    }
}

/// The locals and the operand stack of a frame, in each layout.
#[test]
fn rejects_values_of_a_frame_over_their_limit() {
    for (counts_first, instance) in [(false, Some(0)), (false, None), (true, Some(0)), (true, None)]
    {
        for is_locals in [true, false] {
            let with = |count: usize| {
                let (many, few) = (vec![-1; count], [5]);
                let (locals, values) =
                    if is_locals { (&many[..], &few[..]) } else { (&few[..], &many[..]) };
                let frames =
                    [(instance, 1, 2, &few[..], &[][..]), (instance, 3, 17, locals, values)];
                let stack = writers::stack(&frames, counts_first);
                let instances =
                    list("coreinstances", &[], usize::from(instance.is_some()), &[0; 4]);
                module(&[CORE, (0, b"\x0bcoremodules\x01\0\x01m"), (0, &instances), (0, &stack)])
            };
            let what = format!(
                "counts first: {counts_first}, instance: {instance:?}, locals: {is_locals}"
            );
            let bytes = with(MAX_FRAME_VALUES + 1);
            let salvaged = CoreDumpFile::salvage_slice(&bytes).unwrap();
            let frames = salvaged.threads().flat_map(|thread| thread.unwrap().frames());
            let error = frames.filter_map(Result::err).next();
            error.iter().for_each(|error| assert_names(error, MAX_FRAME_VALUES, &what));
            assert!(error.is_some() || salvaged.damage().is_some(), "{what}");
            drop(salvaged);
            assert_limit(&what, MAX_FRAME_VALUES, with);
            // A dump by corestream.
            if !counts_first && instance.is_some() {
                assert_limit(&what, MAX_FRAME_VALUES, |count| Own::default().dump(&with(count)));
            }
        }
    }
}

#[test]
fn rejects_index_spaces_over_their_limit() {
    for is_memories in [true, false] {
        let with = |count: usize| {
            let indices = vector(count, &[0]);
            let spaces = if is_memories { [&indices[..], &[0]] } else { [&[0], &indices[..]] };
            let mut instances = list("coreinstances", &[], 1, &[0, 0]);
            instances.extend(spaces.concat());
            module(&[CORE, (0, b"\x0bcoremodules\x01\0\x01m"), (0, &instances)])
        };
        let what = if is_memories { "memories" } else { "globals" };
        let bytes = with(MAX_GLOBALS + 1);
        let salvaged = CoreDumpFile::salvage_slice(&bytes).unwrap();
        let error = salvaged.instances().filter_map(Result::err).next();
        error.iter().for_each(|error| assert_names(error, MAX_GLOBALS, what));
        assert!(error.is_some() || salvaged.damage().is_some(), "{what}");
        drop(salvaged);
        assert_limit(what, MAX_GLOBALS, with);
        assert_limit(what, MAX_GLOBALS, |count| Own::default().dump(&with(count)));
    }
}
