//! The comparison of two dumps of one guest.

use std::fmt::Debug;
use std::path::Path;

use corestream::read::{Verdict, Verifier};
use corestream::{CoreDumpFile, MemoryIndex};

use super::Result;

/// Checks that both dumps are whole and equal, except for the time and the words `wasm trap: ` before Wasmtime's
/// traps. Unless `knows_offset`, the
/// offset of the trap must be unknown in wasmer's dump, and only that.
pub fn equal(wasmer: &Path, wasmtime: &Path, knows_offset: bool) -> Result<()> {
    for path in [wasmer, wasmtime] {
        if !matches!(Verifier::new().verify_file(path)?, Verdict::Intact(_)) {
            return Err(format!("{} is not whole", path.display()).into());
        }
    }
    let (one, two) = (CoreDumpFile::open(wasmer)?, CoreDumpFile::open(wasmtime)?);
    same("process", one.name(), two.name())?;
    same("modules", all(one.modules())?, all(two.modules())?)?;
    same("identities", all(one.module_identities())?, all(two.module_identities())?)?;
    same("instances", all(one.instances())?, all(two.instances())?)?;
    same("globals", all(one.globals())?, all(two.globals())?)?;
    same("notes", all(one.notes())?, all(two.notes())?)?;
    let (in_wasmer, mut in_wasmtime) = (threads(&one)?, threads(&two)?);
    if !knows_offset {
        let youngest = in_wasmtime.first_mut().and_then(|(_, frames)| frames.first_mut());
        youngest.ok_or("there is no frame")?.offset = 0;
    }
    same("threads", &in_wasmer, &in_wasmtime)?;
    let mut frames = in_wasmer.iter().flat_map(|(_, frames)| frames);
    let youngest = frames.next().ok_or("there is no frame")?;
    if (youngest.offset == 0) == knows_offset || frames.any(|frame| frame.offset == 0) {
        return Err("a code offset is unknown, or known against expectation".into());
    }

    same("number of memories", one.memories().len(), two.memories().len())?;
    for memory in 0..u32::try_from(one.memories().len())? {
        let memories = (one.memory(MemoryIndex(memory))?, two.memory(MemoryIndex(memory))?);
        same("type of a memory", memories.0.ty(), memories.1.ty())?;
        let contents = [&memories.0, &memories.1].map(|memory| -> Result<Vec<u8>> {
            let len = memory.ty().byte_len().ok_or("a memory is too large")?;
            let mut contents = vec![0; usize::try_from(len)?];
            memory.read(0, &mut contents)?;
            Ok(contents)
        });
        let [one, two] = contents;
        if one? != two? {
            return Err(format!("the contents of memory {memory} differ").into());
        }
    }

    let (one, two) = (one.trap().unwrap_or_default(), two.trap().unwrap_or_default());
    let two = two.strip_prefix("wasm trap: ").ok_or("Wasmtime has other words for a trap")?;
    same("trap", one, two)?;
    Ok(())
}

fn threads(dump: &CoreDumpFile) -> Result<Vec<(String, Vec<corestream::Frame>)>> {
    let thread = |thread: corestream::Result<corestream::read::ThreadView<'_>>| {
        let thread = thread?;
        Ok((thread.name().to_string(), all(thread.frames())?))
    };
    dump.threads().map(thread).collect()
}

/// Returns all items, or the first error.
fn all<T>(items: impl IntoIterator<Item = corestream::Result<T>>) -> Result<Vec<T>> {
    Ok(items.into_iter().collect::<Result<_, _>>()?)
}

fn same<T: PartialEq + Debug>(what: &str, wasmer: T, wasmtime: T) -> Result<()> {
    if wasmer == wasmtime {
        return Ok(());
    }
    Err(format!("{what}: {wasmer:?} in wasmer, but {wasmtime:?} in Wasmtime").into())
}
