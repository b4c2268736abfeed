//! Formatting of the backtrace of a stopped guest.

use corestream::Visible;
use corestream_symbols::demangle;
use wasmtime::{FrameInfo, WasmBacktrace};

/// The maximum number of printed frames. The dump has all frames.
pub const PRINTED_FRAMES: usize = 50;

/// Formats the cause and the frames, one per line.
///
/// Functions from index `first_added` on were added by the tool. They can only be the youngest frames, and are not
/// shown. `place` is the true offset of the youngest frame, if the engine's is wrong. `dumped` is the number of frames in
/// the dump, which can be larger than the engine's. `modules` are the names of the modules of the frames, where they
/// differ from those in the modules themselves.
pub fn render(
    name: &str,
    cause: &str,
    error: &wasmtime::Error,
    first_added: Option<u32>,
    place: Option<u32>,
    dumped: usize,
    modules: &[Option<String>],
) -> String {
    let mut text = format!("corestream: {}: {}\n", shown(name), shown(cause));
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let is_added =
        |frame: &&FrameInfo| first_added.is_some_and(|first| frame.func_index() >= first);
    let added = frames.iter().take_while(is_added).count();
    let frames = frames.get(added..).unwrap_or_default();
    for (i, frame) in frames.iter().enumerate().take(PRINTED_FRAMES) {
        let module = modules.get(i).and_then(Option::as_deref).or(frame.module().name());
        let module = shown(module.unwrap_or(name));
        let function = match frame.func_name() {
            Some(name) if !name.is_empty() => shown(&demangle(name)),
            _ => format!("function {}", frame.func_index()),
        };
        let place = place.filter(|_| i == 0);
        let offset = place.map(u64::from).or(frame.func_offset().map(|offset| offset as u64));
        let offset = offset.map_or(String::new(), |offset| format!(" + {offset:#x}"));
        text.push_str(&format!("{i:>5}: {module}: {function}{offset}\n"));
        // The engine's line belongs to the offset that the engine reports.
        for symbol in frame.symbols().iter().filter(|_| place.is_none()) {
            if let (Some(file), Some(line)) = (symbol.file(), symbol.line()) {
                text.push_str(&format!("         at {}:{line}\n", shown(file)));
            }
        }
    }
    let more = frames.len().max(dumped).saturating_sub(frames.len().min(PRINTED_FRAMES));
    if more > 0 {
        text.push_str(&format!("       and {more} more\n"));
    }
    text
}

/// Escapes a name of the guest for a terminal.
fn shown(name: &str) -> String {
    Visible(name).to_string()
}
