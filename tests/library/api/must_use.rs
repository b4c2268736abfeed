//! The compiler warns if a value is dropped that has no effect by itself (`#[must_use]`).
#![deny(unfulfilled_lint_expectations)]

use corestream::read::{OpenOptions, Verifier};
use corestream::{
    CoreDump, Dumper, FileOptions, FileSink, Frame, Global, Instance, Memory, MemoryImage,
    MemoryType, Module, ModuleIdentity, ModuleIndex, NewDirectory, PipeSink, SocketSink, Thread,
    UnnamedFile,
};

/// Drops each value, and expects a warning.
macro_rules! unused {
    ($($value:expr),* $(,)?) => {$(
        #[expect(unused_must_use)]
        {
            $value;
        }
    )*};
}

#[test]
fn warns_of_unused_values() -> Result<(), Box<dyn std::error::Error>> {
    let dump = CoreDump::new("guest");
    let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    let directory = tempfile::tempdir()?;
    let file = tempfile::tempfile()?;
    unused!(
        Dumper::new(),
        Dumper::new().threads(1),
        Dumper::new().plan(&dump)?,
        FileOptions::new(),
        FileSink::new(&file),
        PipeSink::new(&file),
        SocketSink::new(&file).lend(false),
        NewDirectory::create(directory.path().join("new"))?,
        UnnamedFile::create_in(directory.path(), FileOptions::new())?,
        Verifier::new().threads(1).verify(&bytes)?,
        OpenOptions::new(),
        OpenOptions::new().salvage(true).threads(1),
        Instance::new(ModuleIndex(0)),
        ModuleIdentity::new().with_build_id([1]),
        MemoryType::wasm32(1).with_shared(),
        Memory::new(MemoryType::wasm32(0), MemoryImage::from_slice(&[])).without(..),
        Module::new("guest.wasm"),
        Global::mutable(1.into()),
        Thread::new("main").with_frames([]),
        Frame::new(None, 0, 0).with_locals([]),
    );
    Ok(())
}
