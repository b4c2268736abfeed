//! A regular file as a sink: its room is reserved before the first byte.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::backend::file::reserve;
use super::traits::{Sink, slices};
use crate::close::check_close;
use crate::held_signal::without_sigxfsz;
use crate::piece::Piece;

/// Writes to a file, from its present position on, or to its end if it was opened to append.
///
/// The whole dump is preallocated, so that a full disk fails before the first byte, and so does a limit on the size of
/// files (`RLIMIT_FSIZE`). After a dump that failed, the room behind the end stays reserved until somebody sets the length
/// of the file. The error that `close` would have, as with NFS or quotas, is that of
/// [`finish`](Sink::finish).
///
/// ```
/// use corestream::{CoreDump, Dumper, FileSink};
///
/// # let file = tempfile::tempfile().unwrap();
/// let dump = CoreDump::new("guest.wasm");
/// let plan = Dumper::new().plan(&dump)?;
/// plan.write_to(&mut FileSink::new(&file))?;
/// assert_eq!(file.metadata().unwrap().len(), plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct FileSink<F> {
    file: F,
}

impl<F: AsFd> FileSink<F> {
    /// Returns a sink that writes to `file`, which it owns or borrows.
    pub fn new(file: F) -> Self {
        Self { file }
    }
}

impl<F: AsFd> Sink for FileSink<F> {
    fn begin(&mut self, len: u64, _: bool) -> io::Result<()> {
        check_limit(&self.file, len)?;
        match position(&self.file) {
            Some(at) => without_sigxfsz(|| reserve(&self.file, at, len)),
            None => Ok(()),
        }
    }

    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.file, &slices(pieces))?)
    }

    fn finish(&mut self) -> io::Result<()> {
        check_close(&self.file)
    }
}

/// Returns an error if the process may not write `len` bytes to a regular file from the present position on.
fn check_limit(file: impl AsFd, len: u64) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::Fsize).current else { return Ok(()) };
    let is_regular = rustix::fs::fstat(&file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    match position(&file) {
        Some(at) if is_regular && at.checked_add(len).is_none_or(|end| end > limit) => {
            Err(Errno::FBIG.into())
        }
        _ => Ok(()),
    }
}

/// Returns where the next write goes: to the end of a file that was opened to append, else to the present position.
fn position(file: impl AsFd) -> Option<u64> {
    let appends = rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
    match appends {
        true => u64::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok(),
        false => rustix::fs::tell(&file).ok(),
    }
}
