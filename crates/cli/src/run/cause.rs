//! The engine's errors, reworded for users of the tool.
//!
//! Wasmtime's messages are for embedders. Some have several lines, and some name a method of `Config` that a user of
//! the tool cannot call. This module turns each error into one line about the guest.

use corestream_wasmtime::Note;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::Error;

use crate::limits::MAX_SEARCHED_BYTES;

/// The proposals that `run` supports. If it rejects a guest, it looks for others.
const SUPPORTED: WasmFeatures =
    WasmFeatures::WASM3.union(WasmFeatures::CUSTOM_PAGE_SIZES).union(WasmFeatures::WIDE_ARITHMETIC);
/// Complete messages that address embedders. Parts of them are not matched, because a name of the guest can contain
/// them.
const FOR_EMBEDDERS: &[&str] = &[
    "shared memory support is disabled for this engine -- see `Config::shared_memory`",
    "support for shared memories was disabled at compile time",
    "creation of shared memories disabled at compile time",
    "store configuration requires that `*_async` functions are used instead",
    "support for GC was disabled at compile time",
    "cannot use GC types: the `gc` feature was disabled at compile time",
    "cannot create a GC runtime: the `gc` feature was disabled at compile time",
    "cannot allocate a GC store: the `gc` feature was disabled at compile time",
    "cannot allocate a GC store when GC is disabled at configuration time",
    "no GC runtime: GC disabled at compile time or configuration time",
    "tunable.memory_guard_size overflows",
    "tunables.memory_reservation overflows",
    "tunables.memory_reservation_for_growth overflows",
];

/// Returns the reason why a module is invalid: an unsupported proposal, or an error in the module.
pub fn invalid(wasm: &[u8], error: &Error) -> String {
    let missing = missing_proposals(wasm);
    if missing.is_empty() {
        // The validator's message is about the guest.
        return format!("invalid module: {}", chain(error, in_words));
    }
    let s = if missing.len() == 1 { "" } else { "s" };
    format!("uses the proposal{s} {}, which `run` does not support", missing.join(", "))
}

/// Returns the proposals that a module needs and `run` does not support. Returns none if the module is invalid with all
/// proposals.
fn missing_proposals(wasm: &[u8]) -> Vec<String> {
    let all = WasmFeatures::all();
    let is_valid = |features| Validator::new_with_features(features).validate_all(wasm).is_ok();
    if wasm.len() > MAX_SEARCHED_BYTES || !is_valid(all) {
        return Vec::new();
    }
    let others = all.difference(SUPPORTED).iter_names();
    // Skips component features, which a core module cannot use, and the parser's own features, which are not proposals.
    let others = others.filter(|(name, _)| !name.starts_with("CM") && *name != "COMPONENT_MODEL");
    let needed = others.filter(|(_, feature)| !is_valid(all.difference(*feature)));
    needed.map(|(name, _)| name.to_lowercase().replace('_', "-")).collect()
}

/// Splits a message of the validator into its cause and the offset in the module at its end.
pub fn split_offset(message: &str) -> Option<(&str, u64)> {
    let (cause, offset) = message.strip_suffix(')')?.rsplit_once(" (at offset 0x")?;
    Some((cause, u64::from_str_radix(offset, 16).ok()?))
}

/// Formats the chain of causes on one line, outermost first, without messages for embedders.
pub fn plain(error: &Error) -> String {
    chain(error, |message| {
        if FOR_EMBEDDERS.contains(&message) {
            return "the engine, as `run` sets it up, does not support a feature of the guest"
                .into();
        }
        in_words(message)
    })
}

/// Formats the chain of causes on one line, outermost first. `reword` gets each cause as one line.
fn chain(error: &Error, reword: impl Fn(&str) -> String) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        let message = cause.to_string();
        let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
        let cause = reword(&lines.collect::<Vec<_>>().join(" "));
        // Skips a cause that the previous one repeats.
        if !cause.is_empty() && !causes.iter().any(|message| message.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}

/// Formats a note about an unknown part of the dump, with the option that helps, if there is one.
pub fn note(note: &Note) -> String {
    match note {
        Note::Frames { kept } => {
            let s = if *kept == 1 { "" } else { "s" };
            format!("the backtrace is truncated to {kept} frame{s}; raise --max-frames")
        }
        Note::NoFrames => "there is no backtrace: no function was running, or --max-frames is too \
                           large for this machine"
            .into(),
        Note::NoInstances => {
            "no instance is known because the guest had not started; --locals lists it".into()
        }
        Note::FrameInstances { frames, .. } => {
            let (s, are, their) =
                if *frames == 1 { ("", "is", "its") } else { ("s", "are", "their") };
            format!(
                "the instance{s} of {frames} frame{s} {are} unknown, because {their} module has several; run \
                 the guest with --locals to record {}",
                if *frames == 1 { "it" } else { "them" }
            )
        }
        Note::Memory { instance, index, .. } => {
            format!("memory {index} of instance {instance} is unknown; --locals finds it")
        }
        Note::Globals { instance, count } => {
            let (s, are, them) = if *count == 1 { ("", "is", "it") } else { ("s", "are", "them") };
            format!("{count} global{s} of instance {instance} {are} unknown; --locals finds {them}")
        }
        other => other.to_string(),
    }
}

/// Rewords one cause.
fn in_words(message: &str) -> String {
    if matches!(
        message,
        "WebAssembly translation error"
            | "Invalid input WebAssembly code"
            | "failed to parse WebAssembly module"
    ) {
        // The next cause has the details.
        return String::new();
    }
    if let Some(pages) = between(message, "memory minimum size of ", " pages exceeds memory limits")
    {
        let s = if pages == "1" { "" } else { "s" };
        return format!(
            "the memory is too large for this machine: its initial size is {pages} page{s}"
        );
    }
    if let Some(bytes) = message.strip_prefix("mmap failed to reserve ") {
        return format!("cannot reserve address space for the guest, {bytes}");
    }
    if let Some(n) = between(message, "table minimum size of ", " elements exceeds table limits") {
        let s = if n == "1" { "" } else { "s" };
        return format!("a table is too large: its initial size is {n} element{s}");
    }
    lower_case(message)
}

fn between<'m>(message: &'m str, begin: &str, end: &str) -> Option<&'m str> {
    message.strip_prefix(begin)?.strip_suffix(end)
}

/// Lowers the first letter of a message, unless its first word is an abbreviation.
fn lower_case(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second))
            if first.is_ascii_uppercase() && second.is_ascii_lowercase() =>
        {
            format!("{}{}", first.to_ascii_lowercase(), &message[1..])
        }
        _ => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewords_messages_for_embedders() {
        let error = Error::msg(
            "shared memory support is disabled for this engine -- see `Config::shared_memory`",
        );
        let message = plain(&error.context("failed to\n   instantiate"));
        assert_eq!(
            message,
            "failed to instantiate: the engine, as `run` sets it up, does not support a feature of \
             the guest"
        );
        // A name of the guest may look like a message for embedders.
        let message = plain(&Error::msg("export `Store::new_async` has no type"));
        assert_eq!(message, "export `Store::new_async` has no type");
        let message = plain(&Error::msg("memory minimum size of 1 pages exceeds memory limits"));
        assert_eq!(message, "the memory is too large for this machine: its initial size is 1 page");
        let message =
            plain(&Error::msg("Unsupported feature: x").context("WebAssembly translation error"));
        assert_eq!(message, "unsupported feature: x");
    }

    #[test]
    fn names_missing_proposals() {
        let legacy = wat::parse_str("(module (func try catch_all end))").unwrap();
        assert_eq!(missing_proposals(&legacy), ["legacy-exceptions"]);
        let plain = wat::parse_str("(module (memory i64 1) (func return_call 0))").unwrap();
        assert!(missing_proposals(&plain).is_empty());
    }
}
