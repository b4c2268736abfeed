//! A source that lends no bytes, records its reads, and can fail at any of them.
#![allow(dead_code, reason = "each test uses its part")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use corestream::read::ReadAt;
use corestream::{Error, ErrorKind};

/// A source that records its reads.
pub struct Counting<S> {
    bytes: S,
    /// The ranges of all reads.
    reads: Mutex<Vec<Range<u64>>>,
    /// The number of calls that asked for the length.
    lengths: AtomicUsize,
    /// The number of reads before one fails, or `usize::MAX` if none fails.
    left: AtomicUsize,
    /// Whether a read has failed.
    has_failed: AtomicBool,
    /// Whether all later reads fail, too.
    stays_failed: AtomicBool,
}

/// The reason of a failed read.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl<S: ReadAt> Counting<S> {
    pub fn new(bytes: S) -> Self {
        Self {
            bytes,
            reads: Mutex::default(),
            lengths: AtomicUsize::new(0),
            left: AtomicUsize::new(usize::MAX),
            has_failed: AtomicBool::new(false),
            stays_failed: AtomicBool::new(false),
        }
    }

    /// Returns the ranges of the reads since the last call.
    pub fn take_reads(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }

    /// Returns the number of calls that asked for the length.
    pub fn lengths(&self) -> usize {
        self.lengths.load(Ordering::Relaxed)
    }

    /// Runs `work`, during which read `k` fails. Also returns whether there was such a read.
    pub fn failing_at<T>(&self, k: usize, work: impl FnOnce() -> T) -> (T, bool) {
        self.failing(k, false, work)
    }

    /// Runs `work`, during which read `k` and all later ones fail. Also returns whether there was such a read.
    pub fn failing_from<T>(&self, k: usize, work: impl FnOnce() -> T) -> (T, bool) {
        self.failing(k, true, work)
    }

    fn failing<T>(&self, k: usize, stays: bool, work: impl FnOnce() -> T) -> (T, bool) {
        self.stays_failed.store(stays, Ordering::Relaxed);
        self.left.store(k, Ordering::Relaxed);
        let done = work();
        self.left.store(usize::MAX, Ordering::Relaxed);
        (done, self.has_failed.swap(false, Ordering::Relaxed))
    }

    /// Returns whether the next read fails.
    fn fails(&self) -> bool {
        let stays = self.stays_failed.load(Ordering::Relaxed);
        let left =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                usize::MAX => None,
                0 if stays => Some(0),
                0 => Some(usize::MAX),
                left => Some(left - 1),
            });
        let fails = left == Ok(0);
        self.has_failed.fetch_or(fails, Ordering::Relaxed);
        fails
    }
}

impl<S: ReadAt> ReadAt for Counting<S> {
    fn len(&self) -> io::Result<u64> {
        self.lengths.fetch_add(1, Ordering::Relaxed);
        self.bytes.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.lock().unwrap().push(offset..offset + buffer.len() as u64);
        if self.fails() {
            // The reader could take one of these kinds for the end of the dump.
            let kinds =
                [io::ErrorKind::UnexpectedEof, io::ErrorKind::Other, io::ErrorKind::InvalidData];
            let kind = kinds[usize::try_from(offset).unwrap_or_default() % kinds.len()];
            return Err(io::Error::new(kind, Refused));
        }
        self.bytes.read_exact_at(buffer, offset)
    }
}

/// Checks that an error is that of a failed read of [`Counting`].
pub fn assert_refused(error: &Error, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Input, "{what}: {error}");
    let source = error.io_error().unwrap_or_else(|| panic!("{what}: {error} has no source"));
    let is_refused = source.get_ref().is_some_and(|inner| inner.is::<Refused>());
    assert!(is_refused, "{what}: {error}");
    assert!(error.to_string().ends_with("cannot read: refused"), "{what}: {error}");
}
