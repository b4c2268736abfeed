//! The destinations of the dumps of a guest: of its trap, and of its snapshots.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::dump::pattern;
use crate::output::{Output, own_descriptor};
use crate::peer::Peer;
use crate::report::Failure;

/// The destination of a dump, with its path for messages.
pub struct Target {
    pub path: PathBuf,
    pub output: Output,
}

/// The destinations of the dumps of one guest.
#[derive(Clone)]
pub struct Targets {
    /// The name of the process.
    pub name: String,
    /// The file of the guest, which must not be overwritten.
    pub guest: PathBuf,
    /// The pattern of the path, unless dumps go to `peer` or to default names.
    pub pattern: Option<PathBuf>,
    pub peer: Option<Peer>,
    pub force: bool,
}

impl Targets {
    /// Returns the destination of the dump of a trap. With `--snapshot-on`, it counts as number `count` in names.
    ///
    /// # Errors
    /// Returns an error if the destination cannot be written.
    pub fn trap(&self, count: Option<u64>) -> Result<Target, Failure> {
        match (&self.peer, &self.pattern) {
            (Some(peer), _) => Ok(to_peer(peer)),
            (None, Some(pattern)) => self.resolve(pattern, count),
            // A free name, so that an older dump does not prevent a new one.
            (None, None) => {
                let first = self.resolve(Path::new("%n.core"), count);
                first.or_else(|_| self.resolve(Path::new("%n.%p.core"), count))
            }
        }
    }

    /// Returns the destination of snapshot number `count`. Without `%c` in the pattern, the number is added to the file
    /// name, before its extension.
    ///
    /// # Errors
    /// Returns an error if the destination cannot be written.
    pub fn snapshot(&self, count: u64) -> Result<Target, Failure> {
        match (&self.peer, &self.pattern) {
            (Some(peer), _) => Ok(to_peer(peer)),
            (None, Some(pattern)) if pattern::has_counter(pattern) => {
                self.resolve(pattern, Some(count))
            }
            (None, Some(pattern)) => {
                let stream = std::fs::metadata(pattern);
                if stream.is_ok_and(|stream| !stream.is_file() && !stream.is_dir()) {
                    return Err(Failure::new(format!(
                        "-o {}: is not a regular file; add %c to the name, for the number of each dump",
                        pattern.display()
                    )));
                }
                self.resolve(&numbered(pattern), Some(count))
            }
            (None, None) => {
                let first = self.resolve(Path::new("%n.%c.core"), Some(count));
                first.or_else(|_| self.resolve(Path::new("%n.%p.%c.core"), Some(count)))
            }
        }
    }

    /// Fills a pattern and checks the path.
    fn resolve(&self, pattern: &Path, count: Option<u64>) -> Result<Target, Failure> {
        let is_stream = matches!(own_descriptor(pattern), Some(0..=2));
        if pattern == Path::new("-") || is_stream {
            let path = pattern.display();
            return Err(Failure::new(format!(
                "-o {path}: the guest uses this stream; give a file name"
            )));
        }
        let filled =
            pattern::Values { counter: count, ..pattern::Values::now(&self.name) }.fill(pattern);
        let path =
            filled.map_err(|why| Failure::new(format!("-o {}: {why}", pattern.display())))?;
        let output = Output::resolve(&path, self.force, false)?;
        output.check_inputs(std::slice::from_ref(&self.guest))?;
        Ok(Target { path, output })
    }
}

fn to_peer(peer: &Peer) -> Target {
    Target { path: peer.to_string().into(), output: Output::peer(peer.clone()) }
}

/// Adds `.%c` to the file name of a pattern, before its extension.
fn numbered(pattern: &Path) -> PathBuf {
    let mut name: OsString = pattern.file_stem().unwrap_or_default().into();
    name.push(".%c");
    if let Some(extension) = pattern.extension() {
        name.push(".");
        name.push(extension);
    }
    pattern.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_a_counter_before_the_extension() {
        for (pattern, expected) in [
            ("guest.core", "guest.%c.core"),
            ("dir.d/%n", "dir.d/%n.%c"),
            ("a.b.core", "a.b.%c.core"),
        ] {
            assert_eq!(numbered(Path::new(pattern)), Path::new(expected));
        }
    }
}
