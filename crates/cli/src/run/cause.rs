//! The engine's errors in words for a user of the tool.
//!
//! Wasmtime's messages are for embedders: some have several lines, some name a method of its `Config` that
//! a user of the tool cannot call. Each error becomes one line that says what is wrong with the guest.

use corestream_wasmtime::Note;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::Error;

use crate::limits::MAX_SEARCHED_BYTES;

/// Proposals that `run` supports. Only others are looked for in a guest that it refuses.
const SUPPORTED: WasmFeatures =
    WasmFeatures::WASM3.union(WasmFeatures::CUSTOM_PAGE_SIZES).union(WasmFeatures::WIDE_ARITHMETIC);
/// Messages that are addressed to embedders. Whole ones: any part of them may be a name of the guest's in
/// another message.
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

/// Says why a module is not valid: a proposal that `run` does not support, or a mistake.
pub fn invalid(wasm: &[u8], error: &Error) -> String {
    let missing = missing_proposals(wasm);
    if missing.is_empty() {
        // The validator speaks of the guest only, with its names.
        return format!("invalid module: {}", chain(error, in_words));
    }
    let s = if missing.len() == 1 { "" } else { "s" };
    format!("uses the proposal{s} {}, which `run` does not support", missing.join(", "))
}

/// The proposals that a module needs and `run` does not support; none if the module is invalid with all.
fn missing_proposals(wasm: &[u8]) -> Vec<String> {
    let all = WasmFeatures::all();
    let is_valid = |features| Validator::new_with_features(features).validate_all(wasm).is_ok();
    if wasm.len() > MAX_SEARCHED_BYTES || !is_valid(all) {
        return Vec::new();
    }
    let others = all.difference(SUPPORTED).iter_names();
    // Those of components are of no use in a core module, and the parser's own are no proposals.
    let others = others.filter(|(name, _)| !name.starts_with("CM") && *name != "COMPONENT_MODEL");
    let needed = others.filter(|(_, feature)| !is_valid(all.difference(*feature)));
    needed.map(|(name, _)| name.to_lowercase().replace('_', "-")).collect()
}

/// Splits a message of the validator into its cause and the offset in the module that it ends with.
pub fn split_offset(message: &str) -> Option<(&str, u64)> {
    let (cause, offset) = message.strip_suffix(')')?.rsplit_once(" (at offset 0x")?;
    Some((cause, u64::from_str_radix(offset, 16).ok()?))
}

/// The chain of causes in one line, outermost first, without words for embedders.
pub fn plain(error: &Error) -> String {
    chain(error, |message| {
        if FOR_EMBEDDERS.contains(&message) {
            return "the engine, as `run` sets it up, does not support what the guest needs".into();
        }
        in_words(message)
    })
}

/// The chain of causes in one line, outermost first; each is given to `reword` as one line.
fn chain(error: &Error, reword: impl Fn(&str) -> String) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        let message = cause.to_string();
        let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
        let cause = reword(&lines.collect::<Vec<_>>().join(" "));
        // Some errors repeat their source.
        if !cause.is_empty() && !causes.iter().any(|said| said.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}

/// What a dump does not know, with the option of the tool that helps where there is one.
pub fn note(note: &Note) -> String {
    match note {
        Note::Frames { kept } => {
            let s = if *kept == 1 { "" } else { "s" };
            format!(
                "the backtrace stops at {kept} frame{s}, older ones may be missing: raise --max-frames"
            )
        }
        Note::NoFrames => "there is no backtrace: no function was running, or --max-frames is too \
                           large for this machine"
            .into(),
        Note::NoInstances => {
            "no instance is known: the guest had not started; --locals lists it".into()
        }
        other => other.to_string(),
    }
}

/// One cause in the tool's words.
fn in_words(message: &str) -> String {
    if message == "WebAssembly translation error" || message == "Invalid input WebAssembly code" {
        // The cause that follows says it.
        return String::new();
    }
    if let Some(pages) = between(message, "memory minimum size of ", " pages exceeds memory limits")
    {
        let s = if pages == "1" { "" } else { "s" };
        return format!("the memory is too large for this machine: it begins with {pages} page{s}");
    }
    if let Some(bytes) = message.strip_prefix("mmap failed to reserve ") {
        return format!("cannot reserve address space for the guest, {bytes}");
    }
    if let Some(n) = between(message, "table minimum size of ", " elements exceeds table limits") {
        let s = if n == "1" { "" } else { "s" };
        return format!("a table is too large: it begins with {n} element{s}");
    }
    lower_case(message)
}

fn between<'m>(message: &'m str, begin: &str, end: &str) -> Option<&'m str> {
    message.strip_prefix(begin)?.strip_suffix(end)
}

/// The message with a lower-case first letter, unless the first word is an abbreviation.
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
    fn no_message_is_for_embedders() {
        let error = Error::msg(
            "shared memory support is disabled for this engine -- see `Config::shared_memory`",
        );
        let said = plain(&error.context("failed to\n   instantiate"));
        assert_eq!(
            said,
            "failed to instantiate: the engine, as `run` sets it up, does not support what the guest \
             needs"
        );
        // A name of the guest's is no reason to keep a message back.
        let said = plain(&Error::msg("export `Store::new_async` has no type"));
        assert_eq!(said, "export `Store::new_async` has no type");
        let said = plain(&Error::msg("memory minimum size of 1 pages exceeds memory limits"));
        assert_eq!(said, "the memory is too large for this machine: it begins with 1 page");
        let said =
            plain(&Error::msg("Unsupported feature: x").context("WebAssembly translation error"));
        assert_eq!(said, "unsupported feature: x");
    }

    #[test]
    fn names_the_proposals_that_are_missing() {
        let legacy = wat::parse_str("(module (func try catch_all end))").unwrap();
        assert_eq!(missing_proposals(&legacy), ["legacy-exceptions"]);
        let plain = wat::parse_str("(module (memory i64 1) (func return_call 0))").unwrap();
        assert!(missing_proposals(&plain).is_empty());
    }
}
