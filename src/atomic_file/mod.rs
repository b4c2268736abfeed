//! A file that appears under its name once it is complete, or not at all.
//!
//! # The problem
//! A dump may take minutes, and may fail at any byte. Under its final name there must never be half a dump, and a
//! failed dump must leave nothing behind. A finished dump must not be lost, because the guest is gone.
//!
//! # The idea
//! Where the file system supports it, the file is unnamed (`O_TMPFILE`) while it is written, and then gets its name by
//! `linkat`. So not even SIGKILL leaves anything behind ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)).
//! Elsewhere the file is in the same directory under a *partial name*, `.NAME.PID-N.partial`, and is then renamed.
//! [`NewDirectory`] does the same for a directory.
//!
//! # The invariants
//! A name is given only to a complete file. First, `close` of a duplicate must succeed and, with [`FileOptions::sync`],
//! `fsync`.
//!
//! A finished file is never discarded. What could fail at the end is tried at the start: before the first byte, an
//! empty unnamed file shows whether unnamed files can be linked ([`naming`]), and its directory is opened, so that
//! renaming that directory does no harm ([`directory`]). If the finished file cannot be named nevertheless, it keeps
//! its partial name, and the error contains it.
//!
//! # What was tried
//! A rename is never undone. An earlier version exchanged the old file with the new one, and exchanged them back if the
//! last `fsync` of the directory failed. That could hit a directory that had appeared under the name in the meantime,
//! and after a power cut the old file remained under a partial name. It gained nothing: the new file is complete and on
//! disk before the rename, so after a power cut the name refers to the old file or to the new one, and both are
//! complete.

mod backend;
mod commit_error;
mod directory;
mod file;
mod mode;
mod naming;
mod new_directory;
mod options;
mod partial_name;
mod paths;

pub(crate) use self::file::AtomicFile;
pub use self::new_directory::NewDirectory;
pub use self::options::FileOptions;
