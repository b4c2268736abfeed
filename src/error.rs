//! The one error type of the crate: small, opaque, and it names the thing and the place.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::visible::Visible;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A buffer of `len` zeros.
///
/// # Errors
/// It can't be had.
pub(crate) fn zeros(len: usize, what: &str) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Error::out_of_memory(what))?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// What went wrong, in one line that names the thing and, where known, the place.
///
/// ```
/// use corestream::{CoreDump, Dumper, ErrorKind, Instance, ModuleIndex};
///
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_instance(Instance::new(ModuleIndex(7)));
/// let error = Dumper::new().plan(&dump).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Model);
/// assert_eq!(error.to_string(), "instance 0: module index 7 is out of range, there are 0 modules");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
    kept: Option<PathBuf>,
    /// Bytes of a dump.
    range: Option<Range<u64>>,
}

/// The kinds of [`Error`], for programs that act on them.
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
    /// A description of a guest contradicts itself; nothing was written.
    Model,
    /// An option or an argument has a value that is not possible; nothing was written.
    Option,
    /// An image could not be opened, mapped or read.
    Image,
    /// The output could not be created or written.
    Output,
    /// An engine says too little about a guest to dump it; nothing was written.
    Guest,
    /// There is not enough memory for a table or a buffer.
    OutOfMemory,
    /// The work was cancelled ([`Cancel`](crate::Cancel)): a dump that is written, opened, verified or restored.
    Cancelled,
    /// A core dump could not be opened, mapped or read.
    Input,
    /// The bytes that are asked for were left out of a core dump on purpose.
    Excluded,
    /// The file is no core dump at all.
    Format,
    /// A core dump that contradicts itself or a checksum.
    Damaged,
    /// A core dump that ends before its end.
    Truncated,
    /// A core dump with something that this reader does not know, or that is over one of its limits.
    Unsupported,
    /// What was emitted is not what was planned: an error of this crate.
    Internal,
}

impl Error {
    /// Returns an error of what is built on this library: an adapter of an engine, a sink.
    ///
    /// `message` is one line that names the thing and, where known, the place and the way out.
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

    /// The same error, with the thing that it concerns before it.
    pub(crate) fn at(mut self, thing: impl fmt::Display) -> Self {
        self.0.message = format!("{thing}: {}", self.0.message);
        self
    }

    /// The same error, of these bytes of a dump.
    pub(crate) fn in_range(mut self, range: Range<u64>) -> Self {
        self.0.range = Some(range);
        self
    }

    /// The same error, of a finished file that is kept under this name.
    pub(crate) fn kept(mut self, path: PathBuf) -> Self {
        self.0.kept = Some(path);
        self
    }

    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the error of the operating system that caused this one, if there is one.
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

    /// Returns the bytes of the core dump that this error is about, by their offsets: those that contradict something, that
    /// are not known here or that cannot be read; of a dump that is cut off, those that are missing. `None` for an error that
    /// is about no place of a dump.
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

    /// Returns the path of a file, or of a [`NewDirectory`](crate::NewDirectory), that is finished in spite of this error.
    ///
    /// A finished file is never discarded. If it can't be given its name, it is kept under a partial name beside
    /// it. If its directory can't be synced ([`FileOptions::sync`](crate::FileOptions::sync)), it has its name. All its
    /// bytes have arrived in either case.
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
    /// Returns an error that holds this one, for implementations of [`Read`](io::Read) and the like.
    ///
    /// Its kind is [`io::ErrorKind::Other`], whatever the operating system said: no loop takes it for a call to repeat.
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
    /// Returns what is behind the error of the operating system. That error itself ends the text of this one, and is
    /// [`Error::io_error`]: a chain of sources says nothing twice.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().and_then(std::error::Error::source)
    }
}
