//! The recorder of a guest's frames at a trap.

use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::{AsContextMut, DebugEvent, DebugHandler, Module, StoreContextMut, WasmBacktrace};

use super::stack::{self, Moment, Stack};
use super::wasm_frame::WasmFrame;

/// A [`DebugHandler`](wasmtime::DebugHandler) that records a guest's frames, with locals and operand stacks, when it
/// traps.
///
/// It requires an engine with [`Config::guest_debug`](wasmtime::Config::guest_debug). It only records. Make the dump
/// after the call has returned, with [`Capture::frames`](super::Capture::frames). Clones share their records.
///
/// A record is used for an error only if the error's backtrace matches it, so backtraces must be on. Every thrown
/// exception is recorded too, because it may turn out to be uncaught. A guest that often throws becomes slower.
///
/// Wasmtime calls a handler only in `*_async` calls. With a handler installed, other calls fail. Guest debugging makes
/// the guest slower, and Winch does not support it.
///
/// # Operand stacks
/// The youngest frame has the operands below those of the instruction that trapped. The engine has usually popped the
/// instruction's own operands: an `i32.div_u` by zero shows neither of them. A `throw`, an unaligned atomic access and
/// a `memory.atomic.wait32` on an unshared memory still have theirs. A calling frame still has the arguments of its
/// call. v128 and references have no encoding in a dump and are [`Value::Missing`](corestream::Value::Missing).
///
/// If a stack overflow or an epoch stops a function at its entry, its frame has the locals (the parameters and zeros),
/// and its instance is known only if its module has no other. If the function runs out of fuel at its entry, its frame
/// has no values. If an epoch stops it in a loop, its frame has locals but no operands.
///
/// The start-up code of a module (segments and global initializers) has no frame in a dump. If it is on the stack in
/// several activations at once, because a host function instantiates another module, the frames have no values.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use corestream::Value;
/// use corestream_wasmtime::{Capture, FrameRecorder};
/// use wasmtime::{Config, Engine, Instance, Module, Store};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let engine = Engine::new(Config::new().coredump_on_trap(true).guest_debug(true))?;
/// let text = r#"(module (func (export "f") (param i32) (i64.const 7) (unreachable)))"#;
/// let module = Module::new(&engine, text)?;
/// let mut store = Store::new(&engine, ());
/// let recorder = FrameRecorder::new();
/// store.set_debug_handler(recorder.clone());
///
/// let instance = Instance::new_async(&mut store, &module, &[]).await?;
/// let f = instance.get_typed_func::<i32, ()>(&mut store, "f")?;
/// let error = f.call_async(&mut store, 3).await.unwrap_err();
/// let captured = Capture::new("guest.wat").frames(&recorder).trapped(&mut store, &error)?;
/// let frame = &captured.dump.threads[0].frames[0];
/// assert_eq!((&frame.locals[..], &frame.stack[..]), (&[Value::I32(3)][..], &[Value::I64(7)][..]));
/// # Ok(())
/// # })
/// # }
/// ```
pub struct FrameRecorder<T> {
    /// The recorded stacks, in the order of recording. Each is the older part of the one before, because an error that
    /// a host function returns is recorded once for each entry into wasm.
    recorded: Arc<Mutex<Vec<Stack>>>,
    // A function pointer, so that this type is `Send` regardless of `T`: it has no `T`.
    data: PhantomData<fn(T)>,
}

impl<T> FrameRecorder<T> {
    /// Returns an empty recorder.
    pub fn new() -> Self {
        Self { recorded: Arc::default(), data: PhantomData }
    }

    /// Returns the last recorded stack that matches a backtrace. Earlier records may be of events after which the guest
    /// continued.
    ///
    /// A backtrace of `max_frames` frames may be truncated.
    pub(super) fn matching(&self, backtrace: &[WasmFrame], max_frames: usize) -> Option<Stack> {
        let cut = backtrace.len() >= max_frames;
        let matches = |Stack { frames, .. }: &&Stack| {
            let len = if cut { frames.len().min(backtrace.len()) } else { frames.len() };
            len == backtrace.len() && alike(&frames[..len], backtrace)
        };
        self.lock().iter().rev().find(matches).cloned()
    }

    fn record(&self, stack: Stack) {
        if stack.frames.is_empty() {
            return;
        }
        let mut recorded = self.lock();
        recorded.retain(|Stack { frames, .. }| {
            let part = frames.len().checked_sub(stack.frames.len()).filter(|more| *more > 0);
            part.is_some_and(|more| alike(&frames[more..], &stack.frames))
        });
        recorded.push(stack);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stack>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether two stacks have the same backtrace.
fn alike(a: &[WasmFrame], b: &[WasmFrame]) -> bool {
    let alike = |(a, b): (&WasmFrame, &WasmFrame)| {
        Module::same(&a.module, &b.module) && a.function == b.function
    };
    a.len() == b.len() && a.iter().zip(b).all(alike)
}

impl<T> Default for FrameRecorder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for FrameRecorder<T> {
    fn clone(&self) -> Self {
        Self { recorded: self.recorded.clone(), data: PhantomData }
    }
}

impl<T> fmt::Debug for FrameRecorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = self.lock().first().map_or(0, |stack| stack.frames.len());
        f.debug_struct("FrameRecorder").field("frames", &frames).finish_non_exhaustive()
    }
}

impl<T: 'static> DebugHandler for FrameRecorder<T> {
    type Data = T;

    fn handle(
        &self,
        mut store: StoreContextMut<'_, T>,
        event: DebugEvent<'_>,
    ) -> impl Future<Output = ()> + Send {
        let moment = Moment::of(&event);
        let ends = match event {
            DebugEvent::Trap(_) | DebugEvent::Exception(_) => true,
            // An error that has already passed through wasm was recorded at its origin.
            DebugEvent::HostcallError(error) => !error.is::<WasmBacktrace>(),
            _ => false,
        };
        if ends {
            self.record(stack::of_stack(&mut store.as_context_mut(), moment));
        }
        ready(())
    }
}
