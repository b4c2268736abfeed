//! Frames of a Wasmtime guest: from a backtrace, or with guest debugging from the stack itself, with
//! locals and operand stack.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::wasmtime::{
    AsContextMut, DebugEvent, DebugHandler, ExternType, FrameHandle, FrameInfo, Instance, Module,
    StoreContextMut, Trap, Val, WasmBacktrace,
};
use wasmparser::ValType;

use super::bytecode::{self, Positions, Shape, Shapes};
use crate::model::Value;

/// A frame in the words of the engine.
#[derive(Clone)]
pub(super) struct WasmFrame {
    pub(super) module: Module,
    /// Known where the stack itself was read.
    pub(super) instance: Option<Instance>,
    pub(super) function: u32,
    pub(super) offset: u32,
    pub(super) locals: Vec<Value>,
    pub(super) stack: Vec<Value>,
}

/// The frames of a backtrace, youngest first.
pub(super) fn of_backtrace(frames: &[FrameInfo]) -> Vec<WasmFrame> {
    let frame = |frame: &FrameInfo| WasmFrame {
        module: frame.module().clone(),
        instance: None,
        function: frame.func_index(),
        offset: frame.func_offset().and_then(|offset| u32::try_from(offset).ok()).unwrap_or(0),
        locals: Vec::new(),
        stack: Vec::new(),
    };
    frames.iter().map(frame).collect()
}

/// The frames that are on the stack now, youngest first. Empty without guest debugging. `overflow`
/// is whether the stack has just overflown.
pub(super) fn of_stack<T>(store: &mut StoreContextMut<'_, T>, overflow: bool) -> Vec<WasmFrame> {
    // Where the youngest frame is exactly, only a backtrace tells.
    let backtrace = WasmBacktrace::force_capture(&*store);
    let youngest = of_backtrace(&backtrace.frames()[..backtrace.frames().len().min(1)]).pop();
    // No instruction is at 0. A function that is being entered has its frame, but nothing is written
    // to it yet: to ask for its instance would panic, or worse, follow what was there before.
    let entered = overflow || youngest.as_ref().is_some_and(|frame| frame.offset == 0);
    let Some(found) = walk(store, entered) else { return Vec::new() };
    let mut modules = BTreeMap::new();
    for frame in &found {
        let (_, positions) = modules
            .entry(frame.module.debug_index_in_engine())
            .or_insert_with(|| (frame.module.clone(), Positions::new()));
        positions.entry(frame.defined).or_default().insert(frame.position);
    }
    let modules: HashMap<_, _> = modules
        .into_iter()
        .map(|(id, (module, positions))| {
            let shapes = bytecode::shapes(module.debug_bytecode().unwrap_or_default(), &positions);
            (id, (imported_functions(&module), shapes))
        })
        .collect();
    let mut frames = Vec::new();
    let (first, mut youngest) = if entered { (youngest, None) } else { (None, youngest) };
    frames.extend(first);
    frames.extend(found.into_iter().map(|frame| {
        let (imported, shapes) = &modules[&frame.module.debug_index_in_engine()];
        let shapes = shapes.get(&(frame.defined, frame.position));
        let function = imported.saturating_add(frame.defined);
        let youngest = youngest.take();
        let exact = youngest
            .filter(|exact| Module::same(&exact.module, &frame.module))
            .filter(|exact| exact.function == function)
            .map(|exact| exact.offset);
        let shape = shapes.and_then(|shapes| choose(shapes, exact));
        // At an epoch's interrupt the engine gives another position of the same function: locals
        // have their types anywhere in it, operands do not.
        let there = exact.is_none_or(|exact| shape.is_some_and(|shape| shape.offset == exact));
        WasmFrame {
            locals: locals(store, &frame.handle, shape),
            stack: if there { stack(store, &frame.handle, shape) } else { Vec::new() },
            module: frame.module,
            instance: Some(frame.instance),
            function,
            offset: exact.or(shape.map(|shape| shape.offset)).unwrap_or(0),
        }
    }));
    frames
}

/// The instruction that a frame is at: the one at `offset` in its function if that is known, else the
/// call that it made.
fn choose(shapes: &Shapes, offset: Option<u32>) -> Option<&Shape> {
    let Shapes { call, here } = shapes;
    let is_there = |shape: &&Shape| offset.is_none_or(|offset| shape.offset == offset);
    call.as_ref().filter(is_there).or(here.as_ref()).or(call.as_ref())
}

/// A frame that was found on the stack.
struct Found {
    handle: FrameHandle,
    module: Module,
    instance: Instance,
    /// The index among the functions that the module defines.
    defined: u32,
    /// Bytes from the start of the module.
    position: u32,
}

/// The frames on the stack, without the youngest if it has only been `entered`; `None` if there is
/// none at all.
fn walk<T>(store: &mut StoreContextMut<'_, T>, entered: bool) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    let exits: Vec<_> = store.debug_exit_frames().collect();
    let any = !exits.is_empty();
    let mut skip = entered;
    for exit in exits {
        let mut next = Some(exit);
        while let Some(handle) = next {
            // A handle fails only when the guest has gone on, and nobody let it.
            if !std::mem::take(&mut skip)
                && let Ok(Some((function, position))) =
                    handle.wasm_function_index_and_pc(&mut *store)
                && let Ok(instance) = handle.instance(&mut *store)
            {
                let module = instance.module(&mut *store).clone();
                let (defined, position) = (function.as_u32(), position.raw());
                let handle = handle.clone();
                found.push(Found { handle, module, instance, defined, position });
            }
            next = handle.parent(&mut *store).unwrap_or(None);
        }
    }
    any.then_some(found)
}

fn imported_functions(module: &Module) -> u32 {
    let imported = module.imports().filter(|import| matches!(import.ty(), ExternType::Func(_)));
    u32::try_from(imported.count()).unwrap_or(u32::MAX)
}

fn locals<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    let count = frame.num_locals(&mut *store).unwrap_or(0);
    let ty = |i| shape.and_then(|shape| shape.locals.get(i).copied());
    (0..count).map(|i| read(ty(i as usize), || frame.local(&mut *store, i))).collect()
}

fn stack<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    let count = frame.num_stacks(&mut *store).unwrap_or(0);
    let ty = |i| shape.and_then(|shape| shape.stack.get(i).copied().flatten());
    (0..count).map(|i| read(ty(i as usize), || frame.stack(&mut *store, i))).collect()
}

/// Reads a value if its type is one that a dump can hold.
fn read(ty: Option<ValType>, value: impl FnOnce() -> ::wasmtime::Result<Val>) -> Value {
    if !matches!(ty, Some(ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64)) {
        return Value::Missing;
    }
    match value() {
        Ok(Val::I32(x)) => Value::I32(x),
        Ok(Val::I64(x)) => Value::I64(x),
        Ok(Val::F32(bits)) => Value::F32(bits),
        Ok(Val::F64(bits)) => Value::F64(bits),
        _ => Value::Missing,
    }
}

/// Records the frames of a guest when it traps, with their locals and operand stacks: a
/// [`DebugHandler`](::wasmtime::DebugHandler) for stores of engines with [`Config::guest_debug`](::wasmtime::Config::guest_debug).
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
/// [`Value::Missing`](crate::Value::Missing).
///
/// A function that is only being entered, where the stack overflows or an epoch interrupts it, has
/// no values and no instance of its own yet; one that is interrupted in a loop has its locals, but no
/// operands.
///
/// ```
/// # #[cfg(feature = "run")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use corestream::Value;
/// use corestream::wasmtime::{Capture, FrameRecorder};
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
/// # #[cfg(not(feature = "run"))]
/// # fn main() {}
/// ```
pub struct FrameRecorder<T> {
    /// Stacks, the one that was seen last at the end; each is the older part of the one before: an
    /// error that a host function passes on is seen once for each entry into wasm.
    recorded: Arc<Mutex<Vec<Vec<WasmFrame>>>>,
    // Says nothing about whether a `T` may be sent: none is held.
    data: PhantomData<fn(T)>,
}

impl<T> FrameRecorder<T> {
    /// A recorder with nothing recorded yet.
    pub fn new() -> Self {
        Self { recorded: Arc::default(), data: PhantomData }
    }

    /// The stack that was recorded last of those that the frames of a backtrace can come from: the
    /// guest may have gone on after an earlier event. A backtrace of `max_frames` may be cut.
    pub(super) fn matching(
        &self,
        backtrace: &[WasmFrame],
        max_frames: usize,
    ) -> Option<Vec<WasmFrame>> {
        let cut = backtrace.len() >= max_frames;
        let matches = |stack: &&Vec<WasmFrame>| {
            let len = if cut { stack.len().min(backtrace.len()) } else { stack.len() };
            len == backtrace.len() && alike(&stack[..len], backtrace)
        };
        self.lock().iter().rev().find(matches).cloned()
    }

    fn record(&self, stack: Vec<WasmFrame>) {
        let mut recorded = self.lock();
        recorded.retain(|longer| {
            let part = longer.len().checked_sub(stack.len()).filter(|more| *more > 0);
            part.is_some_and(|more| alike(&longer[more..], &stack))
        });
        recorded.push(stack);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<WasmFrame>>> {
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
        let frames = self.lock().first().map_or(0, Vec::len);
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
        let overflow = matches!(event, DebugEvent::Trap(Trap::StackOverflow));
        let ends = match event {
            DebugEvent::Trap(_) | DebugEvent::Exception(_) => true,
            // An error that has passed through wasm before was recorded where it began.
            DebugEvent::HostcallError(error) => !error.is::<WasmBacktrace>(),
            _ => false,
        };
        if ends {
            self.record(of_stack(&mut store.as_context_mut(), overflow));
        }
        ready(())
    }
}
