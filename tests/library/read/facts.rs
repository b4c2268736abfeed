//! The trap, the time of the capture and the identities of modules, each of which has its own section.

use crate::{common, foreign};
use common::own::{self, Own};
use common::reading::{all, facts, known, read_all, read_consistently, verdict};
use corestream::limits::{MAX_BUILD_ID_BYTES, MAX_TRAP_BYTES};
use corestream::read::Verdict;
use corestream::*;
use foreign::{CORE, module};

const MODULES: (u8, &[u8]) = (0, b"\x0bcoremodules\x02\0\x01a\0\x01b");
const INSTANCES: (u8, &[u8]) = (0, b"\x0dcoreinstances\0");

/// Returns the body of a custom section.
fn body(name: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![u8::try_from(name.len()).unwrap()];
    body.extend(name.bytes());
    body.extend(parts.concat());
    body
}

/// Returns a dump of two modules with this section, written by following `docs/format.md`.
fn with(name: &str, parts: &[&[u8]]) -> Vec<u8> {
    let body = body(name, parts);
    Own::default().dump(&module(&[CORE, MODULES, INSTANCES, (0, &body)]))
}

fn dumped(dump: &CoreDump<'_>) -> Vec<u8> {
    Dumper::new().plan(dump).unwrap().to_vec().unwrap()
}

#[test]
fn reads_the_facts_that_were_written() {
    let mut guest = CoreDump::new("guest.wasm");
    let modules = ["a", "b", "c", "d"].map(|name| guest.add_module(name));
    let nothing = dumped(&guest);
    assert!(!nothing.windows(15).any(|name| name == b"corestream.trap"));
    assert!(!nothing.windows(18).any(|name| name == b"corestream.modules"));

    guest.trap = Some("wasm trap: żółć\n".into());
    guest.captured_at = UnixTime::from_nanoseconds(1_795_839_503_123_456_789);
    guest.modules[0].identity = ModuleIdentity::new().with_sha256([7; 32]);
    guest.modules[1].identity = ModuleIdentity::new().with_build_id([1, 2, 3]);
    guest.modules[3].identity = guest.modules[0].identity.clone().with_build_id([0; 256]);
    let bytes = dumped(&guest);
    assert!(verdict(&bytes).unwrap().is_intact());
    read_consistently(&bytes);
    common::decode(&bytes);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert_eq!(dump.trap(), guest.trap.as_deref());
    assert_eq!(dump.captured_at(), guest.captured_at);
    for (module, expected) in modules.into_iter().zip(&guest.modules) {
        assert_eq!(dump.module_identity(module).unwrap(), expected.identity);
    }
    let expected = guest.modules.iter().map(|module| module.identity.clone());
    assert!(all(dump.module_identities()).into_iter().eq(expected));
    let error = dump.module_identity(ModuleIndex(4)).unwrap_err();
    assert_eq!(error.to_string(), "there is no module 4; the dump has 4");
}

/// Any of the facts may be unknown.
#[test]
fn writes_each_fact_alone() {
    let time = UnixTime::from_nanoseconds(0);
    for (trap, captured_at) in [(Some("out of fuel"), None), (None, time), (Some(""), time)] {
        let mut guest = CoreDump::new("guest.wasm");
        guest.trap = trap.map(Into::into);
        guest.captured_at = captured_at;
        let bytes = dumped(&guest);
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        assert_eq!(dump.trap(), trap.filter(|trap| !trap.is_empty()));
        assert_eq!(dump.captured_at(), captured_at);
    }
    let mut guest = CoreDump::new("guest.wasm");
    guest.add_module("a");
    let nothing = dumped(&guest);
    guest.trap = Some(String::new());
    guest.modules[0].identity = ModuleIdentity::new().with_build_id([]);
    assert!(dumped(&guest) == nothing);
}

/// The second dump is the example in `docs/format.md`.
#[test]
fn follows_the_specification() {
    let mut guest = CoreDump::new("p");
    guest.add_module("a");
    guest.add_module("b");
    guest.trap = Some("out of fuel".into());
    let trap =
        with("corestream.trap", &[&[1, 0, 0, 0], &[0xff; 8], &[11, 0, 0, 0], b"out of fuel"]);
    assert!(dumped(&guest) == trap);

    guest.captured_at = UnixTime::from_nanoseconds(1_795_839_503_500_000_000);
    let time = [0x00, 0x3b, 0xbb, 0x7f, 0x83, 0x1a, 0xec, 0x18];
    assert_eq!(u64::from_le_bytes(time), 1_795_839_503_500_000_000);
    let trap = with("corestream.trap", &[&[1, 0, 0, 0], &time, &[11, 0, 0, 0], b"out of fuel"]);
    assert!(dumped(&guest) == trap);

    (guest.trap, guest.captured_at) = (None, None);
    guest.modules[1].identity =
        ModuleIdentity::new().with_sha256([0xab; 32]).with_build_id([0x12, 0x34]);
    let identities = with(
        "corestream.modules",
        &[
            &[1, 0, 0, 0, 2, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 0, 0, 0],
            &[0xab; 32],
            &[0x12, 0x34],
        ],
    );
    assert!(dumped(&guest) == identities);
}

#[test]
fn truncates_facts_at_their_limits() {
    let mut guest = CoreDump::new("guest.wasm");
    // The limit falls within a character, which must not be split.
    guest.trap = Some("x".to_string() + &"é".repeat(MAX_TRAP_BYTES));
    guest.add_module("a");
    guest.modules[0].identity = ModuleIdentity::new().with_build_id([1; MAX_BUILD_ID_BYTES + 1]);
    let plan = Dumper::new().plan(&guest).unwrap();
    let shortfalls: Vec<_> = plan.shortfalls().iter().map(ToString::to_string).collect();
    let expected = [
        "the build id of module 0 has 257 bytes and is omitted: a dump can hold 256",
        "the message of the trap has 8193 bytes and is shortened: a dump can hold 4096",
    ];
    assert_eq!(shortfalls, expected);
    let bytes = plan.to_vec().unwrap();
    assert!(verdict(&bytes).unwrap().is_intact());
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    assert!(dump.is_degraded());
    assert_eq!(dump.trap().unwrap().len(), MAX_TRAP_BYTES - 1);
    assert!(!dump.module_identity(ModuleIndex(0)).unwrap().is_known());
}

#[test]
fn skips_unknown_versions() {
    for name in ["corestream.trap", "corestream.modules"] {
        for version in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 1]] {
            let bytes = with(name, &[&version, &[0xff; 9]]);
            assert!(verdict(&bytes).unwrap().is_intact());
            let dump = CoreDumpFile::from_slice(&bytes).unwrap();
            assert_eq!((dump.trap(), dump.captured_at()), (None, None));
            assert!(all(dump.module_identities()).iter().all(|identity| !identity.is_known()));
        }
    }
}

/// The other modules have unknown identities if there are too few. Additional identities are ignored.
#[test]
fn matches_identities_with_modules() {
    let identity = |byte| [[0, 0, 0, 0, 1, 0, 0, 0, byte]].concat();
    for count in 0..4_u8 {
        let identities: Vec<u8> = (0..count).flat_map(identity).collect();
        let bytes = with("corestream.modules", &[&[1, 0, 0, 0, count, 0, 0, 0], &identities]);
        assert!(verdict(&bytes).unwrap().is_intact());
        read_consistently(&bytes);
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let build_ids = all(dump.module_identities()).into_iter().map(|identity| identity.build_id);
        let expected = (0..2).map(|i| (i < count).then(|| vec![i]));
        assert!(build_ids.eq(expected), "{count}");
    }
}

#[test]
fn rejects_damaged_facts() {
    let trap = "corestream.trap";
    let modules = "corestream.modules";
    let one: &[u8] = &[1, 0, 0, 0];
    let cases: [(&str, &[&[u8]], &str); 14] = [
        (trap, &[&[1, 0, 0]], "length 4 reaches past"),
        (trap, &[one, &[0; 11]], "length 12 reaches past"),
        (trap, &[one, &[0; 8], &[1, 0, 0, 0]], "length 1 reaches past"),
        (trap, &[one, &[0; 8], &[1, 0, 0, 0], &[0xff]], "the message is not UTF-8"),
        (trap, &[one, &[0; 8], &[0, 0, 0, 0], b"x"], "1 trailing byte"),
        (
            trap,
            &[one, &[0; 8], &[1, 16, 0, 0]],
            "a message of 4097 bytes is over the limit of 4096",
        ),
        (modules, &[one, &[1, 0, 0]], "length 4 reaches past"),
        (modules, &[one, one], "module 0: length 8 reaches past"),
        (
            modules,
            &[one, &[0x41, 0x42, 0x0f, 0]],
            "1000001 identities are over the limit of 1000000",
        ),
        (
            modules,
            &[one, one, &[2, 0, 0, 0], &[0; 4]],
            "module 0: unknown flags 0x2 of a module identity",
        ),
        (
            modules,
            &[one, one, &[1, 0, 0, 0], &[0; 4], &[0; 31]],
            "module 0: length 32 reaches past",
        ),
        (modules, &[one, one, &[0; 4], &[1, 1, 0, 0]], "a build id of 257 bytes is over the limit"),
        (modules, &[one, one, &[0; 4], &[1, 0, 0, 0]], "module 0: length 1 reaches past"),
        (modules, &[one, &[0; 4], b"x"], "1 trailing byte"),
    ];
    for (name, parts, expected) in cases {
        let bytes = with(name, parts);
        let Verdict::Damaged(damage) = verdict(&bytes).unwrap() else { panic!("{expected}") };
        let reason = &damage.reason;
        assert!(reason.contains(name) && reason.contains(expected), "{reason}, not {expected}");
        let error = CoreDumpFile::from_slice(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        read_all(&bytes);
        // The index gives the rest.
        let dump = CoreDumpFile::salvage_slice(&bytes).unwrap();
        assert_eq!(all(dump.modules()), ["a", "b"]);
        assert_eq!(dump.trap(), None);
    }
    let body = body(trap, &[&[2, 0, 0, 0]]);
    let twice = module(&[CORE, MODULES, INSTANCES, (0, &body), (0, &body)]);
    let Verdict::Damaged(damage) = verdict(&Own::default().dump(&twice)).unwrap() else { panic!() };
    assert!(damage.reason.contains("corestream.trap: appears twice"), "{damage}");
}

/// Another tool has moved the first section.
#[test]
fn reads_the_facts_of_a_rewritten_dump() {
    let bytes = facts();
    let core = own::end_of_core(&bytes);
    let rewritten = [&bytes[..8], &bytes[core..], &bytes[8..core]].concat();
    assert!(verdict(&rewritten).unwrap().is_intact());
    read_consistently(&rewritten);
    let dump = CoreDumpFile::from_slice(&rewritten).unwrap();
    assert!(dump.is_rewritten());
    let known = known();
    assert_eq!(dump.trap(), known.trap.as_deref());
    assert_eq!(dump.captured_at(), known.captured_at);
    assert_eq!(dump.module_identity(ModuleIndex(1)).unwrap(), known.modules[1].identity);
}

/// Only dumps with a header have these sections, so the dump has lost its header.
#[test]
fn rejects_facts_without_a_header() {
    let bytes = own::without(&facts());
    let Verdict::Damaged(damage) = verdict(&bytes).unwrap() else { panic!("{bytes:x?}") };
    assert!(damage.reason.contains("corestream"), "{damage}");
    let dump = CoreDumpFile::salvage_slice(&bytes).unwrap();
    assert_eq!(dump.trap(), Some("wasm trap: integer divide by zero"));
    read_consistently(&bytes);
}
