//! Serving clients: each has a thread, so one that is idle or does not read holds up no other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corestream_debug::{Session, Status, Target};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{SendFlags, send};

use crate::limits::MAX_DEBUGGERS;
use crate::listener::{Accepted, Listener};
use crate::report::{self, Failure};
use crate::stop::{Ready, Stop};

/// The time after which a client that takes no bytes of a reply is disconnected.
const STALL: Duration = Duration::from_secs(60);

/// The time in which a client must send its first packet, so that others can take its place.
const GREETING: Duration = Duration::from_secs(10);

/// The pause after an error of `accept`, such as a shortage of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// The stack of a client's thread. Looking up symbols recurses into inlined calls and nested values.
const STACK_BYTES: usize = 2 << 20;

/// Serves clients until a signal arrives, or until `done` can be read.
///
/// # Errors
/// Returns an error if the process cannot wait for clients.
pub fn serve(
    target: &Target<'_>,
    listener: &Listener,
    stop: &Stop,
    done: Option<&io::PipeReader>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("debug: cannot wait: {error}"));
    let count = AtomicUsize::new(0);
    let mut has_refused = false;
    thread::scope(|scope| {
        loop {
            let ready = stop.wait_for_any(listener.as_fd(), done.map(AsFd::as_fd), None);
            match ready.map_err(failed)? {
                Ready::Readable => {}
                Ready::Stopped | Ready::TimedOut => return Ok(()),
            }
            match listener.accept() {
                Ok(client) if count.load(Ordering::Relaxed) >= MAX_DEBUGGERS => {
                    let peer = client.peer;
                    // Once, because clients can come without end.
                    if !std::mem::replace(&mut has_refused, true) {
                        report::line(&format!(
                            "warning: debug: {peer}: refused, because {MAX_DEBUGGERS} clients are connected"
                        ));
                    }
                }
                Ok(client) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    has_refused = false;
                    let count = &count;
                    let run = move || {
                        // A client that has gone is not an error of the server.
                        let _ = Connection::new(&client, stop, done).serve(target);
                        count.fetch_sub(1, Ordering::Relaxed);
                    };
                    let builder = thread::Builder::new().stack_size(STACK_BYTES);
                    if let Err(error) = builder.spawn_scoped(scope, run) {
                        count.fetch_sub(1, Ordering::Relaxed);
                        report::line(&format!("warning: debug: cannot start a thread: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    report::line(&format!("warning: debug: cannot accept a client: {error}"));
                    stop.pause(PAUSE).map_err(failed)?;
                }
            }
        }
    })
}

/// The connection of a client.
struct Connection<'c> {
    socket: &'c OwnedFd,
    stop: &'c Stop,
    done: Option<&'c io::PipeReader>,
}

/// The reason why a connection ends early: the client has gone, does not read, or the server stops.
struct Gone;

impl From<Errno> for Gone {
    fn from(_: Errno) -> Self {
        Self
    }
}

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl<'c> Connection<'c> {
    fn new(client: &'c Accepted, stop: &'c Stop, done: Option<&'c io::PipeReader>) -> Self {
        if !client.is_unix {
            // Packets are short, and each waits for its reply.
            let _ = set_tcp_nodelay(&client.socket, true);
        }
        Self { socket: &client.socket, stop, done }
    }

    fn serve(&self, target: &Target<'_>) -> Result<(), Gone> {
        let mut session = Session::new(target);
        let (mut buffer, mut output) = (vec![0; CHUNK], Vec::new());
        let mut greeting = Some(Instant::now() + GREETING);
        loop {
            let len = match rustix::io::read(self.socket, &mut buffer[..]) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(Errno::AGAIN) => {
                    self.wait(greeting)?;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut input = buffer.get(..len).unwrap_or_default();
            loop {
                output.clear();
                let status = session.receive(&mut input, &mut output);
                self.send(&output)?;
                match status {
                    Status::NeedsInput => break,
                    Status::Replied => greeting = None,
                    Status::Closed => return Ok(()),
                }
            }
        }
    }

    /// Waits until the client has sent more, or until the end of the time.
    fn wait(&self, end: Option<Instant>) -> Result<(), Gone> {
        let timeout = end.map(|end| end.saturating_duration_since(Instant::now()));
        let done = self.done.map(AsFd::as_fd);
        match self.stop.wait_for_any(self.socket.as_fd(), done, timeout)? {
            Ready::Readable => Ok(()),
            Ready::Stopped | Ready::TimedOut => Err(Gone),
        }
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            match send(self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let socket: BorrowedFd<'_> = self.socket.as_fd();
                    match self.stop.wait_for(PollFlags::OUT, socket, Some(STALL))? {
                        Ready::Readable => {}
                        Ready::Stopped | Ready::TimedOut => return Err(Gone),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
