//! Lines of a terminal: names that fit into one, lists that go on in the next.

use std::io::{self, Write};

use crate::report;

/// Columns of a terminal; a character takes one.
const COLUMNS: usize = 80;
/// Characters of a name that are shown.
pub const NAME: usize = 48;

/// A line of items after its title, continued below it; nothing if there are none.
pub fn wrapped(
    out: &mut impl Write,
    title: &str,
    items: impl Iterator<Item = String>,
) -> io::Result<()> {
    let mut column = 0;
    for item in items {
        let width = 1 + item.chars().count();
        if column == 0 {
            write!(out, "{title}")?;
            column = title.len();
        } else if column + width > COLUMNS {
            write!(out, "\n{:1$}", "", title.len())?;
            column = title.len();
        }
        write!(out, " {item}")?;
        column += width;
    }
    if column > 0 { writeln!(out) } else { Ok(()) }
}

/// A name that plays no tricks on a terminal, cut to what fits into a line.
pub fn name(name: &str) -> String {
    let (mut shown, mut characters) = (String::new(), 0);
    for c in name.chars() {
        if characters >= NAME {
            shown.push('…');
            break;
        }
        let before = shown.len();
        report::push_visible(&mut shown, c);
        // One that is escaped becomes several.
        characters += shown[before..].chars().count();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_in_any_alphabet() {
        let lines = |item: &str| {
            let mut out = Vec::new();
            wrapped(&mut out, "  of", (0..100).map(|_| item.into())).unwrap();
            let text = String::from_utf8(out).unwrap();
            text.lines().map(|line| line.chars().count()).collect::<Vec<_>>()
        };
        let latin = lines("length = 1,");
        assert_eq!(latin, lines("μήκος_ = 1,"));
        assert_eq!(latin[0], 4 + 6 * 12);
        assert!(lines("…").iter().all(|width| *width <= COLUMNS));
    }

    #[test]
    fn names_are_cut_to_as_many_characters_in_any_alphabet() {
        assert_eq!(name(&"é".repeat(NAME)), "é".repeat(NAME));
        assert_eq!(name(&"é".repeat(NAME + 1)), "é".repeat(NAME) + "…");
        assert_eq!(name(&"\n".repeat(NAME)), "\\n".repeat(NAME / 2) + "…");
    }
}
