//! A dump that a subcommand reads.
//!
//! The dump is mapped, or read if mapping would allocate its holes. Because another process can change the file at any
//! time, the tool compares its metadata before and after, and examines it if pages could not be read.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use corestream::read::{OpenOptions, ReadAt};
use corestream::{CoreDumpFile, ErrorKind};

use crate::mapped::{self, DumpSource};
use crate::module_file::{self, MAGIC_BYTES};
use crate::report::{self, Failure};
use crate::sigbus;

/// An open dump.
pub struct Input {
    path: PathBuf,
    file: DumpSource,
    watch: Watch,
}

/// Detects changes of a file.
#[derive(Clone)]
pub struct Watch {
    path: PathBuf,
    before: FileVersion,
}

/// The metadata that identifies a version of a file: device, inode, length, modification time and change time.
type FileVersion = (u64, u64, u64, (i64, i64), (i64, i64));

fn version(m: &Metadata) -> FileVersion {
    (m.dev(), m.ino(), m.len(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()))
}

impl Watch {
    /// Records the current version of the file at `path`.
    ///
    /// # Errors
    /// Returns an error if its metadata cannot be read.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), before: version(&path.metadata()?) })
    }

    /// Returns whether the file was modified, truncated or replaced.
    pub fn has_changed(&self) -> bool {
        let now = self.path.metadata().map(|metadata| version(&metadata));
        now.is_ok_and(|now| now != self.before)
    }

    /// Returns the reason why ranges of the file could not be read through its mapping.
    pub fn cause(&self, lost: &[Range<u64>]) -> LossCause {
        let Some(first) = lost.first() else { return LossCause::None };
        let len = self.path.metadata().map(|metadata| metadata.len());
        let is_truncated = |len: u64| len < self.before.2 && first.end > len;
        if len.is_ok_and(is_truncated) {
            return LossCause::Truncated;
        }
        // Read the ranges again to get the system's error. If that succeeds now, the mapping still had zeros: report
        // EIO.
        let read_again = |range: &Range<u64>| {
            let file = File::open(&self.path).ok()?;
            let mut page =
                vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?.min(1 << 16)];
            FileExt::read_exact_at(&file, &mut page, range.start).err()
        };
        let error = lost.iter().find_map(read_again);
        let io_error = || io::Error::from_raw_os_error(libc::EIO);
        let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
        LossCause::Unreadable(error.filter(|error| !is_end(error)).unwrap_or_else(io_error))
    }

    /// Returns the failure for ranges of the file that could not be read, if there are any. `activity` is what the tool
    /// was doing with the file, as a participle.
    pub fn failure(&self, lost: &[Range<u64>], activity: &str) -> Option<Failure> {
        let path = self.path.display();
        match self.cause(lost) {
            LossCause::None => None,
            LossCause::Truncated => {
                Some(Failure::new(format!("{path}: was truncated while it was {activity}")))
            }
            LossCause::Unreadable(error) => {
                Some(Failure::new(format!("{path}: {}", describe_unreadable(lost, &error))))
            }
        }
    }
}

/// The reason why bytes of a mapped file could not be read.
pub enum LossCause {
    /// No bytes were lost.
    None,
    /// The file was truncated.
    Truncated,
    /// The file system cannot read the file.
    Unreadable(io::Error),
}

/// Describes ranges of a file that cannot be read.
fn describe_unreadable(lost: &[Range<u64>], error: &io::Error) -> String {
    let first = lost.first().cloned().unwrap_or_default();
    let more = match lost {
        [] | [_] => String::new(),
        [_, more @ ..] => {
            format!("; and {}", report::count(more.len() as u64, "more unreadable range"))
        }
    };
    format!("cannot read bytes {:#x}..{:#x}: {error}{more}", first.start, first.end)
}

impl Input {
    /// Opens the dump at `path`. A mapped page that cannot be read sets `stop`.
    ///
    /// # Errors
    /// Returns an error if `path` is not a regular file, or if it cannot be opened.
    pub fn open(path: &Path, stop: Option<Arc<AtomicBool>>) -> Result<Self, Failure> {
        let (file, watch) = open_file(path)?;
        let name = path.display();
        let failed =
            |what: &str, error: &io::Error| Failure::new(format!("{name}: cannot {what}: {error}"));
        let file = mapped::open_dump(file).map_err(|error| failed("map", &error))?;
        sigbus::install(file.as_slice().into_iter(), stop);
        Ok(Self { path: path.into(), file, watch })
    }

    /// Returns the bytes of a mapped dump, or no bytes.
    fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }

    /// Returns the source for a reader.
    pub fn source(&self) -> &DumpSource {
        &self.file
    }

    /// Returns the name that messages show.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns a watch that detects changes of the file.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Opens the dump, or the readable parts of a damaged dump.
    ///
    /// # Errors
    /// Returns an error if not even the readable parts can be opened.
    pub fn dump(&self, options: &OpenOptions) -> Result<CoreDumpFile<'_>, Failure> {
        let opened = options.clone().salvage(true).open_source(self.source());
        opened.map_err(|error| self.failure(&error))
    }

    /// Checks that the file was read completely and has not changed. Otherwise the bytes read from it are worthless.
    ///
    /// # Errors
    /// Returns an error if the file has changed, or if pages of it could not be read.
    pub fn check_read(&self) -> Result<(), Failure> {
        self.check_unchanged()?;
        let lost = self.lost();
        self.watch.failure(&lost, "read").map_or(Ok(()), Err)
    }

    /// Checks that the file has not changed.
    ///
    /// # Errors
    /// Returns an error if it has changed.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        match self.watch.has_changed() {
            // The dump itself may be intact, but the bytes read may mix old and new content.
            true => {
                let path = self.path.display();
                Err(Failure::new(format!("{path}: was modified while it was read")))
            }
            false => Ok(()),
        }
    }

    /// Returns the ranges that could not be read so far. The mapping has zeros there.
    pub fn lost(&self) -> Vec<Range<u64>> {
        sigbus::lost_ranges(self.bytes())
    }

    /// Describes ranges that the file system could not read, with its error. Returns `None` if there are none, or if the
    /// file was truncated instead.
    pub fn describe_unreadable(&self, lost: &[Range<u64>]) -> Option<String> {
        match self.watch.cause(lost) {
            LossCause::Unreadable(error) => Some(describe_unreadable(lost, &error)),
            LossCause::None | LossCause::Truncated => None,
        }
    }

    /// Returns the failure for an error of this dump. If the file has changed or could not be read, that is the root
    /// cause, and the failure says so instead.
    pub fn failure(&self, error: &corestream::Error) -> Failure {
        let of_dump = || {
            let mut start = [0; MAGIC_BYTES];
            // A shorter file is not compressed.
            let read = self.file.read_exact_at(&mut start, 0);
            let start = read.map_or(&[][..], |()| &start);
            failure_of(&self.path.display().to_string(), error, start)
        };
        self.check_read().err().unwrap_or_else(of_dump)
    }

    /// Returns the failure for damage in this dump.
    pub fn damaged(&self, cause: impl std::fmt::Display) -> Failure {
        Failure::damaged(format!("{}: {cause}", self.path.display()))
    }
}

/// Opens a dump, or the readable parts of a damaged one, to read it in place instead of mapping it.
///
/// # Errors
/// Returns an error if `path` is not a regular file, or if not even the readable parts can be opened.
pub fn open_to_read(path: &Path) -> Result<CoreDumpFile<'static>, Failure> {
    let (file, _) = open_file(path)?;
    let mut start = [0; MAGIC_BYTES];
    let read = ReadAt::read_exact_at(&file, &mut start, 0);
    let opened = OpenOptions::new().salvage(true).open_source(file);
    // A shorter file is not compressed.
    let start = read.map_or(&[][..], |()| &start);
    opened.map_err(|error| failure_of(&path.display().to_string(), &error, start))
}

/// Opens the file of a dump.
///
/// # Errors
/// Returns an error if `path` is not a regular file, or if it cannot be opened.
fn open_file(path: &Path) -> Result<(File, Watch), Failure> {
    let name = path.display();
    if path == Path::new("-") {
        return Err(Failure::usage(
            "only `verify` reads a dump from standard input; save the dump to a file and name it",
        ));
    }
    let watch = Watch::new(path);
    let failed = |error: &io::Error| Failure::new(format!("{name}: cannot open: {error}"));
    let watch = watch.map_err(|error| failed(&error))?;
    if !path.is_file() {
        let is_pipe = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        let hint = if is_pipe { "; only `verify -` accepts a pipe, as standard input" } else { "" };
        return Err(Failure::new(format!("{name}: not a regular file{hint}")));
    }
    Ok((File::open(path).map_err(|error| failed(&error))?, watch))
}

/// Returns the failure for an error of the dump called `name`. `start` are the first bytes of the file, or none if they
/// are unknown: if the file is not a core dump, they may show that it is compressed.
pub fn failure_of(name: &str, error: &corestream::Error, start: &[u8]) -> Failure {
    let is_format = error.kind() == ErrorKind::Format;
    let compression = is_format.then(|| module_file::compression(start)).flatten();
    let line = format!("{name}: {}", compression.unwrap_or_else(|| error.to_string()));
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::Truncated | ErrorKind::Format => Failure::damaged(line),
        _ => Failure::new(line),
    }
}
