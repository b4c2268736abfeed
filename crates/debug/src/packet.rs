//! The framing of the gdb-remote protocol: packets with checksums, escapes and acknowledgements.
//!
//! A packet is `$`, the payload, `#` and two hexadecimal digits: the sum of the payload's bytes as sent, modulo 256. The
//! bytes `#`, `$`, `}` and `*` of a payload are sent as `}` and the byte XOR 0x20. Bytes outside of packets are
//! acknowledgements, which are not needed on a reliable transport, and 0x03, which interrupts the program.
//!
//! The decoder keeps at most [`MAX_PACKET_BYTES`] of an incomplete packet.

use super::limits::MAX_PACKET_BYTES;

const ESCAPE: u8 = b'}';

/// What the decoder found in the bytes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A packet. [`Decoder::payload`] has its payload.
    Packet,
    /// A packet whose checksum does not match, or is not a number.
    BadChecksum,
    /// A packet that is longer than [`MAX_PACKET_BYTES`].
    TooLong,
    /// A request to interrupt the program.
    Interrupt,
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Outside,
    Payload,
    /// After `#`.
    Checksum,
    /// After the first digit of the checksum, which has this value. It is `None` if it is not a digit.
    LastDigit(Option<u8>),
}

/// Finds packets in the bytes of a client, which may arrive in any pieces.
#[derive(Debug)]
pub(crate) struct Decoder {
    position: Position,
    payload: Vec<u8>,
    /// The number of bytes of the payload as sent.
    sent: usize,
    sum: u8,
    escaped: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { position: Position::Outside, payload: Vec::new(), sent: 0, sum: 0, escaped: false }
    }

    /// Returns the payload of the packet that was found last, without escapes.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Takes bytes from the front of `input` up to the end of a packet. Returns `None` when all bytes are taken.
    pub(crate) fn find(&mut self, input: &mut &[u8]) -> Option<Found> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            if let Some(found) = self.add(*byte) {
                return Some(found);
            }
        }
        None
    }

    fn add(&mut self, byte: u8) -> Option<Found> {
        match self.position {
            Position::Outside if byte == b'$' => self.begin(),
            Position::Outside if byte == 0x03 => return Some(Found::Interrupt),
            // An acknowledgement, or noise before a packet.
            Position::Outside => {}
            // `$` is escaped in a payload, so the client has given up the previous packet.
            Position::Payload if byte == b'$' => self.begin(),
            Position::Payload if byte == b'#' => self.position = Position::Checksum,
            Position::Payload => {
                if self.sent >= MAX_PACKET_BYTES {
                    self.position = Position::Outside;
                    return Some(Found::TooLong);
                }
                self.sent += 1;
                self.sum = self.sum.wrapping_add(byte);
                if self.escaped {
                    self.payload.push(byte ^ 0x20);
                    self.escaped = false;
                } else if byte == ESCAPE {
                    self.escaped = true;
                } else {
                    self.payload.push(byte);
                }
            }
            Position::Checksum => self.position = Position::LastDigit(digit(byte)),
            Position::LastDigit(first) => {
                self.position = Position::Outside;
                let sum = first.zip(digit(byte)).map(|(high, low)| high << 4 | low);
                let is_right = sum == Some(self.sum) && !self.escaped;
                return Some(if is_right { Found::Packet } else { Found::BadChecksum });
            }
        }
        None
    }

    fn begin(&mut self) {
        self.payload.clear();
        self.position = Position::Payload;
        (self.sent, self.sum, self.escaped) = (0, 0, false);
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A packet that is appended to the bytes for a client.
pub(crate) struct Reply<'o> {
    out: &'o mut Vec<u8>,
    sum: u8,
}

impl<'o> Reply<'o> {
    /// Begins a packet. [`finish`](Self::finish) must end it.
    pub(crate) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'$');
        Self { out, sum: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.sum = self.sum.wrapping_add(byte);
        self.out.push(byte);
    }

    /// Appends bytes, with escapes where they are needed.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'#' | b'$' | b'*' | b'}') {
                self.push(ESCAPE);
                self.push(byte ^ 0x20);
            } else {
                self.push(*byte);
            }
        }
    }

    /// Appends text, with escapes where they are needed.
    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Appends bytes as hexadecimal digits.
    pub(crate) fn hex(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(hex_digit(byte >> 4));
            self.push(hex_digit(byte & 15));
        }
    }

    /// Appends the checksum, which ends the packet.
    pub(crate) fn finish(self) {
        let sum = self.sum;
        self.out.extend([b'#', hex_digit(sum >> 4), hex_digit(sum & 15)]);
    }
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..10 => b'0' + nibble,
        _ => b'a' + (nibble & 15) - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reply = Reply::begin(&mut out);
        reply.bytes(payload);
        reply.finish();
        out
    }

    fn decode_all(mut bytes: &[u8]) -> Vec<(Found, Vec<u8>)> {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        while let Some(next) = decoder.find(&mut bytes) {
            found.push((next, decoder.payload().to_vec()));
        }
        found
    }

    #[test]
    fn encodes_checksums_and_escapes() {
        assert_eq!(encode(b""), b"$#00");
        assert_eq!(encode(b"OK"), b"$OK#9a");
        assert_eq!(encode(b"a#$}*b"), b"$a}\x03}\x04}]}\x0ab#25");
        let mut out = Vec::new();
        let mut reply = Reply::begin(&mut out);
        reply.hex(&[0x00, 0x9f, 0xff]);
        reply.finish();
        assert_eq!(out, b"$009fff#cb");
    }

    #[test]
    fn decodes_what_it_encodes_in_pieces_of_any_length() {
        let all: Vec<u8> = (0..=255).collect();
        let mut stream = b"+".to_vec();
        stream.extend(encode(&all));
        stream.extend(b"+\x03--noise");
        stream.extend(encode(b"?"));
        let expected = vec![
            (Found::Packet, all.clone()),
            (Found::Interrupt, all),
            (Found::Packet, b"?".to_vec()),
        ];
        assert_eq!(decode_all(&stream), expected);
        for split in 0..=stream.len() {
            let mut decoder = Decoder::new();
            let mut found = Vec::new();
            let (first, second) = stream.split_at(split);
            for mut piece in [first, second] {
                while let Some(next) = decoder.find(&mut piece) {
                    found.push((next, decoder.payload().to_vec()));
                }
            }
            assert_eq!(found, expected, "split at {split}");
        }
    }

    #[test]
    fn finds_bad_checksums() {
        let kinds =
            |bytes: &[u8]| decode_all(bytes).iter().map(|(found, _)| *found).collect::<Vec<_>>();
        assert_eq!(kinds(b"$OK#9b"), [Found::BadChecksum]);
        assert_eq!(kinds(b"$OK#zz$OK#9A"), [Found::BadChecksum, Found::Packet]);
        // The payload ends within an escape.
        assert_eq!(kinds(b"$}#7d"), [Found::BadChecksum]);
        // The client began anew.
        assert_eq!(decode_all(b"$qSup$OK#9a"), [(Found::Packet, b"OK".to_vec())]);
        assert_eq!(kinds(b"$OK#9"), []);
    }

    #[test]
    fn keeps_at_most_a_packet() {
        let longest = vec![b'a'; MAX_PACKET_BYTES];
        assert_eq!(decode_all(&encode(&longest)), [(Found::Packet, longest.clone())]);
        let mut longer = b"$".to_vec();
        longer.extend(&longest);
        longer.push(b'a');
        let found = decode_all(&longer);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.len()), (Found::TooLong, MAX_PACKET_BYTES));
    }
}
