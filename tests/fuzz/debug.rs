//! The bytes of a debugger over a small dump.
//!
//! The first byte chooses whether the checksums of packets are corrected, because random packets hardly ever have right
//! ones, and how the bytes are cut into pieces.

use corestream::CoreDumpFile;
use corestream_debug::limits::MAX_REPLY_BYTES;
use corestream_debug::{Options, Session, Status, Target};
use corestream_symbols::SymbolFile;

const MODULE: &[u8] =
    include_bytes!("../../crates/cli/tests/guests/values/values-c-O0-dwarf5.wasm");
const DUMP: &[u8] = include_bytes!("../../crates/cli/tests/guests/values/values-c-O0-dwarf5.core");

/// Drives a session with the bytes, and then asks another one for the call stack.
pub fn run(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let dump = CoreDumpFile::from_slice(DUMP).unwrap();
    let files = [SymbolFile::new("/srv/guest.wasm", MODULE)];
    let target = Target::new(&dump, &files, &Options::new()).unwrap();
    let bytes = match first & 1 {
        0 => bytes.to_vec(),
        _ => with_checksums(bytes),
    };
    let mut session = Session::new(&target);
    let mut output = Vec::new();
    'pieces: for mut piece in bytes.chunks(usize::from(first >> 1) + 1) {
        loop {
            output.clear();
            let left = piece.len();
            let status = session.receive(&mut piece, &mut output);
            assert!(output.len() <= MAX_REPLY_BYTES);
            match status {
                Status::Replied => assert!(piece.len() < left && !output.is_empty()),
                Status::NeedsInput => {
                    assert!(piece.is_empty());
                    break;
                }
                Status::Closed => break 'pieces,
            }
        }
    }

    let mut session = Session::new(&target);
    let packet = with_checksums(b"$qWasmCallStack:1#00");
    output.clear();
    assert_eq!(session.receive(&mut &packet[..], &mut output), Status::Replied);
    assert!(output.len() > 16 && output.starts_with(b"+$"));
}

/// Replaces the two bytes after each `#` with the checksum of the packet.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut sum = 0_u8;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'$' => sum = 0,
            b'#' => {
                let digits = format!("{sum:02x}");
                for (to, from) in bytes[at + 1..].iter_mut().zip(digits.bytes()) {
                    *to = from;
                }
                at += 2;
            }
            byte => sum = sum.wrapping_add(*byte),
        }
        at += 1;
    }
    bytes
}
