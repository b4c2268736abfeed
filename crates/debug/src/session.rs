//! One client: its packets in, the replies out.
//!
//! **Problem.** A client is untrusted. It may send garbage, send without an end, or never read the replies.
//!
//! **Idea.** [`Session::receive`] takes bytes from the front of the input up to the end of one packet, and appends the
//! reply to that packet. The transport sends the reply before it calls again. So the session never has more than a
//! packet and a reply, and a client that does not read its replies stops its own session and no other.
//!
//! The packets are those that LLDB needs, and no others: nothing is written, nothing runs, and there is no access to
//! files. All other packets get the empty reply, which means that they are not supported.

use corestream::read::Frames;
use corestream::{Frame, GlobalValue, Value};
use corestream_symbols::FramePlace;

use super::limits::MAX_PACKET_BYTES;
use super::memory_map::{Client, IMAGES, Unreadable, base};
use super::packet::{Decoder, Found, Reply};
use super::stacks::known;
use super::target::Target;

/// The architecture. LLDB takes the file of a module from the local disk only if this matches the file.
const TRIPLE: &str = "wasm32-unknown-unknown-wasm";

const PC_REGISTER: &str = "name:pc;alt-name:pc;bitsize:64;offset:0;encoding:uint;format:hex;\
    set:General Purpose Registers;gcc:16;dwarf:16;generic:pc;";

/// A value that is not known, or an item that does not exist.
const UNKNOWN: &str = "E01";
/// Memory that does not exist, or is not in the dump.
const NO_MEMORY: &str = "E02";
/// The dump cannot be read.
const FAILED: &str = "E03";
/// There are no more registers.
const NO_REGISTER: &str = "E45";

/// What the transport should do after [`Session::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Status {
    /// All of the input was taken. Receive more.
    NeedsInput,
    /// The output has more bytes. Send them, and call again with the rest of the input.
    Replied,
    /// The session has ended, because the client detached or does not speak the protocol. Send the output and close the
    /// connection.
    Closed,
}

/// A connection of a client. It keeps at most one packet of the client, and one frame of the dump.
///
/// ```
/// use corestream::{CoreDump, CoreDumpFile, Dumper};
/// use corestream_debug::{Options, Session, Status, Target};
///
/// # let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let dump = CoreDumpFile::from_slice(&bytes)?;
/// let target = Target::new(&dump, &[], &Options::new())?;
/// let mut session = Session::new(&target);
///
/// let (mut input, mut output) = (&b"$QStartNoAckMode#b0+$D#44"[..], Vec::new());
/// assert_eq!(session.receive(&mut input, &mut output), Status::Replied);
/// assert_eq!(output, b"+$OK#9a");
/// assert_eq!(input, b"+$D#44");
/// assert_eq!(session.receive(&mut input, &mut output), Status::Closed);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
pub struct Session<'t, 'b> {
    target: &'t Target<'b>,
    decoder: Decoder,
    /// Whether packets are acknowledged.
    acknowledges: bool,
    client: Client,
    /// The position of the thread that `Hg` has selected.
    thread: usize,
    frames: Option<FrameCursor<'b>>,
    memory: Vec<u8>,
    closed: bool,
}

/// The frames of the chosen thread. LLDB asks for values in the order of frames, so a frame is rarely decoded twice.
#[derive(Debug)]
struct FrameCursor<'b> {
    frames: Frames<'b>,
    index: usize,
    frame: Frame,
}

/// A reply that is not made of text alone.
enum Answer<'a> {
    /// Text without characters that need an escape.
    Plain(&'a str),
    Text(String),
    Bytes(&'a [u8]),
    Hex(&'a [u8]),
}

/// The empty reply, which says that a packet is not supported.
const UNSUPPORTED: Answer<'_> = Answer::Plain("");

impl<'t, 'b> Session<'t, 'b> {
    /// Starts a session with a client that has connected.
    pub fn new(target: &'t Target<'b>) -> Self {
        Self {
            target,
            decoder: Decoder::new(),
            acknowledges: true,
            client: Client::Lldb22,
            thread: target.chosen(),
            frames: None,
            memory: Vec::new(),
            closed: false,
        }
    }

    /// Takes bytes of the client from the front of `input`, up to the end of the next packet, and appends the reply to
    /// `output`: at most [`MAX_REPLY_BYTES`](crate::limits::MAX_REPLY_BYTES).
    ///
    /// Takes nothing after the session has ended. Input may be cut at any byte.
    pub fn receive(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Status {
        if self.closed {
            return Status::Closed;
        }
        let Some(found) = self.decoder.find(input) else { return Status::NeedsInput };
        match found {
            Found::Packet => {
                if self.acknowledges {
                    output.push(b'+');
                }
                self.answer_packet(output);
            }
            Found::Interrupt => self.reply(Answer::Text(self.stop_reply(self.thread)), output),
            Found::BadChecksum if self.acknowledges => output.push(b'-'),
            // The transport is reliable, so this is another protocol.
            Found::BadChecksum | Found::TooLong => self.closed = true,
        }
        if self.closed { Status::Closed } else { Status::Replied }
    }

    fn reply(&self, answer: Answer<'_>, output: &mut Vec<u8>) {
        let mut reply = Reply::begin(output);
        match answer {
            Answer::Plain(text) => reply.text(text),
            Answer::Text(text) => reply.text(&text),
            Answer::Bytes(bytes) => reply.bytes(bytes),
            Answer::Hex(bytes) => reply.hex(bytes),
        }
        reply.finish();
    }

    fn answer_packet(&mut self, output: &mut Vec<u8>) {
        // The decoder is needed again only after the answer.
        let decoder = std::mem::replace(&mut self.decoder, Decoder::new());
        self.answer(decoder.payload(), output);
        self.decoder = decoder;
    }

    fn answer(&mut self, payload: &[u8], output: &mut Vec<u8>) {
        // No packet that is supported has other bytes than ASCII.
        let Ok(packet) = std::str::from_utf8(payload) else {
            return self.reply(UNSUPPORTED, output);
        };
        if let Some(read) = packet.strip_prefix(['x', 'm']) {
            return self.answer_memory(read, packet.starts_with('x'), output);
        }
        if let Some(thread) = packet.strip_prefix("qWasmCallStack:") {
            return self.answer_call_stack(thread, output);
        }
        for (prefix, kind) in [
            ("qWasmLocal:", Kind::Local),
            ("qWasmGlobal:", Kind::Global),
            ("qWasmStackValue:", Kind::Operand),
        ] {
            if let Some(arguments) = packet.strip_prefix(prefix) {
                return self.answer_value(kind, arguments, output);
            }
        }
        let answer = self.answer_text(packet);
        self.reply(answer, output);
    }

    /// Answers the packets whose replies are text.
    fn answer_text(&mut self, packet: &str) -> Answer<'static> {
        let after = |prefix: &str| packet.strip_prefix(prefix);
        match packet {
            "QStartNoAckMode" => {
                self.acknowledges = false;
                return Answer::Plain("OK");
            }
            "QEnableErrorStrings" => return Answer::Plain("OK"),
            "qHostInfo" => return Answer::Text(host_info("")),
            "qProcessInfo" => return Answer::Text(host_info("pid:1;")),
            "qRegisterInfo0" => return Answer::Plain(PC_REGISTER),
            "qC" => {
                let number = self.target.thread_number(self.thread);
                return Answer::Text(format!("QC{number:x}"));
            }
            "qfThreadInfo" => return Answer::Text(self.thread_list()),
            "qsThreadInfo" => return Answer::Plain("l"),
            "?" => return Answer::Text(self.stop_reply(self.target.chosen())),
            "g" => return Answer::Text(little_endian(self.pc())),
            "vCont?" => return Answer::Plain("vCont;c;C;s;S"),
            "k" => {
                self.closed = true;
                return Answer::Plain("X09");
            }
            _ => {}
        }
        if after("qSupported").is_some() {
            // LLDB 22 does not list it.
            self.client = match packet.contains("qXfer:libraries:read+") {
                true => Client::Newer,
                false => Client::Lldb22,
            };
            // Not `qWasmInstance+`: the global of an instance may have changed since a caller used it.
            let features = "qXfer:libraries:read+;QStartNoAckMode+";
            return Answer::Text(format!("PacketSize={MAX_PACKET_BYTES:x};{features}"));
        }
        if after("qRegisterInfo").is_some() {
            return Answer::Plain(NO_REGISTER);
        }
        if let Some(thread) = after("qThreadStopInfo") {
            return match self.thread_position(thread) {
                Some(position) => Answer::Text(self.stop_reply(position)),
                None => Answer::Plain(UNKNOWN),
            };
        }
        if let Some(range) = after("qXfer:libraries:read::") {
            return self.libraries(range);
        }
        if let Some(address) = after("qMemoryRegionInfo:") {
            return match hex(address) {
                Some(address) => Answer::Text(self.region(address)),
                None => Answer::Plain(UNKNOWN),
            };
        }
        if let Some(thread) = after("Hg") {
            // -1 means all threads, and 0 any thread.
            return match self.thread_position(thread) {
                Some(position) => {
                    self.thread = position;
                    Answer::Plain("OK")
                }
                None if matches!(thread, "-1" | "0") => Answer::Plain("OK"),
                None => Answer::Plain(UNKNOWN),
            };
        }
        if after("Hc").is_some() {
            return Answer::Plain("OK");
        }
        if let Some(thread) = after("T") {
            let exists = self.thread_position(thread).is_some();
            return Answer::Plain(if exists { "OK" } else { UNKNOWN });
        }
        if let Some(register) = after("p") {
            return match hex(register) {
                Some(0) => Answer::Text(little_endian(self.pc())),
                _ => Answer::Plain(UNKNOWN),
            };
        }
        if packet == "D" || after("D;").is_some() {
            self.closed = true;
            return Answer::Plain("OK");
        }
        // Breakpoints. With the empty reply, LLDB would try to write them into memory.
        if after("Z").is_some() || after("z").is_some() {
            return Answer::Plain(UNKNOWN);
        }
        // The guest cannot continue. It stops again at the same place.
        let resumes = after("vCont;").is_some()
            || matches!(packet.as_bytes(), [b'c' | b's' | b'C' | b'S', ..]);
        if resumes {
            return Answer::Text(self.stop_reply(self.target.chosen()));
        }
        UNSUPPORTED
    }

    fn pc(&self) -> u64 {
        self.target.pc(self.thread, self.client)
    }

    /// Returns the position of a thread with this hexadecimal number. A number of the process may come first.
    fn thread_position(&self, number: &str) -> Option<usize> {
        let number = number.rsplit_once('.').map_or(number, |(_, thread)| thread);
        self.target.thread_position(hex(number)?)
    }

    fn thread_list(&self) -> String {
        let numbers = (0..self.target.thread_count())
            .map(|position| format!("{:x}", self.target.thread_number(position)));
        format!("m{}", numbers.collect::<Vec<_>>().join(","))
    }

    fn stop_reply(&self, position: usize) -> String {
        let is_chosen = position == self.target.chosen();
        let number = self.target.thread_number(position);
        let name = text_hex(self.target.thread_name(position));
        let pc = little_endian(self.target.pc(position, self.client));
        // Signal 0 says that the thread has not stopped by itself.
        let signal = if is_chosen { "05" } else { "00" };
        let mut reply = format!("T{signal}thread:{number:x};hexname:{name};00:{pc};");
        if is_chosen {
            let description = text_hex(self.target.stop_reason());
            reply += &format!("reason:exception;description:{description};");
        }
        reply
    }

    fn libraries(&self, range: &str) -> Answer<'static> {
        let range = range.split_once(',').and_then(|(offset, len)| Some((hex(offset)?, hex(len)?)));
        let Some((offset, len)) = range else { return Answer::Plain(UNKNOWN) };
        let mut list = String::from("<library-list>");
        for image in self.target.images(self.client) {
            let (name, address) = (xml(&image.name), IMAGES | base(image.id));
            list +=
                &format!(r#"<library name="{name}"><section address="{address:#x}"/></library>"#);
        }
        list += "</library-list>";
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = list.get(offset..).unwrap_or_default();
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAX_PACKET_BYTES);
        // Names are ASCII here, so this cuts no character.
        match rest.split_at_checked(len) {
            Some((part, more)) if !more.is_empty() => Answer::Text(format!("m{part}")),
            _ => Answer::Text(format!("l{rest}")),
        }
    }

    fn region(&self, address: u64) -> String {
        let region = self.target.memory_map(self.client).region(address);
        let (first, last) = region.addresses.into_inner();
        // A region that begins at 0 ends before the last address.
        let size = (last - first).saturating_add(1);
        match region.mapped {
            Some((permissions, name)) => {
                let name = text_hex(&name);
                format!("start:{first:x};size:{size:x};permissions:{permissions};name:{name};")
            }
            None => format!("start:{first:x};size:{size:x};"),
        }
    }

    fn answer_memory(&mut self, read: &str, binary: bool, output: &mut Vec<u8>) {
        let range = read.split_once(',').and_then(|(from, len)| Some((hex(from)?, hex(len)?)));
        let Some((address, len)) = range else { return self.reply(Answer::Plain(UNKNOWN), output) };
        if len == 0 {
            // LLDB asks so whether `x` is supported.
            return self.reply(Answer::Plain(if binary { "OK" } else { "" }), output);
        }
        // In hexadecimal digits, memory takes two bytes for each.
        let max = if binary { MAX_PACKET_BYTES } else { MAX_PACKET_BYTES / 2 };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(max);
        let mut memory = std::mem::take(&mut self.memory);
        memory.clear();
        let answer = match self.target.memory_map(self.client).read(address, len, &mut memory) {
            Ok(()) if binary => {
                if is_like_a_status(&memory) {
                    memory.pop();
                }
                Answer::Bytes(&memory)
            }
            Ok(()) => Answer::Hex(&memory),
            Err(Unreadable::Unknown) => Answer::Plain(NO_MEMORY),
            Err(Unreadable::Failed) => Answer::Plain(FAILED),
        };
        self.reply(answer, output);
        self.memory = memory;
    }

    fn answer_call_stack(&mut self, thread: &str, output: &mut Vec<u8>) {
        let Some(position) = self.thread_position(thread) else {
            return self.reply(Answer::Plain(UNKNOWN), output);
        };
        let mut reply = Reply::begin(output);
        for pc in self.target.pcs(position, self.client) {
            reply.hex(&pc.to_le_bytes());
        }
        reply.finish();
    }

    /// Answers with the bytes of a value in little-endian order.
    ///
    /// LLDB does not say whose frame it means. Only the chosen thread has frames with variables, so it is that one.
    fn answer_value(&mut self, kind: Kind, arguments: &str, output: &mut Vec<u8>) {
        let mut numbers = arguments.split(';').map(str::parse::<usize>);
        let (Some(Ok(frame)), Some(Ok(index))) = (numbers.next(), numbers.next()) else {
            return self.reply(Answer::Plain(UNKNOWN), output);
        };
        let (bytes, len) = match self.value(kind, frame, index) {
            Ok(Some(value)) => value,
            Ok(None) => return self.reply(Answer::Plain(UNKNOWN), output),
            Err(_) => return self.reply(Answer::Plain(FAILED), output),
        };
        self.reply(Answer::Hex(bytes.get(..len).unwrap_or_default()), output);
    }

    /// Returns the bytes of a value and their number, or `None` if the value is not known.
    fn value(
        &mut self,
        kind: Kind,
        frame_index: usize,
        index: usize,
    ) -> corestream::Result<Option<([u8; 16], usize)>> {
        let target = self.target;
        let Some(frame) = self.frame(frame_index)? else { return Ok(None) };
        let value = match kind {
            Kind::Local | Kind::Operand => {
                let Ok(place) = u32::try_from(index) else { return Ok(None) };
                let (value, place) = match kind {
                    Kind::Local => (frame.locals.get(index), FramePlace::Local(place)),
                    _ => (frame.stack.get(index), FramePlace::Operand(place)),
                };
                let Some(value) = value else { return Ok(None) };
                target.is_reliable(frame, frame_index, place)?.then_some(value)
            }
            Kind::Global => {
                let Some(global) = target.global_of(frame, index)? else { return Ok(None) };
                let Some(global) = known(target.dump().global(global))? else { return Ok(None) };
                // The functions that a caller has called may have changed a mutable global since, as they change the
                // stack pointer.
                let is_changed = frame_index > 0 && global.mutable;
                return Ok((!is_changed).then(|| global_bytes(global.value)).flatten());
            }
        };
        Ok(value.copied().and_then(value_bytes))
    }

    /// Returns a frame of the chosen thread, or `None` if it is not served.
    fn frame(&mut self, index: usize) -> corestream::Result<Option<&Frame>> {
        if index >= self.target.frame_count() {
            return Ok(None);
        }
        let cursor = match self.frames.take() {
            Some(cursor) if cursor.index <= index => Some(cursor),
            _ => None,
        };
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => {
                let Some(thread) = self.target.chosen_index() else { return Ok(None) };
                let Some(thread) = known(self.target.dump().thread(thread))? else {
                    return Ok(None);
                };
                let mut frames = thread.frames();
                let Some(frame) = frames.next().map(known).transpose()?.flatten() else {
                    return Ok(None);
                };
                FrameCursor { frames, index: 0, frame }
            }
        };
        while cursor.index < index {
            let Some(frame) = cursor.frames.next().map(known).transpose()?.flatten() else {
                return Ok(None);
            };
            cursor.frame = frame;
            cursor.index += 1;
        }
        Ok(Some(&self.frames.insert(cursor).frame))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Local,
    Global,
    Operand,
}

fn host_info(first: &str) -> String {
    format!("{first}triple:{};endian:little;ptrsize:4;", text_hex(TRIPLE))
}

/// Returns whether LLDB would take bytes of memory for a status: `OK`, `E01` or `E01;` with a text in hexadecimal digits.
/// With a byte less they are none of these, and LLDB reads that byte next.
fn is_like_a_status(bytes: &[u8]) -> bool {
    match bytes {
        b"OK" => true,
        [b'E', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
            matches!(rest, [] | [b';', ..])
        }
        _ => false,
    }
}

fn value_bytes(value: Value) -> Option<([u8; 16], usize)> {
    match value {
        Value::I32(value) => Some(padded(value.to_le_bytes())),
        Value::I64(value) => Some(padded(value.to_le_bytes())),
        Value::F32(bits) => Some(padded(bits.to_le_bytes())),
        Value::F64(bits) => Some(padded(bits.to_le_bytes())),
        _ => None,
    }
}

fn global_bytes(value: GlobalValue) -> Option<([u8; 16], usize)> {
    match value {
        GlobalValue::I32(value) => Some(padded(value.to_le_bytes())),
        GlobalValue::I64(value) => Some(padded(value.to_le_bytes())),
        GlobalValue::F32(bits) => Some(padded(bits.to_le_bytes())),
        GlobalValue::F64(bits) => Some(padded(bits.to_le_bytes())),
        GlobalValue::V128(bits) => Some((bits.to_le_bytes(), 16)),
        _ => None,
    }
}

fn padded<const N: usize>(bytes: [u8; N]) -> ([u8; 16], usize) {
    let mut all = [0; 16];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = from;
    }
    (all, N)
}

fn little_endian(pc: u64) -> String {
    format!("{:016x}", pc.swap_bytes())
}

fn text_hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a hexadecimal number without a prefix.
fn hex(digits: &str) -> Option<u64> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Returns text as the value of an XML attribute, in ASCII. XML has no way to write control characters.
fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            ' '..='~' if !matches!(c, '&' | '<' | '>' | '"' | '\'') => out.push(c),
            c if c.is_control() => out.push('?'),
            c => out += &format!("&#{};", u32::from(c)),
        }
    }
    out
}
