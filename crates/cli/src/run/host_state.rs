//! The data of a core module's store: WASI, and the point at which snapshots freeze the guest.

use wasmtime_wasi::p1::WasiP1Ctx;

use super::snapshot::{GuestState, SnapshotPoint};

/// The data of the store.
pub struct HostState {
    /// WASI. A host call that may wait takes it out, so that the store can be captured while the call waits.
    wasi: Option<Box<WasiP1Ctx>>,
    pub snapshots: Option<SnapshotPoint<Self>>,
}

impl HostState {
    pub fn new(wasi: WasiP1Ctx, snapshots: Option<SnapshotPoint<Self>>) -> Self {
        Self { wasi: Some(Box::new(wasi)), snapshots }
    }

    /// Returns WASI. Must not be called within a host call that has taken it.
    pub fn wasi(&mut self) -> &mut WasiP1Ctx {
        match &mut self.wasi {
            Some(wasi) => wasi,
            None => unreachable!("a host call of WASI calls no other one"),
        }
    }

    /// Takes WASI out for one host call.
    pub fn take_wasi(&mut self) -> Option<Box<WasiP1Ctx>> {
        self.wasi.take()
    }

    /// Puts WASI back after the host call.
    pub fn put_wasi(&mut self, wasi: Box<WasiP1Ctx>) {
        self.wasi = Some(wasi);
    }
}

impl GuestState for HostState {
    fn snapshots(&self) -> Option<&SnapshotPoint<Self>> {
        self.snapshots.as_ref()
    }
}
