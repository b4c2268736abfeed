//! A dump that a subcommand reads: mapped or read, and watched in case it is changed or can't be read meanwhile.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use corestream::read::{OpenOptions, ReadAt};
use corestream::{CoreDumpFile, ErrorKind};

use crate::mapped::{self, Dump};
use crate::report::{self, Failure};
use crate::sigbus;

/// A dump that is open.
pub struct Input {
    path: PathBuf,
    file: Dump,
    watch: Watch,
}

/// Says whether a file is what it was.
#[derive(Clone)]
pub struct Watch {
    path: PathBuf,
    before: Version,
}

/// What changes with every write to a file: device and inode, length, and times of change.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

fn version(m: &Metadata) -> Version {
    (m.dev(), m.ino(), m.len(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()))
}

impl Watch {
    /// Watches the file at `path` from now on.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), before: version(&path.metadata()?) })
    }

    /// Whether the file is not what it was: written to, cut, or another one.
    pub fn has_changed(&self) -> bool {
        let now = self.path.metadata().map(|metadata| version(&metadata));
        now.is_ok_and(|now| now != self.before)
    }

    /// Says why ranges of its file, which was mapped, could not be read.
    pub fn why(&self, lost: &[Range<u64>]) -> Why {
        let Some(first) = lost.first() else { return Why::Nothing };
        let len = self.path.metadata().map(|metadata| metadata.len());
        let is_cut = |len: u64| len < self.before.2 && first.end > len;
        if len.is_ok_and(is_cut) {
            return Why::Cut;
        }
        // Its medium may have come back since; what was read is zeros all the same.
        let again = |range: &Range<u64>| {
            let file = File::open(&self.path).ok()?;
            let mut page =
                vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?.min(1 << 16)];
            FileExt::read_exact_at(&file, &mut page, range.start).err()
        };
        let error = lost.iter().find_map(again);
        let io_error = || io::Error::from_raw_os_error(libc::EIO);
        let ended = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
        Why::Unreadable(error.filter(|error| !ended(error)).unwrap_or_else(io_error))
    }

    /// Returns what to say of ranges of its file that could not be read.
    pub fn failure(&self, lost: &[Range<u64>], meanwhile: &str) -> Option<Failure> {
        let path = self.path.display();
        match self.why(lost) {
            Why::Nothing => None,
            Why::Cut => {
                Some(Failure::new(format!("{path}: was truncated while it was {meanwhile}")))
            }
            Why::Unreadable(error) => {
                Some(Failure::new(format!("{path}: {}", unreadable(lost, &error))))
            }
        }
    }
}

/// Why bytes of a mapped file could not be read.
pub enum Why {
    /// All of it could be.
    Nothing,
    /// It has become shorter.
    Cut,
    /// Its medium fails.
    Unreadable(io::Error),
}

/// Ranges of a file that can't be read, in words.
fn unreadable(lost: &[Range<u64>], error: &io::Error) -> String {
    let first = lost.first().cloned().unwrap_or_default();
    let more = match lost {
        [] | [_] => String::new(),
        [_, more @ ..] => {
            format!("; so it is at {}", report::count(more.len() as u64, "more place"))
        }
    };
    format!("cannot read bytes {:#x}..{:#x}: {error}{more}", first.start, first.end)
}

impl Input {
    /// Maps the file at `path`. A page that cannot be read sets `stop`.
    pub fn open(path: &Path, stop: Option<Arc<AtomicBool>>) -> Result<Self, Failure> {
        let name = path.display();
        if path == Path::new("-") {
            return Err(Failure::usage(
                "-: standard input can't be mapped: name a file; only `verify` takes a pipe",
            ));
        }
        let watch = Watch::new(path);
        let failed =
            |what: &str, error: &io::Error| Failure::new(format!("{name}: cannot {what}: {error}"));
        let watch = watch.map_err(|error| failed("open", &error))?;
        if !path.is_file() {
            let is_pipe = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
            let hint =
                if is_pipe { ": only `verify -` takes a pipe, as standard input" } else { "" };
            return Err(Failure::new(format!("{name}: not a regular file{hint}")));
        }
        let file = File::open(path).map_err(|error| failed("open", &error))?;
        let file = mapped::dump(file).map_err(|error| failed("map", &error))?;
        sigbus::survive(file.as_slice().into_iter(), stop);
        Ok(Self { path: path.into(), file, watch })
    }

    /// Its bytes, if it is mapped.
    fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }

    /// What a reader reads.
    pub fn source(&self) -> &Dump {
        &self.file
    }

    /// Its name, as it is shown to people.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// What says whether it has changed.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Opens the dump in it, or the readable parts of a damaged one.
    pub fn dump(&self, options: &OpenOptions) -> Result<CoreDumpFile<'_>, Failure> {
        let opened = options.clone().salvage(true).open_source(self.source());
        opened.map_err(|error| self.failed(&error))
    }

    /// Fails if the file is not what it was, or could not be read: what was read of it is worth nothing.
    pub fn check_read(&self) -> Result<(), Failure> {
        self.check_unchanged()?;
        let lost = self.lost();
        self.watch.failure(&lost, "read").map_or(Ok(()), Err)
    }

    /// Fails if the file is not what it was.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        match self.watch.has_changed() {
            // The dump may be whole, but what was read may mix old and new bytes.
            true => {
                let path = self.path.display();
                Err(Failure::new(format!("{path}: was changed while it was read")))
            }
            false => Ok(()),
        }
    }

    /// Bytes that could not be read so far: zeros stand there.
    pub fn lost(&self) -> Vec<Range<u64>> {
        sigbus::lost(self.bytes())
    }

    /// Ranges that could not be read, in words, with the error of the system.
    pub fn unreadable(&self, lost: &[Range<u64>]) -> Option<String> {
        match self.watch.why(lost) {
            Why::Unreadable(error) => Some(unreadable(lost, &error)),
            Why::Nothing | Why::Cut => None,
        }
    }

    /// What to say of an error of this dump; that it can't be read is behind any other.
    pub fn failed(&self, error: &corestream::Error) -> Failure {
        let of_dump = || failed(&self.path.display().to_string(), error);
        self.check_read().err().unwrap_or_else(of_dump)
    }

    /// The line that says that the dump is damaged.
    pub fn damaged(&self, why: impl std::fmt::Display) -> Failure {
        Failure::damaged(format!("{}: {why}", self.path.display()))
    }
}

/// What to say of an error of the dump called `name`.
pub fn failed(name: &str, error: &corestream::Error) -> Failure {
    let line = format!("{name}: {error}");
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::Truncated | ErrorKind::Format => Failure::damaged(line),
        _ => Failure::new(line),
    }
}
