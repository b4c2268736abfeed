//! The error of a commit: why a finished file or directory did not get its name, and where it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The error of a commit, with the outcome for the file.
#[derive(Debug)]
pub(crate) struct CommitError {
    pub(crate) source: io::Error,
    pub(super) outcome: Outcome,
}

/// The state of the file or directory after a failed commit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It could not be completed, and was removed.
    Dropped,
    /// It is complete and has this partial name.
    Kept(PathBuf),
    /// It is complete and has this name, but a power cut may still remove the name.
    Named(PathBuf),
    /// It is complete, but the path that it was written to leads elsewhere. It is at this path, if any path leads to
    /// it.
    Moved(Option<PathBuf>),
    /// It is complete and has its name, and a partial name that could not be removed.
    NamedTwice { name: PathBuf, leftover: PathBuf },
    /// It was complete and had this partial name, but another process removed it or replaced it.
    Taken(PathBuf),
    /// It was complete and is lost: it could not even be kept under a partial name, for this reason.
    Lost(io::Error),
    /// It was complete and is lost, because its directory was removed.
    Removed,
}

impl CommitError {
    /// Returns the error for a `thing`, such as a dump, that was to be named `path`.
    pub(crate) fn into_error(self, path: &Path, thing: &str, kind: ErrorKind) -> Error {
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
                    "{path}: the {thing} is complete, but its directory cannot be synced: a power cut may \
                     still remove the name"
                );
                Error::io(kind, message, source).kept(named)
            }
            Outcome::Moved(Some(place)) => {
                let message = format!(
                    "{path}: the {thing} is complete, but its directory was moved while it was written: \
                     the {thing} is now {}",
                    place.display()
                );
                Error::new(kind, message).kept(place)
            }
            Outcome::Moved(None) => {
                let message = format!(
                    "{path}: the {thing} is complete, but its file system was unmounted while it was written: \
                     the {thing} is on that file system"
                );
                Error::new(kind, message)
            }
            Outcome::NamedTwice { name, leftover } => {
                let message = format!(
                    "{path}: the {thing} is complete, but its second name {} cannot be removed",
                    leftover.display()
                );
                Error::io(kind, message, source).kept(name)
            }
            Outcome::Taken(name) => {
                let name = name.display();
                let message = format!(
                    "{path}: another process removed or replaced the finished {thing} {name}"
                );
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
