//! Escaping of untrusted text in messages.
//!
//! Names in a dump, paths and messages of other processes may contain any character. On a terminal, control characters
//! move the cursor, change colours or simulate key presses, line separators forge a second message, directional marks
//! reorder a name, and zero-width characters hide in it. All messages escape such characters as in Rust literals, and
//! no others. JSON, WAT and the replies of `corestream receive` (ASCII) follow the escaping rules of their formats.

use std::fmt::{self, Write};

/// Displays text on one line that is safe to print to a terminal.
///
/// Escapes control characters, line and paragraph separators, directional marks and controls, and the zero-width format
/// characters of the basic multilingual plane, such as soft hyphens and byte order marks. Variation selectors and
/// script joiners are kept because names in many languages need them.
///
/// The library's errors and the `Display` of its model are escaped this way. [`CoreDumpFile`](crate::CoreDumpFile)
/// returns names unescaped, as the dump has them: wrap them in this type before printing.
///
/// ```
/// use corestream::Visible;
///
/// assert_eq!(Visible("guest\n\u{1b}[31m.wasm").to_string(), "guest\\n\\u{1b}[31m.wasm");
/// assert_eq!(Visible("exe.\u{202e}gnp").to_string(), "exe.\\u{202e}gnp");
/// assert_eq!(Visible("größer").to_string(), "größer");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Visible<T>(pub T);

impl Visible<char> {
    /// Returns whether this character is escaped.
    ///
    /// ```
    /// use corestream::Visible;
    ///
    /// assert!(Visible('\n').is_escaped() && !Visible('ß').is_escaped());
    /// ```
    pub fn is_escaped(self) -> bool {
        let without_width_or_order = matches!(
            self.0,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        );
        self.0.is_control() || without_width_or_order
    }
}

impl<T: fmt::Display> fmt::Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{}", self.0)
    }
}

/// Forwards text to a formatter, with special characters escaped.
struct Escape<'e, 'f>(&'e mut fmt::Formatter<'f>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(|c| Visible(c).is_escaped()) {
            let mut before = part.chars();
            match before.next_back().filter(|c| Visible(*c).is_escaped()) {
                Some(escaped) => write!(self.0, "{}{}", before.as_str(), escaped.escape_default())?,
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_control_and_invisible_characters_only() {
        let text = "a\tb\u{7f}\u{9b}\u{ad}\u{61c}\u{200b}\u{2028}\u{2066}\u{feff}é日🦀\\'\"";
        let expected =
            "a\\tb\\u{7f}\\u{9b}\\u{ad}\\u{61c}\\u{200b}\\u{2028}\\u{2066}\\u{feff}é日🦀\\'\"";
        assert_eq!(Visible(text).to_string(), expected);
        assert_eq!(Visible(format_args!("{}{}", '\n', 1)).to_string(), "\\n1");
        assert_eq!(Visible("").to_string(), "");
    }

    #[test]
    fn escapes_only_the_basic_multilingual_plane() {
        let escaped = ('\0'..=char::MAX).filter(|c| Visible(*c).is_escaped());
        assert_eq!(escaped.max(), Some('\u{fffb}'));
    }
}
