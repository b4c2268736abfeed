//! The reply to a dump: one line, by which a receiver says whether it kept the dump. No I/O.
//!
//! The problem: a sender has sent everything, and its bytes are in the buffers of two kernels. Whether a
//! file came of them only the receiver knows. TCP has a signal for "no" (a reset) but none for "yes", and a
//! Unix socket has neither, unless unread bytes are left in it.
//!
//! The protocol: the sender sends the dump and shuts down its half of the connection. The receiver sends
//! `ok` and a line feed when the dump has its name, and then closes the connection. A receiver that does not
//! keep the dump sends the reason instead: at most [`MAX_REASON_BYTES`] bytes of printable ASCII and a line feed.
//! Then it breaks the connection, so that senders that do not read replies still get an error. A reason may
//! come at any time, `ok` only after the sender has shut down its half: one that comes earlier is not about the
//! whole dump, and does not count.
//!
//! Peers that send no reply, such as `nc -l`, are believed if they close the connection in the ordinary
//! way, after they had everything. The end of their half counts as "after" if the sender had shut down its own
//! half before that end came, and if no byte of the dump was left in a buffer. An end that comes earlier is
//! remembered: it says that no reply will come, not that the dump was kept.

use crate::limits::MAX_REASON_BYTES;

/// Says that the dump was kept.
pub const OK: &[u8] = b"ok\n";

/// The message for an `ok` that comes before the sender has ended its half of the connection.
pub const EARLY_OK: &str = "replied `ok` before the end of the dump";

/// What a peer made of a dump, as far as its reply or the lack of one tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The peer said so, or closed the connection in the ordinary way without a word.
    Kept,
    /// Not kept, for this reason, as the peer sent it: to be escaped before it is shown.
    Refused(String),
    /// The peer ended its half of the connection before it had everything, and said nothing.
    EndedEarly,
    /// The peer replied `ok` before the sender had ended its half of the connection.
    EarlyOk,
}

/// The reply of one peer, while its bytes come in. It keeps at most [`MAX_REASON_BYTES`] of them.
#[derive(Debug, Default)]
pub struct Reply {
    line: Vec<u8>,
    begun_early: bool,
    ended_early: bool,
}

impl Reply {
    /// Notes that the peer ended its half before the sender ended its own.
    pub fn end_early(&mut self) {
        self.ended_early = true;
    }

    /// Notes that bytes of the reply came before the sender ended its own half.
    pub fn begin_early(&mut self) {
        self.begun_early = true;
    }

    /// Returns whether a part of a line has come.
    pub fn is_begun(&self) -> bool {
        !self.line.is_empty()
    }

    /// Takes the next bytes; `None` while the line goes on.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Answer> {
        for byte in bytes {
            if *byte == b'\n' {
                return Some(self.answer());
            }
            if self.line.len() == MAX_REASON_BYTES {
                // Whatever it is, it is not `ok`, and the rest is not waited for.
                return Some(self.answer());
            }
            self.line.push(*byte);
        }
        None
    }

    /// Returns what the end of the peer's half means; `everything_taken` is whether no byte of the dump
    /// was left on the way.
    pub fn end(&mut self, everything_taken: bool) -> Answer {
        if self.is_begun() {
            return self.answer();
        }
        if self.ended_early || !everything_taken {
            return Answer::EndedEarly;
        }
        Answer::Kept
    }

    /// Returns the reason that came before the connection broke, if one did.
    pub fn reason(&mut self) -> Option<String> {
        // A line without its end is cut, so that even `ok` may be the beginning of something else.
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

/// Makes the line that refuses a dump: printable ASCII only, the rest escaped, and cut where it is too long.
///
/// The wire has this rule of its own because the peer may be any program. What is read from it is shown by
/// [`Visible`](corestream::Visible), as everything else.
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

    /// What a reply comes to whose bytes come in pieces of `size`, if it comes to anything.
    fn answer(bytes: &[u8], size: usize) -> Option<Answer> {
        let mut reply = Reply::default();
        bytes.chunks(size).find_map(|piece| reply.take(piece))
    }

    #[test]
    fn one_line_decides_however_it_is_cut() {
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
    fn an_end_without_a_reply_counts_only_after_everything() {
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
            // What was said counts, whatever the end.
            reply.take(b"why");
            assert_eq!(Some(reply.end(taken)), refused("why"));
        }
        let mut reply = Reply::default();
        reply.take(b"ok");
        assert_eq!(reply.end(true), Answer::Kept);
    }

    #[test]
    fn only_an_ok_after_the_dump_counts() {
        let mut reply = Reply::default();
        reply.begin_early();
        assert_eq!(reply.take(b"ok\n"), Some(Answer::EarlyOk));
        let mut reply = Reply::default();
        reply.begin_early();
        assert_eq!(reply.take(b"disk full\n"), refused("disk full"));
    }

    #[test]
    fn a_reason_survives_a_broken_connection() {
        let mut reply = Reply::default();
        assert_eq!(reply.reason(), None);
        reply.take(b"disk fu");
        assert_eq!(reply.reason().as_deref(), Some("disk fu"));
    }

    #[test]
    fn refusals_are_one_printable_line_that_reads_back() {
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

    /// A property over random bytes: bounded, decided once, and only `ok` is a yes.
    #[test]
    fn any_bytes_are_bounded() {
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
