//! A guest, its dump, and a client.

use corestream::read::ReadAt;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, Frame, Global, GlobalValue, Instance, InstanceIndex, Memory,
    MemoryImage, MemoryIndex, MemoryType, ModuleIndex, Thread, Value,
};
use corestream_debug::{Options, Session, Status, Target};
use corestream_symbols::SymbolFile;
use wasm_encoder::{
    CodeSection, CustomSection, EntityType, Function, FunctionSection, ImportSection, Module,
    NameMap, NameSection, TypeSection, ValType,
};

/// The path of the guest's module.
pub const PATH: &str = "/srv/guest.wasm";

/// The offset of `unreachable` in function [`TRAPS`].
pub const TRAP: u32 = 4;
/// The offset of the call in functions [`CALLS`] and [`RECURSES`].
pub const CALL: u32 = 2;
/// The length of this call.
pub const CALL_LEN: u64 = 6;

pub const TRAPS: u32 = 1;
pub const CALLS: u32 = 2;
pub const RECURSES: u32 = 3;

fn custom(module: &mut Module, name: &str) {
    module.section(&CustomSection { name: name.into(), data: name.as_bytes().into() });
}

/// Returns a module with an import and three functions, and these custom sections in front of the code.
pub fn module_with(sections: &[&str]) -> Vec<u8> {
    let (mut types, mut imports, mut functions, mut code) =
        (TypeSection::new(), ImportSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    types.ty().function([ValType::I32, ValType::I64], []);
    imports.import("host", "f", EntityType::Function(0));
    functions.function(1).function(0).function(0);
    let mut traps = Function::new([(1, ValType::F64)]);
    traps.raw([0x01, 0x00, 0x0b]);
    let mut calls = Function::new([]);
    calls.raw([0x01, 0x10, 0x80, 0x80, 0x80, 0x80, 0x00, 0x01, 0x0b]);
    let mut recurses = Function::new([]);
    recurses.raw([0x01, 0x10, 0x83, 0x80, 0x80, 0x80, 0x00, 0x01, 0x0b]);
    code.function(&traps).function(&calls).function(&recurses);
    let mut module = Module::new();
    for name in sections {
        custom(&mut module, name);
    }
    module.section(&types).section(&imports).section(&functions).section(&code);
    let (mut names, mut map) = (NameSection::new(), NameMap::new());
    map.append(TRAPS, "traps");
    names.functions(&map);
    module.section(&names);
    custom(&mut module, ".debug_line");
    module.finish()
}

pub fn module() -> Vec<u8> {
    module_with(&[".debug_info"])
}

/// Returns the offset in a module of a function's body.
pub fn body(module: &[u8], function: u32) -> u64 {
    let mut bodies =
        wasmparser::Parser::new(0).parse_all(module).filter_map(|payload| match payload {
            Ok(wasmparser::Payload::CodeSectionEntry(body)) => Some(body.range().start),
            _ => None,
        });
    bodies.nth(function as usize - 1).unwrap()
}

pub fn trap(instance: impl Into<Option<InstanceIndex>>) -> Frame {
    let locals = [Value::I32(-2), Value::I64(0x1122_3344), Value::F64(2.5_f64.to_bits())];
    Frame::new(instance, TRAPS, TRAP).with_locals(locals)
}

pub fn call(instance: impl Into<Option<InstanceIndex>>, function: u32) -> Frame {
    Frame::new(instance, function, CALL).with_stack([Value::I32(7), Value::Missing, Value::F32(1)])
}

/// The contents of the memory of [`guest`].
pub fn bytes() -> Vec<u8> {
    (0..65_536_u32).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// Returns a guest with an instance, a memory, two globals and no threads.
pub fn guest(bytes: &[u8]) -> (CoreDump<'_>, InstanceIndex) {
    let mut dump = CoreDump::new("guest");
    let module = dump.add_module(PATH);
    let memory =
        dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(bytes)));
    let mutable = dump.add_global(Global::mutable(GlobalValue::I32(0x1000)));
    let constant = dump.add_global(Global::constant(GlobalValue::F64(1.5_f64.to_bits())));
    let instance = Instance::new(module).with_memories([memory]);
    let instance = dump.add_instance(instance.with_globals([mutable, constant]));
    (dump, instance)
}

/// Returns another instance of the module with this memory.
pub fn instance_with(memory: MemoryIndex) -> Instance {
    Instance::new(ModuleIndex(0)).with_memories([memory])
}

pub fn to_vec(dump: &CoreDump<'_>) -> Vec<u8> {
    Dumper::new().plan(dump).unwrap().to_vec().unwrap()
}

/// Returns the dump of a guest that trapped in a function called by another.
pub fn small_dump() -> Vec<u8> {
    let bytes = bytes();
    let (mut dump, instance) = guest(&bytes);
    let frames = [trap(instance), call(instance, CALLS)];
    dump.add_thread(Thread::new("main").with_frames(frames));
    to_vec(&dump)
}

/// Prepares a dump with a module, and runs `test` with a client.
pub fn with_client<T>(
    dump: impl ReadAt,
    module: &[u8],
    options: &Options,
    test: impl FnOnce(&mut Client<'_, '_>, &Target<'_>) -> T,
) -> T {
    let dump = CoreDumpFile::from_source(dump).unwrap();
    let files = [SymbolFile::new(PATH, module)];
    let target = Target::new(&dump, &files, options).unwrap();
    test(&mut Client::new(&target), &target)
}

/// A client that sends correct packets and checks the framing of the replies.
pub struct Client<'t, 'b> {
    pub session: Session<'t, 'b>,
    pub status: Status,
    acknowledges: bool,
}

impl<'t, 'b> Client<'t, 'b> {
    pub fn new(target: &'t Target<'b>) -> Self {
        let session = Session::new(target);
        Self { session, status: Status::NeedsInput, acknowledges: true }
    }

    /// Returns the payload of the reply, without escapes.
    pub fn ask_bytes(&mut self, packet: &[u8]) -> Vec<u8> {
        let sent = frame(packet);
        let (mut input, mut output) = (&sent[..], Vec::new());
        self.status = self.session.receive(&mut input, &mut output);
        assert!(input.is_empty() && output.len() <= corestream_debug::limits::MAX_REPLY_BYTES);
        let reply = match self.acknowledges {
            true => output.strip_prefix(b"+").unwrap(),
            false => &output[..],
        };
        if packet == b"QStartNoAckMode" {
            self.acknowledges = false;
        }
        unframe(reply)
    }

    pub fn ask(&mut self, packet: &str) -> String {
        String::from_utf8(self.ask_bytes(packet.as_bytes())).unwrap()
    }

    /// Connects as LLDB 22 does.
    pub fn connect_22(&mut self) {
        self.ask("qSupported:xmlRegisters=i386,arm,mips,arc;multiprocess+;swbreak+;hwbreak+");
    }

    /// Connects as LLDB 23.1 does.
    pub fn connect_newer(&mut self) {
        self.ask("qSupported:swbreak+;hwbreak+;qXfer:libraries:read+;qXfer:libraries-svr4:read+");
    }

    /// Returns the program counters of a thread.
    pub fn call_stack(&mut self, thread: u32) -> Vec<u64> {
        let digits = self.ask(&format!("qWasmCallStack:{thread:x}"));
        let pcs = digits.as_bytes().chunks(16).map(|digits| {
            u64::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap().swap_bytes()
        });
        pcs.collect()
    }

    /// Returns the names of the libraries by address.
    pub fn libraries(&mut self) -> Vec<(String, u64)> {
        let list = self.ask("qXfer:libraries:read::0,1ffff");
        let libraries = list.split("<library name=\"").skip(1).map(|library| {
            let (name, rest) = library.split_once("\"><section address=\"0x").unwrap();
            let (address, _) = rest.split_once('"').unwrap();
            (name.to_string(), u64::from_str_radix(address, 16).unwrap())
        });
        libraries.collect()
    }

    /// Returns all bytes of an image as the client reads them.
    pub fn image(&mut self, address: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let at = address + bytes.len() as u64;
            let read = self.ask_bytes(format!("x{at:x},40").as_bytes());
            if read == b"E02" {
                return bytes;
            }
            bytes.extend(read);
        }
    }

    /// Returns the regions of the whole address space with their permissions and names.
    pub fn regions(&mut self) -> Vec<(u64, u64, String)> {
        let mut regions = Vec::new();
        let mut next = 0_u64;
        while next < u64::MAX {
            let reply = self.ask(&format!("qMemoryRegionInfo:{next:x}"));
            let field = |name: &str| {
                let fields = reply.split(';').filter_map(|field| field.split_once(':'));
                fields.clone().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
            };
            let number = |name: &str| u64::from_str_radix(&field(name).unwrap(), 16).unwrap();
            let (start, size) = (number("start"), number("size"));
            assert_eq!(start, next, "{reply}");
            assert!(size > 0, "{reply}");
            let name = field("name").map(|name| from_hex(&name));
            let what = match (field("permissions"), name) {
                (Some(permissions), Some(name)) => format!("{permissions} {name}"),
                (None, None) => String::new(),
                _ => panic!("{reply}"),
            };
            // The middle and the end of a region are in the same region.
            for within in [start + size / 2, start + size - 1] {
                assert_eq!(self.ask(&format!("qMemoryRegionInfo:{within:x}")), reply);
            }
            regions.push((start, size, what));
            next = start + size;
        }
        regions
    }
}

/// Returns a packet with a payload.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in payload {
        match byte {
            b'#' | b'$' | b'}' | b'*' => escaped.extend([b'}', byte ^ 0x20]),
            _ => escaped.push(*byte),
        }
    }
    let sum = escaped.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let mut packet = b"$".to_vec();
    packet.extend(escaped);
    packet.extend(format!("#{sum:02x}").bytes());
    packet
}

/// Returns the payload of a packet.
pub fn unframe(packet: &[u8]) -> Vec<u8> {
    let (sent, sum) = packet.split_at(packet.len() - 2);
    let sent = sent.strip_prefix(b"$").unwrap().strip_suffix(b"#").unwrap();
    assert!(!sent.contains(&b'$') && !sent.contains(&b'#') && !sent.contains(&b'*'));
    let expected = sent.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, format!("{expected:02x}").as_bytes());
    let mut payload = Vec::new();
    let mut bytes = sent.iter();
    while let Some(byte) = bytes.next() {
        payload.push(match byte {
            b'}' => bytes.next().unwrap() ^ 0x20,
            _ => *byte,
        });
    }
    payload
}

/// Returns the text of hexadecimal digits.
pub fn from_hex(digits: &str) -> String {
    let bytes = digits
        .as_bytes()
        .chunks(2)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}
