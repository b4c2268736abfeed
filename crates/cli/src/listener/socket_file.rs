//! A listening Unix socket in the file system.
//!
//! # The problem
//! A process that is killed leaves its socket file behind, and `bind` fails if the path exists. A stale socket must be
//! replaced, but never one that has a listener. Checking and replacing are separate calls, so two receivers that start
//! at the same time could both find the socket stale, and one would remove the new socket of the other.
//!
//! # The idea
//! A receiver locks the directory while it checks, removes and binds. A lock on a directory leaves no file behind. If
//! the directory cannot be locked, a stale socket is not replaced, but a free path still works. The socket is not
//! accessible under its path until it listens, so no other receiver takes it for stale.
//!
//! At the end, a receiver removes the path only if it still leads to its own socket: same device and inode. It removes
//! the path while the socket still listens, so that its inode cannot have been reused.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::output::directory_of;

/// The number of attempts to lock a directory, and the pause between them. Another receiver holds the lock only
/// briefly. Other programs may hold it forever, so the receiver continues without the lock after these attempts.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A listening socket. Dropping it removes its path, unless the path leads to something else by then.
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Creates a socket at `path`. Replaces an existing socket that has no listener.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // The lock covers the check of the existing socket, its removal, and the time until the new socket listens.
        let lock = Lock::of(directory_of(path), TRIES);
        Self::bind_locked(path, &lock)
    }

    fn bind_locked(path: &Path, lock: &Lock) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                check_deserted(path, lock.is_held())?;
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        let identity = identity(&path.symlink_metadata()?);
        Ok(Self { listener, path: path.into(), identity })
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for SocketFile {
    /// Removes the path. The socket still listens, so no other receiver takes it for stale, and its inode is not
    /// reused.
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|there| identity(&there) == self.identity) {
            // There is no way to report an error here.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A lock on a directory, if it could be locked.
struct Lock(Option<File>);

impl Lock {
    fn of(directory: &Path, tries: u32) -> Self {
        // Locking requires read access, and on some file systems write access.
        let Ok(file) = File::open(directory) else { return Self(None) };
        for _ in 0..tries {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self(Some(file)),
                Err(Errno::WOULDBLOCK) => thread::sleep(PAUSE),
                Err(Errno::INTR) => {}
                Err(_) => return Self(None),
            }
        }
        Self(None)
    }

    fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// Checks that `path` is a socket without a listener, which may be replaced.
///
/// # Errors
/// Returns an error if it is anything else.
fn check_deserted(path: &Path, locked: bool) -> io::Result<()> {
    let there = path.symlink_metadata()?;
    let error = |kind, what: &str| Err(io::Error::new(kind, what));
    if !there.file_type().is_socket() {
        return error(io::ErrorKind::AlreadyExists, "not a socket");
    }
    // Connects with a socket of another type, which a listener does not see as a sender.
    let asked = UnixDatagram::unbound()?.connect(path);
    if !asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        return error(io::ErrorKind::AddrInUse, "another process listens there already");
    }
    match locked {
        true => Ok(()),
        false => error(
            io::ErrorKind::AddrInUse,
            "stale socket, and its directory cannot be locked; remove the socket first",
        ),
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the error of `bind`.
    fn refused(path: &Path) -> String {
        SocketFile::bind(path).err().unwrap().to_string()
    }

    #[test]
    fn replaces_only_a_stale_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let file = SocketFile::bind(&path).unwrap();
        assert_eq!(refused(&path), "another process listens there already");
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "kept").unwrap();
        assert_eq!(refused(&path), "not a socket");
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn removes_only_its_own_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let file = SocketFile::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = SocketFile::bind(&path).unwrap();
        drop(file);
        assert_eq!(refused(&path), "another process listens there already");
        drop(other);
        assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[test]
    fn replaces_nothing_without_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(check_deserted(&path, true).is_ok());
        let error = check_deserted(&path, false).unwrap_err().to_string();
        assert!(error.ends_with("cannot be locked; remove the socket first"), "{error}");
    }

    /// A stale socket may have been replaced by the time the directory is locked.
    #[test]
    fn waits_for_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let lock = Lock::of(directory.path(), TRIES);
        assert!(lock.is_held());
        thread::scope(|scope| {
            let other = scope.spawn(|| refused(&path));
            // Gives the other thread time for a mistake.
            thread::sleep(Duration::from_millis(50));
            std::fs::remove_file(&path).unwrap();
            let fresh = UnixListener::bind(&path).unwrap();
            drop(lock);
            assert_eq!(other.join().unwrap(), "another process listens there already");
            drop(fresh);
        });
    }

    /// A directory that stays locked does not prevent the use of a free path.
    #[test]
    fn binds_a_free_path_despite_a_foreign_lock() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::of(directory.path(), TRIES);
        assert!(lock.is_held());
        let path = directory.path().join("socket");
        // A few tries, as they would all fail.
        let bind = || SocketFile::bind_locked(&path, &Lock::of(directory.path(), 3));
        let file = bind().unwrap();
        drop(file);
        drop(UnixListener::bind(&path).unwrap());
        let error = bind().err().unwrap().to_string();
        assert!(error.ends_with("cannot be locked; remove the socket first"), "{error}");
    }

    /// Many receivers start at the same time: exactly one listens, and none loses its socket.
    fn check_race(rounds: usize) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for _ in 0..rounds {
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(8);
            let bind = || {
                start.wait();
                SocketFile::bind(&path)
            };
            let bound: Vec<_> = thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let listening: Vec<_> = bound.iter().flatten().collect();
            assert_eq!(listening.len(), 1);
            assert_eq!(identity(&path.symlink_metadata().unwrap()), listening[0].identity);
        }
    }

    #[test]
    fn exactly_one_of_many_binds() {
        check_race(8);
    }

    #[test]
    #[ignore = "slow: 1 s"]
    fn exactly_one_of_many_binds_in_many_rounds() {
        check_race(50);
    }
}
