//! A memory of a dump as a raw image: a sparse file, or a stream with all its zeros.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::contents::Content;
use super::file::{CoreDumpFile, changed};
use super::types;
use crate::arithmetic::{Checked, at_most, exact};
use crate::atomic_file::{AtomicFile, FileOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::held_signal::without_sigxfsz;
use crate::model::MemoryIndex;
use crate::ranges::range_len;

/// What a block of a file that is all zero is not written for, so that it stays a hole.
const BLOCK: u64 = 4096;

/// Bytes that are written before somebody is asked whether to go on.
const PART: usize = 4 << 20;

/// Zeros that are written at once.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What a memory was restored from. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The memory, and so the image.
    pub len: u64,
    /// What came from the dump.
    pub data: u64,
    /// What is zero in the image because it was left out of the dump or lost
    /// ([`CoreDumpFile::left_out`] says where).
    pub left_out: u64,
}

impl CoreDumpFile<'_> {
    /// Writes a memory to a new file: a raw image, as long as the memory, with holes where it is zero,
    /// that only its owner can read and that appears when it is whole. What was left out is zero.
    ///
    /// Takes the time of the data, however large the memory is.
    ///
    /// # Errors
    /// There is no such memory; `path` exists and is not to be replaced; the image can't be written
    /// there, or the work was stopped ([`stop_if`](Self::stop_if)): then nothing is left behind. An image that is
    /// finished and can't be given its name is kept under another ([`Error::kept_file`]).
    ///
    /// ```
    /// use corestream::*;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("guest.mem");
    /// # let mut bytes = vec![0; 65_536];
    /// # bytes[9] = 9;
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # let dump = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&dump)?;
    /// let restored = dump.restore(MemoryIndex(0), &path, FileOptions::new())?;
    /// assert_eq!((restored.len, restored.data, restored.left_out), (65_536, 1, 0));
    /// assert_eq!(std::fs::read(&path).unwrap(), bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn restore(
        &self,
        memory: MemoryIndex,
        path: impl AsRef<Path>,
        options: FileOptions,
    ) -> Result<Restored> {
        let path = path.as_ref();
        let fail = |what: &str, source| {
            Error::io(ErrorKind::Output, format!("{}: {what}", path.display()), source)
        };
        let len = self.byte_len(memory)?;
        let file = AtomicFile::create(path, options).map_err(|e| fail("cannot create", e))?;
        without_sigxfsz(|| file.file().set_len(len))
            .map_err(|e| fail("cannot make it as long as the memory", e))?;
        let restored = self.each(memory, |content| match content {
            Content::Data { address, bytes } => {
                for (at, part) in parts(*address, bytes) {
                    self.check_stop()?;
                    without_sigxfsz(|| write_sparsely(file.file(), at, part))
                        .map_err(|source| fail("cannot write", source))?;
                }
                Ok(())
            }
            _ => Ok(()),
        })?;
        self.check_stop()?;
        file.commit().map_err(|error| error.at(path, "image", ErrorKind::Output))?;
        Ok(restored)
    }

    /// Writes a memory to a stream, with all its zeros. What was left out is zero.
    ///
    /// # Errors
    /// There is no such memory, `output` fails, or the work was stopped
    /// ([`stop_if`](Self::stop_if)).
    ///
    /// ```
    /// # use corestream::*;
    /// # let bytes = vec![3; 65_536];
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # let dump = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&dump)?;
    /// let mut pipe = Vec::new();
    /// dump.write_memory(MemoryIndex(0), &mut pipe)?;
    /// assert_eq!(pipe, bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn write_memory(&self, memory: MemoryIndex, mut output: impl Write) -> Result<Restored> {
        let fail = |at: u64, source| {
            let message = format!("cannot write memory {memory} at address {at:#x}");
            Error::io(ErrorKind::Output, message, source)
        };
        let restored = self.each(memory, |content| {
            let (mut at, last) = content.addresses().into_inner();
            if let Content::Data { bytes, .. } = content {
                for (at, part) in parts(at, bytes) {
                    self.check_stop()?;
                    without_sigxfsz(|| output.write_all(part)).map_err(|e| fail(at, e))?;
                }
                return Ok(());
            }
            loop {
                self.check_stop()?;
                let left = at_most(range_len(&(at..=last)), ZEROS.len());
                let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
                without_sigxfsz(|| output.write_all(zeros)).map_err(|e| fail(at, e))?;
                match at.checked_add(zeros.len() as u64) {
                    Some(next) if next <= last => at = next,
                    _ => return Ok(()),
                }
            }
        })?;
        without_sigxfsz(|| output.flush()).map_err(|source| fail(restored.len, source))?;
        Ok(restored)
    }

    /// Passes all parts of a memory, and counts.
    fn each(
        &self,
        memory: MemoryIndex,
        mut part: impl FnMut(&Content<'_>) -> Result<()>,
    ) -> Result<Restored> {
        let mut restored = Restored { len: self.byte_len(memory)?, ..Restored::default() };
        let mut last = None;
        for content in self.contents(memory)? {
            part(&content)?;
            let addresses = content.addresses();
            let count = match content {
                Content::Data { .. } => &mut restored.data,
                Content::LeftOut(_) => &mut restored.left_out,
                Content::Zero(_) => &mut 0,
            };
            *count = count.plus(exact(range_len(&addresses))?)?;
            last = Some(*addresses.end());
        }
        match last == types::last_address(self.checked(memory)?.1) {
            true => Ok(restored),
            false => Err(changed(memory)),
        }
    }

    /// The length of a memory whose image can be restored.
    fn byte_len(&self, memory: MemoryIndex) -> Result<u64> {
        u64::try_from(self.checked(memory)?.1.size()).map_err(|_| {
            let message = format!("memory {memory}: no file can have its 2^64 bytes");
            Error::new(ErrorKind::Output, message)
        })
    }
}

/// Parts of `bytes` of a bounded length, each with its address.
fn parts(address: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (address..=u64::MAX).step_by(PART).zip(bytes.chunks(PART))
}

/// Writes `bytes` at `offset`, but for the blocks of the file that are all zero.
fn write_sparsely(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let (mut left, mut at) = (bytes, offset);
    // All from the first byte on that was not written and is in no block of zeros.
    let (mut run, mut run_at) = (bytes, offset);
    while !left.is_empty() {
        let to_edge = BLOCK.checked_sub(at % BLOCK).ok_or(std::io::ErrorKind::InvalidData)?;
        let (block, later) = left.split_at(at_most(to_edge, left.len()));
        at = at.checked_add(block.len() as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        if ZEROS.starts_with(block) {
            // What is left is the end of the run.
            let before = run.len().checked_sub(left.len());
            let split = before.and_then(|before| run.split_at_checked(before));
            let (run_here, _) = split.ok_or(std::io::ErrorKind::InvalidData)?;
            file.write_all_at(run_here, run_at)?;
            (run, run_at) = (later, at);
        }
        left = later;
    }
    file.write_all_at(run, run_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_at_the_end_of_all_addresses() {
        let bytes = vec![0; PART + 3];
        let last = u64::MAX - PART as u64 - 2;
        let found: Vec<_> = parts(last, &bytes).map(|(at, part)| (at, part.len())).collect();
        assert_eq!(found, [(last, PART), (u64::MAX - 2, 3)]);
        let found: Vec<_> = parts(last + 3, &bytes[..PART]).map(|(_, part)| part.len()).collect();
        assert_eq!(found, [PART]);
    }
}
