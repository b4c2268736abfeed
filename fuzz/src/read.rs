//! Any bytes, and dumps of which some bytes are not what they were: nothing panics, the verifiers of
//! files and of streams agree, and what they call whole can be opened and read.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use corestream::CoreDumpFile;
use corestream::read::Verdict;

use crate::common::own::{self, Own};
use crate::common::reading::{read_all, small, verdict};

#[derive(Arbitrary, Debug)]
enum Input {
    /// A file as it is.
    Bytes(Vec<u8>),
    /// A module of these sections: id and body.
    Sections(Vec<(u8, Vec<u8>)>),
    /// A dump, changed.
    Changed { base: u8, changes: Vec<(u16, Change)>, mend: bool },
}

#[derive(Arbitrary, Debug)]
enum Change {
    Set(u8),
    Flip(u8),
    Cut,
    Remove(u8),
    Insert(u8),
}

/// Dumps without and with an index, with and without checksums and ranges that were left out.
static BASES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let foreign = small();
    let own = Own::default().dump(&foreign);
    let unchecked = Own { block_log2: 0, flags: 2, ..Own::default() }.dump(&foreign);
    let left_out = vec![(0, 200, 300), (1, 5000, 6000)];
    let partial = Own { flags: 1, block_log2: 8, left_out, changing: vec![1] }.dump(&foreign);
    [foreign, own, unchecked, partial]
});

/// Runs the check on the bytes of a fuzzer.
pub fn run(bytes: &[u8]) {
    if let Ok(input) = Input::arbitrary(&mut Unstructured::new(bytes)) {
        check(&input.file());
    }
}

impl Input {
    fn file(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Sections(sections) => {
                let mut bytes = b"\0asm\x01\0\0\0\0\x07\x04core\0\0".to_vec();
                for (id, body) in sections {
                    bytes.push(id % 14);
                    own::leb(&mut bytes, body.len());
                    bytes.extend(body);
                }
                bytes
            }
            Self::Changed { base, changes, mend } => {
                let base = &BASES[usize::from(*base) % BASES.len()];
                let mut bytes = base.clone();
                for (at, change) in changes {
                    change.apply(&mut bytes, usize::from(*at));
                }
                // So that what is behind the checksum is tried too.
                let index = own::index_of_or_end(base);
                if *mend
                    && index < base.len()
                    && bytes.len() > index + 4
                    && bytes[..index] == base[..index]
                {
                    own::mend_index(&mut bytes);
                }
                bytes
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, at: usize) {
        let Some(at) = at.checked_rem(bytes.len()) else { return };
        match self {
            Self::Set(value) => bytes[at] = *value,
            Self::Flip(bit) => bytes[at] ^= 1 << (bit % 8),
            Self::Cut => bytes.truncate(at),
            Self::Remove(n) => drop(bytes.drain(at..bytes.len().min(at + usize::from(*n)))),
            Self::Insert(value) => bytes.insert(at, *value),
        }
    }
}

fn check(bytes: &[u8]) {
    let verdict = verdict(bytes);
    read_all(bytes);
    match (verdict, CoreDumpFile::from_slice(bytes)) {
        (Ok(Verdict::Whole(whole)), dump) => {
            let dump = dump.expect("it is whole");
            assert_eq!(whole.bytes, dump.len());
            assert_eq!(whole.checksums, dump.has_checksums());
            assert_eq!((whole.partial, whole.degraded), (dump.is_partial(), dump.is_degraded()));
        }
        (Ok(Verdict::Damaged(damage)), _) => {
            assert!(damage.range.start < damage.range.end, "{damage}");
            assert!(damage.to_string().lines().count() == 1, "{damage}");
        }
        (Err(error), dump) => {
            let opened = dump.expect_err("what can't be verified can't be opened");
            assert_eq!(opened.kind(), error.kind(), "{opened}, but {error}");
        }
    }
}
