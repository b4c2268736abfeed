//! The recorder that keeps the frames of a guest at its trap.

use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::{AsContextMut, DebugEvent, DebugHandler, Module, StoreContextMut, WasmBacktrace};

use super::stack::{self, Moment, Stack};
use super::wasm_frame::WasmFrame;

/// Records the frames of a guest when it traps, with their locals and operand stacks: a
/// [`DebugHandler`](wasmtime::DebugHandler) for stores of engines with [`Config::guest_debug`](wasmtime::Config::guest_debug).
///
/// It only records; the dump is made after the call has returned, by
/// [`Capture::frames`](super::Capture::frames). Clones share what they record.
///
/// It belongs to an error only as far as the error's backtrace says so, so backtraces must not be
/// turned off. Every exception that is thrown is recorded too, because it may be the end: a guest that
/// throws often gets slower still.
///
/// Wasmtime calls a handler only in `*_async` calls: with one installed, a call that is not fails.
/// The guest is slower with guest debugging, and Winch can't compile it.
///
/// # What an operand stack holds
/// The youngest frame has what is below the operands of the instruction that trapped: the engine
/// has mostly popped those already (an `i32.div_u` by zero shows neither of its operands). A `throw`,
/// an atomic access that is not aligned, and a `memory.atomic.wait32` on a memory that is not shared
/// still have theirs. A frame that calls still has the arguments of its call. v128 and references have no encoding in a dump and are
/// [`Value::Missing`](corestream::Value::Missing).
///
/// A function that is only entered, where the stack overflows or an epoch interrupts it, has its
/// locals: its parameters, and zeros. Its instance is known only if its module has no other. One that runs
/// out of fuel as it is entered has no values. One that is interrupted in a loop has its
/// locals, but no operands.
///
/// Module start-up code (segments, global initializers) has no frame in a dump. If it is on the stack
/// in several activations at once, because a host function instantiates another module, the frames
/// have no values.
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
    /// Stacks, the one that was seen last at the end; each is the older part of the one before: an
    /// error that a host function passes on is seen once for each entry into wasm.
    recorded: Arc<Mutex<Vec<Stack>>>,
    // Says nothing about whether a `T` may be sent: none is held.
    data: PhantomData<fn(T)>,
}

impl<T> FrameRecorder<T> {
    /// Returns a recorder with nothing recorded yet.
    pub fn new() -> Self {
        Self { recorded: Arc::default(), data: PhantomData }
    }

    /// The stack that was recorded last of those that the frames of a backtrace can come from: the
    /// guest may have gone on after an earlier event. A backtrace of `max_frames` may be cut.
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

/// Whether two stacks are the same as far as a backtrace tells.
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
            // An error that has passed through wasm before was recorded where it began.
            DebugEvent::HostcallError(error) => !error.is::<WasmBacktrace>(),
            _ => false,
        };
        if ends {
            self.record(stack::of_stack(&mut store.as_context_mut(), moment));
        }
        ready(())
    }
}
