//! The data of the guest's store: WASI, and the point at which snapshots freeze the guest.

use std::sync::Arc;

use corestream::ModuleIdentity;
use wasmtime::{Instance, Module};
use wasmtime_wasi::p1::WasiP1Ctx;

use super::arguments::Run;
use super::snapshot::Exchange;

/// The data of the store.
pub struct HostState {
    /// WASI. A host call that may wait takes it out, so that the store can be captured while the call waits.
    wasi: Option<Box<WasiP1Ctx>>,
    pub snapshots: Option<SnapshotPoint>,
}

/// The data that the guest's thread needs to freeze the guest.
#[derive(Clone)]
pub struct SnapshotPoint {
    pub exchange: Arc<Exchange>,
    /// The name of the process.
    pub name: String,
    /// The maximum number of frames.
    pub max_frames: usize,
    /// The guest's module, with the identity of its original bytes.
    pub module: Option<(Module, ModuleIdentity)>,
    /// The guest, once it is instantiated.
    pub instance: Option<Instance>,
}

impl SnapshotPoint {
    pub fn new(exchange: Arc<Exchange>, run: &Run) -> Self {
        let (name, max_frames) = (run.name(), run.max_frames as usize);
        Self { exchange, name, max_frames, module: None, instance: None }
    }
}

impl HostState {
    pub fn new(wasi: WasiP1Ctx, snapshots: Option<SnapshotPoint>) -> Self {
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
