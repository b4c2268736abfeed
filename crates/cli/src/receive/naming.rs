//! The names of received dumps: an expanded pattern, with a number appended if the name exists.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corestream::UnnamedFile;

use crate::dump::pattern::Values;
use crate::limits::{MAX_FILE_NAME_BYTES, MAX_PROCESS_NAME_BYTES};
use crate::output::{check_directory, directory_of};

/// The number of names to try for a dump, starting with the first free one. Other processes may take a name first.
const TRIES: usize = 10_000;

/// The suffix of the name of a partial dump.
const PARTIAL: &str = ".partial";

/// The name for a dump whose process has no name.
const UNNAMED: &str = "unnamed";

/// A pattern that is valid for every dump.
pub struct Naming {
    pattern: PathBuf,
    directory: PathBuf,
}

impl Naming {
    /// Checks a pattern before the first dump arrives, because a dump without a name could not be kept.
    pub fn new(pattern: &Path) -> Result<Self, String> {
        if pattern == Path::new("-") {
            return Err(
                "dumps are received into files; give a file name, such as %n.%t.core".into()
            );
        }
        let fill = |unix_time, name: &str| {
            let process_id = std::process::id();
            Values { process_id, unix_time, name, counter: None }.fill(pattern)
        };
        let longest = fill(u64::MAX, &"n".repeat(MAX_PROCESS_NAME_BYTES))?;
        let directory = directory_of(&longest);
        if directory != directory_of(&fill(0, UNNAMED)?) {
            return Err("%n and %t are allowed in the file name only, not in its directory".into());
        }
        let named = longest.file_name().filter(|_| !longest.as_os_str().as_bytes().ends_with(b"/"));
        let Some(file_name) = named.filter(|_| !longest.is_dir()) else {
            let path = pattern.display();
            return Err(format!("is a directory; name files in it, such as {path}/%n.%t.core"));
        };
        let taken = longest == fill(0, UNNAMED)? && longest.metadata().is_ok_and(|m| !m.is_file());
        if taken {
            return Err("exists and is not a regular file; dumps are received into files".into());
        }
        check_directory(directory)?;
        if file_name.len() + numbered(u32::MAX).len() + PARTIAL.len() > MAX_FILE_NAME_BYTES {
            return Err("the expanded name can exceed 255 bytes".into());
        }
        Ok(Self { pattern: pattern.into(), directory: directory.into() })
    }

    /// Returns the directory of all names.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the names for a dump of the process `name`, in order of preference: without a number, then with numbers
    /// from the first free one.
    pub fn names(&self, name: &str, whole: bool) -> Result<impl Iterator<Item = PathBuf>, String> {
        let name = if name.is_empty() { UNNAMED } else { name };
        let base = Values::now(name).fill(&self.pattern)?;
        let end = match whole {
            // A process whose name ends in `.partial` must not make an intact dump look partial.
            true if base.as_os_str().as_bytes().ends_with(PARTIAL.as_bytes()) => ".core",
            true => "",
            false => PARTIAL,
        };
        let path = move |i: u32| -> PathBuf {
            let mut name = base.clone().into_os_string();
            name.push(OsStr::new(&numbered(i)));
            name.push(end);
            name.into()
        };
        let from = {
            let path = path.clone();
            std::iter::once_with(move || (1..u32::MAX).find(|i| !is_taken(&path(*i))))
        };
        let numbers = from.flatten().flat_map(|from| (from..=u32::MAX).take(TRIES));
        Ok(std::iter::once(0).chain(numbers).map(path))
    }
}

/// Returns whether this is the name of a partial dump, and not of an unfinished file.
pub fn is_partial(file_name: &OsStr) -> bool {
    file_name.as_bytes().ends_with(PARTIAL.as_bytes()) && !UnnamedFile::is_partial_name(file_name)
}

/// Returns whether the name exists. Ignores errors: creating the file reports them.
fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Appends a number to a name that exists.
fn numbered(i: u32) -> String {
    if i == 0 { String::new() } else { format!(".{i}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_the_names_of_dumps() {
        let directory = tempfile::tempdir().unwrap();
        let naming = Naming::new(&directory.path().join("%n.core")).unwrap();
        assert_eq!(naming.directory(), directory.path());
        for (name, whole, expected) in [
            ("guest", true, ["guest.core", "guest.core.1", "guest.core.2"]),
            ("", true, ["unnamed.core", "unnamed.core.1", "unnamed.core.2"]),
            ("../x", false, ["_._x.core.partial", "_._x.core.1.partial", "_._x.core.2.partial"]),
        ] {
            let names: Vec<_> = naming.names(name, whole).unwrap().take(3).collect();
            assert_eq!(names, expected.map(|name| directory.path().join(name)));
        }
        let naming = Naming::new(&directory.path().join("%n")).unwrap();
        let names: Vec<_> = naming.names("a.partial", true).unwrap().take(2).collect();
        let expected = ["a.partial.core", "a.partial.1.core"];
        assert_eq!(names, expected.map(|name| directory.path().join(name)));
    }

    #[test]
    fn numbers_the_names_of_partial_dumps() {
        for (name, expected) in [
            ("guest.core.partial", true),
            (".guest.core.partial", true),
            (".corestream.guest.partial", true),
            (".corestream.4711-3.partial", false),
            ("guest.partial.core", false),
        ] {
            assert_eq!(is_partial(OsStr::new(name)), expected, "{name}");
        }
    }

    /// Names do not run out, no matter how many files exist.
    fn check_names(count: u32) {
        let directory = tempfile::tempdir().unwrap();
        let path = |i: u32| directory.path().join(format!("core{}", numbered(i)));
        let naming = Naming::new(&path(0)).unwrap();
        let next = || naming.names("any", true).unwrap().find(|name| !name.exists());
        for i in 0..count {
            std::fs::write(path(i), "").unwrap();
        }
        assert_eq!(next(), Some(path(count)));
        // A number in a gap may be reused, but never an existing name.
        std::fs::remove_file(path(0)).unwrap();
        assert_eq!(next(), Some(path(0)));
        for holes in [1, 2, count / 2, count - 1] {
            (0..3).for_each(|i| std::fs::remove_file(path(holes + i * 3)).unwrap_or_default());
            let name = next().unwrap();
            std::fs::File::create_new(name).unwrap();
        }
    }

    #[test]
    fn finds_a_free_number_among_many() {
        check_names(300);
    }

    #[test]
    #[ignore = "slow: 2 s, 12,000 files"]
    fn finds_a_free_number_among_12_000() {
        check_names(12_000);
    }

    #[test]
    fn rejects_patterns_that_give_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let long = "x".repeat(120);
        for (pattern, expected) in [
            (PathBuf::from("-"), "dumps are received into files"),
            (path(""), "is a directory; name files in it"),
            (directory.path().into(), "is a directory; name files in it"),
            (path("%n/core"), "%n and %t are allowed in the file name only"),
            (path("none/%n"), "no such directory: "),
            (PathBuf::from("/dev/null/none/%n"), "/dev/null/none: cannot access: "),
            (PathBuf::from("/dev/null"), "exists and is not a regular file"),
            (path("%x"), "unknown pattern %x"),
            (path(&format!("%n{long}")), "the expanded name can exceed 255 bytes"),
        ] {
            let error = Naming::new(&pattern).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
