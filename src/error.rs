//! The crate's error type: one pointer wide and opaque, with a message that names the thing and the place.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::visible::Visible;

/// The result of every fallible operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Allocates a buffer of `len` zero bytes for `what`, which the message names.
///
/// # Errors
/// Returns an error of [`ErrorKind::OutOfMemory`] if the allocation fails.
pub(crate) fn zeros(len: usize, what: &str) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Error::out_of_memory(what))?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// An error whose [`Display`](fmt::Display) is one line that names the thing and, where known, the place.
///
/// ```
/// use corestream::{CoreDump, Dumper, ErrorKind, Instance, ModuleIndex};
///
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_instance(Instance::new(ModuleIndex(7)));
/// let error = Dumper::new().plan(&dump).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Model);
/// assert_eq!(error.to_string(), "instance 0: module index 7 is out of range; there are 0 modules");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
    kept: Option<PathBuf>,
    /// The byte range of the dump that the error concerns.
    range: Option<Range<u64>>,
}

/// A category of [`Error`], for callers that handle errors by their cause.
///
/// ```
/// use corestream::{CoreDumpFile, ErrorKind};
///
/// let error = CoreDumpFile::from_slice(b"something else").unwrap_err();
/// let advice = match error.kind() {
///     ErrorKind::Format => "name a core dump",
///     ErrorKind::Damaged | ErrorKind::Truncated => "salvage it",
///     _ => "see the message",
/// };
/// assert_eq!(advice, "name a core dump");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The description of a guest is inconsistent. Nothing was written.
    Model,
    /// An option or an argument has an invalid value. Nothing was written.
    Option,
    /// An image could not be opened, mapped or read.
    Image,
    /// The output could not be created or written.
    Output,
    /// The engine exposes too little about a guest to dump it. Nothing was written.
    Guest,
    /// A table or a buffer could not be allocated.
    OutOfMemory,
    /// A [`Cancel`](crate::Cancel) stopped the operation: writing, opening, verifying or restoring a dump.
    Cancelled,
    /// A core dump could not be opened, mapped or read.
    Input,
    /// The requested bytes were excluded from the core dump on purpose.
    Excluded,
    /// The file is not a core dump.
    Format,
    /// The core dump is inconsistent, or a checksum does not match.
    Damaged,
    /// The core dump ends early.
    Truncated,
    /// The core dump uses a feature that this reader does not know, or exceeds one of its limits.
    Unsupported,
    /// The output differs from the plan: a bug in this crate.
    Internal,
}

impl Error {
    /// Returns an error for code built on this library, such as an adapter for an engine or a sink.
    ///
    /// `message` is one line in lower case that names the thing and, where known, the place and the next step.
    ///
    /// ```
    /// use corestream::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Guest, "the guest has no frames");
    /// assert_eq!((error.kind(), error.to_string()), (ErrorKind::Guest, "the guest has no frames".into()));
    /// ```
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::of(kind, message.into(), None)
    }

    fn of(kind: ErrorKind, message: String, source: Option<io::Error>) -> Self {
        Self(Box::new(Inner { kind, message, source, kept: None, range: None }))
    }

    pub(crate) fn io(kind: ErrorKind, message: impl Into<String>, source: io::Error) -> Self {
        Self::of(kind, message.into(), Some(source))
    }

    pub(crate) fn model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Model, message)
    }

    pub(crate) fn cancelled(reason: Option<&str>) -> Self {
        let message = match reason {
            Some(reason) => format!("cancelled: {reason}"),
            None => "cancelled".into(),
        };
        Self::new(ErrorKind::Cancelled, message)
    }

    pub(crate) fn out_of_memory(what: &str) -> Self {
        Self::new(ErrorKind::OutOfMemory, format!("cannot allocate {what}"))
    }

    /// Puts the name of the thing that failed in front of the message.
    pub(crate) fn at(mut self, thing: impl fmt::Display) -> Self {
        self.0.message = format!("{thing}: {}", self.0.message);
        self
    }

    /// Sets the byte range of the dump that this error concerns.
    pub(crate) fn in_range(mut self, range: Range<u64>) -> Self {
        self.0.range = Some(range);
        self
    }

    /// Sets the path of a finished file that still exists despite this error.
    pub(crate) fn kept(mut self, path: PathBuf) -> Self {
        self.0.kept = Some(path);
        self
    }

    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operating system's error that caused this one, if any.
    ///
    /// ```
    /// use corestream::CoreDumpFile;
    ///
    /// let error = CoreDumpFile::open("missing.core").unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }

    /// Returns the byte range of the core dump that this error concerns, as offsets in the dump.
    ///
    /// These are the bytes that are inconsistent, unknown to this reader or unreadable, or the missing bytes of a
    /// truncated dump. Returns `None` if the error does not concern a place in a dump.
    ///
    /// ```
    /// use corestream::{CoreDump, CoreDumpFile, Dumper};
    ///
    /// let bytes = Dumper::new().plan(&CoreDump::new("guest.wasm"))?.to_vec()?;
    /// let len = bytes.len() as u64;
    /// let error = CoreDumpFile::from_slice(&bytes[..bytes.len() - 3]).unwrap_err();
    /// assert_eq!(error.range(), Some(len - 3..len));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn range(&self) -> Option<Range<u64>> {
        self.0.range.clone()
    }

    /// Returns the path of a file or [`NewDirectory`](crate::NewDirectory) that was finished despite this error.
    ///
    /// A finished file is never discarded. If renaming it to its final name fails, it keeps a partial name in the same
    /// directory. If only syncing its directory fails ([`FileOptions::sync`](crate::FileOptions::sync)), it has its
    /// final name. The file is complete in both cases.
    ///
    /// ```
    /// use corestream::{FileOptions, UnnamedFile};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let directory = directory.path();
    /// let file = UnnamedFile::create_in(directory, FileOptions::new())?;
    /// let error = file.commit([directory.join("elsewhere/dump")]).unwrap_err();
    /// let kept = error.kept_file().unwrap();
    /// assert_eq!((kept.parent(), kept.extension().unwrap()), (Some(directory), "partial".as_ref()));
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn kept_file(&self) -> Option<&Path> {
        self.0.kept.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Visible(&self.0.message))?;
        match &self.0.source {
            Some(source) => write!(f, ": {}", Visible(source)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl From<Error> for io::Error {
    /// Wraps the error, for implementations of [`Read`](io::Read) and similar traits.
    ///
    /// The kind is always [`io::ErrorKind::Other`], so that callers that retry on
    /// [`Interrupted`](io::ErrorKind::Interrupted) do not retry a failed dump.
    ///
    /// ```
    /// use std::io;
    ///
    /// use corestream::{Error, ErrorKind};
    ///
    /// let error = io::Error::from(Error::new(ErrorKind::Guest, "the guest has no frames"));
    /// assert_eq!(error.to_string(), "the guest has no frames");
    /// assert_eq!(error.downcast::<Error>()?.kind(), ErrorKind::Guest);
    /// # Ok::<(), io::Error>(())
    /// ```
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl std::error::Error for Error {
    /// Returns the source of the operating system's error.
    ///
    /// The operating system's error itself is already part of the message (and is [`Error::io_error`]), so printing
    /// the chain of sources repeats nothing.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().and_then(std::error::Error::source)
    }
}
