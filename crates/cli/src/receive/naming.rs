//! The names that dumps get: a pattern with what a dump is called, and a number where that is taken.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corestream::UnnamedFile;

use crate::dump::pattern::Values;
use crate::limits::{MAX_FILE_NAME_BYTES, MAX_PROCESS_NAME_BYTES};
use crate::output::{check_directory, directory_of};

/// Names that are tried for a dump from the first on that looks free: others may be faster.
const TRIES: usize = 10_000;

/// Ends the name of a dump that is not whole.
const PARTIAL: &str = ".partial";

/// What a dump without a name is called.
const UNNAMED: &str = "unnamed";

/// A pattern that can be used for every dump that may come.
pub struct Naming {
    pattern: PathBuf,
    directory: PathBuf,
}

impl Naming {
    /// Checks a pattern before there is a dump: which could not be kept if it had no name.
    pub fn new(pattern: &Path) -> Result<Self, String> {
        if pattern == Path::new("-") {
            return Err("dumps are received into files: name one, such as %n.%t.core".into());
        }
        let fill = |unix_time, name: &str| {
            Values { process_id: std::process::id(), unix_time, name }.fill(pattern)
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
            return Err("is there, and no regular file: dumps are received into files".into());
        }
        check_directory(directory)?;
        if file_name.len() + numbered(u32::MAX).len() + PARTIAL.len() > MAX_FILE_NAME_BYTES {
            return Err(
                "a name made of it can be longer than the 255 bytes that one may have".into()
            );
        }
        Ok(Self { pattern: pattern.into(), directory: directory.into() })
    }

    /// The directory of all names.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The names for a dump of the process that calls itself `name`, best first: without a number, then
    /// from a number on that nothing has.
    pub fn names(&self, name: &str, whole: bool) -> Result<impl Iterator<Item = PathBuf>, String> {
        let name = if name.is_empty() { UNNAMED } else { name };
        let base = Values::now(name).fill(&self.pattern)?;
        let end = match whole {
            // Whatever a process calls itself, what is whole is not taken for what is not.
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

/// Returns whether this is the name of a partial dump, not of a file under construction.
pub fn is_partial(file_name: &OsStr) -> bool {
    file_name.as_bytes().ends_with(PARTIAL.as_bytes()) && !UnnamedFile::is_partial_name(file_name)
}

/// Returns whether something has this name. An error here is reported when the file is created.
fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What follows a name that is taken.
fn numbered(i: u32) -> String {
    if i == 0 { String::new() } else { format!(".{i}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_dump() {
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
    fn names_of_partial_dumps() {
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

    /// Names do not run out, however many files there are.
    fn check_names(count: u32) {
        let directory = tempfile::tempdir().unwrap();
        let path = |i: u32| directory.path().join(format!("core{}", numbered(i)));
        let naming = Naming::new(&path(0)).unwrap();
        let next = || naming.names("any", true).unwrap().find(|name| !name.exists());
        for i in 0..count {
            std::fs::write(path(i), "").unwrap();
        }
        assert_eq!(next(), Some(path(count)));
        // One in between may be given again, but never one that is there.
        std::fs::remove_file(path(0)).unwrap();
        assert_eq!(next(), Some(path(0)));
        for holes in [1, 2, count / 2, count - 1] {
            (0..3).for_each(|i| std::fs::remove_file(path(holes + i * 3)).unwrap_or_default());
            let name = next().unwrap();
            std::fs::File::create_new(name).unwrap();
        }
    }

    #[test]
    fn names_do_not_run_out() {
        check_names(300);
    }

    #[test]
    #[ignore = "slow: 2 s, 12,000 files"]
    fn names_do_not_run_out_after_12_000_files() {
        check_names(12_000);
    }

    #[test]
    fn patterns_that_can_give_no_name_are_refused() {
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
            (PathBuf::from("/dev/null"), "is there, and no regular file"),
            (path("%x"), "unknown pattern %x"),
            (path(&format!("%n{long}")), "a name made of it can be longer"),
        ] {
            let error = Naming::new(&pattern).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
