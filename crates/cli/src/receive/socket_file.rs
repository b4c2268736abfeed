//! A Unix socket in the file system: one that nobody listens on any more is replaced, whoever else wants
//! to do so at the same moment, and in the end only one's own is removed.

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

/// How often it is tried to lock a directory, and how long to wait before it is tried again. Who has it
/// locked makes a socket, which takes no time, or has other reasons, which may never end: then it is done
/// without.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A socket that listens. Its path is removed when it is dropped, unless something else has it by then.
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes a socket at `path`; one that is there is replaced if nobody listens on it any more.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // Between the look at what is there and its removal nobody else may do the same, nor have made a
        // socket that does not listen yet. A directory can be locked without leaving anything in it.
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
    /// It still listens: nobody takes it for deserted meanwhile, and its inode is no other's.
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|there| identity(&there) == self.identity) {
            // There is nobody to tell, and nothing else to do.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A directory that is locked against others who lock it, where it can be.
struct Lock(Option<File>);

impl Lock {
    fn of(directory: &Path, tries: u32) -> Self {
        // One that can't be read can't be locked. Nor can it where that needs the right to write.
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

/// Fails unless what is at `path` is a socket that nobody has open, and may be replaced.
fn check_deserted(path: &Path, locked: bool) -> io::Result<()> {
    let there = path.symlink_metadata()?;
    let error = |kind, what: &str| Err(io::Error::new(kind, what));
    if !there.file_type().is_socket() {
        return error(io::ErrorKind::AlreadyExists, "not a socket");
    }
    // One of another kind asks, which nobody who listens takes for a sender.
    let asked = UnixDatagram::unbound()?.connect(path);
    if !asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        return error(io::ErrorKind::AddrInUse, "somebody listens there already");
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

    /// How `bind` fails.
    fn refused(path: &Path) -> String {
        SocketFile::bind(path).err().unwrap().to_string()
    }

    #[test]
    fn only_a_deserted_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let file = SocketFile::bind(&path).unwrap();
        assert_eq!(refused(&path), "somebody listens there already");
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "kept").unwrap();
        assert_eq!(refused(&path), "not a socket");
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn only_ones_own_socket_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let file = SocketFile::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = SocketFile::bind(&path).unwrap();
        drop(file);
        assert_eq!(refused(&path), "somebody listens there already");
        drop(other);
        assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[test]
    fn without_a_lock_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(check_deserted(&path, true).is_ok());
        let error = check_deserted(&path, false).unwrap_err().to_string();
        assert!(error.ends_with("cannot be locked; remove the socket first"), "{error}");
    }

    /// What is deserted may be so no more when its directory can be locked.
    #[test]
    fn who_has_the_lock_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let lock = Lock::of(directory.path(), TRIES);
        assert!(lock.is_held());
        thread::scope(|scope| {
            let other = scope.spawn(|| refused(&path));
            // Time to do what it must not.
            thread::sleep(Duration::from_millis(50));
            std::fs::remove_file(&path).unwrap();
            let fresh = UnixListener::bind(&path).unwrap();
            drop(lock);
            assert_eq!(other.join().unwrap(), "somebody listens there already");
            drop(fresh);
        });
    }

    /// A directory that others have locked, for ever, keeps nobody from a path that is free.
    #[test]
    fn a_lock_of_others_is_no_obstacle() {
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

    /// Many at the same moment, over and over: one of them listens, and nobody else's socket is lost.
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
    fn one_of_many_gets_the_socket() {
        check_race(8);
    }

    #[test]
    #[ignore = "slow: 1 s"]
    fn one_of_many_gets_the_socket_in_many_rounds() {
        check_race(50);
    }
}
