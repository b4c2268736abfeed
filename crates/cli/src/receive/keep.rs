//! The files of received dumps: final names for intact dumps, and `.partial` names for a limited number of others.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use corestream::{FileOptions, UnnamedFile};

use super::naming::{Naming, is_partial};
use crate::output::warn_if_not_private;
use crate::report::Failure;

/// Creates and names the files of dumps.
pub struct Keeper {
    naming: Naming,
    options: FileOptions,
    /// The maximum number of partial dumps in the directory, or `None` to keep none.
    max_partials: Option<usize>,
    /// Held while a thread counts the partial dumps and adds one.
    counting: Mutex<()>,
}

impl Keeper {
    pub fn new(naming: Naming, options: FileOptions, max_partials: Option<usize>) -> Self {
        Self { naming, options, max_partials, counting: Mutex::new(()) }
    }

    /// Creates the file of a dump, without a name.
    pub fn begin(&self) -> Result<UnnamedFile, corestream::Error> {
        UnnamedFile::create_in(self.naming.directory(), self.options)
    }

    /// Gives the file of an intact dump its name. `name` is the name of the guest's process.
    pub fn keep(&self, file: UnnamedFile, name: &str) -> Result<PathBuf, Failure> {
        let path = match self.naming.names(name, true) {
            Ok(names) => file.commit(names)?,
            // If naming fails, the file keeps a partial name, which the error contains.
            Err(why) => file.commit([]).map_err(|error| Failure::from(error).at(why))?,
        };
        warn_if_not_private(&path);
        Ok(path)
    }

    /// Keeps the first `bytes` bytes of a damaged dump under a partial name, if requested. Returns text to append to
    /// the message about the damage.
    pub fn keep_partial(&self, file: UnnamedFile, name: &str, bytes: u64) -> String {
        let Some(max) = self.max_partials else { return String::new() };
        // A poisoned lock is harmless: it protects no data.
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_partials(max) {
            return format!(
                "; not kept: the directory already has {max} .partial files (--max-partials)"
            );
        }
        let named = || {
            // Releases reserved space beyond the received bytes.
            file.file().set_len(bytes).map_err(Failure::new)?;
            Ok::<_, Failure>(file.commit(self.naming.names(name, false).map_err(Failure::new)?)?)
        };
        match named() {
            Ok(path) => format!("; kept as {}", path.display()),
            Err(failure) => format!("; cannot be kept: {}", failure.message),
        }
    }

    /// Returns whether the directory has at least `count` partial dumps. Ignores entries that cannot be read.
    fn has_partials(&self, count: usize) -> bool {
        let entries = fs::read_dir(self.naming.directory()).into_iter().flatten().flatten();
        let partial = entries.filter(|entry| is_partial(&entry.file_name()));
        partial.take(count).count() == count
    }
}

#[cfg(test)]
mod tests;
