//! Progress and cancellation of a stream that is being verified.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use crate::arithmetic::Checked;
use crate::control::{Control, Meter, Stage};

/// A stream that reports its progress, and fails once the work is cancelled.
pub(super) struct MeteredStream<'p, 'c, R> {
    pub(super) stream: R,
    pub(super) progress: &'p StreamProgress<'c>,
}

/// The progress of a stream.
pub(super) struct StreamProgress<'c> {
    control: &'c Control,
    /// `Some` as long as the total length is known: from the header on, until the dump turns out to be rewritten.
    meter: RefCell<Option<Meter<'c>>>,
    /// The number of bytes read.
    bytes: Cell<u64>,
    /// Whether a read failed because the work was cancelled.
    pub(super) was_cancelled: Cell<bool>,
}

impl<'c> StreamProgress<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        let (meter, bytes) = (RefCell::new(None), Cell::new(0));
        Self { control, meter, bytes, was_cancelled: Cell::new(false) }
    }

    /// Begins reporting for a dump of `total` bytes.
    pub(super) fn begin(&self, total: u64) {
        let meter = self.control.begin(Stage::Verify, total);
        meter.add(self.bytes.get());
        self.meter.replace(Some(meter));
    }

    /// Stops reporting.
    pub(super) fn stop(&self) {
        self.meter.replace(None);
    }

    /// Reports that all bytes are done.
    pub(super) fn finish(&self) {
        if let Some(meter) = &*self.meter.borrow() {
            meter.finish();
        }
    }
}

impl<R: Read> Read for MeteredStream<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let StreamProgress { control, meter, bytes, was_cancelled } = self.progress;
        if let Err(cancelled) = control.check_cancelled() {
            was_cancelled.set(true);
            return Err(io::Error::other(cancelled));
        }
        let count = self.stream.read(buffer)?;
        bytes.set(bytes.get().plus(count as u64).map_err(io::Error::other)?);
        if let Some(meter) = &*meter.borrow() {
            meter.add(count as u64);
        }
        Ok(count)
    }
}
