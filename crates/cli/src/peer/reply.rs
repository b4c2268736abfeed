//! The reply to a dump: one line that tells whether the receiver kept it. This module does no I/O.
//!
//! # The problem
//! A sender has sent everything, and its bytes are in the buffers of two kernels. Only the receiver knows whether they
//! ended up in a file. TCP has a signal for "no" (a reset) but none for "yes". A Unix socket has neither, unless unread
//! bytes are left in it.
//!
//! # The protocol
//! The sender sends the dump and shuts down its half of the connection. Once the dump has its name, the receiver sends
//! `ok` and a line feed, and closes the connection. A receiver that does not keep the dump sends the reason instead: at
//! most [`MAX_REASON_BYTES`] bytes of printable ASCII and a line feed. Then it breaks the connection, so that senders
//! that do not read replies also get an error. A reason may come at any time. An `ok` counts only after the sender has
//! shut down its half, because an earlier one is not about the complete dump.
//!
//! # Peers without replies
//! A peer that sends no reply, such as `nc -l`, counts as having kept the dump if it closes the connection in the
//! ordinary way after it has received everything: the sender had shut down its half before the end arrived, and no byte
//! of the dump was left in a buffer. An earlier end of the peer's half only means that no reply will come.

use crate::limits::MAX_REASON_BYTES;

/// The reply that the dump was kept.
pub const OK: &[u8] = b"ok\n";

/// The message for an `ok` that comes before the sender has ended its half of the connection.
pub const EARLY_OK: &str = "replied `ok` before the end of the dump";

/// The outcome for a dump, according to the peer's reply or its absence.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Kept: the peer said so, or closed the connection in the ordinary way without a reply.
    Kept,
    /// Not kept, with the peer's unescaped reason.
    Refused(String),
    /// The peer ended its half of the connection early, without a reply.
    EndedEarly,
    /// The peer replied `ok` before the sender shut down its half of the connection.
    EarlyOk,
}

/// The partially received reply of a peer. Keeps at most [`MAX_REASON_BYTES`] bytes.
#[derive(Debug, Default)]
pub struct Reply {
    line: Vec<u8>,
    begun_early: bool,
    ended_early: bool,
}

impl Reply {
    /// Records that the peer ended its half before the sender shut down its own.
    pub fn end_early(&mut self) {
        self.ended_early = true;
    }

    /// Records that bytes of the reply arrived before the sender shut down its half.
    pub fn begin_early(&mut self) {
        self.begun_early = true;
    }

    /// Returns whether part of a line has arrived.
    pub fn is_begun(&self) -> bool {
        !self.line.is_empty()
    }

    /// Takes the next bytes. Returns `None` until the line is complete.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Answer> {
        for byte in bytes {
            if *byte == b'\n' {
                return Some(self.answer());
            }
            if self.line.len() == MAX_REASON_BYTES {
                // The line is too long to be `ok`. Does not wait for the rest.
                return Some(self.answer());
            }
            self.line.push(*byte);
        }
        None
    }

    /// Returns the meaning of the end of the peer's half. `everything_taken` says whether the peer has received every
    /// byte of the dump.
    pub fn end(&mut self, everything_taken: bool) -> Answer {
        if self.is_begun() {
            return self.answer();
        }
        if self.ended_early || !everything_taken {
            return Answer::EndedEarly;
        }
        Answer::Kept
    }

    /// Returns the reason that arrived before the connection broke, if any.
    pub fn reason(&mut self) -> Option<String> {
        // A line without a line feed is truncated, so even `ok` may be the start of a longer line.
        self.is_begun().then(|| String::from_utf8_lossy(&self.line).into_owned())
    }

    fn answer(&mut self) -> Answer {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        match line {
            b"ok" if self.begun_early => Answer::EarlyOk,
            b"ok" => Answer::Kept,
            b"" => Answer::Refused("it gave no reason".into()),
            reason => Answer::Refused(String::from_utf8_lossy(reason).into_owned()),
        }
    }
}

/// Formats the line that refuses a dump: printable ASCII with everything else escaped, truncated if it is too long.
///
/// The protocol has its own escaping rule because the peer can be any program. Messages show received lines with
/// [`Visible`](corestream::Visible), like all other untrusted text.
pub fn refusal(reason: &str) -> Vec<u8> {
    let mut line = Vec::new();
    for c in reason.chars() {
        let start = line.len();
        match c {
            ' '..='~' => line.push(c as u8),
            _ => line.extend(c.escape_default().to_string().bytes()),
        }
        if line.len() > MAX_REASON_BYTES {
            line.truncate(start);
            break;
        }
    }
    if line.is_empty() || line == b"ok" {
        line = b"not kept".to_vec();
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Option<Answer> {
        Some(Answer::Refused(reason.into()))
    }

    /// Returns the answer for a reply whose bytes arrive in pieces of `size` bytes, if it gives one.
    fn answer(bytes: &[u8], size: usize) -> Option<Answer> {
        let mut reply = Reply::default();
        bytes.chunks(size).find_map(|piece| reply.take(piece))
    }

    #[test]
    fn decides_on_one_line_in_pieces_of_any_size() {
        let long = [b'x'; 3 * MAX_REASON_BYTES];
        let cut = "x".repeat(MAX_REASON_BYTES);
        let cases: [(&[u8], Option<Answer>); 10] = [
            (b"ok\n", Some(Answer::Kept)),
            (b"ok\r\n", Some(Answer::Kept)),
            (b"ok\nmore", Some(Answer::Kept)),
            (b"ok", None),
            (b"", None),
            (b"ok \n", refused("ok ")),
            (b"disk full\nok\n", refused("disk full")),
            (b"\n", refused("it gave no reason")),
            (b"\x1b[31m\xff\n", refused("\u{1b}[31m\u{fffd}")),
            (&long, refused(&cut)),
        ];
        for (bytes, expected) in cases {
            for size in [1, 2, 3, 511, 512, 513, 4096] {
                assert_eq!(answer(bytes, size), expected, "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn counts_an_end_without_a_reply_only_after_all_bytes() {
        for (early, taken, expected) in [
            (false, true, Answer::Kept),
            (true, true, Answer::EndedEarly),
            (false, false, Answer::EndedEarly),
            (true, false, Answer::EndedEarly),
        ] {
            let mut reply = Reply::default();
            if early {
                reply.end_early();
            }
            assert_eq!(reply.end(taken), expected, "{early} {taken}");
            // A reply counts, no matter how the connection ends.
            reply.take(b"why");
            assert_eq!(Some(reply.end(taken)), refused("why"));
        }
        let mut reply = Reply::default();
        reply.take(b"ok");
        assert_eq!(reply.end(true), Answer::Kept);
    }

    #[test]
    fn counts_an_ok_only_after_the_dump() {
        let mut reply = Reply::default();
        reply.begin_early();
        assert_eq!(reply.take(b"ok\n"), Some(Answer::EarlyOk));
        let mut reply = Reply::default();
        reply.begin_early();
        assert_eq!(reply.take(b"disk full\n"), refused("disk full"));
    }

    #[test]
    fn keeps_the_reason_of_a_broken_connection() {
        let mut reply = Reply::default();
        assert_eq!(reply.reason(), None);
        reply.take(b"disk fu");
        assert_eq!(reply.reason().as_deref(), Some("disk fu"));
    }

    #[test]
    fn formats_refusals_as_one_printable_line() {
        for reason in ["", "ok", "disk full", "a\nb\r\x1b[31m", "\u{202e}ä€", &"€x".repeat(400)]
        {
            let line = refusal(reason);
            let (end, text) = line.split_last().unwrap();
            assert!(*end == b'\n' && (1..=MAX_REASON_BYTES).contains(&text.len()), "{text:?}");
            assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{text:?}");
            let read_back = answer(&line, 7);
            assert_eq!(read_back, refused(std::str::from_utf8(text).unwrap()));
        }
        assert_eq!(refusal("a\nb\u{e9}"), b"a\\nb\\u{e9}\n");
    }

    /// For random bytes: memory is bounded, the answer is final, and only `ok` means kept.
    #[test]
    fn bounds_arbitrary_replies() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        for _ in 0..2000 {
            let len = next() % 700;
            let bytes: Vec<u8> = (0..len).map(|_| b"ok\r\n x\xff"[(next() % 7) as usize]).collect();
            let size = 1 + (next() % 20) as usize;
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
            match answer(&bytes, size) {
                Some(Answer::Kept) => assert!(line == b"ok" || line == b"ok\r"),
                Some(Answer::Refused(_)) => assert!(line != b"ok"),
                Some(Answer::EndedEarly | Answer::EarlyOk) => panic!("{bytes:?}"),
                None => assert!(line.len() == bytes.len() && line.len() <= MAX_REASON_BYTES),
            }
        }
    }
}
