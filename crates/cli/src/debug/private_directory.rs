//! A directory that only this user can access, for the socket of a debugger.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::limits::MAX_SOCKET_PATH_BYTES;
use crate::peer::Peer;
use crate::report::Failure;

/// The number of names that are tried.
const TRIES: u32 = 100;

/// The name of the socket in the directory.
const SOCKET: &str = "lldb.sock";

/// A directory with mode 0700. Dropping it removes it, if it is empty by then.
pub struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Creates a directory in `XDG_RUNTIME_DIR`, or in the directory for temporary files. LLDB needs a path that is UTF-8.
    /// `remedy` is the way out if it fails.
    ///
    /// # Errors
    /// Returns an error if neither is writable, or if the path of a socket in it would be too long.
    pub fn create(remedy: &str) -> Result<Self, Failure> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let parents = runtime.into_iter().chain([std::env::temp_dir()]);
        let mut error = None;
        for parent in parents.filter(|parent| parent.is_absolute() && parent.to_str().is_some()) {
            match Self::create_in(&parent) {
                Ok(directory) => return Ok(directory),
                Err(failed) => error = Some((parent, failed)),
            }
        }
        let message = match error {
            Some((parent, error)) => format!("{}: {error}", parent.display()),
            None => "TMPDIR is not an absolute path in UTF-8".into(),
        };
        Err(Failure::new(format!("debug: cannot create a private directory: {message}; {remedy}")))
    }

    fn create_in(parent: &Path) -> io::Result<Self> {
        let id = std::process::id();
        let mut result = Err(io::ErrorKind::AlreadyExists.into());
        for i in 0..TRIES {
            let path = parent.join(format!("corestream-debug-{id}-{i}"));
            if path.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH_BYTES {
                return Err(io::Error::other("the path of a socket in it would be too long"));
            }
            // Another user may have created the name, and `mkdir` does not follow links.
            result = DirBuilder::new().mode(0o700).create(&path).map(|()| Self(path));
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                _ => break,
            }
        }
        result
    }

    /// Returns the address of the socket.
    pub fn socket(&self) -> Peer {
        Peer::Unix(self.0.join(SOCKET))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // There is no way to report an error here.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_private_and_removed_at_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let directory = PrivateDirectory::create_in(parent.path()).unwrap();
        let other = PrivateDirectory::create_in(parent.path()).unwrap();
        assert_ne!(directory.0, other.0);
        let mode = directory.0.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop((directory, other));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        let long = parent.path().join("x".repeat(MAX_SOCKET_PATH_BYTES));
        assert!(PrivateDirectory::create_in(&long).is_err());
    }
}
