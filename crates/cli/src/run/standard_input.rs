//! Replaces a non-blocking standard input, as some parent processes leave it, because the guest's reads must wait.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::stdio::dup2_stdin;

use crate::blocking_stream::BlockingStream;

/// Makes reads of standard input block.
///
/// `O_NONBLOCK` is a flag of the open file description, which other processes share. So this replaces standard input
/// instead of changing the flag: it reopens a pipe or terminal, and replaces a socket with a pipe into which a thread
/// copies the input.
///
/// # Errors
/// Returns an error if neither can be opened.
pub fn make_blocking() -> io::Result<()> {
    let stdin = io::stdin();
    // If standard input is closed, the guest's reads report it.
    let Ok(flags) = fcntl_getfl(&stdin) else { return Ok(()) };
    let is_file = fstat(&stdin)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if is_file || !flags.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    // Opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if let Ok(again) = open("/proc/self/fd/0", flags, Mode::empty()) {
        fcntl_setfl(&again, OFlags::empty())?;
        return Ok(dup2_stdin(again)?);
    }
    let mut from = BlockingStream(File::from(stdin.as_fd().try_clone_to_owned()?));
    let (reader, mut writer) = io::pipe()?;
    thread::Builder::new().spawn(move || io::copy(&mut from, &mut writer))?;
    Ok(dup2_stdin(reader)?)
}
