//! Where a dump or an image goes: a new file, or something that is there and is written in place.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corestream::FileOptions;
use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::inherited;
use crate::limits::MAX_LINKS;
use crate::peer::answer::{Exchange, Outcome};
use crate::peer::reply::{Answer, EARLY_OK};
use crate::peer::{Peer, connect};
use crate::placeholder::is_placeholder;
use crate::report::{self, Failure};
use crate::signals::Interrupt;

/// Where bytes go.
pub struct Output {
    /// As it is shown to people.
    name: String,
    place: Place,
    force: bool,
    sync: bool,
}

enum Place {
    /// A name for a file.
    File(PathBuf),
    /// An open descriptor, which stays where it is: standard output, a device, one that was inherited.
    Open(File),
    /// To be opened when there is something to write: that waits for a reader.
    Fifo(PathBuf),
    /// To be connected to when there is something to write.
    Peer(Peer),
}

/// An output that can be written to.
pub enum Opened<'o> {
    /// A file that the library makes under this name.
    File(&'o Path, FileOptions),
    /// An open file, written from its present position on.
    Regular(&'o File),
    /// A socket that others may go on to write to.
    Socket(File),
    /// A connection of its own to a peer.
    Peer(File),
    /// A pipe, a terminal, a device.
    Pipe(File),
}

impl Output {
    /// Looks at the path before anything is read, so that what can't be done is said at once.
    pub fn resolve(path: &Path, force: bool, sync: bool) -> Result<Self, Failure> {
        let (name, place) = if path == Path::new("-") {
            ("standard output".into(), standard_output().map(Place::Open))
        } else {
            (path.display().to_string(), place(path, force))
        };
        Self::new(name, place, force, sync)
    }

    /// The descriptor with this number, inherited from who started this process.
    pub fn descriptor(fd: i32, force: bool, sync: bool) -> Result<Self, Failure> {
        Self::new(format!("descriptor {fd}"), open_descriptor(fd).map(Place::Open), force, sync)
    }

    /// A peer that listens.
    pub fn peer(peer: Peer) -> Self {
        Self { name: peer.to_string(), place: Place::Peer(peer), force: false, sync: false }
    }

    fn new(
        name: String,
        place: Result<Place, String>,
        force: bool,
        sync: bool,
    ) -> Result<Self, Failure> {
        let place = place.map_err(|why| Failure::new(format!("{name}: {why}")))?;
        if let Place::Open(file) = &place
            && file.is_terminal()
            && !force
        {
            return Err(Failure::usage(format!(
                "{name}: is a terminal, and the output is binary: redirect it, name a file with -o, or \
                 use --force"
            )));
        }
        if let Place::Open(file) = &place {
            check_open(file).map_err(|why| Failure::usage(format!("{name}: {why}")))?;
        }
        Ok(Self { name, place, force, sync })
    }

    /// Refuses to write over what is read.
    pub fn check_inputs(&self, inputs: &[PathBuf]) -> Result<(), Failure> {
        let target = match &self.place {
            Place::File(path) => path.metadata().ok(),
            Place::Open(file) => file.metadata().ok().filter(Metadata::is_file),
            Place::Fifo(_) | Place::Peer(_) => None,
        };
        let Some(target) = target else { return Ok(()) };
        let same = |m: Metadata| (m.dev(), m.ino()) == (target.dev(), target.ino());
        match inputs.iter().find(|input| input.metadata().is_ok_and(same)) {
            Some(input) => Err(Failure::new(format!(
                "{}: is an input ({}), write to another file",
                self.name,
                input.display()
            ))),
            None => Ok(()),
        }
    }

    /// The bytes that are free where it goes; `None` where that means nothing, or where they can't be counted.
    pub fn free_bytes(&self) -> Option<u64> {
        let free = match &self.place {
            Place::File(path) => rustix::fs::statvfs(directory_of(path)),
            Place::Open(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
                rustix::fs::fstatvfs(file)
            }
            _ => return None,
        };
        free.ok().and_then(|free| free.f_bavail.checked_mul(free.f_frsize))
    }

    /// Returns who has to be there before it can be opened, if anybody.
    pub fn awaits(&self) -> Option<&'static str> {
        match &self.place {
            Place::File(_) | Place::Open(_) => None,
            Place::Fifo(_) => Some("a reader"),
            Place::Peer(_) => Some("the receiver"),
        }
    }

    /// Opens it for writing; a peer that does not answer and a FIFO without a reader are waited for as long as
    /// `timeout`.
    pub fn open(
        &self,
        interrupt: &Interrupt,
        timeout: Option<Duration>,
    ) -> Result<Opened<'_>, Failure> {
        Ok(match &self.place {
            Place::File(path) => {
                interrupt.begin_clean_up();
                let options = FileOptions::new().replace(self.force).sync(self.sync);
                Opened::File(path, options)
            }
            Place::Open(file) => {
                let metadata = file.metadata().map_err(|e| self.failed(e))?;
                if metadata.is_file() {
                    return Ok(Opened::Regular(file));
                }
                let file = file.try_clone().map_err(|e| self.failed(e))?;
                match metadata.file_type().is_socket() {
                    true => Opened::Socket(file),
                    false => Opened::Pipe(file),
                }
            }
            Place::Fifo(path) => {
                let fifo = connect::fifo(path, timeout);
                let fifo = fifo.map_err(|e| self.failed(format_args!("cannot open: {e}")))?;
                Opened::Pipe(fifo)
            }
            Place::Peer(peer) => {
                let socket = peer.connect(timeout);
                let socket =
                    socket.map_err(|e| self.failed(format_args!("cannot connect: {e}")))?;
                Opened::Peer(socket.into())
            }
        })
    }

    /// Ends the sending of a dump to a peer: waits for its answer to one that was `sent`, or looks for the
    /// reason why it could not be.
    ///
    /// # Errors
    /// Returns an error unless the peer kept the dump, as far as can be known: see
    /// [`reply`](crate::peer::reply).
    pub fn conclude(
        &self,
        exchange: &Exchange<'_>,
        sent: Result<(), Failure>,
        timeout: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let refused = |reason: &str| self.failed(format_args!("did not keep the dump: {reason}"));
        if let Err(failure) = sent {
            let reason = (!failure.is_cancelled()).then(|| exchange.reason_of_refusal());
            return Err(match reason.flatten() {
                Some(reason) => refused(&reason),
                None => failure.at(&self.name),
            });
        }
        interrupt.mark_sent();
        let waiting = || {
            report::line(&format!(
                "{}: everything was sent, waiting for the receiver to reply or to close the connection \
                 (--write-timeout limits that)",
                self.name
            ));
        };
        let outcome = exchange.wait_for_answer(timeout, waiting).map_err(|e| self.failed(e))?;
        match outcome {
            Outcome::Answered(Answer::Kept) => {
                interrupt.mark_kept();
                Ok(())
            }
            Outcome::Answered(Answer::Refused(reason)) => Err(refused(&reason)),
            Outcome::Answered(Answer::EndedEarly) => Err(self.failed(
                "closed its half of the connection before it had the whole dump, without a reply: whether \
                 it kept the dump is not known",
            )),
            Outcome::Answered(Answer::EarlyOk) => Err(self.failed(format_args!(
                "{EARLY_OK}: whether it kept the dump is not known"
            ))),
            Outcome::Broken(error) => {
                Err(self.failed(format_args!("did not take the dump to its end: {error}")))
            }
            Outcome::TimedOut(time) => Err(self.failed(format_args!(
                "everything was sent, but the receiver neither replied nor closed the connection for \
                 {time:?}: whether it kept the dump is not known"
            ))),
            Outcome::Unfinished(time) => Err(self.failed(format_args!(
                "everything was sent, but the rest of the receiver's reply did not come for {time:?}: whether it \
                 kept the dump is not known"
            ))),
        }
    }

    /// Brings what was written to an open file to disk, if that is wanted; [`Opened::File`] does so
    /// itself. A block device says nowhere else that it could not be written.
    pub fn sync(&self) -> Result<(), Failure> {
        let Place::Open(file) = &self.place else { return Ok(()) };
        let of_type = file.metadata().map(|metadata| metadata.file_type());
        let wanted = of_type
            .is_ok_and(|of_type| (self.sync && of_type.is_file()) || of_type.is_block_device());
        if wanted { file.sync_all().map_err(|e| self.failed(e)) } else { Ok(()) }
    }

    /// As it is shown to people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to say of an error of this output.
    pub fn failed(&self, error: impl Display) -> Failure {
        Failure::new(format!("{}: {error}", self.name))
    }
}

/// Refuses an open file in which a dump would not be what was written to it.
fn check_open(file: &File) -> Result<(), String> {
    // Warnings, statistics and progress would get into the dump. A terminal or /dev/null has room for both.
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let own = rustix::fs::fstat(file).map_err(|errno| errno.to_string())?;
    let is_device = FileType::from_raw_mode(own.st_mode) == FileType::CharacterDevice;
    if !is_device && rustix::fs::fstat(io::stderr()).map(identity) == Ok(identity(own)) {
        return Err(
            "standard error goes there too, and messages would get into the output: redirect \
                    one of them"
                .into(),
        );
    }
    match rustix::net::sockopt::socket_type(file) {
        Ok(SocketType::STREAM) | Err(_) => Ok(()),
        Ok(_) => Err("is not a stream socket: messages of it may be lost or cut".into()),
    }
}

fn standard_output() -> Result<File, String> {
    let file = duplicate(io::stdout().as_fd())?;
    if is_placeholder(&file) {
        return Err("is closed: redirect it, or name a file with -o".into());
    }
    Ok(file)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<File, String> {
    fd.try_clone_to_owned().map(File::from).map_err(|e| format!("is not open: {e}"))
}

/// What `path` is, and whether it may be written.
fn place(path: &Path, force: bool) -> Result<Place, String> {
    if let Some(fd) = own_descriptor(path) {
        return open_descriptor(fd).map(Place::Open);
    }
    // Follows links: to a device or FIFO is as good as the thing itself.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {
            if force {
                Ok(Place::File(path.into()))
            } else {
                Err("exists, use --force to replace it".into())
            }
        }
        Ok(metadata) if metadata.is_dir() => Err("is a directory; name a file in it".into()),
        Ok(metadata) if metadata.file_type().is_fifo() => Ok(Place::Fifo(path.into())),
        Ok(metadata) if metadata.file_type().is_socket() => {
            Ok(Place::Peer(Peer::Unix(path.into())))
        }
        Ok(_) => {
            let device = File::options().write(true).open(path);
            device.map(Place::Open).map_err(|e| format!("cannot open: {e}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_file(path, force),
        Err(error) => Err(format!("cannot access: {error}")),
    }
}

/// A name that nobody has yet.
fn new_file(path: &Path, force: bool) -> Result<Place, String> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err("no such directory, and no file name".into());
    }
    if path.is_symlink() && !force {
        return Err("is a symbolic link to nothing, use --force to replace it".into());
    }
    check_directory(directory_of(path))?;
    Ok(Place::File(path.into()))
}

/// Checks that the directory for a new file exists, and that files may be made in it.
pub fn check_directory(directory: &Path) -> Result<(), String> {
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("{}: cannot access: {error}", directory.display()));
        }
        _ => return Err(format!("no such directory: {}; create it first", directory.display())),
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS) {
        // Only what is known to fail later: other errors may come of a sandbox.
        Err(errno @ (Errno::ACCESS | Errno::ROFS)) => {
            Err(format!("cannot create: {}", io::Error::from(errno)))
        }
        _ => Ok(()),
    }
}

/// Warns if others than the owner may read a new file or look into a new directory: the file system has no modes, or
/// refuses to set them.
pub fn warn_if_not_private(path: &Path) {
    let Ok(metadata) = path.metadata() else { return };
    let mode = metadata.permissions().mode() & 0o777;
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    if mode & 0o077 != 0 {
        report::line(&format!(
            "warning: {}: has mode {mode:04o} and not {wanted:04o}, which its file system does not take: others \
             may read it",
            path.display()
        ));
    }
}

/// The directory of a path.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The number of the descriptor of this process that a path stands for: `/dev/stdout`,
/// `/dev/fd/3`, `/proc/self/fd/3`, or a link to one of them.
///
/// Opened by such a path, a file would be overwritten from its start, and replaced with `--force`.
pub fn own_descriptor(path: &Path) -> Option<i32> {
    let own = Path::new("/proc").join(std::process::id().to_string()).join("fd");
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let name = path.file_name()?.to_os_string();
        let directory = directory_of(&path).canonicalize().ok()?;
        if directory == own {
            return OsStr::to_str(&name)?.parse().ok();
        }
        path = directory.join(directory.join(name).read_link().ok()?);
    }
    None
}

/// A descriptor of this process, shared: position and flags are its own.
fn open_descriptor(fd: i32) -> Result<File, String> {
    let file = match fd {
        0 => duplicate(io::stdin().as_fd()),
        1 => duplicate(io::stdout().as_fd()),
        2 => duplicate(io::stderr().as_fd()),
        fd => inherited::duplicate(fd).map(File::from).map_err(|e| format!("is not open: {e}")),
    }?;
    if fd <= 2 && is_placeholder(&file) {
        return Err("is not open".into());
    }
    match rustix::fs::fcntl_getfl(&file) {
        Ok(flags) if flags & OFlags::ACCMODE == OFlags::RDONLY => {
            Err("is not open for writing".into())
        }
        _ => Ok(file),
    }
}
