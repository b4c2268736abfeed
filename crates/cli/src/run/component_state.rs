//! The data of a component's store: WASI, whose waiting calls end at the time limit.
//!
//! # The problem
//! A guest can wait in a host call, and an epoch does not stop it there. For core modules, [`host_call`](super::host_call)
//! redefines the WASI functions that can wait.
//!
//! # The idea
//! In WASI 0.2 all waiting is in two interfaces, `wasi:io/poll` and `wasi:io/streams`. [`Limited`] implements them by
//! the implementation of `wasmtime-wasi`, and lets each call that can wait race with the time limit.
//!
//! Calls of the file system run on other threads, and usually end soon. A guest that is still in one of them after the
//! limit cannot be dumped, and [`time_limit`](super::time_limit) ends it.

use std::future::Future;

use tokio::time::timeout_at;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, HostPollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{self, HostInputStream, HostOutputStream};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError, StreamResult};

use super::host_call::{Pending, limit};

/// The data of the store.
pub struct ComponentState {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl ComponentState {
    pub fn new(wasi: WasiCtx) -> Self {
        Self { wasi, table: ResourceTable::new() }
    }

    fn limited(&mut self) -> Limited<'_> {
        Limited(&mut self.table)
    }
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Redefines the interfaces that can wait, so that their calls end at the time limit. The linker must allow shadowing.
pub fn limit_waits(linker: &mut Linker<ComponentState>) -> Result<()> {
    poll::add_to_linker::<_, HasLimited>(linker, ComponentState::limited)?;
    streams::add_to_linker::<_, HasLimited>(linker, ComponentState::limited)
}

struct HasLimited;

impl HasData for HasLimited {
    type Data<'a> = Limited<'a>;
}

/// The streams and pollables of a guest.
struct Limited<'a>(&'a mut ResourceTable);

/// Waits for a host call until the time limit.
async fn in_time<R, E: From<Pending>>(
    name: &'static str,
    call: impl Future<Output = Result<R, E>>,
) -> Result<R, E> {
    match limit() {
        Some(at) => timeout_at(at.into(), call).await.unwrap_or_else(|_| Err(Pending(name).into())),
        None => call.await,
    }
}

/// Waits for a call of a stream until the time limit.
async fn stream_in_time<R>(
    name: &'static str,
    call: impl Future<Output = StreamResult<R>>,
) -> StreamResult<R> {
    named(name, in_time(name, call).await)
}

/// Names the call that was pending. The standard streams wait themselves, and name the call of WASI preview 1.
fn named<R>(name: &'static str, result: StreamResult<R>) -> StreamResult<R> {
    match result {
        Err(StreamError::Trap(error)) if error.is::<Pending>() => Err(Pending(name).into()),
        result => result,
    }
}

impl From<Pending> for StreamError {
    fn from(pending: Pending) -> Self {
        Self::Trap(pending.into())
    }
}

impl poll::Host for Limited<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        in_time("poll", poll::Host::poll(self.0, pollables)).await
    }
}

impl HostPollable for Limited<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        in_time("pollable.block", self.0.block(pollable)).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        self.0.ready(pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        HostPollable::drop(self.0, pollable)
    }
}

impl streams::Host for Limited<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        self.0.convert_stream_error(error)
    }
}

impl HostInputStream for Limited<'_> {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        self.0.read(stream, len)
    }

    async fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        stream_in_time("input-stream.blocking-read", self.0.blocking_read(stream, len)).await
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        self.0.skip(stream, len)
    }

    async fn blocking_skip(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        stream_in_time("input-stream.blocking-skip", self.0.blocking_skip(stream, len)).await
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        HostInputStream::subscribe(self.0, stream)
    }

    async fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        in_time("[drop]input-stream", HostInputStream::drop(self.0, stream)).await
    }
}

impl HostOutputStream for Limited<'_> {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        self.0.check_write(stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        named("output-stream.write", self.0.write(stream, bytes))
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        let write = self.0.blocking_write_and_flush(stream, bytes);
        stream_in_time("output-stream.blocking-write-and-flush", write).await
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.0.flush(stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        stream_in_time("output-stream.blocking-flush", self.0.blocking_flush(stream)).await
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        HostOutputStream::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        named("output-stream.write-zeroes", self.0.write_zeroes(stream, len))
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        let write = self.0.blocking_write_zeroes_and_flush(stream, len);
        stream_in_time("output-stream.blocking-write-zeroes-and-flush", write).await
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        named("output-stream.splice", self.0.splice(to, from, len))
    }

    async fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        stream_in_time("output-stream.blocking-splice", self.0.blocking_splice(to, from, len)).await
    }

    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        in_time("[drop]output-stream", HostOutputStream::drop(self.0, stream)).await
    }
}
