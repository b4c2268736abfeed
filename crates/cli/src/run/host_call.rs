//! Host calls that are pending at the time limit, or when a snapshot is wanted.
//!
//! # The problem
//! A guest can wait in a host call, such as a read or a sleep. Neither an epoch nor a signal stops it there. Dropping
//! the future of the whole call would unwind the guest's stack and lose its frames. And while the future exists, it
//! borrows the store, so the store cannot be captured.
//!
//! # The idea
//! Each WASI function that can wait races with the time limit inside its own call, and fails at the limit. The guest
//! then looks like one that trapped, with the frames of its entry into the call.
//!
//! For a snapshot, the future must not borrow the store. So WASI is taken out of the store for the call, and the memory
//! of the guest is lent as cells ([`guest_cells`](super::guest_cells)). Whenever the future is pending, the guest is
//! stopped and nothing is borrowed, and a wanted snapshot freezes the guest there.
//!
//! # The cost
//! A call that does not wait has hardly any extra cost: it looks for the limit and for a wanted snapshot only when its
//! own future is pending. In a memory of cells, WASI copies arguments that it would borrow otherwise.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::time::sleep_until;
use wasmtime::{AsContext, AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1};
use wiggle::GuestMemory;

use super::guest_cells::cells;
use super::host_state::HostState;
use super::snapshot::GuestState;

/// The time limit, if there is one.
static LIMIT: OnceLock<Instant> = OnceLock::new();

/// Sets the time at which pending host calls end. Called once per process.
pub fn set_limit(at: Instant) {
    let _ = LIMIT.set(at);
}

/// Returns the time at which pending host calls end.
pub fn limit() -> Option<Instant> {
    LIMIT.get().copied()
}

/// The error of a host call that is pending at the time limit.
#[derive(Debug)]
pub struct Pending(pub &'static str);

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in the host call {}", self.0)
    }
}

impl std::error::Error for Pending {}

/// Waits for a host call until the time limit. Freezes the guest meanwhile if a snapshot is wanted.
pub async fn wait<R>(
    name: &'static str,
    call: impl Future<Output = wasmtime::Result<R>>,
    store: &mut impl AsContextMut<Data: GuestState>,
) -> wasmtime::Result<R> {
    let mut call = pin!(call);
    let mut timer = None;
    let exchange = store.as_context().data().snapshots().map(|point| point.exchange.clone());
    poll_fn(|cx| {
        if let Poll::Ready(result) = call.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if let Some(exchange) = &exchange {
            exchange.wake_by(cx.waker());
            exchange.freeze(&mut *store, Some(name));
        }
        let Some(at) = limit() else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Pending(name).into()))
    })
    .await
}

macro_rules! define {
    ($linker:ident, $($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $linker.func_wrap_async(
            "wasi_snapshot_preview1",
            stringify!($name),
            |mut caller: Caller<'_, HostState>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let memory = caller.get_export("memory");
                    let fuel = caller.as_context_mut().hostcall_fuel();
                    let cells = match &memory {
                        // SAFETY: the cells are used only in this host call, during which the guest is stopped. The
                        // call has no `&mut` to the memory, and a snapshot reads it only while the call is pending.
                        Some(Extern::Memory(memory)) => unsafe { cells(memory, &caller) },
                        Some(Extern::SharedMemory(memory)) => memory.data(),
                        _ => wasmtime::bail!("missing required memory export"),
                    };
                    let Some(mut wasi) = caller.data_mut().take_wasi() else {
                        wasmtime::bail!("WASI is in use by another host call");
                    };
                    wasi.set_hostcall_fuel(fuel);
                    let mut memory = GuestMemory::Shared(cells);
                    let call = wasi::$name(&mut *wasi, &mut memory, $($arg),*);
                    let result = wait(stringify!($name), call, &mut caller).await;
                    caller.data_mut().put_wasi(wasi);
                    result
                })
            },
        )?;
    )*};
}

/// Redefines the WASI preview 1 functions that can wait. The linker already has all functions, and must allow
/// shadowing.
#[allow(unsafe_code, reason = "lends the memory as cells")]
pub fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    // All functions that `wasmtime_wasi::p1` declares as `async`.
    define!(linker,
        fd_advise(a: i32, b: i64, c: i64, d: i32);
        fd_close(a: i32);
        fd_datasync(a: i32);
        fd_fdstat_get(a: i32, b: i32);
        fd_filestat_get(a: i32, b: i32);
        fd_filestat_set_size(a: i32, b: i64);
        fd_filestat_set_times(a: i32, b: i64, c: i64, d: i32);
        fd_pread(a: i32, b: i32, c: i32, d: i64, e: i32);
        fd_pwrite(a: i32, b: i32, c: i32, d: i64, e: i32);
        fd_read(a: i32, b: i32, c: i32, d: i32);
        fd_readdir(a: i32, b: i32, c: i32, d: i64, e: i32);
        fd_renumber(a: i32, b: i32);
        fd_seek(a: i32, b: i64, c: i32, d: i32);
        fd_sync(a: i32);
        fd_write(a: i32, b: i32, c: i32, d: i32);
        path_create_directory(a: i32, b: i32, c: i32);
        path_filestat_get(a: i32, b: i32, c: i32, d: i32, e: i32);
        path_filestat_set_times(a: i32, b: i32, c: i32, d: i32, e: i64, f: i64, g: i32);
        path_link(a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i32);
        path_open(a: i32, b: i32, c: i32, d: i32, e: i32, f: i64, g: i64, h: i32, i: i32);
        path_readlink(a: i32, b: i32, c: i32, d: i32, e: i32, f: i32);
        path_remove_directory(a: i32, b: i32, c: i32);
        path_rename(a: i32, b: i32, c: i32, d: i32, e: i32, f: i32);
        path_symlink(a: i32, b: i32, c: i32, d: i32, e: i32);
        path_unlink_file(a: i32, b: i32, c: i32);
        poll_oneoff(a: i32, b: i32, c: i32, d: i32);
    );
    Ok(())
}
