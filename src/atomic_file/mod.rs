//! A file that appears whole under its name, or not at all.
//!
//! Where the file system has them, an unnamed file (`O_TMPFILE`) is written and then given its name
//! by `linkat`, so that not even SIGKILL leaves anything behind
//! ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)). Elsewhere it is a file in the
//! same directory under another name, its *partial name*, `.NAME.PID-N.partial`. [`NewDirectory`] does the same for a
//! directory.
//!
//! A finished file is never discarded. What can fail late is asked for early: whether unnamed files can
//! be linked is tried on an empty one before the first byte ([`naming`]), and its directory is opened at the start
//! ([`directory`]), so that a rename of that directory does no harm. Before the file gets its name, its bytes have arrived: `close` of a duplicate, and with
//! [`FileOptions::sync`] `fsync`, have succeeded. If it can't be named after that, it keeps its partial name, and the
//! error says which.
//!
//! There is no way back from a name that was given. An earlier version exchanged the old file with the new one, and
//! exchanged them back if the last `fsync` of the directory failed. That could hit a directory that had
//! appeared under the name meanwhile, and after a power cut the old file stayed under a partial name.
//! It gained nothing: the new file is whole and on disk before the rename, so that after a power cut the name
//! stands for the old file or for the new one, each of them whole.

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
