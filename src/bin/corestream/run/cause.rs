//! The engine's errors in words for a user of the tool.
//!
//! Wasmtime's messages are for embedders: some have several lines, some name a method of its `Config` that
//! a user of the tool cannot call. Each error becomes one line that says what is wrong with the guest.

use corestream::wasmtime::Note;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::Error;

/// Proposals that `run` supports. Only others are looked for in a guest that it refuses.
const SUPPORTED: WasmFeatures =
    WasmFeatures::WASM3.union(WasmFeatures::CUSTOM_PAGE_SIZES).union(WasmFeatures::WIDE_ARITHMETIC);
/// Bytes of a module at most in which unsupported proposals are looked for: it is validated once for each.
const MAX_SEARCHED: usize = 64 << 20;
/// The beginnings of what an embedder may do and a user of the tool may not.
const FOR_EMBEDDERS: &[&str] = &[
    "Config::",
    "Store::",
    "Engine::",
    "Linker::",
    "Module::",
    "InstanceAllocationStrategy",
    "tunables.",
    "tunable.",
    "_async",
    "compile time",
    "configuration time",
];

/// Says why a module is not valid: a proposal that `run` does not support, or a mistake.
pub fn invalid(wasm: &[u8], error: &Error) -> String {
    let missing = missing_proposals(wasm);
    if missing.is_empty() {
        return format!("invalid module: {}", plain(error));
    }
    let s = if missing.len() == 1 { "" } else { "s" };
    format!("uses the proposal{s} {}, which `run` does not support", missing.join(", "))
}

/// The proposals that a module needs and `run` does not support; none if the module is invalid with all.
fn missing_proposals(wasm: &[u8]) -> Vec<String> {
    let all = WasmFeatures::all();
    let is_valid = |features| Validator::new_with_features(features).validate_all(wasm).is_ok();
    if wasm.len() > MAX_SEARCHED || !is_valid(all) {
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

/// The chain of causes in one line, outermost first.
pub fn plain(error: &Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        let cause = one(&cause.to_string());
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

/// One cause: its lines joined, in the tool's words.
fn one(message: &str) -> String {
    let message = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = message.collect::<Vec<_>>().join(" ");
    if FOR_EMBEDDERS.iter().any(|word| message.contains(word)) {
        return "the engine, as `run` sets it up, does not support what the guest needs".into();
    }
    if message == "WebAssembly translation error" || message == "Invalid input WebAssembly code" {
        // The cause that follows says it.
        return String::new();
    }
    if let Some(pages) =
        between(&message, "memory minimum size of ", " pages exceeds memory limits")
    {
        let s = if pages == "1" { "" } else { "s" };
        return format!("the memory is too large for this machine: it begins with {pages} page{s}");
    }
    if let Some(bytes) = message.strip_prefix("mmap failed to reserve ") {
        return format!("cannot reserve address space for the guest, {bytes}");
    }
    if let Some(n) = between(&message, "table minimum size of ", " elements exceeds table limits") {
        let s = if n == "1" { "" } else { "s" };
        return format!("a table is too large: it begins with {n} element{s}");
    }
    lower_case(&message)
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
