//! The live stack of a Wasmtime guest: its frames with locals and operand stacks.
//!
//! # The problem
//! Wasmtime finds the debug slots of a frame by searching its table of program points for the last
//! point at or before the frame's program counter (`FrameTable::find_program_point` in
//! `wasmtime-environ/src/frame_table.rs`). The search does not stop at the start of the function. So
//! a function without points gets the slots of the function before it in the text, and where there is
//! none, `VirtualFrame::decode` in `wasmtime/src/runtime/debug.rs` panics. With the wrong slots,
//! `FrameHandle::instance` follows whatever the stack holds there, and so does
//! `wasm_function_index_and_pc` in a build with debug assertions. A guest must not be able to bring
//! its host there.
//!
//! # Which frames have slots
//! Only functions of a module have points: `translate_body` in
//! `wasmtime-internal-cranelift/src/translate/func_translator.rs` creates the slots, and
//! `before_translate_operator` sets a point before each operator. The code that starts a module up
//! (globals, segments, the call of the start function: `translate_module_startup` in the same file)
//! has none, but it has a frame between the entry into wasm and the exit. Such a frame calls the start
//! function, or traps in a segment; it is always the oldest of its activation, because the host
//! enters it.
//! Trampolines into wasm and out of it are never visited: an activation begins at the frame that
//! called out, and ends before the frame of the trampoline in (`FrameCursor` in
//! `wasmtime-internal-unwinder/src/stackwalk.rs`).
//!
//! # Which values are written
//! A function writes its slots in this order: parameters and locals, then, after the check of the
//! stack's limit, its instance, then it looks at fuel and epoch, then comes the first operator
//! (`declare_wasm_parameters`, `before_translate_function`). A frame that has not reached its first
//! operator was only *entered*:
//! - at a stack overflow the instance is not written. The trap has a point of its own.
//! - at an epoch deadline everything is written. The call has no point, but its block is cold and so
//!   placed after the points of its function; the search finds one of those.
//! - out of fuel, the call stands before the first point. The search leaves the function, and panics in
//!   the first function of a text.
//!
//! # The idea
//! A backtrace finds its frames another way: by the ranges of the functions in the text, which leaves
//! no doubt (`ModuleRegistry::lookup_frame_info`). It skips what is no function of a module. So the
//! backtrace says what is on the stack, and a handle is only asked for the values of a frame of
//! which the backtrace has said that it has them.
//!
//! The invariant: the n-th handle is taken only if it is certain to be the n-th frame of the
//! backtrace. That is the case
//! - if the backtrace has as many frames as there are on the stack: then no start-up code is there;
//! - if there is one activation: start-up code can only be its oldest frame, and the last handle is not
//!   taken while a module of the store has a start function.
//!
//! Elsewhere the frames are those of the backtrace, without values. How many frames are on the stack,
//! start-up code included, only the `Debug` text of a backtrace says. A text of another form counts as
//! not known, which costs values and nothing else.
//!
//! # The cost
//! Every exception that a guest throws is recorded, so each frame on the stack counts. The text takes longer
//! than everything else. It is formatted only if there are several activations or a start function.
//!
//! # What was tried
//! - Comparing a handle's number of locals with the function's: it can match by accident, so it proves
//!   nothing.
//! - Splitting a backtrace into activations by the calls that its frames are at: indirect calls and tail
//!   calls leave that open.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};

use wasmparser::ValType;
use wasmtime::{
    AsContextMut, DebugEvent, ExternType, FrameHandle, Module, StoreContextMut, Trap, Val,
    WasmBacktrace,
};

use super::bytecode::{self, Entry, Positions, Shape, Shapes};
use super::wasm_frame::{WasmFrame, of_backtrace};
use corestream::Value;

/// The moment at which a stack is looked at, as far as its youngest frame depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The stack has overflown.
    Overflow,
    /// The epoch's deadline has passed.
    Interrupt,
    /// Any other, or it is not known.
    Other,
}

impl Moment {
    pub(super) fn of(event: &DebugEvent<'_>) -> Self {
        match event {
            DebugEvent::Trap(Trap::StackOverflow) => Self::Overflow,
            DebugEvent::Trap(Trap::Interrupt) => Self::Interrupt,
            _ => Self::Other,
        }
    }
}

/// The frames of a stack, youngest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    pub(super) frames: Vec<WasmFrame>,
    /// Whether these are certain to be all.
    pub(super) complete: bool,
}

/// The stack of `store` as it is now. Empty without guest debugging, and where no wasm is running.
pub(super) fn of_stack<T>(store: &mut StoreContextMut<'_, T>, moment: Moment) -> Stack {
    // The list of activations is made at once, their frames are looked at one by one: this asks
    // for no frame.
    let activations = store.debug_exit_frames().size_hint().1;
    if activations == Some(0) {
        return Stack::default();
    }
    let backtrace = WasmBacktrace::force_capture(&*store);
    let known = of_backtrace(backtrace.frames());
    if known.is_empty() {
        return Stack::default();
    }
    let mut modules = Modules::default();
    for frame in &known {
        modules.add(&frame.module, frame.function);
    }
    modules.find_entries();
    let mut entered: Vec<_> = known.iter().map(|frame| modules.is_entered(frame)).collect();
    if moment == Moment::Overflow
        && let Some(youngest) = entered.first_mut()
    {
        *youngest = true;
    }
    // Even to take the handle of a frame that is out of fuel may panic. What the moment says is only
    // about the youngest frame.
    let no_point = known.iter().zip(&entered).enumerate().any(|(at, (frame, entered))| {
        *entered && modules.is_first(frame) && (at > 0 || moment == Moment::Other)
    });
    let one_activation = activations == Some(1);
    let (limit, complete) = if !no_point && one_activation && !any_start(store) {
        // No start-up code: all handles are frames, of which the backtrace may list only the youngest.
        (Some(usize::MAX), true)
    } else {
        // Only here: the text of a deep stack takes longer than all the rest.
        let on_stack = frames_on_stack(&backtrace);
        let limit = if no_point { None } else { limit(known.len(), on_stack, one_activation) };
        (limit, on_stack == Some(known.len()))
    };
    drop(backtrace);
    let Some(limit) = limit else {
        return Stack { frames: known, complete };
    };
    let handles = take_handles(store, limit);
    if handles.len() < known.len() {
        return Stack { frames: known, complete };
    }
    let mut known = known.into_iter().zip(entered);
    let mut found = Vec::with_capacity(handles.len());
    for (at, handle) in handles.into_iter().enumerate() {
        match known.next() {
            Some((frame, true)) => {
                let youngest = (at == 0).then_some(moment);
                found.push(Found::entered(handle, frame, youngest, &modules));
            }
            Some((frame, false)) => {
                let found_here =
                    Found::new(store, handle).filter(|found| found.is(&frame, &modules));
                found.push(match found_here {
                    Some(found) => Found { exact: frame.offset, ..found },
                    None => Found::of(frame),
                });
            }
            None => match Found::new(store, handle) {
                Some(found_here) => {
                    modules.add(&found_here.frame.module, found_here.frame.function);
                    found.push(found_here);
                }
                None => break,
            },
        }
    }
    Stack { frames: with_values(store, found, &modules), complete }
}

/// Whether a module of the store may have a start function.
fn any_start<T>(store: &mut StoreContextMut<'_, T>) -> bool {
    let modules = store.as_context_mut().debug_all_modules();
    modules.iter().any(|module| module.debug_bytecode().is_none_or(bytecode::has_start))
}

/// Returns the number of handles that may be taken where start-up code may be on the stack; `None` for none.
fn limit(known: usize, on_stack: Option<usize>, one_activation: bool) -> Option<usize> {
    if on_stack == Some(known) {
        return Some(known);
    }
    if !one_activation {
        return None;
    }
    // The backtrace was cut, or the oldest frame on the stack starts a module up.
    let but_one = on_stack.and_then(|frames| frames.checked_sub(1));
    Some(but_one.map_or(known, |frames| frames.max(known)))
}

/// The handles of the youngest frames, at most `limit`; no other frame is looked at.
fn take_handles<T>(store: &mut StoreContextMut<'_, T>, limit: usize) -> Vec<FrameHandle> {
    let mut handles = Vec::new();
    let exits: Vec<_> = store.debug_exit_frames().collect();
    for exit in exits {
        let mut next = Some(exit);
        while let Some(handle) = next {
            if handles.len() == limit {
                return handles;
            }
            handles.push(handle.clone());
            if handles.len() == limit {
                return handles;
            }
            // A handle fails only when the guest has gone on, and nobody let it.
            next = handle.parent(&mut *store).unwrap_or(None);
        }
    }
    handles
}

/// Counts the frames between entries into wasm and exits from it, with those that a backtrace does not
/// list; `None` if it can't be told. Formats the whole backtrace, which takes a microsecond for each frame.
fn frames_on_stack(backtrace: &WasmBacktrace) -> Option<usize> {
    let mut counter = Counter::new();
    write!(counter, "{backtrace:?}").ok()?;
    counter.finish()
}

/// Counts the frames in the `Debug` text of a backtrace, whose last field lists the frames as they
/// are on the stack: `_runtime_trace: Backtrace([Frame { pc: 1, fp: 2 }, ...]) }`. Nothing is stored:
/// the text of a deep stack has megabytes.
///
/// Names before that field are the guest's. They stand in quotes, and after the last such field there is
/// no quote.
struct Counter {
    field: Finder,
    frame: Finder,
    /// Frames since the last beginning of the field; `None` before it, and where it is in doubt.
    frames: Option<usize>,
    /// Whether the list has ended.
    ended: bool,
}

impl Counter {
    fn new() -> Self {
        let field = Finder::new(b"_trace: Backtrace([");
        Self { field, frame: Finder::new(b"Frame { pc: "), frames: None, ended: false }
    }

    fn finish(self) -> Option<usize> {
        self.frames.filter(|_| self.ended)
    }
}

impl Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let (field, frame) = (self.field.ends_at(byte), self.frame.ends_at(byte));
            if field {
                self.frames = Some(0);
                self.ended = false;
            } else if frame {
                self.frames = self.frames.and_then(|frames| frames.checked_add(1));
            } else if byte == b'"' {
                self.frames = None;
            } else if byte == b']' {
                self.ended = true;
            }
        }
        Ok(())
    }
}

/// Finds a text in bytes that come one at a time, each of which is looked at once.
///
/// The first byte of the text is nowhere else in it. So where a match breaks off, no other one has begun
/// before this byte, and occurrences do not overlap.
struct Finder {
    text: &'static [u8],
    /// The end of the text, after what the last bytes match.
    rest: &'static [u8],
}

impl Finder {
    fn new(text: &'static [u8]) -> Self {
        debug_assert!(text.split_first().is_some_and(|(first, rest)| !rest.contains(first)));
        Self { text, rest: text }
    }

    /// Whether an occurrence of the text ends at `byte`, the next one.
    fn ends_at(&mut self, byte: u8) -> bool {
        let after = |text: &'static [u8]| text.split_first().filter(|(next, _)| **next == byte);
        let matched = after(self.rest).or_else(|| after(self.text));
        self.rest = matched.map_or(self.text, |(_, rest)| rest);
        let found = self.rest.is_empty();
        if found {
            self.rest = self.text;
        }
        found
    }
}

/// What the bytes of the modules on the stack say.
#[derive(Default)]
struct Modules {
    by_id: BTreeMap<u64, OnStack>,
}

struct OnStack {
    module: Module,
    /// The number of functions that the module imports; `None` if no index space can hold them.
    imported: Option<u32>,
    /// The functions on the stack, among those that the module defines.
    defined: HashSet<u32>,
    entries: HashMap<u32, Entry>,
}

impl Modules {
    /// Adds a function, by its index in the module's index space.
    fn add(&mut self, module: &Module, function: u32) {
        let on_stack = self.by_id.entry(module.debug_index_in_engine()).or_insert_with(|| {
            let (imported, defined) = (imported_functions(module), HashSet::new());
            OnStack { module: module.clone(), imported, defined, entries: HashMap::new() }
        });
        on_stack.defined.extend(on_stack.imported.and_then(|count| function.checked_sub(count)));
    }

    fn find_entries(&mut self) {
        for on_stack in self.by_id.values_mut() {
            let bytes = on_stack.module.debug_bytecode().unwrap_or_default();
            on_stack.entries = bytecode::entries(bytes, &on_stack.defined);
        }
    }

    fn of(&self, module: &Module) -> Option<&OnStack> {
        self.by_id.get(&module.debug_index_in_engine())
    }

    /// The index of a frame's function among those that its module defines.
    fn defined(&self, frame: &WasmFrame) -> Option<u32> {
        frame.function.checked_sub(self.of(&frame.module)?.imported?)
    }

    fn entry(&self, frame: &WasmFrame) -> Option<Entry> {
        self.of(&frame.module)?.entries.get(&self.defined(frame)?).copied()
    }

    /// Whether a frame is not certain to have reached the first operator of its function.
    fn is_entered(&self, frame: &WasmFrame) -> bool {
        self.entry(frame).is_none_or(|entry| is_before(frame.offset, entry))
    }

    /// Whether there may be no function with points before that of this frame.
    fn is_first(&self, frame: &WasmFrame) -> bool {
        self.defined(frame).is_none_or(|defined| defined == 0)
    }
}

/// Whether an offset may be before the first operator of its function.
fn is_before(offset: Option<u32>, entry: Entry) -> bool {
    offset.is_none_or(|offset| offset < entry.offset)
}

fn imported_functions(module: &Module) -> Option<u32> {
    let imported = module.imports().filter(|import| matches!(import.ty(), ExternType::Func(_)));
    u32::try_from(imported.count()).ok()
}

/// A frame, and where its values are.
struct Found {
    frame: WasmFrame,
    values: Option<Values>,
    /// The offset in the function, if the backtrace has said it.
    exact: Option<u32>,
}

/// What the values of a frame are read with.
struct Values {
    handle: FrameHandle,
    /// The index among the functions that the module defines.
    defined: u32,
    /// Bytes from the start of the module.
    position: u32,
    /// Whether there are no operands yet.
    entered: bool,
}

impl Found {
    /// A frame without values.
    fn of(frame: WasmFrame) -> Self {
        let exact = frame.offset;
        Self { frame, values: None, exact }
    }

    /// The frame of a handle, which has reached an operator of its function.
    fn new<T>(store: &mut StoreContextMut<'_, T>, handle: FrameHandle) -> Option<Self> {
        let (defined, position) = handle.wasm_function_index_and_pc(&mut *store).ok()??;
        let instance = handle.instance(&mut *store).ok()?;
        let module = instance.module(&mut *store).clone();
        let (defined, position) = (defined.as_u32(), position.raw());
        let function = imported_functions(&module)?.checked_add(defined)?;
        let (locals, stack) = (Vec::new(), Vec::new());
        let instance = Some(instance);
        let frame = WasmFrame { module, instance, function, offset: None, locals, stack };
        let values = Some(Values { handle, defined, position, entered: false });
        Some(Self { frame, values, exact: None })
    }

    /// A frame that was only entered; `moment` is known for the youngest. Its instance is not asked for.
    fn entered(
        handle: FrameHandle,
        frame: WasmFrame,
        moment: Option<Moment>,
        modules: &Modules,
    ) -> Self {
        let mut found = Self::of(frame);
        if !matches!(moment, Some(Moment::Overflow | Moment::Interrupt)) {
            return found;
        }
        // Only where this is the function's beginning its values are known to be written.
        let entry = modules.entry(&found.frame);
        let entry = entry.filter(|entry| is_before(found.frame.offset, *entry));
        if let (Some(entry), Some(defined)) = (entry, modules.defined(&found.frame)) {
            let position = entry.position;
            found.values = Some(Values { handle, defined, position, entered: true });
        }
        found
    }

    fn is(&self, frame: &WasmFrame, modules: &Modules) -> bool {
        let defined = self.values.as_ref().map(|values| values.defined);
        Module::same(&self.frame.module, &frame.module)
            && self.frame.function == frame.function
            && defined == modules.defined(frame)
    }
}

/// Reads the values of frames.
fn with_values<T>(
    store: &mut StoreContextMut<'_, T>,
    found: Vec<Found>,
    modules: &Modules,
) -> Vec<WasmFrame> {
    let mut positions: HashMap<u64, Positions> = HashMap::new();
    for found in &found {
        if let Some(values) = &found.values {
            let positions =
                positions.entry(found.frame.module.debug_index_in_engine()).or_default();
            positions.entry(values.defined).or_default().insert(values.position);
        }
    }
    let shapes: HashMap<u64, _> = positions
        .into_iter()
        .map(|(id, positions)| {
            let module =
                modules.by_id.get(&id).and_then(|on_stack| on_stack.module.debug_bytecode());
            (id, bytecode::shapes(module.unwrap_or_default(), &positions))
        })
        .collect();
    let frame = |found: Found| {
        let Found { mut frame, values, exact } = found;
        let Some(values) = values else { return frame };
        let shapes = shapes.get(&frame.module.debug_index_in_engine());
        let shapes = shapes.and_then(|shapes| shapes.get(&(values.defined, values.position)));
        if values.entered {
            let shape = shapes.and_then(|shapes| shapes.here.as_ref());
            frame.locals = locals(store, &values.handle, shape);
            return frame;
        }
        let shape = shapes.and_then(|shapes| choose(shapes, exact));
        frame.locals = locals(store, &values.handle, shape);
        // At an epoch's interrupt the engine gives another position of the same function: locals
        // have their types anywhere in it, operands do not.
        if exact.is_none_or(|exact| shape.is_some_and(|shape| shape.offset == exact)) {
            frame.stack = stack(store, &values.handle, shape);
        }
        frame.offset = exact.or(shape.map(|shape| shape.offset));
        frame
    };
    found.into_iter().map(frame).collect()
}

/// The instruction that a frame is at: the one at `offset` in its function if that is known, else the
/// call that it made.
fn choose(shapes: &Shapes, offset: Option<u32>) -> Option<&Shape> {
    let Shapes { call, here } = shapes;
    let is_there = |shape: &&Shape| offset.is_none_or(|offset| shape.offset == offset);
    call.as_ref().filter(is_there).or(here.as_ref()).or(call.as_ref())
}

fn locals<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    // A handle fails only when the guest has gone on, and nobody let it.
    let Ok(count) = frame.num_locals(&mut *store) else { return Vec::new() };
    let ty = |i| shape.and_then(|shape| shape.locals.get(i).copied());
    (0..count).map(|i| read(ty(i as usize), || frame.local(&mut *store, i))).collect()
}

fn stack<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    let Ok(count) = frame.num_stacks(&mut *store) else { return Vec::new() };
    let ty = |i| shape.and_then(|shape| shape.stack.get(i).copied().flatten());
    (0..count).map(|i| read(ty(i as usize), || frame.stack(&mut *store, i))).collect()
}

/// Reads a value if its type is one that a dump can hold.
fn read(ty: Option<ValType>, value: impl FnOnce() -> wasmtime::Result<Val>) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of frames in a text, whole and a byte at a time.
    fn count(text: &str) -> Option<usize> {
        let (mut whole, mut bytes) = (Counter::new(), Counter::new());
        whole.write_str(text).unwrap();
        text.split("").for_each(|part| bytes.write_str(part).unwrap());
        let count = whole.finish();
        assert_eq!(bytes.finish(), count, "{text}");
        count
    }

    #[test]
    fn counts_the_frames_of_a_text() {
        let frame = "Frame { pc: 94, fp: 140 }";
        for (text, expected) in [
            ("", None),
            ("WasmBacktrace { wasm_trace: [], _runtime_trace: Backtrace([]) }", Some(0)),
            ("{ _runtime_trace: Backtrace([FRAME]) }", Some(1)),
            ("{ _runtime_trace: Backtrace([FRAME, FRAME, FFrame { FRAME]) }", Some(3)),
            ("{ __runtime_trace_trace: Backtrace([FRAME, FRAME]) }", Some(2)),
            // Only the last list counts.
            (
                "{ _runtime_trace: Backtrace([FRAME]), _runtime_trace: Backtrace([FRAME, FRAME]) }",
                Some(2),
            ),
            // It has no end, or its field has another name.
            ("{ _runtime_trace: Backtrace([FRAME, FRAME", None),
            ("{ _runtime_trace: [FRAME] }", None),
            // Names of a guest's are in quotes.
            (r#"{ name: Some("_runtime_trace: Backtrace([FRAME])") }"#, None),
            (
                r#"{ name: Some("_runtime_trace: Backtrace([FRAME"), _runtime_trace: Backtrace([FRAME]) }"#,
                Some(1),
            ),
        ] {
            assert_eq!(count(&text.replace("FRAME", frame)), expected, "{text}");
        }
    }
}
