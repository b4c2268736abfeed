//! Every question to an open dump, with answers that can be compared.
#![allow(dead_code, reason = "each test uses its part")]

use std::fmt::Debug;

use corestream::{
    CoreDumpFile, Error, FileOptions, GlobalIndex, InstanceIndex, ModuleIndex, Result,
};

/// The answers to a question, up to the first error.
#[derive(Debug, Default)]
pub struct Answers {
    pub items: Vec<String>,
    /// The bytes of memories.
    pub bytes: Vec<u8>,
    pub error: Option<Error>,
}

impl Answers {
    /// Checks that these are all the expected answers.
    pub fn assert_all(&self, expected: &Self, what: &str) {
        assert!(self.error.is_none(), "{what}: {:?}", self.error);
        assert!(self.items == expected.items && self.bytes == expected.bytes, "{what}");
    }

    /// Checks that these are the first of the expected answers.
    pub fn assert_first(&self, expected: &Self, what: &str) {
        let is_first =
            expected.items.starts_with(&self.items) && expected.bytes.starts_with(&self.bytes);
        assert!(is_first, "{what}: {:?} instead of {:?}", self.items, expected.items);
    }

    fn of<T: Debug>(items: impl IntoIterator<Item = Result<T>>) -> Self {
        let mut answers = Self::default();
        for item in items {
            match item {
                Ok(item) => answers.items.push(format!("{item:?}")),
                Err(error) => return Self { error: Some(error), ..answers },
            }
        }
        answers
    }
}

/// A question and its subject.
pub type Question = (&'static str, fn(&CoreDumpFile<'_>) -> Answers);

/// Every question, those about lists first.
pub const QUESTIONS: [Question; 17] = [
    ("modules", |dump| Answers::of(dump.modules())),
    ("notes", |dump| Answers::of(dump.notes())),
    ("identities", |dump| Answers::of(dump.module_identities())),
    ("instances", |dump| Answers::of(dump.instances())),
    ("globals", |dump| Answers::of(dump.globals())),
    ("threads", |dump| Answers::of(dump.threads().map(|thread| thread.map(|t| format!("{t:?}"))))),
    ("frames", frames),
    ("whole threads", |dump| {
        Answers::of(dump.threads().map(|thread| thread.and_then(|thread| thread.to_thread())))
    }),
    ("a module", |dump| {
        Answers::of(last(dump.modules().len()).map(|i| dump.module(ModuleIndex(i))))
    }),
    ("an identity", |dump| {
        let last = last(dump.module_identities().len());
        Answers::of(last.map(|i| dump.module_identity(ModuleIndex(i))))
    }),
    ("an instance", |dump| {
        Answers::of(last(dump.instances().len()).map(|i| dump.instance(InstanceIndex(i))))
    }),
    ("a global", |dump| {
        Answers::of(last(dump.globals().len()).map(|i| dump.global(GlobalIndex(i))))
    }),
    ("a thread", |dump| {
        let last = last(dump.threads().len()).map(|i| dump.thread(i as usize));
        Answers::of(last.map(|thread| thread.map(|thread| thread.name().to_owned())))
    }),
    ("read", read),
    ("verify", |dump| Answers::of([dump.verify()])),
    ("write_to", write_to),
    ("restore", restore),
];

/// Returns the questions except for the last one, which makes files.
pub fn without_files() -> &'static [Question] {
    &QUESTIONS[..QUESTIONS.len() - 1]
}

/// Returns the last index of a list.
fn last(len: usize) -> Option<u32> {
    len.checked_sub(1).map(|last| u32::try_from(last).unwrap())
}

/// Lists the frames of all threads.
fn frames(dump: &CoreDumpFile<'_>) -> Answers {
    let mut answers = Answers::default();
    for thread in dump.threads() {
        let more = match thread {
            Ok(thread) => Answers::of(thread.frames()),
            Err(error) => Answers { error: Some(error), ..Answers::default() },
        };
        answers.items.extend(more.items);
        answers.error = more.error;
        if answers.error.is_some() {
            break;
        }
    }
    answers
}

/// Reads each known range of each memory, but at most 1 MiB of it.
fn read(dump: &CoreDumpFile<'_>) -> Answers {
    let mut answers = Answers::default();
    for memory in dump.memories() {
        for content in memory.contents().filter(|content| content.clone().unknown().is_none()) {
            let (first, last) = content.addresses().clone().into_inner();
            let len = usize::try_from((last - first).min((1 << 20) - 1)).unwrap() + 1;
            let mut buffer = vec![0xaa; len];
            if let Err(error) = memory.read(first, &mut buffer) {
                return Answers { error: Some(error), ..answers };
            }
            answers.bytes.extend(buffer);
        }
    }
    answers
}

/// Writes all memories to streams.
fn write_to(dump: &CoreDumpFile<'_>) -> Answers {
    let mut answers = Answers::default();
    for memory in dump.memories() {
        match memory.write_to(&mut answers.bytes) {
            Ok(restored) => answers.items.push(format!("{restored:?}")),
            Err(error) => return Answers { error: Some(error), ..answers },
        }
    }
    answers
}

/// Restores all memories as files. Checks that a failure leaves nothing behind.
fn restore(dump: &CoreDumpFile<'_>) -> Answers {
    let mut answers = Answers::default();
    for memory in dump.memories() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        match memory.restore(&path, FileOptions::new()) {
            Ok(restored) => {
                answers.items.push(format!("{restored:?}"));
                answers.bytes.extend(std::fs::read(&path).unwrap());
            }
            Err(error) => {
                let left = directory.path().read_dir().unwrap().count();
                assert_eq!(left, 0, "files after {error}");
                return Answers { error: Some(error), ..answers };
            }
        }
    }
    answers
}

/// Returns the answers of a dump.
pub fn ask(dump: &CoreDumpFile<'_>, questions: &[Question]) -> Vec<Answers> {
    questions.iter().map(|(_, ask)| ask(dump)).collect()
}
