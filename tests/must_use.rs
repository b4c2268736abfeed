//! What is of no use unless something is done with it is said by the compiler.
#![deny(unfulfilled_lint_expectations)]

use corestream::read::verify_slice;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, FileOptions, FileSink, Frame, Global, Instance, Memory,
    MemoryImage, MemoryType, Module, ModuleIndex, NewDirectory, PipeSink, SocketSink, Thread,
    UnnamedFile,
};

/// Each of these is dropped, and a warning says so.
macro_rules! unused {
    ($($value:expr),* $(,)?) => {$(
        #[expect(unused_must_use)]
        {
            $value;
        }
    )*};
}

#[test]
fn what_is_dropped_is_said() -> Result<(), Box<dyn std::error::Error>> {
    let dump = CoreDump::new("guest");
    let bytes = Dumper::new().plan(&dump)?.to_vec()?;
    let folder = tempfile::tempdir()?;
    let file = tempfile::tempfile()?;
    unused!(
        Dumper::new(),
        Dumper::new().threads(1),
        Dumper::new().plan(&dump)?,
        FileOptions::new(),
        FileSink::new(&file),
        PipeSink::new(&file),
        SocketSink::new(&file).lend(false),
        NewDirectory::create(folder.path().join("new"))?,
        UnnamedFile::create_in(folder.path(), FileOptions::new())?,
        verify_slice(&bytes, 1)?,
        CoreDumpFile::from_slice(&bytes)?.stop_if(|| false),
        Instance::new(ModuleIndex(0)),
        MemoryType::wasm32(1).with_shared(),
        Memory::new(MemoryType::wasm32(0), MemoryImage::from_slice(&[])).without(..),
        Module::new("guest.wasm"),
        Global::mutable(1.into()),
        Thread::new("main").with_frames([]),
        Frame::new(None, 0, 0).with_locals([]),
    );
    Ok(())
}
