//! Writes to pipes and sockets: lends pages of image files where it can, and copies everything else.
//!
//! # The problem
//! A `write` to a pipe copies every byte: 2.1 GB/s into a pipe of 1 MiB. The kernel can *lend* pages of a file instead:
//! `splice` puts references to page cache pages into a pipe, and `sendfile` does the same for a socket. That reaches
//! 5.5 GB/s. But a lent page is not a copy. If the file changes before the reader takes the page, the reader gets the
//! new bytes, which do not match the checksums. And not every descriptor, file system or sandbox supports it.
//!
//! # The idea
//! Only pages of mapped image files that cannot change are lent ([`Piece::file`]). Pages of a live guest are never
//! lent, because a reader that forwards them with `splice` would see later changes.
//!
//! [`Descriptor::put`] first tries to lend the first piece. If it cannot, for any reason, it writes that piece and the
//! following ones, up to the next piece to lend. An error of the lending call is not reported: the write of the same
//! bytes reports what is wrong with the descriptor, or succeeds. After an unexpected error nothing more is lent. EAGAIN
//! from a descriptor that the writer has already waited for counts as unexpected.
//!
//! Lending a short piece costs more than copying it along with its neighbours, so a piece has a minimum length
//! ([`Transport::MIN_LEND_BYTES`]). The remainder of a piece that was lent in part has none.
//!
//! # The invariant
//! When the dump is done, the descriptor holds no lent page, so the caller may change or truncate the image. To that
//! end, the last bytes of the dump are copied, as many as the descriptor can hold. Once they are all in, the reader has
//! taken everything before them. If the capacity is unknown, nothing is lent. Only a reader that enlarges the pipe
//! during the dump, or forwards its pages, can hold lent pages for longer.
//!
//! # Writes that must not block
//! If the dump can be cancelled or has a time limit, `put` must not block. Pipes are written with `RWF_NOWAIT`, sockets
//! with `MSG_DONTWAIT`. Where that is not supported, a write of `PIPE_BUF` bytes after `poll` reports that the
//! descriptor is ready does not block either. Some file systems refuse every `RWF_NOWAIT` write although the descriptor
//! is always ready. The second refusal of a ready descriptor is taken as a sign of that.
//!
//! # What was tried
//! `vmsplice` of a live guest would avoid the copy too, but a page that changes later reaches a reader that has
//! forwarded it. `sendfile` over TCP gained nothing on loopback.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::traits::slices;
use super::transport::Transport;
use crate::arithmetic::at_most;
use crate::held_signal::without_sigpipe;
use crate::piece::Piece;

/// The number of bytes that a blocking pipe takes without blocking after `poll` reports that it is ready.
const READY_BYTES: usize = libc::PIPE_BUF;

/// A descriptor that is written in order, with the state of lending.
#[derive(Debug)]
pub(super) struct Descriptor<F, T> {
    fd: F,
    transport: T,
    /// Whether a write may block.
    may_block: bool,
    /// Whether writing without blocking is known to be impossible.
    always_blocks: bool,
    /// Whether to lend parts of image files. Cleared at the first unexpected error.
    can_lend: bool,
    /// Whether the writer has already waited for the descriptor in order to lend a part.
    has_waited: bool,
    /// Whether a write that must not block was refused although the descriptor was ready.
    was_ready: bool,
    /// Whether the rest of the dump must be copied, because it fits into the descriptor.
    must_copy_rest: bool,
    /// The offset in the dump after the last lent part. A piece that begins there is the remainder of a lent one, so it
    /// has no minimum length.
    lent_end: Option<u64>,
    /// The number of remaining bytes of the dump, if known.
    remaining: Option<u64>,
}

impl<F: AsFd, T: Transport> Descriptor<F, T> {
    pub(super) fn new(fd: F, transport: T) -> Self {
        Self {
            fd,
            transport,
            may_block: true,
            always_blocks: false,
            can_lend: true,
            has_waited: false,
            was_ready: false,
            must_copy_rest: false,
            lent_end: None,
            remaining: None,
        }
    }

    pub(super) fn set_lend(&mut self, lend: bool) {
        self.can_lend = lend;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Prepares for a dump of `len` bytes.
    pub(super) fn begin(&mut self, len: u64, may_block: bool) {
        (self.remaining, self.may_block, self.must_copy_rest) = (Some(len), may_block, false);
    }

    /// Takes some of `pieces`, like `Sink::put`.
    pub(super) fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let taken = match pieces.first().map(|first| self.lend(first)) {
            Some(Ok(0)) | None => self.write(pieces),
            Some(lent) => lent,
        }?;
        self.remaining = self.remaining.and_then(|len| len.checked_sub(taken as u64));
        Ok(taken)
    }

    /// Returns whether to lend a piece, not considering the capacity of the descriptor.
    fn should_lend(&self, piece: &Piece<'_>) -> bool {
        self.can_lend
            && !self.must_copy_rest
            && piece.file.is_some()
            && piece.bytes.len() >= self.min_lend_len(piece)
    }

    /// Returns the minimum length in bytes to lend a piece.
    fn min_lend_len(&self, piece: &Piece<'_>) -> usize {
        if self.lent_end == Some(piece.offset) { 1 } else { T::MIN_LEND_BYTES }
    }

    /// Lends the first bytes of a piece and returns their number. If it returns 0, the piece must be written.
    ///
    /// # Errors
    /// Returns EINTR or EAGAIN, after which the writer calls again.
    fn lend(&mut self, piece: &Piece<'_>) -> Result<usize, Errno> {
        let Some((file, at)) = piece.file.filter(|_| self.should_lend(piece)) else { return Ok(0) };
        let capacity = self.transport.capacity(self.fd.as_fd());
        // The last bytes, as many as the descriptor can hold, are copied.
        let lendable = match (self.remaining, capacity) {
            (Some(remaining), Some(capacity)) => remaining.saturating_sub(capacity),
            _ => 0,
        };
        if lendable < T::MIN_LEND_BYTES as u64 {
            self.must_copy_rest = true;
        }
        let len = at_most(lendable, piece.bytes.len());
        if len < self.min_lend_len(piece) {
            return Ok(0);
        }
        let (mut next, mut left) = (at, len);
        let ended = without_sigpipe(|| {
            // Lends as much as possible in one go: each return to the writer costs several other calls.
            while left > 0 {
                match self.transport.lend(self.fd.as_fd(), file, next, left, self.may_block) {
                    // The file ends here.
                    Ok(0) => break,
                    Ok(lent) => {
                        next = next.checked_add(lent as u64).ok_or(Errno::OVERFLOW)?;
                        left = left.checked_sub(lent).ok_or(Errno::OVERFLOW)?;
                    }
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        });
        let lent = len.checked_sub(left).ok_or(Errno::OVERFLOW)?;
        if lent > 0 {
            self.has_waited = false;
            self.lent_end = piece.offset.checked_add(lent as u64);
        }
        match ended {
            Ok(()) => {}
            Err(Errno::INTR) if lent == 0 => return Err(Errno::INTR),
            Err(Errno::AGAIN) if lent == 0 && !self.has_waited => {
                self.has_waited = true;
                return Err(Errno::AGAIN);
            }
            Err(Errno::INTR | Errno::AGAIN) if lent > 0 => {}
            Err(_) => self.can_lend = false,
        }
        Ok(lent)
    }

    /// Writes some of `pieces`, up to the next one to lend.
    fn write(&mut self, pieces: &[Piece<'_>]) -> Result<usize, Errno> {
        let mut later = pieces.iter().enumerate().skip(1);
        let lent = later.find(|(_, piece)| self.should_lend(piece));
        let slices = slices(lent.and_then(|(end, _)| pieces.get(..end)).unwrap_or(pieces));
        if self.may_block {
            return self.transport.write(self.fd.as_fd(), &slices, true);
        }
        if !self.always_blocks {
            match self.transport.write(self.fd.as_fd(), &slices, false) {
                Err(Errno::OPNOTSUPP) => self.always_blocks = true,
                // Some file systems refuse every write that must not block, and always report that they are ready.
                Err(Errno::AGAIN) if self.is_ready()? => {
                    self.always_blocks = self.was_ready;
                    self.was_ready = true;
                    if !self.always_blocks {
                        return Err(Errno::AGAIN);
                    }
                }
                result => {
                    self.was_ready &= result.is_err();
                    return result;
                }
            }
        }
        // A short write does not block if the descriptor is ready.
        if !self.is_ready()? {
            return Err(Errno::AGAIN);
        }
        let first = slices.iter().map(|slice| &**slice).find(|slice| !slice.is_empty());
        let first = first.unwrap_or_default();
        let first = first.get(..READY_BYTES).unwrap_or(first);
        self.transport.write(self.fd.as_fd(), &[IoSlice::new(first)], true)
    }

    /// Returns whether the descriptor takes bytes now, or has failed.
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

    /// A transport that takes at most `step` bytes per call and answers calls to lend as told.
    #[derive(Debug)]
    struct Fake {
        taken: RefCell<Vec<u8>>,
        lent: Cell<usize>,
        step: usize,
        /// The answers to calls to lend, repeated in order. `Ok` lends.
        answers: Vec<Result<(), Errno>>,
        calls: Cell<usize>,
        always_blocks: bool,
        /// Whether writes that must not block are refused although the descriptor is ready.
        is_reluctant: bool,
    }

    impl Fake {
        fn answer(&self) -> Result<(), Errno> {
            let call = self.calls.replace(self.calls.get() + 1);
            self.answers[call % self.answers.len()]
        }
    }

    impl Transport for &Fake {
        const MIN_LEND_BYTES: usize = 16 << 10;

        fn write(
            &self,
            _: BorrowedFd<'_>,
            slices: &[IoSlice<'_>],
            wait: bool,
        ) -> Result<usize, Errno> {
            if self.always_blocks && !wait {
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

    /// Writes pieces that can be lent and others by turns, checks the bytes, and returns the number of lent bytes.
    fn check(answers: &[Result<(), Errno>], step: usize, cut: u64, always_blocks: bool) -> usize {
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
        let fake = Fake { taken, lent, step, answers, calls, always_blocks, is_reluctant: false };
        // Always ready.
        let ready = File::options().write(true).open("/dev/null").unwrap();
        let mut descriptor = Descriptor::new(ready.as_fd(), &fake);
        descriptor.begin(expected.len() as u64, !always_blocks);
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
    fn writes_what_cannot_be_lent() {
        let all = 6 * 99_000;
        // The step, and the maximum number of bytes that two calls lend.
        for (step, twice) in [(997, 2 * 997), (65_536, 99_000), (usize::MAX, 2 * 99_000)] {
            for always_blocks in [false, true] {
                assert_eq!(check(&[Ok(())], step, 600_000, always_blocks), all);
                let interrupted = [Err(Errno::INTR), Ok(()), Err(Errno::AGAIN), Ok(())];
                assert_eq!(check(&interrupted, step, 600_000, always_blocks), all);
                for errno in [Errno::INVAL, Errno::NOSYS, Errno::IO] {
                    assert_eq!(check(&[Err(errno)], step, 600_000, always_blocks), 0);
                    let lent = check(&[Ok(()), Ok(()), Err(errno)], step, 600_000, always_blocks);
                    assert_eq!(lent, twice);
                }
                // The descriptor is ready but never lends again.
                let never = [Ok(()), Err(Errno::AGAIN), Err(Errno::AGAIN)];
                assert!(check(&never, step, 600_000, always_blocks) <= 99_000);
                // The file ends within a piece.
                assert_eq!(check(&[Ok(())], step, 350_000, always_blocks), 3 * 99_000 + 49_000);
            }
        }
    }

    /// A file on a file system that refuses every write that must not block, and is always ready.
    #[test]
    fn writes_to_a_ready_descriptor_that_refuses_writes_without_blocking() {
        let (taken, lent, calls) = Default::default();
        let answers = vec![Ok(())];
        let fake = Fake {
            taken,
            lent,
            step: 999,
            answers,
            calls,
            always_blocks: false,
            is_reluctant: true,
        };
        let ready = File::options().write(true).open("/dev/null").unwrap();
        let mut descriptor = Descriptor::new(ready.as_fd(), &fake);
        descriptor.begin(5000, false);
        let bytes = [7; 5000];
        let (mut at, mut refused) = (0, 0);
        while at < bytes.len() {
            match descriptor.put(&[Piece::new(at as u64, &bytes[at..])]) {
                Ok(taken) => at += taken,
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
