//! Parses any text as a manifest: an error or a model. A valid model becomes a dump. The manifest of that dump gives
//! the same model and the same dump again.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use corestream::read::{Content, MemoryView};
use corestream::{CoreDump, CoreDumpFile, Dumper, GlobalValue, MemoryImage, MemoryIndex, Module};
use serde_json::{Map, Value, json};

use corestream_cli::internals::{Inspection, Manifest};

use crate::common::reading::{all, types};

/// The first byte of an input that describes a manifest. Other inputs are text, which never contains this byte.
const DESCRIBED: u8 = 0xff;

/// A replacement for a value of a manifest.
#[derive(Arbitrary, Debug)]
enum Odd {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Number>),
    Object(Vec<(String, Number)>),
    /// Nested lists.
    Nested(u8),
}

#[derive(Arbitrary, Debug)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Few(u8),
    Float(f64),
    Hex(u128),
    Digits(i64),
    BigDigits(u64),
}

/// A guest whose description is mostly valid.
#[derive(Arbitrary, Debug)]
struct Described {
    name: Option<String>,
    modules: Vec<Option<String>>,
    memories: Vec<Memory>,
    globals: Vec<(u8, Option<bool>, Number)>,
    instances: Vec<Instance>,
    threads: Vec<(Option<String>, Vec<Frame>)>,
    /// Replacements for values of the manifest, by position.
    odd: Vec<(u16, Odd)>,
    /// The position of a field to remove.
    excluded: Option<u8>,
}

/// Module, memories and globals.
type Instance = (Option<u8>, Vec<Option<u8>>, Vec<Option<u8>>);

#[derive(Arbitrary, Debug)]
struct Memory {
    image: Option<String>,
    minimum: Option<Number>,
    /// The difference from the minimum, if that is small.
    maximum: Option<Number>,
    memory64: Option<bool>,
    shared: Option<bool>,
    small_pages: Option<bool>,
    changing: Option<bool>,
}

#[derive(Arbitrary, Debug)]
struct Frame {
    instance: Option<u8>,
    function: u32,
    offset: Option<u32>,
    locals: Vec<(u8, Number)>,
    stack: Vec<(u8, Number)>,
}

impl Number {
    fn json(&self) -> Value {
        match self {
            Self::Unsigned(x) => json!(x),
            Self::Signed(x) => json!(x),
            Self::Few(x) => json!(x),
            Self::Float(x) => json!(x),
            Self::Hex(x) => json!(format!("{x:#x}")),
            Self::Digits(x) => json!(x.to_string()),
            Self::BigDigits(x) => json!(x.to_string()),
        }
    }
}

impl Odd {
    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(x) => json!(x),
            Self::Number(x) => x.json(),
            Self::Text(x) => json!(x),
            Self::List(list) => list.iter().map(Number::json).collect(),
            Self::Object(list) => {
                let entries = list.iter().map(|(key, value)| (key.clone(), value.json()));
                Value::Object(entries.collect())
            }
            Self::Nested(depth) => (0..*depth).fold(json!([]), |inner, _| json!([inner])),
        }
    }
}

/// Returns an object of the fields that have a value.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

fn value((ty, number): &(u8, Number)) -> Value {
    match ty % 5 {
        0 => json!("missing"),
        ty => json!({ ["i32", "i64", "f32", "f64"][usize::from(ty - 1)]: number.json() }),
    }
}

impl Described {
    fn text(&self) -> String {
        const TYPES: [&str; 11] = [
            "i32",
            "i64",
            "f32",
            "f64",
            "v128",
            "funcref",
            "externref",
            "anyref",
            "exnref",
            "contref",
            "i31",
        ];
        let memory = |m: &Memory| {
            object([
                ("image", m.image.as_ref().map(|image| json!(image))),
                ("minimum", m.minimum.as_ref().map(Number::json)),
                ("maximum", m.maximum.as_ref().map(Number::json)),
                ("memory64", m.memory64.map(Value::Bool)),
                ("shared", m.shared.map(Value::Bool)),
                ("page_size", m.small_pages.map(|small| json!(if small { 1 } else { 65_536 }))),
                ("changing", m.changing.map(Value::Bool)),
            ])
        };
        let global = |(ty, mutable, number): &(u8, Option<bool>, Number)| {
            let ty = usize::from(*ty) % TYPES.len();
            object([
                ("type", Some(json!(TYPES[ty]))),
                ("mutable", mutable.map(Value::Bool)),
                ("value", (ty < 5).then(|| number.json())),
            ])
        };
        let instance = |(module, memories, globals): &Instance| json!({ "module": module, "memories": memories, "globals": globals });
        let frame = |f: &Frame| {
            object([
                ("instance", f.instance.map(|i| json!(i))),
                ("function", Some(json!(f.function))),
                ("offset", f.offset.map(|offset| json!(offset))),
                ("locals", Some(f.locals.iter().map(value).collect())),
                ("stack", Some(f.stack.iter().map(value).collect())),
            ])
        };
        let thread = |(name, frames): &(Option<String>, Vec<Frame>)| {
            let frames = frames.iter().map(frame).collect();
            object([("name", name.as_ref().map(|n| json!(n))), ("frames", Some(frames))])
        };
        let mut all = json!({
            "name": self.name,
            "modules": self.modules,
            "memories": self.memories.iter().map(memory).collect::<Value>(),
            "globals": self.globals.iter().map(global).collect::<Value>(),
            "instances": self.instances.iter().map(instance).collect::<Value>(),
            "threads": self.threads.iter().map(thread).collect::<Value>(),
        });
        // Facts with a section of their own are derived from the names, so that saved inputs keep their meaning.
        if let (Some(name), Some(all)) = (&self.name, all.as_object_mut())
            && name.len() % 2 == 1
        {
            let identity = |name: &Option<String>| {
                let hex = name.as_ref().map(|name| format!("{:064x}", name.len()));
                object([
                    ("build_id", hex.as_ref().map(|hex| json!(hex[60..]))),
                    ("sha256", hex.filter(|hex| hex.ends_with('1')).map(|hex| json!(hex))),
                ])
            };
            all.insert("trap".into(), json!(name));
            all.insert("captured_at".into(), json!("2026-11-28T04:18:23.5Z"));
            all.insert("module_identities".into(), self.modules.iter().map(identity).collect());
        }
        for (at, odd) in &self.odd {
            replace(&mut all, &mut usize::from(*at), &odd.json());
        }
        if let (Some(i), Some(all)) = (self.excluded, all.as_object_mut()) {
            let keys: Vec<_> = all.keys().cloned().collect();
            if let Some(key) = keys.get(usize::from(i)) {
                all.remove(key);
            }
        }
        all.to_string()
    }
}

/// Replaces the value after `left` others.
fn replace(value: &mut Value, left: &mut usize, by: &Value) -> bool {
    if *left == 0 {
        *value = by.clone();
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| replace(value, left, by)),
        Value::Object(map) => map.values_mut().any(|value| replace(value, left, by)),
        _ => false,
    }
}

/// Runs the check on an input of the fuzzer.
pub fn run(bytes: &[u8]) {
    match bytes.split_first() {
        Some((&DESCRIBED, rest)) => {
            if let Ok(described) = Described::arbitrary(&mut Unstructured::new(rest)) {
                check(&described.text());
            }
        }
        _ => check(&String::from_utf8_lossy(bytes)),
    }
}

/// Returns an image by its name, without opening a file.
fn image(name: &str, changing: bool) -> Result<MemoryImage<'static>, String> {
    static IMAGES: [&[u8]; 4] = [&[], &[1; 100], b"\0\0\x01\0", &{
        let mut bytes = [0; 70_000];
        bytes[60_000] = 1;
        bytes[69_999] = 2;
        bytes
    }];
    match name.as_bytes().last() {
        Some(b'!') => Err(format!("{name}: cannot open")),
        last => {
            let image = MemoryImage::from_slice(IMAGES[usize::from(*last.unwrap_or(&0) % 4)]);
            Ok(if changing { image.mark_changing() } else { image })
        }
    }
}

fn check(text: &str) {
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(why) => return assert!(!why.is_empty()),
    };
    let directory = Path::new("directory");
    assert!(manifest.images(directory).len() <= text.len());
    let dump = match manifest.into_dump(&image) {
        Ok(dump) => dump,
        Err(why) => return assert!(!why.is_empty()),
    };
    let _ = format!("{dump} {dump:?}");
    let plan = match (Dumper::new().threads(1).plan(&dump), dump.validate()) {
        (Ok(plan), Ok(())) => plan,
        (Err(error), Err(why)) => return assert_eq!(error.to_string(), why.to_string()),
        (plan, valid) => panic!("{plan:?}, but {valid:?}"),
    };
    let bytes = plan.to_vec().unwrap();
    let file = CoreDumpFile::from_slice(&bytes).unwrap();
    let inspected = serde_json::to_string(&Inspection::new(&file, &|_, _| Ok(None))).unwrap();
    assert_reads_back(&inspected);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["bytes"], json!(bytes.len()));
    if !plan.shortfalls().is_empty() {
        return;
    }

    let restored: Vec<_> = (0..).zip(&dump.memories).map(|(i, m)| restore(&file, i, m)).collect();
    let name = |memory: MemoryView<'_>| Some(memory.index().to_string());
    let written = serde_json::to_string_pretty(&Manifest::new(&file, &name)).unwrap();
    let open = |name: &str, changing: bool| {
        let bytes: &Vec<u8> = &restored[name.parse::<usize>().unwrap()];
        let image = MemoryImage::from_slice(bytes);
        Ok(if changing { image.mark_changing() } else { image })
    };
    let again = Manifest::parse(&written).unwrap();
    assert_eq!(serde_json::to_string_pretty(&again).unwrap(), written);
    let again = again.into_dump(&open).unwrap();
    assert_same(&again, &dump);
    let again = Dumper::new().threads(1).plan(&again).unwrap().to_vec().unwrap();
    assert!(again == bytes, "not the same dump again");
}

/// Checks that parsing a report and writing it again gives the same text.
fn assert_reads_back(text: &str) {
    let inspection: Inspection<'_> = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&inspection).unwrap(), text);
}

/// Checks the report and the manifest of an open dump, whose bytes are `bytes`. The report is JSON of bounded length.
/// The manifest gives a valid model, whose dump has the same manifest.
pub fn assert_written(file: &CoreDumpFile<'_>, bytes: &[u8]) {
    let inspected = serde_json::to_string(&Inspection::new(file, &|_, _| Ok(None))).unwrap();
    assert_reads_back(&inspected);
    let described: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(described["bytes"], json!(bytes.len()));
    // The longest entries are those of memories, of which there are at most 100, and of short segments.
    let most = (32 << 10) + 32 * bytes.len();
    assert!(inspected.len() <= most, "{} for {}", inspected.len(), bytes.len());

    let none = |_: MemoryView<'_>| None;
    let written = serde_json::to_string(&Manifest::new(file, &none)).unwrap();
    let again = Manifest::parse(&written).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    let dump = again.into_dump(&image);
    // The value of another writer's global can be missing.
    let globals = all(file.globals());
    if globals.iter().any(|global| matches!(global.value, GlobalValue::Missing(_))) {
        assert!(dump.unwrap_err().ends_with(" requires a value"));
        return;
    }
    let dump = dump.unwrap();
    dump.validate().unwrap();
    assert_eq!(file.name(), dump.name);
    assert!(types(file).into_iter().eq(dump.memories.iter().map(|memory| memory.ty)));
    assert_eq!(globals, dump.globals);
    let plan = Dumper::new().threads(1).plan(&dump).unwrap();
    assert_eq!(plan.shortfalls(), []);
    let bytes = plan.to_vec().unwrap();
    let again = CoreDumpFile::from_slice(&bytes).unwrap();
    let again = serde_json::to_string(&Manifest::new(&again, &none)).unwrap();
    assert_eq!(again, written);
}

/// Returns the bytes of a memory, up to the length of its image.
fn restore(file: &CoreDumpFile<'_>, index: u32, memory: &corestream::Memory<'_>) -> Vec<u8> {
    let image = memory.image.as_slice().unwrap();
    // Excluded bytes can be anything.
    let mut bytes = image.to_vec();
    let view = file.memory(MemoryIndex(index)).unwrap();
    for content in view.contents() {
        let first = usize::try_from(*content.addresses().start()).unwrap_or(usize::MAX);
        let last = usize::try_from(*content.addresses().end()).unwrap_or(usize::MAX);
        let Some(part) = bytes.get_mut(first..image.len().min(last.saturating_add(1))) else {
            break;
        };
        match content {
            Content::Data { .. } => view.read(first as u64, part).unwrap(),
            Content::Zero(_) => part.fill(0),
            _ => {}
        }
    }
    assert!(bytes == image, "memory {index}");
    bytes
}

/// Checks that two models are the same, except for images.
fn assert_same(found: &CoreDump<'_>, expected: &CoreDump<'_>) {
    let modules = |dump: &CoreDump<'_>| -> Vec<_> {
        dump.modules.iter().enumerate().map(|(i, m)| m.name_or_anonymous(i)).collect()
    };
    let types = |dump: &CoreDump<'_>| -> Vec<_> { dump.memories.iter().map(|m| m.ty).collect() };
    assert_eq!(found.name, expected.name);
    assert_eq!(modules(found), modules(expected));
    assert_eq!(types(found), types(expected));
    assert_eq!(found.globals, expected.globals);
    assert_eq!(found.instances, expected.instances);
    assert_eq!(found.threads, expected.threads);
    // An empty message or build id counts as missing.
    let trap = |dump: &CoreDump<'_>| dump.trap.clone().filter(|trap| !trap.is_empty());
    assert_eq!(trap(found), trap(expected));
    assert_eq!(found.captured_at, expected.captured_at);
    for (found, expected) in found.modules.iter().zip(&expected.modules) {
        assert_eq!(found.identity.sha256, expected.identity.sha256);
        let build_id = |module: &Module| module.identity.build_id.clone().unwrap_or_default();
        assert_eq!(build_id(found), build_id(expected));
    }
}
