//! A dump as JSON: the manifest that makes the same dump again, and what `inspect --json` adds to it.
//!
//! It is written as the dump is read: nothing of it is collected.

use corestream::read::{Content, FrameView, InstanceView, Producer, ThreadView};
use corestream::{CoreDumpFile, Global, GlobalIndex, GlobalValue, MemoryIndex, MemoryType, Value};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The largest whole number up to which every one is a number of JavaScript: 2^53.
const MAX_EXACT: u64 = 1 << 53;

/// A field of an object, and its value.
pub type Field = (&'static str, serde_json::Value);

/// What a frame is called, as more fields of it; it waits for another one or does not.
type Names<'d> = &'d dyn Fn(&FrameView<'_>, bool) -> Vec<Field>;

/// A dump to be written as JSON.
#[allow(missing_debug_implementations, reason = "it has callbacks")]
pub struct Description<'d> {
    dump: &'d CoreDumpFile<'d>,
    form: Form<'d>,
    names: Option<Names<'d>>,
}

#[derive(Clone, Copy)]
enum Form<'d> {
    /// With the name of the image of each memory that has one; indices that nothing has are not known.
    Manifest(&'d dyn Fn(u32) -> Option<String>),
    /// With lengths, coverage, and where in these bytes of the dump everything is.
    Inspect(&'d [u8]),
}

impl<'d> Description<'d> {
    /// As a manifest, with images called by `image`.
    pub fn manifest(dump: &'d CoreDumpFile<'d>, image: &'d dyn Fn(u32) -> Option<String>) -> Self {
        Self { dump, form: Form::Manifest(image), names: None }
    }

    /// As `inspect` prints it; `bytes` are those of the dump, `names` those of its frames.
    pub fn inspect(dump: &'d CoreDumpFile<'d>, bytes: &'d [u8], names: Names<'d>) -> Self {
        Self { dump, form: Form::Inspect(bytes), names: Some(names) }
    }

    /// An index as it is written: in a manifest only if there is what it stands for.
    fn index(&self, index: Option<u32>, count: usize) -> Option<u32> {
        match self.form {
            Form::Manifest(_) => index.filter(|index| (*index as usize) < count),
            Form::Inspect(_) => index,
        }
    }

    fn module(&self, index: usize, name: &'d str) -> Option<&'d str> {
        (name != format!("<anonymous-module-{index}>")).then_some(name)
    }

    fn memory(&'d self, index: u32, ty: &MemoryType) -> MemoryEntry<'d> {
        let coverage = self.dump.coverage(MemoryIndex(index));
        let (image, left_out, rest) = match self.form {
            Form::Manifest(image) => (image(index), self.left_out_on_purpose(index), None),
            Form::Inspect(bytes) => (None, None, self.coverage(index, ty, bytes)),
        };
        MemoryEntry {
            image,
            left_out,
            minimum: Int(ty.minimum),
            maximum: ty.maximum.map(Int),
            memory64: ty.memory64,
            shared: ty.shared,
            page_size: ty.page_size,
            changing: coverage.is_ok_and(|coverage| coverage.changing),
            rest,
        }
    }

    /// The ranges of a memory that the index lists; what may be lost is not among them.
    fn left_out_on_purpose(&'d self, index: u32) -> Option<Each<'d, Range>> {
        let coverage = self.dump.coverage(MemoryIndex(index)).ok()?;
        let on_purpose = self.dump.has_index() && coverage.left_out_bytes > 0;
        on_purpose.then(|| self.left_out(index))
    }

    fn left_out(&'d self, index: u32) -> Each<'d, Range> {
        Each(Box::new(move || {
            let ranges = self.dump.left_out(MemoryIndex(index)).into_iter().flatten();
            Box::new(ranges.map(|r| Range { first: Int(*r.start()), last: Int(*r.end()) }))
        }))
    }

    fn coverage(&'d self, index: u32, ty: &MemoryType, bytes: &'d [u8]) -> Option<Inspected<'d>> {
        let coverage = self.dump.coverage(MemoryIndex(index)).ok()?;
        Some(Inspected {
            declared: self.dump.declared_pages(MemoryIndex(index)).map(Int),
            bytes: ty.byte_len().map(Int),
            segments: coverage.segments,
            data_bytes: Int(coverage.data_bytes),
            coverage: word(self.dump, &coverage),
            left_out: self.left_out(index),
            data: Each(Box::new(move || {
                let contents = self.dump.contents(MemoryIndex(index)).into_iter().flatten();
                Box::new(contents.filter_map(move |content| match content {
                    Content::Data { address, bytes: part } => Some(Part {
                        address: Int(address),
                        offset: (part.as_ptr().addr() - bytes.as_ptr().addr()) as u64,
                        length: part.len() as u64,
                    }),
                    _ => None,
                }))
            })),
        })
    }
}

/// What a dump says of how much of a memory it holds, in a word or two.
pub fn word(dump: &CoreDumpFile<'_>, coverage: &corestream::read::Coverage) -> &'static str {
    match coverage {
        coverage if coverage.left_out_bytes > 0 && coverage.changing => {
            "partial, changing while read"
        }
        coverage if coverage.left_out_bytes > 0 => "partial",
        coverage if coverage.changing => "changing while read",
        _ if dump.has_index() && !dump.is_rewritten() => "whole",
        // The format has no way to tell zero from not captured.
        _ => "not known",
    }
}

impl Serialize for Description<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dump = self.dump;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", dump.name())?;
        if let Form::Inspect(_) = self.form {
            let own = dump.producer() == Producer::Corestream;
            map.serialize_entry("producer", if own { "corestream" } else { "other" })?;
            map.serialize_entry("rewritten", &dump.is_rewritten())?;
            map.serialize_entry("frame_layout", dump.frame_layout().name())?;
            map.serialize_entry("bytes", &dump.len())?;
            map.serialize_entry("index", &dump.has_index())?;
            map.serialize_entry("checksums", &dump.has_checksums())?;
            map.serialize_entry("partial", &dump.is_partial())?;
            map.serialize_entry("degraded", &dump.is_degraded())?;
            map.serialize_entry("damage", &dump.damage().map(ToString::to_string))?;
        }
        let modules = || dump.modules().enumerate().map(|(i, name)| self.module(i, name));
        map.serialize_entry("modules", &List(modules))?;
        let memories = || (0..).zip(dump.memories()).map(|(i, ty)| self.memory(i, ty));
        map.serialize_entry("memories", &List(memories))?;
        map.serialize_entry("globals", &List(|| dump.globals().iter().map(global)))?;
        let instances = || dump.instances().map(|instance| InstanceEntry { of: self, instance });
        map.serialize_entry("instances", &List(instances))?;
        let threads = || dump.threads().map(|thread| ThreadEntry { of: self, thread });
        map.serialize_entry("threads", &List(threads))?;
        if dump.notes().len() > 0 {
            map.serialize_entry("notes", &List(|| dump.notes()))?;
        }
        map.end()
    }
}

/// A list that is made while it is written.
struct List<F>(F);

impl<F, I> Serialize for List<F>
where
    F: Fn() -> I,
    I: Iterator,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// The same, as a field of a struct.
struct Each<'d, T>(Box<dyn Fn() -> Box<dyn Iterator<Item = T> + 'd> + 'd>);

impl<T: Serialize> Serialize for Each<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// A whole number; as a string where not every program reads the number exactly.
pub struct Int(pub u64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            exact @ ..=MAX_EXACT => serializer.serialize_u64(exact),
            large => serializer.collect_str(&large),
        }
    }
}

/// The same with a sign.
pub struct Signed(pub i64);

impl Serialize for Signed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.unsigned_abs() {
            ..=MAX_EXACT => serializer.serialize_i64(self.0),
            _ => serializer.collect_str(&self.0),
        }
    }
}

#[derive(Serialize)]
struct MemoryEntry<'d> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    minimum: Int,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum: Option<Int>,
    memory64: bool,
    shared: bool,
    page_size: u32,
    #[serde(skip_serializing_if = "is_false")]
    changing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<Each<'d, Range>>,
    #[serde(flatten)]
    rest: Option<Inspected<'d>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
struct Inspected<'d> {
    /// The pages that the dump declares, where the segments need more.
    #[serde(skip_serializing_if = "Option::is_none")]
    declared: Option<Int>,
    bytes: Option<Int>,
    segments: u64,
    data_bytes: Int,
    coverage: &'static str,
    left_out: Each<'d, Range>,
    data: Each<'d, Part>,
}

#[derive(Serialize)]
struct Range {
    first: Int,
    last: Int,
}

#[derive(Serialize)]
struct Part {
    address: Int,
    offset: u64,
    length: u64,
}

#[derive(Serialize)]
struct GlobalEntry {
    r#type: &'static str,
    mutable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Scalar>,
}

fn global(global: &Global) -> GlobalEntry {
    let (ty, value) = match global.value {
        GlobalValue::I32(x) => ("i32", Some(Scalar::Whole(x.into()))),
        GlobalValue::I64(x) => ("i64", Some(Scalar::Whole(x))),
        GlobalValue::F32(bits) => ("f32", Some(Scalar::Bits32(bits))),
        GlobalValue::F64(bits) => ("f64", Some(Scalar::Bits64(bits))),
        GlobalValue::V128(bits) => ("v128", Some(Scalar::Bits128(bits))),
        GlobalValue::Ref(top) => (top.name(), None),
        GlobalValue::Missing(ty) => (ty.name(), None),
    };
    GlobalEntry { r#type: ty, mutable: global.mutable, value }
}

/// A value; floats by their bits, so that every NaN is what it was.
pub enum Scalar {
    Whole(i64),
    Bits32(u32),
    Bits64(u64),
    Bits128(u128),
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(x) => Signed(*x).serialize(serializer),
            Self::Bits32(bits) => serializer.collect_str(&format_args!("{bits:#010x}")),
            Self::Bits64(bits) => serializer.collect_str(&format_args!("{bits:#018x}")),
            Self::Bits128(bits) => serializer.collect_str(&format_args!("{bits:#034x}")),
        }
    }
}

struct InstanceEntry<'d> {
    of: &'d Description<'d>,
    instance: InstanceView<'d>,
}

impl Serialize for InstanceEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (dump, instance) = (self.of.dump, &self.instance);
        let (memories, globals) = (dump.memories().len(), dump.globals().len());
        let module = instance.module().map(|module| module.0);
        let memory = |index: Option<MemoryIndex>| self.of.index(index.map(|m| m.0), memories);
        let global = |index: Option<GlobalIndex>| self.of.index(index.map(|g| g.0), globals);
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("module", &self.of.index(module, dump.modules().len()))?;
        map.serialize_entry("memories", &List(|| instance.memories().map(memory)))?;
        map.serialize_entry("globals", &List(|| instance.globals().map(global)))?;
        map.end()
    }
}

struct ThreadEntry<'d> {
    of: &'d Description<'d>,
    thread: ThreadView<'d>,
}

impl Serialize for ThreadEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", self.thread.name())?;
        let frames = || {
            let frames = self.thread.frames().enumerate();
            frames.map(|(i, frame)| FrameEntry { of: self.of, frame, caller: i > 0 })
        };
        map.serialize_entry("frames", &List(frames))?;
        map.end()
    }
}

struct FrameEntry<'d> {
    of: &'d Description<'d>,
    frame: FrameView<'d>,
    /// It waits for another one.
    caller: bool,
}

impl Serialize for FrameEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frame = &self.frame;
        let instance = frame.instance.map(|instance| instance.0);
        let mut map = serializer.serialize_map(None)?;
        let instances = self.of.dump.instances().len();
        map.serialize_entry("instance", &self.of.index(instance, instances))?;
        map.serialize_entry("function", &frame.function)?;
        map.serialize_entry("offset", &frame.offset)?;
        if frame.locals().len() > 0 {
            map.serialize_entry("locals", &List(|| frame.locals().map(ValueEntry)))?;
        }
        if frame.stack().len() > 0 {
            map.serialize_entry("stack", &List(|| frame.stack().map(ValueEntry)))?;
        }
        for (key, value) in self.of.names.map_or_else(Vec::new, |names| names(frame, self.caller)) {
            map.serialize_entry(key, &value)?;
        }
        map.end()
    }
}

struct ValueEntry(Value);

impl Serialize for ValueEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (ty, scalar) = match self.0 {
            Value::Missing => return serializer.serialize_str("missing"),
            Value::I32(x) => ("i32", Scalar::Whole(x.into())),
            Value::I64(x) => ("i64", Scalar::Whole(x)),
            Value::F32(bits) => ("f32", Scalar::Bits32(bits)),
            Value::F64(bits) => ("f64", Scalar::Bits64(bits)),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(ty, &scalar)?;
        map.end()
    }
}
