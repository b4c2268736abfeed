//! Why a finished file or directory has not got its name, and where it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// Why a file could not be committed, and what became of it.
#[derive(Debug)]
pub(crate) struct CommitError {
    pub(crate) source: io::Error,
    pub(super) outcome: Outcome,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It could not be finished, and is gone.
    Dropped,
    /// It is whole and has this partial name.
    Kept(PathBuf),
    /// It is whole and has its name, but a power cut may still take that away.
    Named(PathBuf),
    /// It is whole and is here, if any path leads to it, and the path to which it was to be written leads elsewhere.
    Moved(Option<PathBuf>),
    /// It is whole and has its name, and another one that could not be removed.
    Twice { name: PathBuf, leftover: PathBuf },
    /// It was whole and had this partial name, which somebody has taken away or given to another.
    Taken(PathBuf),
    /// It was whole and is gone: it could not even be kept under a partial name, for this reason.
    Lost(io::Error),
    /// It was whole and is gone, as its directory is.
    Removed,
}

impl CommitError {
    /// The error for a file that was to be called `path`, and is a `thing`.
    pub(crate) fn at(self, path: &Path, thing: &str, kind: ErrorKind) -> Error {
        let path = path.display();
        let Self { source, outcome } = self;
        match outcome {
            Outcome::Dropped => {
                Error::io(kind, format!("{path}: cannot finish the {thing}"), source)
            }
            Outcome::Kept(kept) => {
                let message = format!(
                    "{path}: cannot name the finished {thing}, which is kept as {}",
                    kept.display()
                );
                Error::io(kind, message, source).kept(kept)
            }
            Outcome::Named(named) => {
                let message = format!(
                    "{path}: the {thing} is there and whole, but cannot sync its directory: a power cut may \
                     still take the name away"
                );
                Error::io(kind, message, source).kept(named)
            }
            Outcome::Moved(Some(place)) => {
                let message = format!(
                    "{path}: the {thing} is whole, but its directory was moved while it was written: \
                     the {thing} is now {}",
                    place.display()
                );
                Error::new(kind, message).kept(place)
            }
            Outcome::Moved(None) => {
                let message = format!(
                    "{path}: the {thing} is whole, but its file system was unmounted while it was written: \
                     the {thing} is on that file system"
                );
                Error::new(kind, message)
            }
            Outcome::Twice { name, leftover } => {
                let message = format!(
                    "{path}: the {thing} is there and whole, but cannot remove its second name {}",
                    leftover.display()
                );
                Error::io(kind, message, source).kept(name)
            }
            Outcome::Taken(name) => {
                let name = name.display();
                let message =
                    format!("{path}: somebody has taken away the finished {thing} {name}");
                Error::new(kind, message)
            }
            Outcome::Removed => {
                let message = format!(
                    "{path}: the {thing} is lost, because its directory was removed while it was written"
                );
                Error::new(kind, message)
            }
            Outcome::Lost(error) => {
                let message = format!(
                    "{path}: cannot name the finished {thing}, nor keep it under another name ({error})"
                );
                Error::io(kind, message, source)
            }
        }
    }
}
