//! Patterns in the path of an output: `%p %t %n %c %%`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use corestream::Visible;

use crate::limits::MAX_PROCESS_NAME_BYTES;

/// The values that replace the patterns.
pub struct Values<'v> {
    /// `%p`: the process id.
    pub process_id: u32,
    /// `%t`: the Unix time in seconds.
    pub unix_time: u64,
    /// `%n`: the name of the guest's process. It is sanitized when it replaces the pattern.
    pub name: &'v str,
    /// `%c`: the number of the dump, if the command counts its dumps.
    pub counter: Option<u64>,
}

impl<'v> Values<'v> {
    /// Returns the values for this process and the current time.
    pub fn now(name: &'v str) -> Self {
        // A clock before 1970 counts as 1970.
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        Self { process_id: std::process::id(), unix_time, name, counter: None }
    }

    fn unknown(&self, pattern: &str) -> String {
        let counter = if self.counter.is_some() { ", %c (number of the dump)" } else { "" };
        format!(
            "unknown pattern {pattern}; expected %p (process id), %t (Unix time), %n (process name){counter} or %% \
             (percent sign)"
        )
    }

    /// Replaces the patterns in `path`.
    ///
    /// # Errors
    /// Returns an error if `path` contains a `%` that does not begin a pattern.
    pub fn fill(&self, path: &Path) -> Result<PathBuf, String> {
        let mut filled = OsString::new();
        let mut parts = path.as_os_str().as_bytes().split(|byte| *byte == b'%');
        filled.push(os_string(parts.next().unwrap_or_default()));
        while let Some(part) = parts.next() {
            let rest = match part.first() {
                Some(b'p') => {
                    filled.push(self.process_id.to_string());
                    &part[1..]
                }
                Some(b't') => {
                    filled.push(self.unix_time.to_string());
                    &part[1..]
                }
                Some(b'n') => {
                    filled.push(sanitize(self.name));
                    &part[1..]
                }
                Some(b'c') if let Some(counter) = self.counter => {
                    filled.push(counter.to_string());
                    &part[1..]
                }
                // `%%`: the part between the two is empty, and the text after the second is copied unchanged.
                None => {
                    let Some(next) = parts.next() else { return Err(self.unknown("%")) };
                    filled.push("%");
                    next
                }
                Some(_) => {
                    let next = String::from_utf8_lossy(part).chars().next().unwrap_or('?');
                    return Err(self.unknown(&format!("%{next}")));
                }
            };
            filled.push(os_string(rest));
        }
        Ok(filled.into())
    }
}

/// Returns whether a pattern contains `%c`.
#[cfg(feature = "run")]
pub fn has_counter(path: &Path) -> bool {
    let mut parts = path.as_os_str().as_bytes().split(|byte| *byte == b'%').skip(1);
    while let Some(part) = parts.next() {
        match part.first() {
            Some(b'c') => return true,
            // `%%`
            None => drop(parts.next()),
            Some(_) => {}
        }
    }
    false
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Turns a name into one component of a path that is neither hidden nor looks like an option of a command.
fn sanitize(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(MAX_PROCESS_NAME_BYTES)];
    let mut sanitized: String =
        name.chars().map(|c| if c == '/' || Visible(c).is_escaped() { '_' } else { c }).collect();
    if sanitized.starts_with(['.', '-']) {
        sanitized.replace_range(..1, "_");
    }
    sanitized
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(path: &str, name: &str) -> Result<String, String> {
        let values = Values { process_id: 42, unix_time: 1_700_000_000, name, counter: None };
        values.fill(Path::new(path)).map(|path| path.into_os_string().into_string().unwrap())
    }

    #[test]
    fn replaces_patterns() {
        for (path, expected) in [
            ("plain", "plain"),
            ("%n.%p.%t.core", "guest.wasm.42.1700000000.core"),
            ("%%", "%"),
            ("100%%%p", "100%42"),
            ("%%%%n", "%%n"),
            ("%%n", "%n"),
            ("dir/%n%n", "dir/guest.wasmguest.wasm"),
        ] {
            assert_eq!(fill(path, "guest.wasm").unwrap(), expected, "{path}");
        }
        let bytes = os_string(b"\xff%p");
        let values = Values { process_id: 1, unix_time: 0, name: "", counter: None };
        assert_eq!(values.fill(Path::new(&bytes)).unwrap().as_os_str(), os_string(b"\xff1"));
    }

    #[test]
    fn replaces_the_counter_of_commands_that_count() {
        let values = Values { counter: Some(7), ..Values::now("n") };
        assert_eq!(values.fill(Path::new("%n.%c%%c")), Ok("n.7%c".into()));
        assert!(fill("%c", "n").unwrap_err().starts_with("unknown pattern %c;"));
        assert!(values.fill(Path::new("%x")).unwrap_err().contains("%c (number of the dump)"));
    }

    #[cfg(feature = "run")]
    #[test]
    fn finds_counters() {
        for (pattern, has) in
            [("%c", true), ("a%n%c", true), ("%%c", false), ("%%%c", true), ("c", false)]
        {
            assert_eq!(has_counter(Path::new(pattern)), has, "{pattern}");
        }
    }

    #[test]
    fn rejects_other_percent_signs() {
        for (path, named) in [("%", "%"), ("a%", "%"), ("%x", "%x"), ("%%%", "%"), ("%é", "%é")] {
            let error = fill(path, "").unwrap_err();
            assert!(error.starts_with(&format!("unknown pattern {named};")), "{path}: {error}");
        }
    }

    #[test]
    fn sanitizes_names() {
        for (name, expected) in [
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("..", "_."),
            (".hidden", "_hidden"),
            ("-rf", "_rf"),
            ("a\u{202e}b", "a_b"),
            ("a\n\u{1b}[0m\0", "a__[0m_"),
            ("%p", "%p"),
            ("", ""),
        ] {
            assert_eq!(fill("%n", name).unwrap(), expected, "{name:?}");
        }
        assert_eq!(fill("%n", &"é".repeat(1000)).unwrap(), "é".repeat(64));
    }
}
