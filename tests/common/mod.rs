//! A second decoder of dumps, on top of wasmparser, and a slow oracle for the cost of a plan. The fuzz targets use this
//! module, too.
#![allow(dead_code, reason = "each test uses its part")]

pub mod own;
pub mod reading;

use std::sync::atomic::{AtomicBool, Ordering};

use corestream::internals::SEGMENT_COST;
use corestream::{GlobalValue, RefType, Value};
use wasmparser::{
    BinaryReader, CoreDumpValue, Data, DataKind, DataSectionReader, KnownCustom, Operator, Parser,
    Payload, Validator, WasmFeatures,
};

/// The custom sections that continue the data section (`docs/format.md`).
pub const CONTINUATION: &str = "corestream.data";

/// A dump, decoded by wasmparser.
#[derive(Debug, Default)]
pub struct Decoded<'b> {
    /// The sections in order: `data`, `memory`, or the name of a custom section.
    pub sections: Vec<String>,
    pub name: String,
    pub modules: Vec<String>,
    pub instances: Vec<wasmparser::CoreDumpInstance>,
    /// Name and frames of each thread.
    pub threads: Vec<(String, Vec<DecodedFrame>)>,
    pub memories: Vec<wasmparser::MemoryType>,
    /// Mutability and value of each global.
    pub globals: Vec<(bool, GlobalValue)>,
    pub segments: Vec<DecodedSegment<'b>>,
    /// The number of segments in the data section.
    pub in_data_section: usize,
    /// The length of the longest body of a section with segments.
    pub longest_body: u64,
    /// Whether a section for segments has no segment.
    pub empty_section: bool,
}

#[derive(Debug, PartialEq)]
pub struct DecodedFrame {
    pub instance: u32,
    pub function: u32,
    pub offset: u32,
    pub locals: Vec<Value>,
    pub stack: Vec<Value>,
}

#[derive(Debug)]
pub struct DecodedSegment<'b> {
    pub memory: u32,
    pub address: u64,
    pub data: &'b [u8],
}

/// Decodes a dump by corestream, which must be valid with all features.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let dump = decode_any(bytes);
    assert!(!dump.empty_section, "an empty section");
    dump
}

/// Decodes a dump by any writer, which must be valid with all features.
pub fn decode_any(bytes: &[u8]) -> Decoded<'_> {
    Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).expect("a valid module");
    let mut dump = Decoded::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.expect("validated") {
            Payload::CustomSection(section) => {
                dump.sections.push(section.name().into());
                dump.custom(&section);
            }
            Payload::MemorySection(section) => {
                dump.sections.push("memory".into());
                dump.memories = section.into_iter().map(Result::unwrap).collect();
            }
            Payload::GlobalSection(section) => {
                dump.sections.push("global".into());
                let globals = section.into_iter().map(Result::unwrap);
                dump.globals =
                    globals.map(|g| (g.ty.mutable, constant(&g.init_expr, g.ty))).collect();
            }
            Payload::DataSection(section) => {
                dump.sections.push("data".into());
                dump.longest_body = body_len(&section.range());
                dump.in_data_section = section.count() as usize;
                dump.add_segments(section);
            }
            Payload::Version { .. } | Payload::End(_) => {}
            other => panic!("unexpected section: {other:?}"),
        }
    }
    dump
}

impl<'b> Decoded<'b> {
    fn custom(&mut self, section: &wasmparser::CustomSectionReader<'b>) {
        match section.as_known() {
            KnownCustom::CoreDump(core) => self.name = core.name.into(),
            KnownCustom::CoreDumpModules(list) => {
                self.modules = list.modules.iter().map(ToString::to_string).collect();
            }
            KnownCustom::CoreDumpInstances(list) => self.instances = list.instances,
            KnownCustom::CoreDumpStack(stack) => {
                let frames = stack.frames.iter().map(frame).collect();
                self.threads.push((stack.name.into(), frames));
            }
            _ if matches!(
                section.name(),
                "corestream"
                    | "corestream.trap"
                    | "corestream.modules"
                    | "corestream.notes"
                    | "corestream.index"
            ) => {}
            _ => {
                assert_eq!(section.name(), CONTINUATION);
                let reader = BinaryReader::new(section.data(), section.data_offset());
                self.longest_body = self.longest_body.max(body_len(&section.range()));
                self.add_segments(DataSectionReader::new(reader).unwrap());
            }
        }
    }

    fn add_segments(&mut self, section: DataSectionReader<'b>) {
        let mut count = 0;
        for data in section.clone() {
            self.segments.push(segment(data.unwrap(), &self.memories));
            count += 1;
        }
        self.empty_section |= count == 0;
    }

    /// Returns the first `len` bytes of a memory, with zeros outside of segments. Segments must be in order and must
    /// not overlap.
    pub fn contents(&self, memory: usize, len: usize) -> Vec<u8> {
        let mut contents = vec![0; len];
        let mut end = 0;
        for segment in self.segments.iter().filter(|s| s.memory as usize == memory) {
            let address = usize::try_from(segment.address).unwrap();
            assert!(address >= end, "segments overlap or are out of order");
            assert!(!segment.data.is_empty(), "an empty segment");
            end = address + segment.data.len();
            contents[address..end].copy_from_slice(segment.data);
        }
        contents
    }
}

fn segment<'b>(data: Data<'b>, memories: &[wasmparser::MemoryType]) -> DecodedSegment<'b> {
    let DataKind::Active { memory_index: memory, offset_expr } = data.kind else {
        panic!("a passive segment");
    };
    let address = match offset_expr.get_operators_reader().read().unwrap() {
        Operator::I32Const { value } => {
            assert!(!memories[memory as usize].memory64);
            u64::from(value.cast_unsigned())
        }
        Operator::I64Const { value } => {
            assert!(memories[memory as usize].memory64);
            value.cast_unsigned()
        }
        other => panic!("unexpected address: {other:?}"),
    };
    DecodedSegment { memory, address, data: data.data }
}

fn constant(init: &wasmparser::ConstExpr<'_>, ty: wasmparser::GlobalType) -> GlobalValue {
    match init.get_operators_reader().read().unwrap() {
        Operator::I32Const { value } => GlobalValue::I32(value),
        Operator::I64Const { value } => GlobalValue::I64(value),
        Operator::F32Const { value } => GlobalValue::F32(value.bits()),
        Operator::F64Const { value } => GlobalValue::F64(value.bits()),
        Operator::V128Const { value } => GlobalValue::V128(value.i128().cast_unsigned()),
        Operator::RefNull { .. } => {
            let name = ty.content_type.to_string();
            let name = name.trim_start_matches("(ref null ").trim_end_matches(')');
            let of =
                |top: &RefType| top.name().trim_end_matches("ref") == name || top.name() == name;
            GlobalValue::Ref(RefType::ALL.iter().copied().find(of).expect("a top type"))
        }
        other => panic!("unexpected constant: {other:?}"),
    }
}

fn frame(frame: &wasmparser::CoreDumpStackFrame) -> DecodedFrame {
    let values = |list: &[CoreDumpValue]| list.iter().map(value).collect();
    DecodedFrame {
        instance: frame.instanceidx,
        function: frame.funcidx,
        offset: frame.codeoffset,
        locals: values(&frame.locals),
        stack: values(&frame.stack),
    }
}

fn value(value: &CoreDumpValue) -> Value {
    match *value {
        CoreDumpValue::Missing => Value::Missing,
        CoreDumpValue::I32(x) => Value::I32(x),
        CoreDumpValue::I64(x) => Value::I64(x),
        CoreDumpValue::F32(x) => Value::F32(x.bits()),
        CoreDumpValue::F64(x) => Value::F64(x.bits()),
    }
}

/// Returns the lengths of the gaps in an image, and the number of bytes from the first to the last non-zero byte.
/// Checks one byte at a time. Returns `None` for an image of zeros.
pub fn gaps(image: &[u8]) -> Option<(Vec<u64>, u64)> {
    let first = image.iter().position(|b| *b != 0)?;
    let last = image.iter().rposition(|b| *b != 0)?;
    let mut gaps = Vec::new();
    let mut zeros = 0;
    for byte in &image[first..=last] {
        if *byte == 0 {
            zeros += 1;
        } else if zeros > 0 {
            gaps.push(zeros);
            zeros = 0;
        }
    }
    Some((gaps, (last - first + 1) as u64))
}

/// Returns the lowest cost of a plan for these images, by trying every set of gaps. The plan has at most `budget`
/// segments, or one for each image with data if those are more. Returns `None` if there are too many gaps.
pub fn least_cost(images: &[&[u8]], budget: u64) -> Option<u64> {
    let spans: Vec<_> = images.iter().filter_map(|image| gaps(image)).collect();
    let all: Vec<u64> = spans.iter().flat_map(|(gaps, _)| gaps).copied().collect();
    let whole: u64 = spans.iter().map(|(_, len)| len).sum();
    let memories = spans.len() as u64;
    if all.len() > 12 {
        return None;
    }
    let choices = (0_u32..1 << all.len()).map(|set| {
        let kept = all.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0);
        kept.fold((0, memories), |(saved, segments), (_, gap)| (saved + gap, segments + 1))
    });
    let possible = choices.filter(|(_, segments)| *segments <= budget.max(memories));
    possible.map(|(saved, segments)| whole - saved + segments * SEGMENT_COST).min()
}

/// Returns the cost of a plan: its payload, and a fixed cost for each segment.
pub fn cost(plan: &corestream::Plan<'_>) -> u64 {
    plan.stats().data_bytes + plan.stats().segments * SEGMENT_COST
}

/// A deterministic generator of pseudorandom numbers (xorshift64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.next() % end).unwrap()
    }
}

/// A flag that becomes true when this is dropped, so that the threads of a test stop even if the test fails.
pub struct Stop<'s>(pub &'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn body_len(range: &std::ops::Range<u64>) -> u64 {
    range.end - range.start
}
