//! Files for dumps, and the names that they get: of those that are whole, and of a number of others.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use corestream::{FileOptions, UnnamedFile};

use super::naming::{Naming, is_partial};
use crate::output::warn_if_not_private;
use crate::report::Failure;

/// Where dumps are kept.
pub struct Keeper {
    naming: Naming,
    options: FileOptions,
    /// How many partial dumps the directory may have; `None` if none is kept.
    max_partials: Option<usize>,
    /// Held while partial dumps are counted and one is added.
    counting: Mutex<()>,
}

impl Keeper {
    pub fn new(naming: Naming, options: FileOptions, max_partials: Option<usize>) -> Self {
        Self { naming, options, max_partials, counting: Mutex::new(()) }
    }

    /// Begins a file.
    pub fn begin(&self) -> Result<UnnamedFile, corestream::Error> {
        UnnamedFile::create_in(self.naming.directory(), self.options)
    }

    /// Gives the file with a whole dump of the process that calls itself `name` its name.
    pub fn keep(&self, file: UnnamedFile, name: &str) -> Result<PathBuf, Failure> {
        let path = match self.naming.names(name, true) {
            Ok(names) => file.commit(names)?,
            // Without a name it is kept under a partial one, as the error says.
            Err(why) => file.commit([]).map_err(|error| Failure::from(error).at(why))?,
        };
        warn_if_not_private(&path);
        Ok(path)
    }

    /// Gives the file with the first `bytes` of a dump its name, if that is wanted, and says so, to be
    /// added to what is wrong with it.
    pub fn keep_partial(&self, file: UnnamedFile, name: &str, bytes: u64) -> String {
        let Some(max) = self.max_partials else { return String::new() };
        // One that has panicked has counted nothing.
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_partials(max) {
            return format!("; not kept, there are {max} that end in .partial (--max-partials)");
        }
        let named = || {
            // What was reserved and did not come.
            file.file().set_len(bytes).map_err(Failure::new)?;
            Ok::<_, Failure>(file.commit(self.naming.names(name, false).map_err(Failure::new)?)?)
        };
        match named() {
            Ok(path) => format!("; kept as {}", path.display()),
            Err(failure) => format!("; can't be kept: {}", failure.message),
        }
    }

    /// Returns whether the directory has at least `count` partial dumps. Entries that cannot be read do not count.
    fn has_partials(&self, count: usize) -> bool {
        let entries = fs::read_dir(self.naming.directory()).into_iter().flatten().flatten();
        let partial = entries.filter(|entry| is_partial(&entry.file_name()));
        partial.take(count).count() == count
    }
}

#[cfg(test)]
mod tests;
