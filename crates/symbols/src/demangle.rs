//! Demangling of function names.

use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

use super::limits::MAX_NAME_CHARS;

/// Truncates text of a module to the maximum length.
pub fn truncate(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

/// Demangles the name of a Rust or C++ function. Returns other names unchanged.
///
/// ```
/// use corestream_symbols::demangle;
///
/// assert_eq!(demangle("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"), "core::fmt::Formatter::pad");
/// assert_eq!(demangle("_Z3addii"), "add(int, int)");
/// assert_eq!(demangle("main"), "main");
/// ```
pub fn demangle(name: &str) -> String {
    let of_rust = || {
        let symbol = rustc_demangle::try_demangle(name).ok()?;
        let mut text = Limited::default();
        // The alternate form omits the hash at the end.
        write!(text, "{symbol:#}").ok().map(|()| text.0)
    };
    let of_cpp = || {
        let symbol = cpp_demangle::Symbol::new(name).ok()?;
        let mut text = Limited::default();
        symbol.structured_demangle(&mut text, &DemangleOptions::default()).ok().map(|()| text.0)
    };
    // Other names could be parsed as mangled types: `f` means `float`.
    let mangled = ["_Z", "__Z", "_R"].iter().any(|begin| name.starts_with(begin));
    let short = mangled && name.len() <= MAX_NAME_CHARS;
    let text = if short { of_rust().or_else(of_cpp) } else { None };
    text.unwrap_or_else(|| truncate(name))
}

/// A writer that fails once the text gets too long: a short mangled name can double its length with every letter.
#[derive(Default)]
struct Limited(String);

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME_CHARS {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_and_cpp_and_others() {
        assert_eq!(
            demangle("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"),
            "core::fmt::Formatter::pad"
        );
        assert_eq!(demangle("_RNvC5guest4main"), "guest::main");
        assert_eq!(demangle("_Z3addii"), "add(int, int)");
        for plain in ["f", "main", "_start", "_Z", "_R", "__Zero", "ü"] {
            assert_eq!(demangle(plain), plain);
        }
        assert_eq!(demangle(&"x".repeat(10_000)).len(), MAX_NAME_CHARS);
    }

    /// Returns a nested pair type, twice as long for each level.
    #[test]
    fn names_that_double() {
        let digits = |n: usize| match n {
            0..=9 => n.to_string(),
            n => char::from(b'A' + u8::try_from(n - 10).unwrap()).to_string(),
        };
        let name = |depth: usize| {
            let pairs = (0..depth).map(|i| format!("S_IS{0}_S{0}_E", digits(i)));
            let name = format!("_Z1fSt4pairIiiE{}", pairs.collect::<String>());
            (demangle(&name), name)
        };
        assert!(
            name(3).0.contains("std::pair<std::pair<int, int>, std::pair<int, int> >"),
            "{}",
            name(3).0
        );
        let (text, mangled) = name(34);
        assert_eq!(text, mangled, "the demangled name is too long");
    }
}
