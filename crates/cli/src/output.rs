//! The destination of a dump or an image.
//!
//! A destination is one of these, and each is written in its own way:
//!
//! - A **new file**. The library writes it without a name and names it once it is complete. An existing file is only
//!   replaced with `--force`.
//! - An **open descriptor**: standard output, `--fd N`, or a device. It is written in place from its current position,
//!   because other programs may share it. A path such as `/dev/stdout` or `/dev/fd/3` is treated as the descriptor that
//!   it refers to: opened as a path, a file would be overwritten from its start, or replaced.
//! - A **FIFO**, which is opened only when there are bytes to write, because opening waits for a reader.
//! - A **peer**, to which the tool connects when there are bytes to write.
//!
//! Every check that needs no dump happens in [`Output::resolve`], before any input is read: a large dump must not fail
//! at its end for a reason that was known at its start. [`Output::open`] then opens the destination for writing.

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

/// A destination for bytes.
pub struct Output {
    /// The name that messages show.
    name: String,
    place: Place,
    force: bool,
    sync: bool,
}

enum Place {
    /// The path of a file to create.
    File(PathBuf),
    /// An open descriptor: standard output, an inherited descriptor, or a device.
    Open(File),
    /// A FIFO to open when there are bytes to write.
    Fifo(PathBuf),
    /// A peer to connect to when there are bytes to write.
    Peer(Peer),
}

/// An output that is ready for writing.
pub enum OpenOutput<'o> {
    /// A file that the library creates at this path.
    File(&'o Path, FileOptions),
    /// An open file, written from its current position.
    Regular(&'o File),
    /// A socket that other programs may write to afterwards.
    Socket(File),
    /// A new connection to a peer.
    Peer(File),
    /// A pipe, a terminal or a device.
    Pipe(File),
}

impl Output {
    /// Resolves a path, or `-` for standard output, and checks that it can be written. Opens neither FIFOs nor
    /// connections.
    ///
    /// # Errors
    /// Returns an error if the output cannot be written, is a terminal, or exists without `force`.
    pub fn resolve(path: &Path, force: bool, sync: bool) -> Result<Self, Failure> {
        let (name, place) = if path == Path::new("-") {
            ("standard output".into(), standard_output().map(Place::Open))
        } else {
            (path.display().to_string(), place(path, force))
        };
        Self::new(name, place, force, sync)
    }

    /// Returns the output for the inherited descriptor with this number.
    ///
    /// # Errors
    /// Returns an error if the descriptor is not open for writing, or is a terminal without `force`.
    pub fn descriptor(fd: i32, force: bool, sync: bool) -> Result<Self, Failure> {
        Self::new(format!("descriptor {fd}"), open_descriptor(fd).map(Place::Open), force, sync)
    }

    /// Returns the output for a listening peer.
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
                "{name}: is a terminal, and the output is binary; redirect it, name a file with -o, or \
                 use --force"
            )));
        }
        if let Place::Open(file) = &place {
            check_open(file).map_err(|why| Failure::usage(format!("{name}: {why}")))?;
        }
        Ok(Self { name, place, force, sync })
    }

    /// Checks that the output is not one of the inputs, which it would overwrite.
    ///
    /// # Errors
    /// Returns an error if it is the same file as one of `inputs`.
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
                "{}: is an input ({}); write to another file",
                self.name,
                input.display()
            ))),
            None => Ok(()),
        }
    }

    /// Returns the free bytes of the output's file system. Returns `None` if the output is not a file, or if the file
    /// system does not report them.
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

    /// Returns the other side that [`open`](Self::open) waits for, in words, if there is one.
    pub fn waits_for(&self) -> Option<&'static str> {
        match &self.place {
            Place::File(_) | Place::Open(_) => None,
            Place::Fifo(_) => Some("a reader"),
            Place::Peer(_) => Some("the receiver"),
        }
    }

    /// Opens the output for writing. Waits at most `timeout` for a reader of a FIFO and for a connection to a peer, or
    /// forever without one.
    ///
    /// # Errors
    /// Returns an error if the output cannot be opened in this time.
    pub fn open(
        &self,
        interrupt: &Interrupt,
        timeout: Option<Duration>,
    ) -> Result<OpenOutput<'_>, Failure> {
        Ok(match &self.place {
            Place::File(path) => {
                interrupt.begin_clean_up();
                let options = FileOptions::new().replace(self.force).sync(self.sync);
                OpenOutput::File(path, options)
            }
            Place::Open(file) => {
                let metadata = file.metadata().map_err(|e| self.failure(e))?;
                if metadata.is_file() {
                    return Ok(OpenOutput::Regular(file));
                }
                let file = file.try_clone().map_err(|e| self.failure(e))?;
                match metadata.file_type().is_socket() {
                    true => OpenOutput::Socket(file),
                    false => OpenOutput::Pipe(file),
                }
            }
            Place::Fifo(path) => {
                let fifo = connect::fifo(path, timeout);
                let fifo = fifo.map_err(|e| self.failure(format_args!("cannot open: {e}")))?;
                OpenOutput::Pipe(fifo)
            }
            Place::Peer(peer) => {
                let socket = peer.connect(timeout);
                let socket =
                    socket.map_err(|e| self.failure(format_args!("cannot connect: {e}")))?;
                OpenOutput::Peer(socket.into())
            }
        })
    }

    /// Concludes the exchange with a peer. After a dump was `sent`, waits for the peer's reply. If sending failed,
    /// looks for the reason in the reply.
    ///
    /// # Errors
    /// Returns an error unless the peer has kept the dump, as far as the sender can know
    /// ([`reply`](crate::peer::reply)).
    pub fn conclude(
        &self,
        exchange: &Exchange<'_>,
        sent: Result<(), Failure>,
        timeout: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let refused = |reason: &str| self.failure(format_args!("did not keep the dump: {reason}"));
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
                "{}: everything was sent; waiting for the receiver to reply or to close the connection \
                 (--write-timeout limits the wait)",
                self.name
            ));
        };
        let outcome = exchange.wait_for_answer(timeout, waiting).map_err(|e| self.failure(e))?;
        match outcome {
            Outcome::Answered(Answer::Kept) => {
                interrupt.mark_kept();
                Ok(())
            }
            Outcome::Answered(Answer::Refused(reason)) => Err(refused(&reason)),
            Outcome::Answered(Answer::EndedEarly) => Err(self.failure(
                "closed its half of the connection without a reply before it had the whole dump; it is \
                 unknown whether it kept the dump",
            )),
            Outcome::Answered(Answer::EarlyOk) => Err(self.failure(format_args!(
                "{EARLY_OK}; it is unknown whether it kept the dump"
            ))),
            Outcome::Broken(error) => {
                Err(self.failure(format_args!("stopped reading before the end of the dump: {error}")))
            }
            Outcome::TimedOut(time) => Err(self.failure(format_args!(
                "everything was sent, but the receiver neither replied nor closed the connection for \
                 {time:?}; it is unknown whether it kept the dump"
            ))),
            Outcome::Unfinished(time) => Err(self.failure(format_args!(
                "everything was sent, but the rest of the receiver's reply did not arrive for {time:?}; it is \
                 unknown whether it kept the dump"
            ))),
        }
    }

    /// Syncs an open file to disk with `--sync`, and a block device always: a block device reports write errors only
    /// when it is synced. The library syncs [`OpenOutput::File`] itself.
    ///
    /// # Errors
    /// Returns an error if the sync fails.
    pub fn sync(&self) -> Result<(), Failure> {
        let Place::Open(file) = &self.place else { return Ok(()) };
        let file_type = file.metadata().map(|metadata| metadata.file_type());
        let needs_sync =
            file_type.is_ok_and(|ty| (self.sync && ty.is_file()) || ty.is_block_device());
        if needs_sync { file.sync_all().map_err(|e| self.failure(e)) } else { Ok(()) }
    }

    /// Returns the name that messages show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the failure for an error of this output.
    pub fn failure(&self, error: impl Display) -> Failure {
        Failure::new(format!("{}: {error}", self.name))
    }
}

/// Checks that a dump written to an open file would arrive there unchanged.
///
/// # Errors
/// Returns an error if standard error is the same file, or if the file is a socket that is not a stream.
fn check_open(file: &File) -> Result<(), String> {
    // Warnings, statistics and progress would end up in the dump. Terminals and /dev/null are exempt.
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let output = rustix::fs::fstat(file).map_err(|errno| errno.to_string())?;
    let is_device = FileType::from_raw_mode(output.st_mode) == FileType::CharacterDevice;
    if !is_device && rustix::fs::fstat(io::stderr()).map(identity) == Ok(identity(output)) {
        let cause = "standard error is the same file, so messages would end up in the output; redirect one of them";
        return Err(cause.into());
    }
    match rustix::net::sockopt::socket_type(file) {
        Ok(SocketType::STREAM) | Err(_) => Ok(()),
        Ok(_) => Err("is not a stream socket, so parts of the output could be lost".into()),
    }
}

fn standard_output() -> Result<File, String> {
    let file = duplicate(io::stdout().as_fd())?;
    if is_placeholder(&file) {
        return Err("is closed; redirect it, or name a file with -o".into());
    }
    Ok(file)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<File, String> {
    fd.try_clone_to_owned().map(File::from).map_err(|e| format!("is not open: {e}"))
}

/// Classifies `path` and checks that it can be written.
fn place(path: &Path, force: bool) -> Result<Place, String> {
    if let Some(fd) = own_descriptor(path) {
        return open_descriptor(fd).map(Place::Open);
    }
    // This follows symbolic links: a link to a device or FIFO is as good as the device or FIFO.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {
            if force {
                Ok(Place::File(path.into()))
            } else {
                Err("exists; use --force to overwrite it".into())
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

/// Checks that a file can be created at `path`, where no file exists.
fn new_file(path: &Path, force: bool) -> Result<Place, String> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err("no such directory, and the file name is missing".into());
    }
    if path.is_symlink() && !force {
        return Err("is a dangling symbolic link; use --force to replace it".into());
    }
    check_directory(directory_of(path))?;
    Ok(Place::File(path.into()))
}

/// Checks that the directory for a new file exists, and that files can be created in it.
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
        // Only these errors mean that creating a file will fail. Other errors may come from a sandbox.
        Err(errno @ (Errno::ACCESS | Errno::ROFS)) => {
            Err(format!("cannot create: {}", io::Error::from(errno)))
        }
        _ => Ok(()),
    }
}

/// Warns if users other than the owner may be able to read a new file or directory. The tool has set its mode, but some
/// file systems have no modes or refuse to set them.
pub fn warn_if_not_private(path: &Path) {
    let Ok(metadata) = path.metadata() else { return };
    let mode = metadata.permissions().mode() & 0o777;
    let private = if metadata.is_dir() { 0o700 } else { 0o600 };
    if mode & 0o077 != 0 {
        report::line(&format!(
            "warning: {}: has mode {mode:04o} instead of {private:04o}, which its file system does not support: \
             other users may be able to read it",
            path.display()
        ));
    }
}

/// Returns the directory of a path, or `.` if the path has none.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns the number of the descriptor of this process that a path refers to: `/dev/stdout`, `/dev/fd/3`,
/// `/proc/self/fd/3`, or a link to one of them.
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

/// Duplicates a descriptor of this process, with which it shares position and flags, and checks that it is open for
/// writing.
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
