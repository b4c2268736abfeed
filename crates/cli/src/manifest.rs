//! The manifest: the state of a stopped guest as JSON, beside the images of its memories.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::string_slice)
)]

use std::path::{Path, PathBuf};

use corestream::{
    CoreDump, Frame, Global, GlobalIndex, GlobalValue, Instance, InstanceIndex, Memory,
    MemoryImage, MemoryIndex, MemoryType, Module, ModuleIndex, RefType, Thread, Value,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A guest, as the manifest describes it. Every list may be left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a manifest, which is an object")]
pub struct Manifest {
    /// The name of the process.
    pub name: Option<String>,
    #[serde(default)]
    modules: Vec<Option<String>>,
    #[serde(default)]
    memories: Vec<MemoryEntry>,
    #[serde(default)]
    globals: Vec<GlobalEntry>,
    #[serde(default)]
    instances: Vec<InstanceEntry>,
    #[serde(default)]
    threads: Vec<ThreadEntry>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryEntry {
    image: Option<String>,
    minimum: Option<Integer>,
    maximum: Option<Integer>,
    #[serde(default)]
    memory64: bool,
    #[serde(default)]
    shared: bool,
    /// Whether the image is taken to change while it is dumped.
    #[serde(default)]
    changing: bool,
    page_size: Option<u32>,
    #[serde(default)]
    left_out: Vec<RangeEntry>,
}

/// Addresses of a memory that are left out on purpose, as `inspect --json` prints them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeEntry {
    first: Address,
    last: Address,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobalEntry {
    #[serde(rename = "type")]
    ty: String,
    #[serde(default)]
    mutable: bool,
    #[serde(default, deserialize_with = "present")]
    value: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceEntry {
    module: Option<u32>,
    #[serde(default)]
    memories: Vec<Option<u32>>,
    #[serde(default)]
    globals: Vec<Option<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThreadEntry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    frames: Vec<FrameEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameEntry {
    instance: Option<u32>,
    function: u32,
    #[serde(default)]
    offset: u32,
    #[serde(default)]
    locals: Vec<ValueEntry>,
    #[serde(default)]
    stack: Vec<ValueEntry>,
}

/// A number, or the same in a string: floats by their bits, integers beyond 2^53.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

/// A number of pages.
#[derive(Debug)]
struct Integer(u64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a number of pages"))?;
        match &number {
            Number::Unsigned(value) => Some(*value),
            Number::Text(text) => text.parse().ok(),
            _ => None,
        }
        .map(Self)
        .ok_or_else(|| D::Error::custom("a number of pages is a whole number from 0"))
    }
}

/// An address of a memory.
#[derive(Debug)]
struct Address(u64);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Also where there is none.
        let number = Number::deserialize(deserializer)
            .map_err(|_| D::Error::custom("a range needs two addresses, first and last"))?;
        match &number {
            Number::Unsigned(value) => Some(*value),
            Number::Text(text) => text.parse().ok(),
            _ => None,
        }
        .map(Self)
        .ok_or_else(|| D::Error::custom("an address is a whole number from 0"))
    }
}

/// A value that is there must be a number: null is an error.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Number>, D::Error> {
    Number::deserialize(deserializer)
        .map(Some)
        .map_err(|_| D::Error::custom("expected a number, or one in a string"))
}

#[derive(Debug)]
struct ValueEntry(Value);

impl<'de> Deserialize<'de> for ValueEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Word(String),
            Typed(serde_json::Map<String, serde_json::Value>),
        }
        let expected = "a value is \"missing\" or one of {\"i32\": …}, i64, f32 and f64";
        let typed = match Form::deserialize(deserializer) {
            Ok(Form::Word(word)) if word == "missing" => return Ok(Self(Value::Missing)),
            Ok(Form::Typed(typed)) if typed.len() == 1 => typed,
            _ => return Err(D::Error::custom(expected)),
        };
        let (ty, value) = typed.into_iter().next().ok_or_else(|| D::Error::custom(expected))?;
        let number = serde_json::from_value(value).map_err(|_| D::Error::custom(expected))?;
        let value = match ty.as_str() {
            "i32" => number_i32(&number).map(Value::I32),
            "i64" => number_i64(&number).map(Value::I64),
            "f32" => number_f32(&number).map(Value::F32),
            "f64" => number_f64(&number).map(Value::F64),
            _ => return Err(D::Error::custom(expected)),
        };
        value.map(Self).ok_or_else(|| D::Error::custom(format!("the value is no {ty}")))
    }
}

/// The value of `0x…`.
fn hex(text: &str) -> Option<u128> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'))?;
    u128::from_str_radix(digits, 16).ok()
}

fn number_i64(number: &Number) -> Option<i64> {
    match number {
        Number::Unsigned(value) => i64::try_from(*value).ok(),
        Number::Signed(value) => Some(*value),
        Number::Float(_) => None,
        Number::Text(text) => text.parse().ok(),
    }
}

fn number_i32(number: &Number) -> Option<i32> {
    i32::try_from(number_i64(number)?).ok()
}

fn number_f64(number: &Number) -> Option<u64> {
    match number {
        #[allow(clippy::cast_precision_loss, reason = "JSON does not tell 1 from 1.0")]
        Number::Unsigned(value) => Some((*value as f64).to_bits()),
        #[allow(clippy::cast_precision_loss, reason = "JSON does not tell 1 from 1.0")]
        Number::Signed(value) => Some((*value as f64).to_bits()),
        Number::Float(value) => Some(value.to_bits()),
        Number::Text(text) => u64::try_from(hex(text)?).ok(),
    }
}

fn number_f32(number: &Number) -> Option<u32> {
    match number {
        Number::Text(text) => u32::try_from(hex(text)?).ok(),
        _ => {
            let value = f64::from_bits(number_f64(number)?);
            #[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
            let nearest = value as f32;
            (nearest.is_finite() || !value.is_finite()).then(|| nearest.to_bits())
        }
    }
}

impl GlobalEntry {
    fn value(&self) -> Result<GlobalValue, String> {
        let ty = self.ty.as_str();
        if let Some(top) = RefType::ALL.into_iter().find(|top| top.name() == ty) {
            return match self.value {
                None => Ok(GlobalValue::Ref(top)),
                Some(_) => Err(format!("a {ty} has no value in a dump, leave it out")),
            };
        }
        let number = self.value.as_ref().ok_or_else(|| format!("an {ty} needs a value"));
        let value = match (ty, number) {
            ("i32", number) => number_i32(number?).map(GlobalValue::I32),
            ("i64", number) => number_i64(number?).map(GlobalValue::I64),
            ("f32", number) => number_f32(number?).map(GlobalValue::F32),
            ("f64", number) => number_f64(number?).map(GlobalValue::F64),
            ("v128", Ok(Number::Text(text))) => hex(text).map(GlobalValue::V128),
            ("v128", _) => return Err("a v128 needs a value of the form \"0x…\"".into()),
            _ => {
                return Err(format!(
                    "there is no type {ty}, only i32, i64, f32, f64, v128, funcref, externref, \
                     anyref, exnref and contref"
                ));
            }
        };
        value.ok_or_else(|| format!("its value is no {ty}"))
    }
}

impl FrameEntry {
    fn frame(&self) -> Frame {
        let values = |list: &[ValueEntry]| list.iter().map(|entry| entry.0).collect::<Vec<_>>();
        Frame::new(self.instance.map(InstanceIndex), self.function, self.offset)
            .with_locals(values(&self.locals))
            .with_stack(values(&self.stack))
    }
}

/// The image at `path`: mapped, or read where that is not possible, as with a limit on the address space
/// or on a file system that has no mappings. One that is taken to be `changing` is read.
pub fn image(path: &Path, changing: bool) -> corestream::Result<MemoryImage<'static>> {
    if changing {
        return MemoryImage::open_unmapped(path).map(MemoryImage::mark_changing);
    }
    MemoryImage::open(path).or_else(|error| MemoryImage::open_unmapped(path).map_err(|_| error))
}

/// A memory with its image; the pages that hold it, where `minimum` is not given.
pub fn memory(image: MemoryImage<'_>, minimum: Option<u64>, ty: MemoryType) -> Memory<'_> {
    let page = u64::from(ty.page_size.max(1));
    let minimum = minimum.unwrap_or(image.len().div_ceil(page));
    Memory::new(MemoryType { minimum, ..ty }, image)
}

/// Opens an image by what the manifest calls it, and by whether it is taken to change.
type Open<'o, 'i> = dyn Fn(&str, bool) -> Result<MemoryImage<'i>, String> + 'o;

impl MemoryEntry {
    fn memory<'i>(&self, open: &Open<'_, 'i>) -> Result<Memory<'i>, String> {
        let image = match &self.image {
            Some(image) => open(image, self.changing)?,
            None if self.changing => MemoryImage::from_slice(&[]).mark_changing(),
            None => MemoryImage::from_slice(&[]),
        };
        let ty = MemoryType {
            minimum: 0,
            maximum: self.maximum.as_ref().map(|pages| pages.0),
            memory64: self.memory64,
            shared: self.shared,
            page_size: self.page_size.unwrap_or(65_536),
        };
        let mut memory = memory(image, self.minimum.as_ref().map(|pages| pages.0), ty);
        for range in &self.left_out {
            memory.leave_out(range.first.0..=range.last.0);
        }
        Ok(memory)
    }
}

impl Manifest {
    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Some editors put a byte order mark before it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The path of the image of each memory that has one; paths count from `folder`.
    pub fn images(&self, folder: &Path) -> impl Iterator<Item = Option<PathBuf>> {
        self.memories.iter().map(move |entry| Some(folder.join(entry.image.as_ref()?)))
    }

    /// For each memory the path of its image, which counts from `folder`, unless the manifest says that
    /// the memory has no pages.
    pub fn images_with_pages(&self, folder: &Path) -> Vec<Option<PathBuf>> {
        let of = |entry: &MemoryEntry| {
            let has_pages = entry.minimum.as_ref().is_none_or(|pages| pages.0 > 0);
            Some(folder.join(entry.image.as_ref()?)).filter(|_| has_pages)
        };
        self.memories.iter().map(of).collect()
    }

    /// The guest, with its images as `open` gives them.
    ///
    /// # Errors
    /// An image can't be opened, or a value does not fit its type.
    pub fn into_dump<'i>(self, open: &Open<'_, 'i>) -> Result<CoreDump<'i>, String> {
        let mut dump = CoreDump::new(self.name.unwrap_or_default());
        dump.modules = self.modules.into_iter().map(|name| Module { name }).collect();
        for (i, entry) in self.memories.iter().enumerate() {
            dump.add_memory(entry.memory(open).map_err(|why| format!("memory {i}: {why}"))?);
        }
        for (i, entry) in self.globals.iter().enumerate() {
            let value = entry.value().map_err(|why| format!("global {i}: {why}"))?;
            dump.add_global(Global { mutable: entry.mutable, value });
        }
        for entry in self.instances {
            dump.add_instance(Instance {
                module: entry.module.map(ModuleIndex),
                memories: entry.memories.into_iter().map(|m| m.map(MemoryIndex)).collect(),
                globals: entry.globals.into_iter().map(|g| g.map(GlobalIndex)).collect(),
            });
        }
        for entry in self.threads {
            let frames = entry.frames.iter().map(FrameEntry::frame);
            dump.add_thread(Thread::new(entry.name).with_frames(frames));
        }
        dump.notes = self.notes;
        Ok(dump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(text: &str) -> Result<CoreDump<'static>, String> {
        Manifest::parse(text)?.into_dump(&|image, _| Err(format!("no {image} here")))
    }

    #[test]
    fn everything_that_a_manifest_can_say() {
        let dump = dump(
            r#"{ "name": "guest", "modules": ["a", null],
                 "memories": [{ "minimum": "281474976710656", "memory64": true,
                                "changing": true,
                                "left_out": [{ "first": 9, "last": 9 },
                                             { "first": 20, "last": "18446744073709551615" }] }],
                 "globals": [{ "type": "i32", "mutable": true, "value": -1 },
                             { "type": "i64", "value": "-9223372036854775808" },
                             { "type": "f32", "value": "0x7fa00001" }, { "type": "f64", "value": 1 },
                             { "type": "v128", "value": "0xff000000000000000000000000000001" },
                             { "type": "exnref" }],
                 "instances": [{ "module": 0, "memories": [0, null], "globals": [5] }, {}],
                 "threads": [{ "name": "t", "frames": [{ "function": 3,
                               "locals": [{ "i32": 1 }, "missing", { "f32": 1.5 }],
                               "stack": [{ "i64": "-1" }, { "f64": "0x7ff8000000000001" }] }] }] }"#,
        )
        .unwrap();
        assert_eq!(dump.name, "guest");
        assert_eq!(dump.modules[1].name, None);
        assert_eq!(dump.memories[0].ty, MemoryType::wasm64(1 << 48));
        assert_eq!(dump.memories[0].left_out().unwrap().as_slice(), [9..=9, 20..=u64::MAX]);
        assert!(dump.memories[0].image.is_changing());
        let values: Vec<_> = dump.globals.iter().map(|g| g.value).collect();
        assert_eq!(
            values,
            [
                GlobalValue::I32(-1),
                GlobalValue::I64(i64::MIN),
                GlobalValue::F32(0x7fa0_0001),
                GlobalValue::F64(1.0_f64.to_bits()),
                GlobalValue::V128((0xff << 120) | 1),
                GlobalValue::Ref(RefType::Exn),
            ]
        );
        assert!(dump.globals[0].mutable && !dump.globals[1].mutable);
        assert_eq!(dump.instances[0].memories, [Some(MemoryIndex(0)), None]);
        assert_eq!(dump.instances[1], Instance::default());
        let frame = &dump.threads[0].frames[0];
        let f32_bits = 1.5_f32.to_bits();
        assert_eq!(frame.locals, [Value::I32(1), Value::Missing, Value::F32(f32_bits)]);
        assert_eq!(frame.stack, [Value::I64(-1), Value::F64(0x7ff8_0000_0000_0001)]);
        dump.validate().unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("{", "EOF while parsing an object at line 1 column 1"),
            (r#"{ "nam": 1 }"#, "unknown field `nam`"),
            (r#"{ "memories": [{ "minimum": -1 }] }"#, "a number of pages is a whole number"),
            (
                r#"{ "memories": [{ "left_out": [{ "first": 1.5, "last": 2 }] }] }"#,
                "an address is a",
            ),
            (
                r#"{ "memories": [{ "left_out": [{ "first": 1 }] }] }"#,
                "a range needs two addresses",
            ),
            (r#"{ "globals": [{ "type": "i31", "value": 1 }] }"#, "global 0: there is no type i31"),
            (r#"{ "globals": [{ "type": "i32" }] }"#, "global 0: an i32 needs a value"),
            (r#"{ "globals": [{ "type": "i32", "value": 2147483648 }] }"#, "its value is no i32"),
            (r#"{ "globals": [{ "type": "f32", "value": 1e39 }] }"#, "its value is no f32"),
            (r#"{ "globals": [{ "type": "funcref", "value": 0 }] }"#, "a funcref has no value"),
            (r#"{ "globals": [{ "type": "v128", "value": 1 }] }"#, "a v128 needs a value"),
            (
                r#"{ "threads": [{ "frames": [{ "function": 0, "stack": [{ "i32": 1.5 }] }] }] }"#,
                "the value is no i32",
            ),
            (
                r#"{ "threads": [{ "frames": [{ "function": 0, "stack": [{ "v128": 1 }] }] }] }"#,
                "a value is \"missing\" or",
            ),
        ] {
            let error = dump(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
