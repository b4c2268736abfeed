//! A regular file as a sink. Its space is reserved before the first byte.

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

/// A sink for a file, which it writes at its current position, or at its end if it was opened to append.
///
/// The sink preallocates the whole dump. So a full disk or a limit on the size of files (`RLIMIT_FSIZE`) is an error
/// before the first byte is written. After a failed dump, the reserved space beyond the end remains until the length of
/// the file is set. [`finish`](Sink::finish) reports the errors of `close`, which occur with NFS or quotas.
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

/// Checks that the process may write `len` bytes to a file at its current position.
///
/// # Errors
/// Returns an error if a regular file would exceed `RLIMIT_FSIZE`.
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

/// Returns the position of the next write: the end of a file that was opened to append, otherwise the current position.
fn position(file: impl AsFd) -> Option<u64> {
    let appends = rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
    match appends {
        true => u64::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok(),
        false => rustix::fs::tell(&file).ok(),
    }
}
