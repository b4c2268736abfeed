//! A regular file as a sink: its room is reserved before the first byte.

use std::fs::File;
use std::io;

use super::Sink;
use crate::piece::Piece;

/// Writes to a file, from its present position on.
///
/// The whole dump is preallocated, so that a full disk fails before the first byte.
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
pub struct FileSink<'f> {
    file: &'f File,
}

impl<'f> FileSink<'f> {
    /// A sink that writes to `file`.
    pub fn new(file: &'f File) -> Self {
        Self { file }
    }
}

impl Sink for FileSink<'_> {
    fn begin(&mut self, len: u64) -> io::Result<()> {
        preallocate(self.file, len)
    }

    fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()> {
        Sink::put(&mut self.file, pieces, written)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reserves `len` bytes from the present position on; a file system that can't is no error.
#[cfg(target_os = "linux")]
fn preallocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate, tell};
    use rustix::io::Errno;

    let at = match tell(file) {
        Ok(at) => at,
        Err(Errno::SPIPE) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    loop {
        return match fallocate(file, FallocateFlags::KEEP_SIZE, at, len) {
            Err(Errno::INTR) => continue,
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::SPIPE) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn preallocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}
