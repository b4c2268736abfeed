//! Patterns in the name of an output: `%p %t %n %%`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use corestream::Visible;

use crate::limits::MAX_PROCESS_NAME_BYTES;

/// What the patterns stand for.
pub struct Values<'v> {
    /// `%p`: the process id.
    pub process_id: u32,
    /// `%t`: seconds since 1970.
    pub unix_time: u64,
    /// `%n`: the name of the guest's process, as it is.
    pub name: &'v str,
}

impl<'v> Values<'v> {
    /// Those of this process and of now.
    pub fn now(name: &'v str) -> Self {
        // Before 1970 it is 1970.
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        Self { process_id: std::process::id(), unix_time, name }
    }

    /// `path` with its patterns replaced.
    ///
    /// # Errors
    /// It has a `%` that begins no pattern.
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
                    filled.push(harmless(self.name));
                    &part[1..]
                }
                // Two in a row have nothing between them; what follows the second is no pattern.
                None => {
                    let Some(next) = parts.next() else { return Err(unknown("%")) };
                    filled.push("%");
                    next
                }
                Some(_) => {
                    let next = String::from_utf8_lossy(part).chars().next().unwrap_or('?');
                    return Err(unknown(&format!("%{next}")));
                }
            };
            filled.push(os_string(rest));
        }
        Ok(filled.into())
    }
}

fn unknown(pattern: &str) -> String {
    format!(
        "{pattern} is no pattern: %p is the process id, %t the Unix time, %n the name, %% a percent \
         sign"
    )
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A name that is one component of a path, and neither a hidden one nor an option of a command.
fn harmless(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(MAX_PROCESS_NAME_BYTES)];
    let mut harmless: String =
        name.chars().map(|c| if c == '/' || Visible(c).is_escaped() { '_' } else { c }).collect();
    if harmless.starts_with(['.', '-']) {
        harmless.replace_range(..1, "_");
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(path: &str, name: &str) -> Result<String, String> {
        let values = Values { process_id: 42, unix_time: 1_700_000_000, name };
        values.fill(Path::new(path)).map(|path| path.into_os_string().into_string().unwrap())
    }

    #[test]
    fn patterns_are_replaced() {
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
        let values = Values { process_id: 1, unix_time: 0, name: "" };
        assert_eq!(values.fill(Path::new(&bytes)).unwrap().as_os_str(), os_string(b"\xff1"));
    }

    #[test]
    fn other_percent_signs_are_errors() {
        for (path, named) in [("%", "%"), ("a%", "%"), ("%x", "%x"), ("%%%", "%"), ("%é", "%é")] {
            let error = fill(path, "").unwrap_err();
            assert!(error.starts_with(&format!("{named} is no pattern")), "{path}: {error}");
        }
    }

    #[test]
    fn names_are_made_harmless() {
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
