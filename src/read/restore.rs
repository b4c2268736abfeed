//! Restores a memory of a dump as a raw image: to a sparse file, or to a stream with all zeros.
//!
//! # The problem
//! A memory may be much larger than its data, up to 2^64 - 1 bytes in a file. The image must take the time of the data,
//! as fast as the disk allows, and must not occupy blocks for zeros.
//!
//! # The idea
//! The file gets the length of the memory first, so all of it is a hole. Several threads then share one iterator over
//! the data ([`DataParts`]). Each takes the next part of at most 1 MiB, reads it and writes it at its address. Within a
//! part, blocks that are all zero are skipped ([`write_sparsely`]): a segment may include short gaps of zeros. A source
//! that lends its bytes is written without a copy. A stream gets the parts in order from one thread, with the zeros
//! between them.
//!
//! # The invariant
//! Parts never overlap, so the order in which threads write them does not matter. The file is temporary until every
//! part is written, and appears under its name only when it is complete. After the first error no thread takes another
//! part.
//!
//! # The cost
//! Time proportional to the data for a file, and to the size of the memory for a stream. One buffer of 1 MiB per
//! thread, none if the source lends its bytes. There are at most as many threads as parts.

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

/// The size of the blocks of a file that stay holes if they are all zero.
const HOLE_BYTES: u64 = 4096;

/// The maximum number of bytes in a part. Cancellation is checked before each part.
const MAX_PART_BYTES: u64 = 1 << 20;

/// The zeros of one write to a stream, at most.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A summary of a restored memory. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Restored {
    /// The length of the memory and of the image.
    pub len: u64,
    /// The number of bytes from the dump.
    pub data: u64,
    /// The number of bytes that are zero in the image because they are unknown: they were excluded from the dump or are
    /// lost ([`MemoryView::unknown`] returns their addresses).
    pub unknown: u64,
}

/// A part of the data of a memory.
struct DataPart {
    address: u64,
    /// The file offset of the first byte.
    offset: u64,
    /// The length in bytes.
    len: u64,
}

/// An iterator over the data of a memory, in parts of at most [`MAX_PART_BYTES`].
struct DataParts<'d> {
    contents: Contents<'d>,
    /// The rest of the current range of data.
    rest: Option<DataPart>,
}

impl Iterator for DataParts<'_> {
    type Item = DataPart;

    fn next(&mut self) -> Option<DataPart> {
        let DataPart { address, offset, len } = match self.rest.take() {
            Some(rest) => rest,
            None => self.contents.find_map(to_data_part)?,
        };
        let part_len = len.min(MAX_PART_BYTES);
        let next = address.checked_add(part_len).zip(offset.checked_add(part_len));
        // The sum overflows only for the last part of the address space, which has no rest.
        self.rest = next.and_then(|(address, offset)| {
            let len = len.checked_sub(part_len).filter(|len| *len > 0)?;
            Some(DataPart { address, offset, len })
        });
        Some(DataPart { address, offset, len: part_len })
    }
}

/// Converts a content to a part, if its bytes are in the dump.
fn to_data_part(content: Content) -> Option<DataPart> {
    match content {
        Content::Data { addresses, offset } => {
            let len = u64::try_from(range_len(&addresses)).ok()?;
            Some(DataPart { address: *addresses.start(), offset, len })
        }
        _ => None,
    }
}

impl MemoryView<'_> {
    /// Writes the memory to a new file, as a raw image of the same length. Zeros become holes. Unknown bytes are zero.
    ///
    /// Only the owner can read the file, and it appears under its name when it is complete. The time is proportional to
    /// the data, however large the memory is. The threads, the cancel handle and the progress callback are those of
    /// [`OpenOptions`](super::OpenOptions).
    ///
    /// # Errors
    /// Returns an error if `path` exists and must not be overwritten, if the image cannot be written, if the dump
    /// cannot be read, or if the work was cancelled. No file is left then, with one exception: a complete image that
    /// cannot be given its name is kept under another one ([`Error::kept_file`]).
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
        let restored = self.measure()?;
        let meter = self.dump.control.begin(Stage::Restore, restored.data);
        let file = AtomicFile::create(path, options).map_err(|e| failed("cannot create", e))?;
        without_sigxfsz(|| file.file().set_len(restored.len))
            .map_err(|e| failed("cannot set the length of the image", e))?;
        self.write_data(restored.data, &meter, &|part, bytes| {
            without_sigxfsz(|| write_sparsely(file.file(), part.address, bytes))
                .map_err(|source| failed("cannot write", source))
        })?;
        self.dump.control.check_cancelled()?;
        file.commit().map_err(|error| error.into_error(path, "image", ErrorKind::Output))?;
        meter.finish();
        Ok(restored)
    }

    /// Writes the memory to a stream, including all zeros. Unknown bytes are zero.
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
        let restored = self.measure()?;
        let meter = self.dump.control.begin(Stage::Restore, restored.data);
        let source = self.dump.source();
        let mut buffer = Vec::new();
        let mut at = 0;
        let write_zeros_to = |at: &mut u64, end: u64, output: &mut dyn Write| {
            while let Some(remaining) = end.checked_sub(*at).filter(|remaining| *remaining > 0) {
                self.dump.control.check_cancelled()?;
                let zeros = ZEROS.get(..at_most(remaining, ZEROS.len())).unwrap_or(&ZEROS);
                without_sigxfsz(|| output.write_all(zeros)).map_err(|e| failed(*at, e))?;
                *at = at.plus(zeros.len() as u64)?;
                // Zeros do not count as data, but a watcher expects regular calls.
                meter.add(0);
            }
            Ok::<(), Error>(())
        };
        for part in self.data_parts() {
            write_zeros_to(&mut at, part.address, &mut output)?;
            let bytes = read_part(source, &part, &mut buffer)?;
            self.dump.control.check_cancelled()?;
            without_sigxfsz(|| output.write_all(bytes)).map_err(|e| failed(part.address, e))?;
            at = part.address.plus(part.len)?;
            meter.add(part.len);
        }
        write_zeros_to(&mut at, restored.len, &mut output)?;
        without_sigxfsz(|| output.flush()).map_err(|source| failed(restored.len, source))?;
        meter.finish();
        Ok(restored)
    }

    /// Passes all data, `data` bytes, to `write`, on several threads.
    fn write_data(
        &self,
        data: u64,
        meter: &Meter<'_>,
        write: &(dyn Fn(&DataPart, &[u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let source = self.dump.source();
        let parts = Mutex::new(self.data_parts());
        let failure = Mutex::new(None);
        let next_part = || {
            // One failure stops all threads.
            let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if failed { None } else { parts.lock().unwrap_or_else(PoisonError::into_inner).next() }
        };
        let work = || {
            let mut buffer = Vec::new();
            while let Some(part) = next_part() {
                let written = self.dump.control.check_cancelled().and_then(|()| {
                    let bytes = read_part(source, &part, &mut buffer)?;
                    write(&part, bytes)
                });
                match written {
                    Ok(()) => meter.add(part.len),
                    Err(error) => {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                    }
                }
            }
        };
        // More threads than parts would be idle.
        run_on(at_most(data.div_ceil(MAX_PART_BYTES), resolve(self.dump.threads)), &work);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn data_parts(&self) -> DataParts<'_> {
        DataParts { contents: self.contents(), rest: None }
    }

    /// Computes the summary of a restored memory.
    ///
    /// # Errors
    /// Returns an error if the memory has 2^64 bytes, more than a file can have.
    fn measure(&self) -> Result<Restored> {
        let memory = self.index();
        let len = u64::try_from(self.ty().size()).map_err(|_| {
            let message =
                format!("memory {memory}: its 2^64 bytes exceed the maximum size of a file");
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
            false => Err(self.changed_error()),
        }
    }
}

/// Returns the bytes of a part: a slice of the source, if it lends its bytes, or else of `buffer`.
fn read_part<'b>(source: Source<'b>, part: &DataPart, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
    let end = part.offset.plus(part.len)?;
    Ok(source.part(part.offset..end, buffer)?)
}

/// Writes `bytes` at `offset`, except for blocks of the file that are all zero.
///
/// Adjacent blocks with data form a run, which is one write.
fn write_sparsely(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let (mut rest, mut at) = (bytes, offset);
    // The current run and all bytes after it.
    let (mut run, mut run_at) = (bytes, offset);
    while !rest.is_empty() {
        let to_edge =
            HOLE_BYTES.checked_sub(at % HOLE_BYTES).ok_or(std::io::ErrorKind::InvalidData)?;
        let (block, later) = rest.split_at(at_most(to_edge, rest.len()));
        at = at.checked_add(block.len() as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        if ZEROS.starts_with(block) {
            // The run ends before this block, where `rest` begins.
            let run_len = run.len().checked_sub(rest.len());
            let split = run_len.and_then(|run_len| run.split_at_checked(run_len));
            let (finished_run, _) = split.ok_or(std::io::ErrorKind::InvalidData)?;
            file.write_all_at(finished_run, run_at)?;
            (run, run_at) = (later, at);
        }
        rest = later;
    }
    file.write_all_at(run, run_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yields_all_parts_at_the_end_of_the_address_space() {
        let parts = |address, len| {
            let rest = Some(DataPart { address, offset: 7, len });
            let contents = Contents::new(&[], &[], None, None);
            let parts = DataParts { contents, rest };
            parts.map(|part| (part.address, part.offset, part.len)).collect::<Vec<_>>()
        };
        let max = MAX_PART_BYTES;
        let first = u64::MAX - max - 2;
        assert_eq!(parts(first, max + 3), [(first, 7, max), (u64::MAX - 2, 7 + max, 3)]);
        assert_eq!(parts(first + 3, max), [(first + 3, 7, max)]);
    }
}
