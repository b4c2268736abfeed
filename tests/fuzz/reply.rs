//! Any bytes of a receiver: the answer is the same however they are cut, a reason is bounded, and only `ok` says
//! that a dump was kept. Any text as a reason: one printable line, which reads back as the same refusal.

use corestream_cli::internals::{Answer, MAX_REASON_BYTES, OK, Reply, refusal};

/// What a reply comes to, of which `bytes` come, in pieces of `size`; then the connection ends.
fn answer(bytes: &[u8], size: usize) -> Answer {
    let mut reply = Reply::default();
    let early = bytes.chunks(size).find_map(|piece| reply.take(piece));
    early.unwrap_or_else(|| reply.end(true))
}

pub fn run(bytes: &[u8]) {
    let size = bytes.first().map_or(1, |byte| 1 + usize::from(*byte));
    let found = answer(bytes, size);
    assert_eq!(found, answer(bytes, 1));
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match &found {
        Answer::Kept => assert!(bytes.is_empty() || line == b"ok" || line == b"ok\r"),
        // A byte that is no text becomes a character of three.
        Answer::Refused(reason) => assert!(reason.len() <= 3 * MAX_REASON_BYTES),
        Answer::EndedEarly | Answer::EarlyOk => panic!("it did not"),
    }
    let line = refusal(&String::from_utf8_lossy(bytes));
    assert!(line != OK && line.len() <= MAX_REASON_BYTES + 1);
    let (end, text) = line.split_last().expect("a line feed at least");
    assert!(*end == b'\n' && text.iter().all(|byte| (b' '..=b'~').contains(byte)));
    let text = String::from_utf8_lossy(text).into_owned();
    assert_eq!(answer(&line, size), Answer::Refused(text));
}
