//! The point in a store's data at which its guest can be frozen.

use std::sync::Arc;

use corestream_wasmtime::Capture;

use super::Exchange;

/// The data of a store whose guest can be frozen.
pub trait GuestState: Send + Sized + 'static {
    /// Returns the exchange with the snapshot thread, if there can be snapshots.
    fn snapshots(&self) -> Option<&SnapshotPoint<Self>>;
}

/// The data that the guest's thread needs to freeze the guest.
pub struct SnapshotPoint<T: 'static> {
    pub exchange: Arc<Exchange>,
    /// How to capture the guest, once it is instantiated.
    pub capture: Option<Arc<Capture<'static, T>>>,
}

impl<T> SnapshotPoint<T> {
    pub fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, capture: None }
    }
}
