//! A small guest, its dump, and what every reading of a dump must hold; shared with the fuzz targets.

use super::own;
use corestream::read::{Content, Early, Verdict, verify_slice, verify_stream_with};
use corestream::{
    CoreDump, CoreDumpFile, Dumper, ErrorKind, Frame, Global, GlobalValue, Instance, Memory,
    MemoryImage, MemoryIndex, MemoryType, Module, RefType, Result, Thread, Value,
};

pub const PAGE: usize = 65_536;
pub const FIRST: MemoryIndex = MemoryIndex(0);

/// The images of a small guest: memory32, memory64 and one of single bytes.
pub fn images() -> Vec<(MemoryType, Vec<u8>)> {
    let mut first = vec![0; PAGE];
    first[100..180].fill(1);
    first[4096..4200].fill(2);
    first[PAGE - 1] = 3;
    let mut second = vec![0; 2 * PAGE];
    second[..300].fill(4);
    second[PAGE..PAGE + 90].fill(5);
    let third = b"custom pages\0".to_vec();
    vec![
        (MemoryType::wasm32(1), first),
        (MemoryType::wasm64(2).with_maximum(3).with_shared(), second),
        (MemoryType::wasm32(13).with_page_size(1), third),
        (MemoryType::wasm32(0), Vec::new()),
    ]
}

pub fn guest(images: &[(MemoryType, Vec<u8>)]) -> CoreDump<'_> {
    let mut guest = CoreDump::new("guest.wasm");
    let memories: Vec<_> = images
        .iter()
        .map(|(ty, image)| guest.add_memory(Memory::new(*ty, MemoryImage::from_slice(image))))
        .collect();
    let global = guest.add_global(Global::mutable(GlobalValue::I32(-7)));
    guest.add_global(Global::constant(GlobalValue::V128(1 << 100)));
    guest.add_global(Global::mutable(GlobalValue::Ref(RefType::Exn)));
    let module = guest.add_module("guest.wasm");
    guest.add_module(Module::anonymous());
    let instance =
        guest.add_instance(Instance::new(module).with_memories(memories).with_globals([global]));
    guest.add_instance(Instance::default().with_memories([None, Some(MemoryIndex(0))]));
    guest.add_thread(
        Thread::new("main").with_frames([
            Frame::new(instance, 3, 17)
                .with_locals([Value::I32(-1), Value::Missing, Value::F64(f64::NAN.to_bits())])
                .with_stack([Value::I64(i64::MIN), Value::F32(7)]),
            Frame::new(None, u32::MAX, 0),
        ]),
    );
    guest.add_thread(Thread::new("second"));
    guest
}

/// A dump of about 1.5 KiB without sections of ours but for those of 256 bytes in which its segments
/// go on.
pub fn small() -> Vec<u8> {
    let images = images();
    let dumper = Dumper::new().max_section_bytes(256);
    own::without(&dumper.plan(&guest(&images)).unwrap().to_vec().unwrap())
}

/// A memory as its contents say, which must cover it without a gap; what was left out is 0xee.
pub fn contents(dump: &CoreDumpFile<'_>, memory: MemoryIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    for content in dump.contents(memory).unwrap() {
        assert_eq!(*content.addresses().start(), bytes.len() as u64);
        let end = usize::try_from(*content.addresses().end()).unwrap() + 1;
        match content {
            Content::Data { bytes: data, .. } => bytes.extend(data),
            Content::Zero(_) => bytes.resize(end, 0),
            Content::LeftOut(_) => bytes.resize(end, 0xee),
        }
        assert_eq!(bytes.len(), end);
    }
    let ty = dump.memories()[memory.0 as usize];
    assert_eq!(bytes.len() as u64, ty.byte_len().unwrap());
    bytes
}

/// Both verifiers say the same.
pub fn verdict(bytes: &[u8]) -> Result<Verdict> {
    /// Gives a stream byte by byte at times.
    struct Slow<'b>(&'b [u8], usize);
    impl std::io::Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1 % 61 + 1;
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }
    let slice = verify_slice(bytes, 1);
    let mut has_header = false;
    let stream = verify_stream_with(Slow(bytes, 0), |early| {
        has_header |= matches!(early, Early::Length(_));
        Ok(())
    });
    match (&slice, stream) {
        // Only a file has an end at which an index may be found.
        (Ok(Verdict::Damaged(_)), Err(stream)) if stream.kind() == ErrorKind::Format => {
            assert!(!has_header, "{stream}");
        }
        (Ok(Verdict::Damaged(slice)), Ok(Verdict::Damaged(stream))) if !has_header => {
            assert!(slice.bad_blocks >= stream.bad_blocks, "{slice}, {stream}");
        }
        (Ok(slice), Ok(stream)) => assert_eq!(as_of_a_stream(slice, &stream), stream),
        (Err(slice), Err(stream)) => assert_eq!(slice.to_string(), stream.to_string()),
        (slice, stream) => panic!("{slice:?}, as a stream {stream:?}"),
    }
    slice
}

/// What a stream would say: the entry of an index that the sections contradict is not known there.
fn as_of_a_stream(slice: &Verdict, stream: &Verdict) -> Verdict {
    let mut slice = slice.clone();
    if let (Verdict::Damaged(slice), Verdict::Damaged(stream)) = (&mut slice, stream)
        && stream.reason.ends_with("corestream.index: the segments are not those of the sections")
    {
        assert!(slice.reason.contains(": corestream.index: segment "), "{slice}");
        assert_eq!(slice.range.end - slice.range.start, 20, "{slice}");
        let inside = stream.range.start < slice.range.start && slice.range.end < stream.range.end;
        assert!(inside, "{slice}, {stream}");
        (slice.reason, slice.range) = (stream.reason.clone(), stream.range.clone());
    }
    slice
}

/// Reads everything that is readable; nothing may panic.
pub fn read_all(bytes: &[u8]) {
    for dump in [CoreDumpFile::from_slice(bytes), CoreDumpFile::salvage_slice(bytes)] {
        let Ok(dump) = dump else { continue };
        for thread in dump.threads() {
            assert_eq!(thread.frames().count(), thread.frames().len());
        }
        for instance in dump.instances() {
            assert_eq!(instance.memories().count(), instance.memories().len());
            assert_eq!(instance.globals().count(), instance.globals().len());
        }
        assert!(format!("{dump:?}").len() < 1 << 20);
        for i in 0..u32::try_from(dump.memories().len()).unwrap() {
            let memory = MemoryIndex(i);
            let mut next = Some(0);
            for content in dump.contents(memory).unwrap().take(10_000) {
                assert_eq!(Some(*content.addresses().start()), next);
                next = content.addresses().end().checked_add(1);
            }
            if dump.damage().is_none() {
                let _ = dump.read(memory, 90, &mut [0; 99]);
            }
        }
    }
}
