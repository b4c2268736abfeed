//! The manifest: a JSON description of a stopped guest. The images of its memories are separate files.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use corestream::limits::MAX_NOTES;
use corestream::read::MemoryView;
use corestream::{AddressRanges, CoreDump, CoreDumpFile, Error, Module, ModuleIdentity, UnixTime};
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::global::Global;
use super::identity::Identity;
use super::instance::Instance;
use super::memory::{Memory, OpenImage};
use super::thread::Thread;
use super::{Counts, List, object};
use crate::report;

/// A guest as the manifest describes it. Every field may be omitted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest<'d> {
    /// The name of the process.
    pub name: Option<Cow<'d, str>>,
    #[serde(default)]
    modules: List<'d, Option<Cow<'d, str>>>,
    #[serde(default, deserialize_with = "object::list")]
    memories: List<'d, Memory<'d>>,
    #[serde(default, deserialize_with = "object::list")]
    globals: List<'d, Global<'d>>,
    #[serde(default, deserialize_with = "object::list")]
    instances: List<'d, Instance>,
    #[serde(default, deserialize_with = "object::list")]
    threads: List<'d, Thread<'d, Frame>>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    notes: List<'d, Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trap: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    captured_at: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "List::is_empty", deserialize_with = "object::list")]
    module_identities: List<'d, Identity>,
}

impl<'d> Manifest<'d> {
    /// Describes the guest of a dump. `image` returns the path of the image of a memory, if it has one.
    pub fn new(
        dump: &'d CoreDumpFile<'d>,
        image: &'d dyn Fn(MemoryView<'_>) -> Option<String>,
    ) -> Self {
        Self::salvaged(dump, image, &|_| Vec::new())
    }

    /// Describes the guest of a dump, as [`new`](Self::new) does. `unread` returns the ranges of a memory that are in the
    /// dump but not in the image. These and the ranges that are lost in a damaged dump count as excluded, and a note
    /// gives their length.
    pub fn salvaged(
        dump: &'d CoreDumpFile<'d>,
        image: &'d dyn Fn(MemoryView<'_>) -> Option<String>,
        unread: &'d dyn Fn(MemoryView<'_>) -> Vec<RangeInclusive<u64>>,
    ) -> Self {
        let counts = Counts::of(dump);
        Self {
            name: Some(dump.name().into()),
            modules: modules(dump),
            memories: List::lazy(move || {
                let memory = move |view| Memory::new(view, image(view), unread(view));
                dump.memories().map(move |view| Ok(memory(view)))
            }),
            globals: globals(dump),
            instances: instances(dump, Some(counts)),
            threads: List::lazy(move || {
                let frame = move |_, frame| Ok(Frame::new(frame, Some(counts)));
                dump.threads().map(move |thread| Ok(Thread::new(thread?, frame)))
            }),
            notes: List::lazy(move || {
                let lost = dump.memories().filter_map(move |view| lost_note(view, &unread(view)));
                let notes = dump.notes().map(|note| Ok(Cow::Owned(note?)));
                notes.chain(lost.map(|note| Ok(Cow::Owned(note)))).take(MAX_NOTES)
            }),
            trap: dump.trap().map(Cow::Borrowed),
            captured_at: captured_at(dump),
            module_identities: identities(dump),
        }
    }

    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// Returns a message with line and column if the text is not a manifest.
    pub fn parse(text: &str) -> Result<Manifest<'static>, String> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        object::parse(text).map_err(|error| error.to_string())
    }

    /// Returns the path of the image of each memory, if it has one. The paths in the manifest are relative to `directory`.
    pub fn images(&self, directory: &Path) -> Vec<Option<PathBuf>> {
        let memories = self.memories.items().iter();
        memories.map(|memory| Some(directory.join(&**memory.image.as_ref()?))).collect()
    }

    /// Returns the path of the image of each memory, as [`images`](Self::images) does, but not of a memory that has no
    /// pages according to the manifest.
    pub fn images_with_pages(&self, directory: &Path) -> Vec<Option<PathBuf>> {
        let image = |memory: &Memory<'_>| {
            let has_pages = memory.minimum.is_none_or(|pages| pages.0 > 0);
            memory.image.as_ref().filter(|_| has_pages).map(|image| directory.join(&**image))
        };
        self.memories.items().iter().map(image).collect()
    }

    /// Converts to the library's guest. Opens its images with `open`.
    ///
    /// # Errors
    /// Returns a message if an image cannot be opened, or if a value does not have its type.
    pub fn into_dump<'i>(self, open: &OpenImage<'_, 'i>) -> Result<CoreDump<'i>, String> {
        let mut dump = CoreDump::new(self.name.unwrap_or_default());
        let names = self.modules.into_items().into_iter().map(|name| name.map(Cow::into_owned));
        dump.modules = names.map(|name| name.map_or_else(Module::anonymous, Module::new)).collect();
        let identities = self.module_identities.into_items();
        if identities.len() > dump.modules.len() {
            let (identities, modules) = (identities.len(), dump.modules.len());
            return Err(format!(
                "module_identities: more identities ({identities}) than modules ({modules})"
            ));
        }
        for (i, (module, identity)) in dump.modules.iter_mut().zip(identities).enumerate() {
            let identity = identity.into_identity();
            module.identity = identity.map_err(|why| format!("module_identities: {i}: {why}"))?;
        }
        for (i, memory) in self.memories.into_items().into_iter().enumerate() {
            let memory = memory.into_memory(open).map_err(|why| format!("memory {i}: {why}"))?;
            dump.add_memory(memory);
        }
        for (i, global) in self.globals.into_items().into_iter().enumerate() {
            dump.add_global(global.to_global().map_err(|why| format!("global {i}: {why}"))?);
        }
        for instance in self.instances.into_items() {
            dump.add_instance(instance.into_instance());
        }
        for thread in self.threads.into_items() {
            dump.add_thread(thread.into_thread());
        }
        dump.notes = self.notes.into_items().into_iter().map(Cow::into_owned).collect();
        dump.trap = self.trap.map(Cow::into_owned);
        let time = self.captured_at.map(|time| time.parse());
        let time: Result<Option<UnixTime>, Error> = time.transpose();
        dump.captured_at = time.map_err(|error| format!("captured_at: {error}"))?;
        Ok(dump)
    }
}

/// Returns the names of the modules. A module without a name is `null`.
pub(super) fn modules<'d>(dump: &'d CoreDumpFile<'d>) -> List<'d, Option<Cow<'d, str>>> {
    List::lazy(move || {
        dump.modules().enumerate().map(|(i, name)| {
            let name = name?;
            Ok((name != format!("<anonymous-module-{i}>")).then_some(Cow::Owned(name)))
        })
    })
}

pub(super) fn globals<'d>(dump: &'d CoreDumpFile<'d>) -> List<'d, Global<'d>> {
    List::lazy(move || dump.globals().map(|global| Ok(Global::from(&global?))))
}

pub(super) fn instances<'d>(
    dump: &'d CoreDumpFile<'d>,
    counts: Option<Counts>,
) -> List<'d, Instance> {
    List::lazy(move || dump.instances().map(move |instance| Ok(Instance::new(instance?, counts))))
}

/// Returns the note about the bytes of a memory that are lost, or `None` if none are.
fn lost_note(memory: MemoryView<'_>, unread: &[RangeInclusive<u64>]) -> Option<String> {
    let unread: AddressRanges = unread.iter().cloned().collect();
    let lost = [memory.coverage().lost_bytes, unread.byte_len()].iter().sum::<u128>();
    let were = if lost == 1 { "was" } else { "were" };
    let (bytes, index) = (report::bytes(lost), memory.index());
    (lost > 0).then(|| format!("{bytes} of memory {index} {were} lost in the damaged dump"))
}

pub(super) fn notes<'d>(dump: &'d CoreDumpFile<'d>) -> List<'d, Cow<'d, str>> {
    List::lazy(move || dump.notes().map(|note| Ok(Cow::Owned(note?))))
}

/// Returns the time when the guest was captured.
pub(super) fn captured_at<'d>(dump: &CoreDumpFile<'d>) -> Option<Cow<'d, str>> {
    dump.captured_at().map(|time| time.to_string().into())
}

/// Returns the identities of the modules. The list is empty if no module has an identity.
pub(super) fn identities<'d>(dump: &'d CoreDumpFile<'d>) -> List<'d, Identity> {
    List::lazy(move || {
        let is_known = |identity: Result<ModuleIdentity, _>| {
            // Treat an error as an identity, so that the list yields the error.
            identity.map_or(true, |identity| identity.is_known())
        };
        let identities = dump.module_identities().any(is_known).then(|| dump.module_identities());
        identities.into_iter().flatten().map(|identity| Ok(Identity::from(identity?)))
    })
}

#[cfg(test)]
mod tests {
    use corestream::{GlobalValue, MemoryIndex, MemoryType, RefType, Value};

    use super::*;

    fn dump(text: &str) -> Result<CoreDump<'static>, String> {
        Manifest::parse(text)?.into_dump(&|image, _| Err(format!("no {image} here")))
    }

    #[test]
    fn reads_every_field_of_a_manifest() {
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
                               "stack": [{ "i64": "-1" }, { "f64": "0x7ff8000000000001" }] }] }],
                 "trap": "out of fuel", "captured_at": "2026-11-28T04:18:23.5Z",
                 "module_identities": [{}, { "build_id": "00Ff" }] }"#,
        )
        .unwrap();
        assert_eq!(dump.name, "guest");
        assert_eq!(dump.modules[1].name, None);
        assert_eq!(dump.memories[0].ty, MemoryType::wasm64(1 << 48));
        assert_eq!(dump.memories[0].excluded().unwrap().as_slice(), [9..=9, 20..=u64::MAX]);
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
        assert_eq!(dump.instances[1], corestream::Instance::default());
        let frame = &dump.threads[0].frames[0];
        let f32_bits = 1.5_f32.to_bits();
        assert_eq!(frame.locals, [Value::I32(1), Value::Missing, Value::F32(f32_bits)]);
        assert_eq!(frame.stack, [Value::I64(-1), Value::F64(0x7ff8_0000_0000_0001)]);
        assert_eq!(dump.trap.as_deref(), Some("out of fuel"));
        let captured_at = dump.captured_at.map(UnixTime::nanoseconds);
        assert_eq!(captured_at, Some(1_795_839_503_500_000_000));
        assert!(!dump.modules[0].identity.is_known());
        let identity = ModuleIdentity::new().with_build_id([0, 0xff]);
        assert_eq!(dump.modules[1].identity, identity);
        dump.validate().unwrap();
    }

    #[test]
    fn reports_invalid_manifests() {
        for (text, expected) in [
            ("{", "EOF while parsing an object at line 1 column 1"),
            (r#"{ "nam": 1 }"#, "unknown field `nam`"),
            ("[]", "invalid type: sequence, expected an object"),
            (
                r#"{ "captured_at": "yesterday" }"#,
                "captured_at: invalid time \"yesterday\"; expected a time such as 20",
            ),
            (
                r#"{ "module_identities": [{ "build_id": "12" }] }"#,
                "module_identities: more identities (1) than modules (0)",
            ),
            (
                r#"{ "modules": ["a"], "module_identities": [{ "build_id": "123" }] }"#,
                "module_identities: 0: invalid build id; expected an even number of hexadecimal digits",
            ),
            (
                r#"{ "modules": ["a"], "module_identities": [{ "sha256": "1234" }] }"#,
                "module_identities: 0: invalid SHA-256; expected 64 hexadecimal digits",
            ),
            (r#"{ "memories": [[]] }"#, "invalid type: sequence, expected an object"),
            (r#"{ "memories": [{ "left_out": [[0, 1]] }] }"#, "sequence, expected an object"),
            (r#"{ "threads": [{ "frames": [[]] }] }"#, "sequence, expected an object"),
            (r#"{ "instances": [7] }"#, "invalid type: integer `7`, expected an object"),
            (r#"{ "memories": [{ "minimum": -1 }] }"#, "invalid number of pages; expected"),
            (
                r#"{ "memories": [{ "left_out": [{ "first": 1.5, "last": 2 }] }] }"#,
                "invalid address; expected",
            ),
            (r#"{ "memories": [{ "left_out": [{ "first": 1 }] }] }"#, "missing field `last`"),
            (
                r#"{ "memories": [{ "maximum": [] }] }"#,
                "expected a number, or a string that contains a number at line 1 column",
            ),
            (
                r#"{ "globals": [{ "type": "i32", "value": null }] }"#,
                "expected a number, or a string that contains a number",
            ),
            (r#"{ "globals": [{ "type": "i31", "value": 1 }] }"#, "global 0: unknown type i31"),
            (r#"{ "globals": [{ "type": "i32" }] }"#, "global 0: an i32 requires a value"),
            (r#"{ "globals": [{ "type": "i32", "value": 2147483648 }] }"#, "not a valid i32"),
            (r#"{ "globals": [{ "type": "f32", "value": 1e39 }] }"#, "not a valid f32"),
            (r#"{ "globals": [{ "type": "funcref", "value": 0 }] }"#, "a funcref has no value"),
            (r#"{ "globals": [{ "type": "v128", "value": 1 }] }"#, "a v128 requires a value"),
            (
                r#"{ "threads": [{ "frames": [{ "function": 0, "stack": [{ "i32": 1.5 }] }] }] }"#,
                "not a valid i32",
            ),
            (
                r#"{ "threads": [{ "frames": [{ "function": 0, "stack": [{ "v128": 1 }] }] }] }"#,
                "expected \"missing\" or an object such as {\"i32\": …} with i32, i64, f32 or f64: unknown variant `v128`",
            ),
            (
                r#"{ "threads": [{ "frames": [{ "function": 0, "stack": [7] }] }] }"#,
                "expected \"missing\" or",
            ),
        ] {
            let error = dump(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
