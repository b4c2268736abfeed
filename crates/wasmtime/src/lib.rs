//! Core dumps of guests of the engine [Wasmtime](https://docs.rs/wasmtime/48), with the library [`corestream`]: a store
//! becomes a [`CoreDump`](corestream::CoreDump) that borrows its memories in place.
//!
//! The major version of this crate is that of Wasmtime. Both crates that appear in its signatures are re-exported.
//!
//! # A guest that trapped
//! With [`Config::coredump_on_trap`](wasmtime::Config::coredump_on_trap) the error of a call that
//! trapped carries a [`WasmCoreDump`](wasmtime::WasmCoreDump), and [`capture`] is all there is to
//! it:
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
//! Wasmtime keeps the 20 youngest frames. Ask it for more before the engine is made:
//! `config.wasm_backtrace_max_frames(NonZeroUsize::new(100_000))` costs nothing until the guest
//! traps that deep, and say so to [`Capture::max_frames`], which tells [`Note::Frames`] where the
//! cut was.
//!
//! # What an import is
//! From outside an instance says what it exports, not what it imports. So an imported memory or
//! global is found
//! - by the embedder's word: [`Capture::linker`], [`Capture::define`], [`Capture::instance`];
//! - by identity, where the instance exports it again;
//! - by elimination, where the store has only one memory or global that fits the import.
//!
//! What is left is unknown, `None` in the model and `u32::MAX` in the dump, never a guess, and a
//! [`Note`] says so. The same for the instance of a frame whose module has several, or may have: without
//! a trap and without guest debugging, Wasmtime lists no instances.
//!
//! # What a module is
//! Wasmtime keeps no bytes of a module. Give them to [`Capture::module_bytes`], and the dump says which build of the guest
//! it is of: by the module's build id and its SHA-256. Without them a note in the dump says that no identity was recorded.
//!
//! # The offset of a trap
//! Without guest debugging, Wasmtime's compiler merges a branch and a trap right after it, and reports the
//! offset of the branch: that of the `if` or `br_if` that leads to an `unreachable`, and with epochs that of the
//! function or loop that begins with it. The library passes the offset on as it is.
//!
//! # Guest debugging
//! With [`Config::guest_debug`](wasmtime::Config::guest_debug) everything of that is known, and a
//! [`FrameRecorder`] gives frames with their locals and operand stacks, without a cap.
//!
//! # A guest that hangs in a host call
//! An epoch deadline does not reach a guest that waits in a host function, and to drop the future of its
//! call takes its stack away without a trace. Let the host function itself give up: its error is that of
//! a guest that trapped, with the frames, memories and globals of the entry into the host function. A
//! call that does not wait pays nothing for that.
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
//! `memory.atomic.wait` blocks the thread and calls no host function. Another thread can wake it with
//! [`SharedMemory::atomic_notify`](wasmtime::SharedMemory::atomic_notify); the guest then goes on to its
//! next loop or function, where an epoch deadline stops it.
//!
//! # A guest that goes on
//! [`Capture::live`] takes a guest that is not trapped, in a host function, at an epoch deadline or at
//! a breakpoint. It changes nothing in the store; the guest goes on whether the dump succeeded or not.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// Nothing that a guest contains may end the process of its host. Indices are those of lists that this crate made itself
// of what the engine of this process gave; the guest's code is read by `bytecode` alone, which denies those lints too.
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
mod describe;
mod frames;
mod identity;
mod index_space;
mod inventory;
mod note;
mod shared;
mod stack;
mod wasm_frame;

pub use {corestream, wasmtime};

pub use capture::{Capture, Captured, capture};
pub use frames::FrameRecorder;
pub use note::Note;

/// Keeps the code in README true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
