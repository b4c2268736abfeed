//! Random access to the bytes of a dump, wherever it is: in memory, in a file, behind a network.
//!
//! A reader takes a dump in parts, and several threads read it at once. A [`ReadAt`] gives them these parts. Where all bytes
//! are in memory and cannot change, the source lends them, and nothing is copied.
//!
//! A mapping of a file is such memory only if nobody changes the file: that is a promise that no type can check, so
//! [`MappedFile`] has an unsafe constructor. A [`File`] is a source as well, which is read.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::image::map::{self, Map};

/// A source of the bytes of a dump. Threads verify and extract a dump together, so a source is read by several at once.
///
/// The bytes and their number should not change while a dump is verified. If they do, the verdict is of a mixture of old
/// and new bytes, or an error; nothing panics.
///
/// ```
/// use std::io;
///
/// use corestream::read::{ReadAt, Verifier};
/// use corestream::{CoreDump, Dumper};
///
/// /// A dump in parts of 1 KiB, as an object store may keep it.
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
    /// Returns the number of bytes. A reader asks once, before anything else.
    ///
    /// # Errors
    /// Returns the error of whatever holds the bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Returns an error of [`io::ErrorKind::UnexpectedEof`] if there are fewer bytes, or that of whatever holds them. The
    /// contents of `buffer` are unspecified then.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Lends all bytes, if they are in memory and cannot change; otherwise `None`.
    ///
    /// A reader may ask at any time. It decodes, verifies and restores what is lent;
    /// [`MemoryView::read`](super::MemoryView::read) copies by [`read_exact_at`](Self::read_exact_at).
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

/// Reads by `pread`: the position of the file is neither used nor moved.
impl ReadAt for File {
    /// # Errors
    /// Returns an error if it is no regular file, or one that has bytes and no length, as those of `/proc`.
    fn len(&self) -> io::Result<u64> {
        map::regular_len(self, "a dump")
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

/// A file that is mapped: a source that lends its bytes.
///
/// Reading a mapped dump copies nothing and is the fastest way, at the price of a promise: see
/// [`new`](Self::new). A [`File`] is a source as well, and needs none.
#[derive(Debug)]
pub struct MappedFile(Map);

impl MappedFile {
    /// Maps a whole regular file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be mapped, or is not a regular file.
    ///
    /// # Safety
    /// As long as the returned source exists:
    ///
    /// - No process may write to the file, nor to another name of it, nor through another mapping.
    /// - No process may make the file shorter: a read past its new end is a SIGBUS, which ends the process unless it
    ///   handles that signal.
    /// - The file's storage must stay readable, for the same reason.
    ///
    /// ```
    /// use corestream::read::{MappedFile, ReadAt};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("guest.core");
    /// std::fs::write(&path, "bytes")?;
    /// // SAFETY: nobody else knows the file.
    /// let source = unsafe { MappedFile::new(&std::fs::File::open(&path)?)? };
    /// assert_eq!(source.as_slice(), Some(&b"bytes"[..]));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code, reason = "its caller makes a promise that nothing can check")]
    pub unsafe fn new(file: &File) -> io::Result<Self> {
        map::regular_len(file, "a dump")?;
        // SAFETY: the caller guarantees the same.
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
