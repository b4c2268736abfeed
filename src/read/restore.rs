//! A memory of a dump as a raw image: a sparse file, or a stream with all its zeros.
//!
//! A file is restored by several threads, each of which takes the next part of the data, reads it and writes it where it
//! belongs. A source that lends its bytes is written from where they lie. A stream is written by one thread.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::contents::{Content, Contents};
use super::memory::MemoryView;
use super::source::Source;
use super::types;
use crate::arithmetic::{Checked, at_most, exact};
use crate::atomic_file::{AtomicFile, FileOptions};
use crate::control::{Meter, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::held_signal::without_sigxfsz;
use crate::ranges::range_len;
use crate::threads::{resolve, run_on};

/// What a block of a file that is all zero is not written for, so that it stays a hole.
const BLOCK: u64 = 4096;

/// Bytes that are read and written before the work looks whether it is cancelled.
const PART: u64 = 1 << 20;

/// Zeros that are written at once.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What a memory was restored from. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Restored {
    /// The memory, and so the image.
    pub len: u64,
    /// What came from the dump.
    pub data: u64,
    /// What is zero in the image because nobody knows it: it was excluded from the dump, or is lost
    /// ([`MemoryView::unknown`] says where).
    pub unknown: u64,
}

/// A part of the data of a memory.
struct Part {
    address: u64,
    /// The offset of its first byte in the dump.
    offset: u64,
    /// Its length in bytes.
    len: u64,
}

/// The data of a memory, in parts of at most [`PART`] bytes.
struct Parts<'d> {
    contents: Contents<'d>,
    /// What is left of the data in hand.
    rest: Option<Part>,
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let Part { address, offset, len } = match self.rest.take() {
            Some(rest) => rest,
            None => self.contents.find_map(data)?,
        };
        let now = len.min(PART);
        // A part that ends at the last of all addresses has nothing after it.
        self.rest =
            address.checked_add(now).zip(offset.checked_add(now)).and_then(|(address, offset)| {
                let len = len.checked_sub(now).filter(|len| *len > 0)?;
                Some(Part { address, offset, len })
            });
        Some(Part { address, offset, len: now })
    }
}

/// The bytes of a content that lie in the dump.
fn data(content: Content) -> Option<Part> {
    match content {
        Content::Data { addresses, offset } => {
            let len = u64::try_from(range_len(&addresses)).ok()?;
            Some(Part { address: *addresses.start(), offset, len })
        }
        _ => None,
    }
}

impl MemoryView<'_> {
    /// Writes the memory to a new file: a raw image, as long as the memory, with holes where it is zero,
    /// that only its owner can read and that appears when it is whole. What nobody knows is zero in it.
    ///
    /// It takes the time of the data, however large the memory is. Threads, cancelling and progress are those of
    /// [`OpenOptions`](super::OpenOptions).
    ///
    /// # Errors
    /// Returns an error if `path` exists and is not to be replaced, if the image cannot be written there, if the dump cannot
    /// be read, or if the work was cancelled: then nothing is left behind. An image that is finished and cannot be given its
    /// name is kept under another ([`Error::kept_file`]).
    ///
    /// ```
    /// use corestream::*;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("guest.mem");
    /// # let mut bytes = vec![0; 65_536];
    /// # bytes[9] = 9;
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # let dump = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&dump)?;
    /// let restored = dump.memory(MemoryIndex(0))?.restore(&path, FileOptions::new())?;
    /// assert_eq!((restored.len, restored.data, restored.unknown), (65_536, 1, 0));
    /// assert_eq!(std::fs::read(&path).unwrap(), bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn restore(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<Restored> {
        let path = path.as_ref();
        let failed = |what: &str, source| {
            Error::io(ErrorKind::Output, format!("{}: {what}", path.display()), source)
        };
        let restored = self.measured()?;
        let meter = self.dump.control.begin(Stage::Restore, restored.data);
        let file = AtomicFile::create(path, options).map_err(|e| failed("cannot create", e))?;
        without_sigxfsz(|| file.file().set_len(restored.len))
            .map_err(|e| failed("cannot make it as long as the memory", e))?;
        self.write_data(restored.data, &meter, &|part, bytes| {
            without_sigxfsz(|| write_sparsely(file.file(), part.address, bytes))
                .map_err(|source| failed("cannot write", source))
        })?;
        self.dump.control.check_cancelled()?;
        file.commit().map_err(|error| error.into_error(path, "image", ErrorKind::Output))?;
        meter.finish();
        Ok(restored)
    }

    /// Writes the memory to a stream, with all its zeros. What nobody knows is zero in it.
    ///
    /// # Errors
    /// Returns an error if `output` fails, if the dump cannot be read, or if the work was cancelled
    /// ([`OpenOptions::cancel`](super::OpenOptions::cancel)).
    ///
    /// ```
    /// # use corestream::*;
    /// # let bytes = vec![3; 65_536];
    /// # let mut guest = CoreDump::new("guest.wasm");
    /// # guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// # let dump = Dumper::new().plan(&guest)?.to_vec()?;
    /// let dump = CoreDumpFile::from_slice(&dump)?;
    /// let mut pipe = Vec::new();
    /// dump.memory(MemoryIndex(0))?.write_to(&mut pipe)?;
    /// assert_eq!(pipe, bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn write_to(&self, mut output: impl Write) -> Result<Restored> {
        let memory = self.index();
        let failed = |at: u64, source| {
            let message = format!("cannot write memory {memory} at address {at:#x}");
            Error::io(ErrorKind::Output, message, source)
        };
        let restored = self.measured()?;
        let meter = self.dump.control.begin(Stage::Restore, restored.data);
        let source = self.dump.source();
        let mut buffer = Vec::new();
        let mut at = 0;
        let zeros_to = |at: &mut u64, end: u64, output: &mut dyn Write| {
            while let Some(left) = end.checked_sub(*at).filter(|left| *left > 0) {
                self.dump.control.check_cancelled()?;
                let zeros = ZEROS.get(..at_most(left, ZEROS.len())).unwrap_or(&ZEROS);
                without_sigxfsz(|| output.write_all(zeros)).map_err(|e| failed(*at, e))?;
                *at = at.plus(zeros.len() as u64)?;
                // Somebody may watch for more than the bytes.
                meter.add(0);
            }
            Ok::<(), Error>(())
        };
        for part in self.parts() {
            zeros_to(&mut at, part.address, &mut output)?;
            let bytes = read(source, &part, &mut buffer)?;
            self.dump.control.check_cancelled()?;
            without_sigxfsz(|| output.write_all(bytes)).map_err(|e| failed(part.address, e))?;
            at = part.address.plus(part.len)?;
            meter.add(part.len);
        }
        zeros_to(&mut at, restored.len, &mut output)?;
        without_sigxfsz(|| output.flush()).map_err(|source| failed(restored.len, source))?;
        meter.finish();
        Ok(restored)
    }

    /// Passes all data, so many bytes, to `write`, by as many threads as there are to be.
    fn write_data(
        &self,
        data: u64,
        meter: &Meter<'_>,
        write: &(dyn Fn(&Part, &[u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let source = self.dump.source();
        let parts = Mutex::new(self.parts());
        let failure = Mutex::new(None);
        let next = || {
            // After a failure there is nothing to do for the others either.
            let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if failed { None } else { parts.lock().unwrap_or_else(PoisonError::into_inner).next() }
        };
        let work = || {
            let mut buffer = Vec::new();
            while let Some(part) = next() {
                let done = self.dump.control.check_cancelled().and_then(|()| {
                    let bytes = read(source, &part, &mut buffer)?;
                    write(&part, bytes)
                });
                match done {
                    Ok(()) => meter.add(part.len),
                    Err(error) => {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                    }
                }
            }
        };
        // One for each part is enough.
        run_on(at_most(data.div_ceil(PART), resolve(self.dump.threads)), &work);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn parts(&self) -> Parts<'_> {
        Parts { contents: self.contents(), rest: None }
    }

    /// Returns what an image of the memory will be made from.
    ///
    /// # Errors
    /// Returns an error if no file can be as long as the memory.
    fn measured(&self) -> Result<Restored> {
        let memory = self.index();
        let len = u64::try_from(self.ty().size()).map_err(|_| {
            let message = format!("memory {memory}: no file can have its 2^64 bytes");
            Error::new(ErrorKind::Output, message)
        })?;
        let mut restored = Restored { len, ..Restored::default() };
        let mut last = None;
        for content in self.contents() {
            let count = match content {
                Content::Data { .. } => &mut restored.data,
                Content::Excluded(_) | Content::Lost(_) => &mut restored.unknown,
                Content::Zero(_) => &mut 0,
            };
            let addresses = content.addresses();
            *count = count.plus(exact(range_len(addresses))?)?;
            last = Some(*addresses.end());
        }
        match last == types::last_address(&self.ty()) {
            true => Ok(restored),
            false => Err(self.changed()),
        }
    }
}

/// The bytes of a part: those that the source lends, or else those that are read into `buffer`.
fn read<'b>(source: Source<'b>, part: &Part, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
    let end = part.offset.plus(part.len)?;
    Ok(source.part(part.offset..end, buffer)?)
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
        let parts = |address, len| {
            let rest = Some(Part { address, offset: 7, len });
            let contents = Contents::new(&[], &[], None, None);
            let parts = Parts { contents, rest };
            parts.map(|part| (part.address, part.offset, part.len)).collect::<Vec<_>>()
        };
        let first = u64::MAX - PART - 2;
        assert_eq!(parts(first, PART + 3), [(first, 7, PART), (u64::MAX - 2, 7 + PART, 3)]);
        assert_eq!(parts(first + 3, PART), [(first + 3, 7, PART)]);
    }
}
