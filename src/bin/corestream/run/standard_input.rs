//! Standard input whose description does not block, as a parent may leave it: a read of the guest has to wait.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::stdio::dup2_stdin;

use crate::patient::Patient;

/// Sees to it that reads of standard input wait.
///
/// The flag belongs to the description, which other processes share. So this process gets another one: of the same
/// pipe or terminal, or, for a socket, of a pipe into which a thread copies what comes.
///
/// # Errors
/// Returns an error if there is neither.
pub fn wait_for_input() -> io::Result<()> {
    let stdin = io::stdin();
    // Nothing is wrong with a closed one that the guest would not find out.
    let Ok(flags) = fcntl_getfl(&stdin) else { return Ok(()) };
    let is_file = fstat(&stdin)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if is_file || !flags.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    // Not to wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if let Ok(again) = open("/proc/self/fd/0", flags, Mode::empty()) {
        fcntl_setfl(&again, OFlags::empty())?;
        return Ok(dup2_stdin(again)?);
    }
    let mut from = Patient(File::from(stdin.as_fd().try_clone_to_owned()?));
    let (reader, mut writer) = io::pipe()?;
    thread::Builder::new().spawn(move || io::copy(&mut from, &mut writer))?;
    Ok(dup2_stdin(reader)?)
}
