//! Another process rewrites the file of an open dump with invalid UTF-8: strings in a program without `unsafe` stay
//! valid.
//!
//! With a mapping of the file, strings would have changed in place, and would have yielded invalid [`char`]s.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use corestream::read::{OpenOptions, Verdict, Verifier};
use corestream::*;
use tempfile::TempDir;

/// The name of everything in the dump, with characters of two and four bytes. These bytes occur nowhere else.
const NAME: &str = "\u{fc}\u{10348}\u{fc}\u{10348}";

/// A dump in a file, and bytes to overwrite it with.
struct Dumped {
    _directory: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    /// The dump with names that are not UTF-8.
    invalid: Vec<u8>,
}

impl Dumped {
    fn new() -> Self {
        let image = vec![7; 65_536];
        let mut guest = CoreDump::new(NAME);
        for _ in 0..200 {
            let identity = ModuleIdentity::new().with_build_id(NAME);
            let module = guest.add_module(Module::new(NAME).with_identity(identity));
            let instance = guest.add_instance(Instance::new(module));
            let frame = Frame::new(instance, 3, 17).with_locals([Value::I32(5)]);
            guest.add_thread(Thread::new(NAME).with_frames(vec![frame; 3]));
            guest.add_global(Global::constant(GlobalValue::I64(5)));
        }
        guest.notes = vec![NAME.into(); 20];
        guest.trap = Some(NAME.into());
        guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&image)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        Dumper::new().plan(&guest).unwrap().write_file(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mut invalid = bytes.clone();
        let mut places = 0;
        for at in 0..bytes.len() - NAME.len() {
            if bytes[at..].starts_with(NAME.as_bytes()) {
                // UTF-8 never contains this byte.
                invalid[at..at + NAME.len()].fill(0xff);
                places += 1;
            }
        }
        assert!(places > 200 + 200 + 200 + 20, "{places}");
        Self { _directory: directory, path, bytes, invalid }
    }

    /// Overwrites the file in place.
    fn rewrite(&self, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
}

/// Checks that a string is UTF-8 and yields only valid characters.
fn assert_valid(string: &str) {
    let string = std::hint::black_box(string);
    std::str::from_utf8(string.as_bytes()).unwrap();
    for character in string.chars() {
        let character = std::hint::black_box(character);
        assert!(char::from_u32(u32::from(character)).is_some(), "{:#x}", u32::from(character));
    }
}

/// The number of strings that were read from a dump, and the errors in place of others.
#[derive(Default)]
struct Seen {
    strings: usize,
    errors: Vec<Error>,
}

impl Seen {
    fn add(&mut self, string: Result<String>) {
        match string {
            Ok(string) => {
                assert_valid(&string);
                self.strings += 1;
            }
            Err(error) => {
                assert_valid(&error.to_string());
                self.errors.push(error);
            }
        }
    }
}

/// Reads every string of a dump.
fn look(dump: &CoreDumpFile<'_>) -> Seen {
    let mut seen = Seen::default();
    assert_valid(dump.name());
    assert_valid(&format!("{dump:?}"));
    dump.trap().inspect(|trap| assert_valid(trap));
    dump.modules().for_each(|name| seen.add(name));
    seen.add(dump.module(ModuleIndex(100)));
    dump.notes().for_each(|note| seen.add(note));
    for index in 0..dump.threads().len() {
        seen.add(dump.thread(index).map(|thread| thread.name().into()));
    }
    for thread in dump.threads().filter_map(Result::ok) {
        assert_valid(thread.name());
        assert_valid(&format!("{thread:?}"));
        // The bytes of the frames can be anything by now.
        thread
            .frames()
            .for_each(|frame| drop(frame.map(|frame| assert_valid(&format!("{frame:?}")))));
    }
    dump.instances().for_each(|instance| drop(instance.map(|one| format!("{one:?}"))));
    dump.globals().for_each(|global| drop(global.map(|one| assert_valid(&format!("{one:?}")))));
    dump.module_identities().for_each(|one| drop(one.map(|one| format!("{one:?}"))));
    seen
}

fn open(path: &Path) -> Result<CoreDumpFile<'static>> {
    OpenOptions::new().threads(1).open(path)
}

#[test]
fn strings_stay_valid_when_the_file_is_rewritten() {
    let dumped = Dumped::new();
    let dump = CoreDumpFile::open(&dumped.path).unwrap();
    let (name, trap) = (dump.name(), dump.trap().unwrap());
    let thread = dump.thread(0).unwrap();
    let modules: Vec<_> = dump.modules().map(Result::unwrap).collect();
    let before = look(&dump);
    assert!(before.errors.is_empty() && before.strings > 400, "{:?}", before.errors);

    dumped.rewrite(&dumped.invalid);
    // Strings that were read before have not changed.
    assert_eq!((name, trap, thread.name()), (NAME, NAME, NAME));
    assert!(modules.iter().all(|module| module == NAME));
    [name, trap, thread.name()].into_iter().for_each(assert_valid);
    assert_eq!((dump.name(), dump.trap()), (NAME, Some(NAME)));
    // Strings that are decoded now are not UTF-8.
    for result in [
        dump.module(ModuleIndex(0)),
        dump.modules().next().unwrap(),
        dump.notes().next().unwrap(),
        dump.thread(0).map(|thread| thread.name().into()),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().ends_with("a name is not UTF-8"), "{error}");
    }
    let after = look(&dump);
    assert!(after.errors.len() > 200, "{:?}", after.errors);
    assert!(CoreDumpFile::open(&dumped.path).is_err());
    let verdict = Verifier::new().verify_file(&dumped.path).unwrap();
    assert!(matches!(verdict, Verdict::Damaged(_)));

    dumped.rewrite(&dumped.bytes);
    assert!(look(&dump).errors.is_empty());
}

/// One thread rewrites the file continuously. Another one opens, lists and verifies it.
#[test]
fn strings_stay_valid_while_the_file_is_rewritten() {
    const ROUNDS: usize = 300;

    let dumped = Dumped::new();
    let opened = CoreDumpFile::open(&dumped.path).unwrap();
    let read = || {
        let (mut strings, mut errors) = (0, 0);
        for round in 0..ROUNDS {
            let mut seen = look(&opened);
            match open(&dumped.path) {
                Ok(dump) => {
                    assert_valid(dump.name());
                    let more = look(&dump);
                    seen.strings += more.strings;
                    seen.errors.extend(more.errors);
                }
                Err(error) => seen.errors.push(error),
            }
            if round % 10 == 0 {
                match Verifier::new().threads(1).verify_file(&dumped.path) {
                    Ok(Verdict::Damaged(damage)) => assert_valid(&damage.to_string()),
                    Ok(verdict) => assert!(verdict.is_intact()),
                    Err(error) => seen.errors.push(error),
                }
            }
            for error in &seen.errors {
                let kinds = [ErrorKind::Damaged, ErrorKind::Unsupported, ErrorKind::Truncated];
                assert!(kinds.contains(&error.kind()), "{error:?}");
            }
            strings += seen.strings;
            errors += seen.errors.len();
        }
        (strings, errors)
    };
    let (strings, errors) = thread::scope(|scope| {
        let reader = scope.spawn(read);
        while !reader.is_finished() {
            dumped.rewrite(&dumped.invalid);
            dumped.rewrite(&dumped.bytes);
        }
        reader.join().unwrap()
    });
    assert!(strings > 0, "{errors} errors and no string");
    assert!(look(&opened).errors.is_empty());
}
