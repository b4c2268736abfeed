//! Random access to the bytes of a dump, in memory, in a file or on a remote server.
//!
//! The reader fetches ranges of a dump through [`ReadAt`], from several threads at once. A source whose bytes are all
//! in memory and cannot change lends them, so that nothing is copied.
//!
//! A mapped file is such memory only as long as no process changes the file. No type can check that, so [`MappedFile`]
//! has an unsafe constructor. A [`File`] is a source too. The reader copies its bytes with `pread`.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::image::map::{self, Map};

/// Random access to the bytes of a dump.
///
/// Verifying and extracting use several threads, which read the source at the same time.
///
/// The bytes and the length must not change while a dump is verified. If they do, the result is an error or a verdict
/// about a mixture of old and new bytes. Nothing panics.
///
/// ```
/// use std::io;
///
/// use corestream::read::{ReadAt, Verifier};
/// use corestream::{CoreDump, Dumper};
///
/// /// A dump in parts of 1 KiB, as an object store might keep it.
/// struct Parts(Vec<Vec<u8>>);
///
/// impl ReadAt for Parts {
///     fn len(&self) -> io::Result<u64> {
///         Ok(self.0.iter().map(|part| part.len() as u64).sum())
///     }
///
///     fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
///         let bytes = self.0.iter().flatten().skip(offset as usize);
///         let mut filled = 0;
///         for (to, from) in buffer.iter_mut().zip(bytes) {
///             (*to, filled) = (*from, filled + 1);
///         }
///         if filled == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
///     }
/// }
///
/// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
/// let parts = Parts(bytes.chunks(1024).map(Vec::from).collect());
/// assert!(Verifier::new().verify(&parts)?.is_intact());
/// # Ok::<(), corestream::Error>(())
/// ```
#[allow(clippy::len_without_is_empty, reason = "no dump is empty")]
pub trait ReadAt: Send + Sync {
    /// Returns the length in bytes. A reader calls this once, before it reads.
    ///
    /// # Errors
    /// Returns an error if the length cannot be determined.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Returns an error of [`io::ErrorKind::UnexpectedEof`] if there are fewer bytes, and the source's own error if it
    /// cannot be read. The contents of `buffer` are then unspecified.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns all bytes if they are in memory and cannot change, and `None` otherwise.
    ///
    /// A reader may call this at any time. It decodes, verifies and restores directly from these bytes.
    /// [`MemoryView::read`](super::MemoryView::read) always copies with [`read_exact_at`](Self::read_exact_at).
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        match from.and_then(|from| from.get(..buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.as_slice())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// Reads with `pread`, which neither uses nor moves the file's cursor.
impl ReadAt for File {
    /// # Errors
    /// Returns an error if the file is not a regular file, or if it has bytes although its length is 0, like those in
    /// `/proc`.
    fn len(&self) -> io::Result<u64> {
        map::regular_len(self)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

macro_rules! pointers {
    ($($(#[$doc:meta])* $pointer:ty),*) => {$(
        $(#[$doc])*
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn len(&self) -> io::Result<u64> {
                self.deref().len()
            }

            fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
                self.deref().read_exact_at(buffer, offset)
            }

            fn as_slice(&self) -> Option<&[u8]> {
                self.deref().as_slice()
            }
        }
    )*};
}

pointers!(&T, Box<T>, Arc<T>);

/// A mapped file: a source that lends its bytes.
///
/// Reading a mapped dump copies nothing and is the fastest way. In return, the caller must uphold the contract of
/// [`new`](Self::new). A [`File`] is a source too, and needs no contract.
#[derive(Debug)]
pub struct MappedFile(Map);

impl MappedFile {
    /// Maps all of a regular file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be mapped, or is not a regular file.
    ///
    /// # Safety
    /// While the returned source exists:
    ///
    /// - No process may write to the file, whether by this name, by another name or through another mapping.
    /// - No process may truncate the file. A read past its new end raises SIGBUS, which ends the process unless it
    ///   handles that signal.
    /// - The file's storage must stay readable. A failed read raises SIGBUS as well.
    ///
    /// ```
    /// use corestream::read::{MappedFile, ReadAt};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("guest.core");
    /// std::fs::write(&path, "bytes")?;
    /// // SAFETY: no other process knows the file.
    /// let source = unsafe { MappedFile::new(&std::fs::File::open(&path)?)? };
    /// assert_eq!(source.as_slice(), Some(&b"bytes"[..]));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code, reason = "its contract cannot be checked")]
    pub unsafe fn new(file: &File) -> io::Result<Self> {
        map::regular_len(file)?;
        // SAFETY: the caller upholds the contract of this function, which is that of `Map::new`.
        unsafe { Map::new(file) }.map(Self)
    }
}

impl ReadAt for MappedFile {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.0.bytes())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.bytes().read_exact_at(buffer, offset)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self.0.bytes())
    }
}
