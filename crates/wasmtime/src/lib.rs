//! Core dumps of guests of the engine [Wasmtime](https://docs.rs/wasmtime/48), with the library [`corestream`]: a store
//! becomes a [`CoreDump`](corestream::CoreDump) that borrows the guest's memories in place.
//!
//! The major version of this crate is the version of Wasmtime. The crates in its signatures are re-exported.
//!
//! # A guest that trapped
//! With [`Config::coredump_on_trap`](wasmtime::Config::coredump_on_trap) the error of a call that trapped carries a
//! [`WasmCoreDump`](wasmtime::WasmCoreDump). Pass it to [`capture`]:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use wasmtime::{Config, Engine, Instance, Module, Store};
//!
//! let engine = Engine::new(Config::new().coredump_on_trap(true))?;
//! let module = Module::new(&engine, r#"(module (memory 1) (func (export "f") unreachable))"#)?;
//! let mut store = Store::new(&engine, ());
//! let instance = Instance::new(&mut store, &module, &[])?;
//! let f = instance.get_typed_func::<(), ()>(&mut store, "f")?;
//!
//! if let Err(error) = f.call(&mut store, ()) {
//!     let captured = corestream_wasmtime::capture(&mut store, "guest.wat", &error)?;
//!     captured.write_to(&mut std::io::sink())?; // or write_file, or to_vec
//!     assert_eq!(captured.dump.threads[0].frames.len(), 1);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # All frames
//! By default Wasmtime keeps the 20 youngest frames. To keep more, configure the engine with
//! `config.wasm_backtrace_max_frames(NonZeroUsize::new(100_000))`, which costs nothing until the guest traps that deep,
//! and pass the same number to [`Capture::max_frames`]. A truncated backtrace then gets a [`Note::Frames`].
//!
//! # Imports
//! Wasmtime exposes the exports of an instance, but not its imports. An imported memory or global is found
//! - from the embedder: [`Capture::linker`], [`Capture::define`], [`Capture::instance`];
//! - by identity, if the instance re-exports it;
//! - by elimination, if the store has only one memory or global that matches the import.
//!
//! Otherwise it is unknown: `None` in the model, `u32::MAX` in the dump, and a [`Note`] in the result. The library
//! never guesses. The instance of a frame is also unknown if its module has several instances, or may have: without a
//! trap and without guest debugging, Wasmtime does not list instances. [`Capture::all_instances`] lists them.
//!
//! # Module identities
//! Wasmtime does not keep the bytes of a module. Pass them to [`Capture::module_bytes`] to record which build of the guest
//! the dump belongs to, by the module's build id and SHA-256. Otherwise a note in the dump says that no identity was
//! recorded.
//!
//! # Components
//! A store lists the core instances of a component, but not where in the component they come from. Pass the component
//! and its bytes to [`Capture::component`]. The core instances then have names such as `outer/inner:module`, their
//! modules have identities, and their imports are known.
//!
//! # Several stores and threads
//! A store holds the instances of one thread. A process with several threads has several stores, often with instances of
//! the same module over the same [`SharedMemory`](wasmtime::SharedMemory). [`Captured::merge`] puts them into one dump,
//! with a thread for each store and the shared memory once. Capture each store
//! - after its call has returned, if it trapped or the host stopped it: the threads send their stores to one that
//!   captures and merges all of them;
//! - in a host function or the callback of an epoch deadline, if its guest is to continue: [`Captured::copy`] makes a
//!   dump that borrows nothing, which is sent to the thread that merges all of them;
//! - between two calls. [`Preparation::freeze`](corestream::snapshot::Preparation::freeze) also takes a merged dump, so
//!   that all stores are frozen at one moment.
//!
//! Tell each capture where the shared memory is: with [`Capture::define`] or [`Capture::linker`] if the instance imports
//! it. A shared memory that the instance defines is known if it is exported, or with guest debugging.
//!
//! An epoch stops the threads that run. [`SharedMemory::atomic_notify`](wasmtime::SharedMemory::atomic_notify) wakes
//! those that wait. A thread that does not stop, because it is in a host call, is listed by
//! [`CoreDump::add_missing_thread`](corestream::CoreDump::add_missing_thread). Its own memories are not in the dump,
//! because its store cannot be read while it runs.
//!
//! # The offset of a trap
//! Without guest debugging, Wasmtime's compiler merges a branch with a trap right after it and reports the offset of
//! the branch: the `if` or `br_if` that leads to an `unreachable`. With epochs it is the offset of the function or loop
//! that starts with the `unreachable`. The library does not change the offset.
//!
//! # Guest debugging
//! With [`Config::guest_debug`](wasmtime::Config::guest_debug) all of this is known, and a [`FrameRecorder`] records
//! any number of frames, with locals and operand stacks.
//!
//! # A guest that hangs in a host call
//! An epoch deadline does not interrupt a host function, and dropping the future of the call discards the guest's
//! stack. Let the host function time out instead. Its error is like that of a guest that trapped, with the frames,
//! memories and globals at the entry of the host function. A call that does not wait has no extra cost.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use wasmtime::{Caller, Config, Engine, Linker, Module, Store};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let engine = Engine::new(Config::new().coredump_on_trap(true))?;
//! let mut linker = Linker::new(&engine);
//! linker.func_wrap_async("host", "sleep", |_: Caller<'_, ()>, (seconds,): (u32,)| {
//!     Box::new(async move {
//!         let sleep = tokio::time::sleep(Duration::from_secs(seconds.into()));
//!         let limit = Duration::from_millis(10);
//!         let in_time = tokio::time::timeout(limit, sleep).await;
//!         in_time.map_err(|_| wasmtime::Error::msg("the time limit was reached in sleep"))
//!     })
//! })?;
//! let text = r#"(module (import "host" "sleep" (func $sleep (param i32)))
//!     (func (export "run") (call $sleep (i32.const 100))))"#;
//! let module = Module::new(&engine, text)?;
//! let mut store = Store::new(&engine, ());
//! let instance = linker.instantiate_async(&mut store, &module).await?;
//! let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
//!
//! let error = run.call_async(&mut store, ()).await.unwrap_err();
//! let captured = corestream_wasmtime::capture(&mut store, "guest.wat", &error)?;
//! assert_eq!(captured.dump.threads[0].frames.len(), 1);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! `memory.atomic.wait` blocks the thread without a host call. Another thread can wake it with
//! [`SharedMemory::atomic_notify`](wasmtime::SharedMemory::atomic_notify). The guest then runs to its next loop or
//! function entry, where an epoch deadline stops it.
//!
//! # A guest that continues
//! [`Capture::live`] captures a guest that did not trap: in a host function, at an epoch deadline or at a breakpoint.
//! It does not change the store. The guest can continue whether or not the dump succeeded.
//!
//! # A guest that keeps running
//! [`Capture::freeze`] fixes the guest at one moment and returns a [`Frozen`] guest, which another thread dumps while
//! the guest runs. The module [`corestream::snapshot`] explains the cost and the deadlocks to avoid.
//!
//! - With [`HostMemories`] the memories never move, and a snapshot keeps them mapped even if the store is dropped. Turn
//!   off [`Config::memory_init_cow`](wasmtime::Config::memory_init_cow).
//! - With a [`SnapshotGate`] the engine's own memories, pooled ones too, stay where they are until a snapshot has ended:
//!   growth and the end of the store wait for it.
//! - Otherwise pass [`Capture::live_memories`] to the unsafe
//!   [`SnapshotOptions::prepare`](corestream::snapshot::SnapshotOptions::prepare), and make sure that no memory moves or
//!   ends until the snapshot has ended. The table shows when one does.
//!
//! The engine's own memories, by the files of Wasmtime 48 in `src/runtime`:
//!
//! | | the engine | a snapshot |
//! |---|---|---|
//! | growth within [`memory_reservation`](wasmtime::Config::memory_reservation) | protects more of the mapping, in place (`vm/memory/mmap.rs`) | is not affected |
//! | growth beyond it | moves the memory and unmaps the old one (`vm/memory/mmap.rs`) | must have ended; [`memory_may_move(false)`](wasmtime::Config::memory_may_move) makes such growth fail |
//! | the end of the store | drops the store's data, then unmaps the memories (`store.rs`, `Drop for Store`) | must have ended |
//! | [`Store::into_data`](wasmtime::Store::into_data) | unmaps the memories and returns the data (`store.rs`) | must have ended before; nothing in the data can wait for it |
//! | the end of a store with pooled memories | clears or discards the slot, and reuses it for another store (`vm/instance/allocator/pooling/memory_pool.rs`, `decommit_queue.rs`) | must have ended |
//! | a trap | leaves the memories as they are | is not affected |
//! | initial contents of a module that was compiled or deserialized in memory | maps a sealed memfd privately (`vm/cow.rs`) | is not affected |
//! | initial contents from [`Module::deserialize_file`](wasmtime::Module::deserialize_file) | maps the file privately (`vm/cow.rs`) | is refused with an error, because such pages cannot be protected; [`corestream::snapshot::copy`] copies the guest instead |
//! | shared memories | are never moved (`vm/memory/shared_memory.rs`) | contains them, but does not freeze them |
//!
//! If a contract is violated, the dump usually fails, because the kernel reports memory that was unmapped or discarded. A
//! memory that is unmapped while it is read ends the process.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// No guest may panic its host's process. Indexing is allowed here, because this crate builds the lists itself from the
// engine's data. Only `bytecode` reads the guest's code, and it denies those lints too.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::string_slice,
    )
)]

mod bytecode;
mod capture;
mod component;
mod describe;
mod frames;
mod gate;
mod host_memory;
mod identity;
mod index_space;
mod inventory;
mod note;
mod shared;
mod snapshot;
mod stack;
mod wasm_frame;

pub use {corestream, wasmtime};

pub use capture::{Capture, Captured, capture};
pub use frames::FrameRecorder;
pub use gate::{ClosedGate, GatedLimiter, SnapshotGate};
pub use host_memory::HostMemories;
pub use identity::module_identity;
pub use note::Note;
pub use snapshot::Frozen;

/// Runs the Rust examples of README.md as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
