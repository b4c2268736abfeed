//! The backtrace of a guest that stopped, as it is printed.

use corestream::Visible;
use corestream_symbols::demangle;
use wasmtime::WasmBacktrace;

/// Frames that are printed of a backtrace; all of them are in the dump.
const PRINTED_FRAMES: usize = 50;

/// Returns what went wrong and where, a line each.
///
/// Functions from index `first_added` on are the tool's own. They are the youngest frames, if any, and are not shown.
/// `place` is the offset of the youngest frame, if it is another one than the engine's.
pub fn render(
    name: &str,
    cause: &str,
    error: &wasmtime::Error,
    first_added: u32,
    place: Option<u32>,
) -> String {
    let mut text = format!("corestream: {}: {}\n", shown(name), shown(cause));
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let added = frames.iter().take_while(|frame| frame.func_index() >= first_added).count();
    let frames = frames.get(added..).unwrap_or_default();
    for (i, frame) in frames.iter().enumerate().take(PRINTED_FRAMES) {
        let module = shown(frame.module().name().unwrap_or(name));
        let function = match frame.func_name() {
            Some(name) if !name.is_empty() => shown(&demangle(name)),
            _ => format!("function {}", frame.func_index()),
        };
        let place = place.filter(|_| i == 0);
        let offset = place.map(u64::from).or(frame.func_offset().map(|offset| offset as u64));
        let offset = offset.map_or(String::new(), |offset| format!(" + {offset:#x}"));
        text.push_str(&format!("{i:>5}: {module}: {function}{offset}\n"));
        // The engine's lines are those of its own place.
        for symbol in frame.symbols().iter().filter(|_| place.is_none()) {
            if let (Some(file), Some(line)) = (symbol.file(), symbol.line()) {
                text.push_str(&format!("         at {}:{line}\n", shown(file)));
            }
        }
    }
    if frames.len() > PRINTED_FRAMES {
        text.push_str(&format!("       and {} more\n", frames.len() - PRINTED_FRAMES));
    }
    text
}

/// A name of the guest's, as it may be shown on a terminal.
fn shown(name: &str) -> String {
    Visible(name).to_string()
}
