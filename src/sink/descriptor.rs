//! What pipes and sockets share: a fast way for image files, and the plain way behind it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::traits::slices;
use super::transport::Transport;
use crate::arithmetic::at_most;
use crate::held_signal::without_sigpipe;
use crate::piece::Piece;

/// Bytes that a blocking pipe takes without blocking once `poll` says that it is ready.
const READY_BYTES: usize = libc::PIPE_BUF;

/// A descriptor that is written to in order.
#[derive(Debug)]
pub(super) struct Descriptor<F, T> {
    fd: F,
    transport: T,
    /// Whether a write may block for as long as it likes.
    may_block: bool,
    /// Whether a write without blocking is known to be impossible.
    blocks: bool,
    /// Whether parts of image files are lent, as far as is known.
    lends: bool,
    /// Whether the descriptor was waited for to lend a part.
    has_waited: bool,
    /// Whether the descriptor was ready for a write that would have blocked all the same.
    was_ready: bool,
    /// Whether nothing more of the dump may be lent: what is left fits into the descriptor, which holds lent pages until
    /// its reader takes them, so it is copied.
    is_rest: bool,
    /// Where in the dump the last part that was lent has ended: what is left of a piece is lent however short it is.
    lent_to: Option<u64>,
    /// Bytes of the dump that are still to come, if that is known.
    left: Option<u64>,
}

impl<F: AsFd, T: Transport> Descriptor<F, T> {
    pub(super) fn new(fd: F, transport: T) -> Self {
        Self {
            fd,
            transport,
            may_block: true,
            blocks: false,
            lends: true,
            has_waited: false,
            was_ready: false,
            is_rest: false,
            lent_to: None,
            left: None,
        }
    }

    pub(super) fn set_lend(&mut self, lend: bool) {
        self.lends = lend;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A dump of `len` bytes begins.
    pub(super) fn begin(&mut self, len: u64, may_block: bool) {
        (self.left, self.may_block, self.is_rest) = (Some(len), may_block, false);
    }

    /// Takes some of `pieces`, as `Sink::put`.
    pub(super) fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let taken = match pieces.first().map(|first| self.lend(first)) {
            Some(Ok(0)) | None => self.write(pieces),
            Some(lent) => lent,
        }?;
        self.left = self.left.and_then(|left| left.checked_sub(taken as u64));
        Ok(taken)
    }

    /// Whether a piece is one that is lent, if there is room for that.
    fn is_lent(&self, piece: &Piece<'_>) -> bool {
        self.lends
            && !self.is_rest
            && piece.file.is_some()
            && piece.bytes.len() >= self.least_lent(piece)
    }

    /// From how many bytes on a piece is lent.
    fn least_lent(&self, piece: &Piece<'_>) -> usize {
        if self.lent_to == Some(piece.offset) { 1 } else { T::LEAST_LENT }
    }

    /// Lends the first bytes of a piece and gives their number; what can't be lent, for whatever reason, is to be written.
    fn lend(&mut self, piece: &Piece<'_>) -> Result<usize, Errno> {
        let Some((file, at)) = piece.file.filter(|_| self.is_lent(piece)) else { return Ok(0) };
        let capacity = self.transport.capacity(self.fd.as_fd());
        // The last bytes, as many as the descriptor may still hold, are copied.
        let lendable = self.left.zip(capacity).map_or(0, |(left, most)| left.saturating_sub(most));
        if lendable < T::LEAST_LENT as u64 {
            self.is_rest = true;
        }
        let most = at_most(lendable, piece.bytes.len());
        if most < self.least_lent(piece) {
            return Ok(0);
        }
        let (mut next, mut left) = (at, most);
        let ended = without_sigpipe(|| {
            // All in one go, or as much as goes without waiting: each call more would cost a few others.
            while left > 0 {
                match self.transport.lend(self.fd.as_fd(), file, next, left, self.may_block) {
                    // The file ends here.
                    Ok(0) => break,
                    Ok(some) => {
                        next = next.checked_add(some as u64).ok_or(Errno::OVERFLOW)?;
                        left = left.checked_sub(some).ok_or(Errno::OVERFLOW)?;
                    }
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        });
        // No more is left than there was.
        let lent = most.checked_sub(left).ok_or(Errno::OVERFLOW)?;
        if lent > 0 {
            self.has_waited = false;
            self.lent_to = piece.offset.checked_add(lent as u64);
        }
        match ended {
            Ok(()) => {}
            Err(Errno::INTR) if lent == 0 => return Err(Errno::INTR),
            Err(Errno::AGAIN) if lent == 0 && !self.has_waited => {
                self.has_waited = true;
                return Err(Errno::AGAIN);
            }
            Err(Errno::INTR | Errno::AGAIN) if lent > 0 => {}
            Err(_) => self.lends = false,
        }
        Ok(lent)
    }

    /// Writes some of `pieces`, up to the next one that is lent.
    fn write(&mut self, pieces: &[Piece<'_>]) -> Result<usize, Errno> {
        let mut later = pieces.iter().enumerate().skip(1);
        let lent = later.find(|(_, piece)| self.is_lent(piece));
        let slices = slices(lent.and_then(|(end, _)| pieces.get(..end)).unwrap_or(pieces));
        if self.may_block {
            return self.transport.write(self.fd.as_fd(), &slices, true);
        }
        if !self.blocks {
            match self.transport.write(self.fd.as_fd(), &slices, false) {
                Err(Errno::OPNOTSUPP) => self.blocks = true,
                // Some file systems never take anything without blocking, and are always ready.
                Err(Errno::AGAIN) if self.is_ready()? => {
                    self.blocks = self.was_ready;
                    self.was_ready = true;
                    if !self.blocks {
                        return Err(Errno::AGAIN);
                    }
                }
                result => {
                    self.was_ready &= result.is_err();
                    return result;
                }
            }
        }
        // A small write does not block if the descriptor is ready.
        if !self.is_ready()? {
            return Err(Errno::AGAIN);
        }
        let first = slices.iter().map(|slice| &**slice).find(|slice| !slice.is_empty());
        let first = first.unwrap_or_default();
        let first = first.get(..READY_BYTES).unwrap_or(first);
        self.transport.write(self.fd.as_fd(), &[IoSlice::new(first)], true)
    }

    /// Whether the descriptor takes bytes now, or is broken.
    fn is_ready(&self) -> Result<bool, Errno> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::OUT)];
        Ok(poll(&mut fds, Some(&now))? > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::piece::advance;

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
        /// Whether a write without blocking is refused, though the descriptor is ready.
        is_reluctant: bool,
    }

    impl Fake {
        fn answer(&self) -> Result<(), Errno> {
            let call = self.calls.replace(self.calls.get() + 1);
            self.answers[call % self.answers.len()]
        }
    }

    impl Transport for &Fake {
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
            if self.is_reluctant && !wait {
                return Err(Errno::AGAIN);
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
            let of = |bytes, file| Piece { file, ..Piece::new(0, bytes) };
            pieces.push(of(&b"header"[..], None));
            pieces.push(of(&part[..1000], Some((&file, at))));
            pieces.push(of(&part[1000..], Some((&file, at + 1000))));
            pieces.push(of(&part[..70_000], None));
        }
        let expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        let answers = answers.to_vec();
        let (taken, lent, calls) = Default::default();
        let fake = Fake { taken, lent, step, answers, calls, blocks, is_reluctant: false };
        // Always ready.
        let ready = File::options().write(true).open("/dev/null").unwrap();
        let mut descriptor = Descriptor::new(ready.as_fd(), &fake);
        descriptor.begin(expected.len() as u64, !blocks);
        for part in pieces.chunks_mut(5) {
            let mut rest = part;
            while !rest.is_empty() {
                match descriptor.put(rest) {
                    Ok(taken) => rest = advance(rest, taken).unwrap(),
                    Err(error) => {
                        let kinds = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
                        assert!(kinds.contains(&error.kind()), "{error}");
                    }
                }
            }
        }
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

    /// A file on a file system that takes nothing without blocking, and is always ready.
    #[test]
    fn what_is_ready_and_takes_nothing_is_written_to_all_the_same() {
        let (taken, lent, calls) = Default::default();
        let answers = vec![Ok(())];
        let fake =
            Fake { taken, lent, step: 999, answers, calls, blocks: false, is_reluctant: true };
        let ready = File::options().write(true).open("/dev/null").unwrap();
        let mut descriptor = Descriptor::new(ready.as_fd(), &fake);
        descriptor.begin(5000, false);
        let bytes = [7; 5000];
        let (mut at, mut refused) = (0, 0);
        while at < bytes.len() {
            match descriptor.put(&[Piece::new(at as u64, &bytes[at..])]) {
                Ok(some) => at += some,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
            assert!(refused < 2);
        }
        assert_eq!(*fake.taken.borrow(), bytes);
    }
}
