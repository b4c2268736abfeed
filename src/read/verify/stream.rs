//! Reports the progress of a stream that is verified, and cancels it.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use crate::arithmetic::Checked;
use crate::control::{Control, Meter, Stage};

/// A stream of which somebody watches how much has passed, and that fails when the work is cancelled.
pub(super) struct Watched<'p, 'c, R> {
    pub(super) stream: R,
    pub(super) passing: &'p Passing<'c>,
}

/// How much of a stream has passed.
pub(super) struct Passing<'c> {
    control: &'c Control,
    /// Who is told, once the dump has said how long it is; `None` again where that is void.
    meter: RefCell<Option<Meter<'c>>>,
    /// The bytes that have passed.
    bytes: Cell<u64>,
    /// Whether the stream has failed because the work was cancelled.
    pub(super) has_cancelled: Cell<bool>,
}

impl<'c> Passing<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        let (meter, bytes) = (RefCell::new(None), Cell::new(0));
        Self { control, meter, bytes, has_cancelled: Cell::new(false) }
    }

    /// Begins to tell: the dump has `total` bytes.
    pub(super) fn begin(&self, total: u64) {
        let meter = self.control.begin(Stage::Verify, total);
        meter.add(self.bytes.get());
        self.meter.replace(Some(meter));
    }

    /// Tells nothing any more.
    pub(super) fn end(&self) {
        self.meter.replace(None);
    }

    /// Tells that all has passed.
    pub(super) fn finish(&self) {
        if let Some(meter) = &*self.meter.borrow() {
            meter.finish();
        }
    }
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Passing { control, meter, bytes, has_cancelled } = self.passing;
        if let Err(cancelled) = control.check_cancelled() {
            has_cancelled.set(true);
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
