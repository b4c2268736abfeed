//! The parts that core modules and components both need: the engine, WASI, the runtime, and the outcome of a call.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use corestream::CoreDump;
use corestream_wasmtime::{Captured, HostMemories};
use tokio::runtime::Runtime;
use wasmtime::{Cache, Config, Error, Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::arguments::Run;
use super::cause;
use super::host_call;
use super::output_stream::Standard;
use super::overflow::StackPointer;
use super::snapshot::GuestState;
use super::standard_input;
use crate::report::Failure;

/// The outcome of a call.
pub enum Outcome {
    /// The call returned these results, as text.
    Returned(String),
    /// The call ended by a trap, the time limit or an exit.
    Failed(Error),
}

/// A guest after a failed call.
pub struct Stopped<'g> {
    pub captured: corestream::Result<Captured<'g>>,
    /// The offset of the trapping instruction in its function, if the engine reports a different one.
    pub place: Option<u32>,
    /// The stack pointer in the memory of the module that trapped, if known.
    pub stack: Option<StackPointer>,
}

/// Returns the runtime in which the guest's calls of the host wait.
pub fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("cannot run the guest: {error}")))
}

/// Returns the configuration of an engine that supports as many guests as possible, and reports as much as possible about
/// a crash. `memories` are those that snapshots protect.
///
/// # Errors
/// Returns an error if there is no directory for the cache that the user wants.
pub fn config(run: &Run, memories: Option<&Arc<HostMemories>>) -> Result<Config, Failure> {
    let mut config = Config::new();
    config.coredump_on_trap(true).guest_debug(run.locals);
    if let Some(memories) = memories {
        // A memory of the engine's own may be mapped from a file, move, or be unmapped during a snapshot.
        config.with_host_memory(memories.clone()).memory_init_cow(false);
    }
    config.wasm_backtrace_max_frames(NonZeroUsize::new(run.max_frames as usize));
    config.epoch_interruption(run.time_limit.is_some() || run.has_snapshots());
    config.wasm_memory64(true).wasm_custom_page_sizes(true).wasm_wide_arithmetic(true);
    config.wasm_function_references(true).wasm_gc(true).wasm_exceptions(true);
    config.wasm_threads(true).shared_memory(true);
    // Wasmtime compiles in a rayon pool, which panics if no thread can be started.
    config.parallel_compilation(rayon::ThreadPoolBuilder::new().build_global().is_ok());
    if run.cache {
        let cache = Cache::from_file(None);
        let failed = |error| Failure::new(format!("--cache: {}", cause::plain(&error)));
        config.cache(Some(cache.map_err(failed)?));
    }
    Ok(config)
}

/// Freezes the guest at an epoch deadline if a snapshot is wanted.
pub fn freeze_at_epochs<T: GuestState>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| {
        if host_call::limit().is_some_and(|limit| limit <= Instant::now()) {
            return Ok(UpdateDeadline::Interrupt);
        }
        let exchange = store.data().snapshots().map(|point| point.exchange.clone());
        if let Some(exchange) = exchange {
            exchange.freeze(&mut store, None);
        }
        Ok(UpdateDeadline::Continue(1))
    });
}

/// Builds the WASI context: arguments, standard streams, environment variables and directories.
pub fn wasi(run: &Run) -> Result<WasiCtxBuilder, Failure> {
    let mut wasi = WasiCtxBuilder::new();
    standard_input::make_blocking()
        .map_err(|error| Failure::new(format!("cannot use standard input: {error}")))?;
    wasi.inherit_stdin().stdout(Standard::Output).stderr(Standard::Error);
    wasi.arg(run.name()).args(&run.args);
    if run.network {
        wasi.inherit_network().allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
    }
    for variable in &run.env {
        wasi.env(&variable.name, &variable.value);
    }
    for dir in &run.dirs {
        let opened = wasi.preopened_dir(&dir.host, &dir.guest, FsPerms::ReadWrite);
        opened.map_err(|error| {
            let host = &dir.host;
            let cause = match host.metadata() {
                Ok(metadata) if !metadata.is_dir() => "not a directory".into(),
                Ok(_) => format!("cannot open: {error:#}"),
                Err(error) => format!("cannot open: {error}"),
            };
            Failure::new(format!("--dir {}: {cause}", host.display()))
        })?;
    }
    Ok(wasi)
}

/// Returns the module of a frame of the first thread, if its instance is known.
pub fn module_of_frame<'d>(dump: &'d CoreDump<'_>, frame: usize) -> Option<&'d corestream::Module> {
    let instance = dump.threads.first()?.frames.get(frame)?.instance?;
    let module = dump.instances.get(instance.0 as usize)?.module?;
    dump.modules.get(module.0 as usize)
}
