//! Parses any bytes of a receiver: the answer does not depend on how they are split, a reason is bounded, and only `ok`
//! means that a dump was kept. Any text as a reason is one printable line, which parses as the same refusal.

use corestream_cli::internals::{Answer, MAX_REASON_BYTES, OK, Reply, refusal};

/// Returns the answer if `bytes` arrive in pieces of `size`, and then the connection ends.
fn answer(bytes: &[u8], size: usize) -> Answer {
    let mut reply = Reply::default();
    let early = bytes.chunks(size).find_map(|piece| reply.take(piece));
    early.unwrap_or_else(|| reply.end(true))
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    let size = bytes.first().map_or(1, |byte| 1 + usize::from(*byte));
    let found = answer(bytes, size);
    assert_eq!(found, answer(bytes, 1));
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match &found {
        Answer::Kept => assert!(bytes.is_empty() || line == b"ok" || line == b"ok\r"),
        // An invalid byte becomes a character of three bytes.
        Answer::Refused(reason) => assert!(reason.len() <= 3 * MAX_REASON_BYTES),
        Answer::EndedEarly | Answer::EarlyOk => panic!("the connection did not end early"),
    }
    let line = refusal(&String::from_utf8_lossy(bytes));
    assert!(line != OK && line.len() <= MAX_REASON_BYTES + 1);
    let (end, text) = line.split_last().expect("a line feed at least");
    assert!(*end == b'\n' && text.iter().all(|byte| (b' '..=b'~').contains(byte)));
    let text = String::from_utf8_lossy(text).into_owned();
    assert_eq!(answer(&line, size), Answer::Refused(text));
}
