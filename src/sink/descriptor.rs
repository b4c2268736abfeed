//! What pipes and sockets share: a descriptor that is waited for, a fast way for image files, and the
//! plain way behind it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{IOV, write_all};
use crate::error::Error;
use crate::held_signal::without_sigpipe;
use crate::piece::Piece;

/// Bytes that a blocking pipe takes without blocking once `poll` says that it is ready.
const READY_BYTES: usize = libc::PIPE_BUF;

/// How long to wait before the flag that stops the dump is looked at again.
const LOOK: Duration = Duration::from_millis(100);

/// The ways in which bytes get into a descriptor.
pub(super) trait Ways {
    /// Bytes of a part of an image file from which on it is lent: to lend shorter ones costs more than
    /// to write them with what is around them.
    const LEAST_LENT: usize;

    /// Writes some of `slices`; `wait` is whether it may block. [`Errno::OPNOTSUPP`] if it can't help
    /// blocking.
    fn write(&self, fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], wait: bool)
    -> Result<usize, Errno>;

    /// Has the kernel hand over up to `len` bytes of `file` from `at` on, without copying them. What
    /// can't be handed over is written, and then says why it fails.
    fn lend(
        &self,
        fd: BorrowedFd<'_>,
        file: &File,
        at: u64,
        len: usize,
        wait: bool,
    ) -> Result<usize, Errno>;

    /// The most bytes that the descriptor holds until its reader takes them; `None` if nothing is to
    /// be lent to it.
    ///
    /// So many bytes at the end of a dump are copied: when they are all in, the reader has taken what
    /// was lent before them, and the dump is done with the image.
    fn capacity(&self, fd: BorrowedFd<'_>) -> Option<u64>;
}

/// A descriptor that is written to in order.
#[derive(Debug)]
pub(super) struct Descriptor<'f, W> {
    fd: BorrowedFd<'f>,
    ways: W,
    timeout: Option<Duration>,
    /// Ends the wait when it becomes true.
    cancel: Option<Arc<AtomicBool>>,
    /// Whether a write without blocking is known to be impossible.
    blocks: bool,
    /// Whether parts of image files are lent, as far as is known.
    lends: bool,
    /// Bytes of the dump that are still to come; 0 if that is not known.
    left: u64,
}

impl<'f, W: Ways> Descriptor<'f, W> {
    pub(super) fn new(fd: BorrowedFd<'f>, ways: W) -> Self {
        Self { fd, ways, timeout: None, cancel: None, blocks: false, lends: true, left: 0 }
    }

    pub(super) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    pub(super) fn set_cancel(&mut self, flag: Option<Arc<AtomicBool>>) {
        self.cancel = flag;
    }

    /// Whether a write may block for as long as it likes.
    fn may_block(&self) -> bool {
        self.timeout.is_none() && self.cancel.is_none()
    }

    pub(super) fn set_lend(&mut self, lend: bool) {
        self.lends = lend;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'f> {
        self.fd
    }

    /// A dump of `len` bytes begins.
    pub(super) fn begin(&mut self, len: u64) {
        self.left = len;
    }

    /// Takes all of `pieces`, as [`Sink::put`](super::Sink::put).
    pub(super) fn put(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()> {
        without_sigpipe(|| self.put_pieces(pieces, written))
    }

    fn put_pieces(&mut self, pieces: &[Piece<'_>], written: &mut u64) -> io::Result<()> {
        let mut lendable = self.lendable();
        let mut slices = Vec::with_capacity(pieces.len().min(IOV));
        for piece in pieces {
            let mut bytes = piece.as_bytes();
            self.left = self.left.saturating_sub(bytes.len() as u64);
            let most = bytes.len().min(usize::try_from(lendable).unwrap_or(usize::MAX));
            lendable = lendable.saturating_sub(most as u64);
            if let Piece::Image { file: Some((file, at)), .. } = piece
                && self.lends
                && most >= W::LEAST_LENT
            {
                self.write(&mut slices, written)?;
                let lent = self.lend(file, *at, most, written)?;
                bytes = bytes.get(lent..).unwrap_or_default();
            }
            slices.push(IoSlice::new(bytes));
            if slices.len() == IOV {
                self.write(&mut slices, written)?;
            }
        }
        self.write(&mut slices, written)
    }

    /// How many of the next bytes may be lent.
    fn lendable(&self) -> u64 {
        let capacity = if self.lends { self.ways.capacity(self.fd) } else { None };
        capacity.map_or(0, |capacity| self.left.saturating_sub(capacity))
    }

    /// Writes all of `slices` and empties the list.
    fn write(&mut self, slices: &mut Vec<IoSlice<'_>>, written: &mut u64) -> io::Result<()> {
        write_all(slices, written, |slices| self.write_some(slices))
    }

    /// Writes some of `slices`, which don't begin with an empty one, as soon as any can be.
    fn write_some(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let result = if self.may_block() {
                self.ways.write(self.fd, slices, true)
            } else if !self.blocks {
                self.ways.write(self.fd, slices, false)
            } else {
                self.wait()?;
                let first: &[u8] = slices.first().map_or(&[], |first| first);
                let first = first.get(..READY_BYTES).unwrap_or(first);
                self.ways.write(self.fd, &[IoSlice::new(first)], true)
            };
            match result {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait()?,
                Err(Errno::OPNOTSUPP) if !self.may_block() && !self.blocks => {
                    self.blocks = true;
                }
                result => return Ok(result?),
            }
        }
    }

    /// Lends up to `len` bytes of `file` and gives their number: what is left, for whatever reason, is
    /// to be written.
    fn lend(&mut self, file: &File, at: u64, len: usize, written: &mut u64) -> io::Result<usize> {
        let (mut lent, mut waited) = (0_usize, false);
        while lent < len {
            let wait = self.may_block();
            let (next, left) = (at.saturating_add(lent as u64), len.saturating_sub(lent));
            match self.ways.lend(self.fd, file, next, left, wait) {
                // The file ends here.
                Ok(0) => break,
                Ok(some) => {
                    lent = lent.saturating_add(some);
                    *written = written.saturating_add(some as u64);
                    waited = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !waited => {
                    self.wait()?;
                    waited = true;
                }
                Err(_) => {
                    self.lends = false;
                    break;
                }
            }
        }
        Ok(lent)
    }

    /// Waits until the descriptor takes bytes, or is broken, which the next write tells.
    fn wait(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            if self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(io::Error::other(Error::cancelled()));
            }
            let left = self.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let slice = self.cancel.is_some().then_some(LOOK);
            let wait = left.into_iter().chain(slice).min();
            // A time that is too long for the system is none.
            let spec = wait.and_then(|wait| Timespec::try_from(wait).ok());
            match poll(&mut [PollFd::from_borrowed_fd(self.fd, PollFlags::OUT)], spec.as_ref()) {
                Ok(0) if wait == left => return Err(self.timed_out()),
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn timed_out(&self) -> io::Error {
        let waited = self.timeout.unwrap_or_default();
        io::Error::new(io::ErrorKind::TimedOut, format!("nothing was taken for {waited:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Takes `step` bytes a call; what it answers otherwise is due in turn.
    #[derive(Debug)]
    struct Fake {
        taken: RefCell<Vec<u8>>,
        lent: Cell<usize>,
        step: usize,
        /// What the calls to lend answer, over and over: `Ok` is to lend.
        answers: Vec<Result<(), Errno>>,
        calls: Cell<usize>,
        blocks: bool,
    }

    impl Fake {
        fn answer(&self) -> Result<(), Errno> {
            let call = self.calls.replace(self.calls.get() + 1);
            self.answers[call % self.answers.len()]
        }
    }

    impl Ways for &Fake {
        const LEAST_LENT: usize = 16 << 10;

        fn write(
            &self,
            _: BorrowedFd<'_>,
            slices: &[IoSlice<'_>],
            wait: bool,
        ) -> Result<usize, Errno> {
            if self.blocks && !wait {
                return Err(Errno::OPNOTSUPP);
            }
            let mut room = self.step;
            for slice in slices {
                let part = slice.len().min(room);
                self.taken.borrow_mut().extend(&slice[..part]);
                room -= part;
            }
            Ok(self.step - room)
        }

        fn lend(
            &self,
            _: BorrowedFd<'_>,
            file: &File,
            at: u64,
            len: usize,
            _: bool,
        ) -> Result<usize, Errno> {
            self.answer()?;
            let mut part = vec![0; len.min(self.step)];
            let n = file.read_at(&mut part, at).unwrap();
            self.taken.borrow_mut().extend(&part[..n]);
            self.lent.set(self.lent.get() + n);
            Ok(n)
        }

        fn capacity(&self, _: BorrowedFd<'_>) -> Option<u64> {
            Some(10_000)
        }
    }

    /// Puts pieces of a file and others by turns, and gives what was lent.
    fn check(answers: &[Result<(), Errno>], step: usize, cut: u64, blocks: bool) -> usize {
        let bytes: Vec<u8> = (0..600_000_u32).map(|i| (i >> 6).to_le_bytes()[0]).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(cut).unwrap();
        let mut pieces = Vec::new();
        for (i, part) in bytes.chunks(100_000).enumerate() {
            let at = i as u64 * 100_000;
            pieces.push(Piece::Bytes(b"header"));
            pieces.push(Piece::Image { bytes: &part[..1000], file: Some((&file, at)) });
            pieces.push(Piece::Image { bytes: &part[1000..], file: Some((&file, at + 1000)) });
            pieces.push(Piece::Image { bytes: &part[..70_000], file: None });
        }
        let expected: Vec<u8> = pieces.iter().flat_map(|p| p.as_bytes().to_vec()).collect();
        let answers = answers.to_vec();
        let (taken, lent, calls) = Default::default();
        let fake = Fake { taken, lent, step, answers, calls, blocks };
        // Always ready.
        let ready = File::options().write(true).open("/dev/null").unwrap();
        let mut descriptor = Descriptor::new(ready.as_fd(), &fake);
        descriptor.set_timeout(blocks.then_some(Duration::from_secs(60)));
        descriptor.begin(expected.len() as u64);
        let mut written = 0;
        for part in pieces.chunks(5) {
            descriptor.put(part, &mut written).unwrap();
        }
        assert_eq!(written, expected.len() as u64);
        assert!(*fake.taken.borrow() == expected, "{answers:?} by {step}", answers = fake.answers);
        fake.lent.get()
    }

    #[test]
    fn what_can_not_be_lent_is_written() {
        let all = 6 * 99_000;
        // With the most that two calls lend.
        for (step, twice) in [(997, 2 * 997), (65_536, 99_000), (usize::MAX, 2 * 99_000)] {
            for blocks in [false, true] {
                assert_eq!(check(&[Ok(())], step, 600_000, blocks), all);
                let interrupted = [Err(Errno::INTR), Ok(()), Err(Errno::AGAIN), Ok(())];
                assert_eq!(check(&interrupted, step, 600_000, blocks), all);
                for errno in [Errno::INVAL, Errno::NOSYS, Errno::IO] {
                    assert_eq!(check(&[Err(errno)], step, 600_000, blocks), 0);
                    let lent = check(&[Ok(()), Ok(()), Err(errno)], step, 600_000, blocks);
                    assert_eq!(lent, twice);
                }
                // It is ready, and still can't be had.
                let never = [Ok(()), Err(Errno::AGAIN), Err(Errno::AGAIN)];
                assert!(check(&never, step, 600_000, blocks) <= 99_000);
                // The file ends within a piece.
                assert_eq!(check(&[Ok(())], step, 350_000, blocks), 3 * 99_000 + 49_000);
            }
        }
    }
}
