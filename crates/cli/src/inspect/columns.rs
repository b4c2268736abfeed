//! The width of standard output: lists that go on in the next line, names that are cut to fit into one.

use std::io::{self, IsTerminal, Write};

use corestream::Visible;
use rustix::termios::tcgetwinsize;

/// Columns where neither a terminal nor `COLUMNS` says how many there are.
const DEFAULT: usize = 80;
/// A narrower terminal breaks lines itself.
const LEAST: usize = 40;

/// A number of columns; a character takes one.
#[derive(Clone, Copy, Debug)]
pub struct Columns(usize);

impl Columns {
    /// Returns the width of standard output: that of the terminal, if it is one, else what `COLUMNS` says, else 80.
    /// The order is that of `--help`.
    pub fn of_standard_output() -> Self {
        let stdout = io::stdout();
        let size = if stdout.is_terminal() { tcgetwinsize(&stdout).ok() } else { None };
        let of_terminal = size.map(|size| size.ws_col.into()).filter(|columns| *columns > 0);
        let set = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
        Self::new(of_terminal.or_else(set).unwrap_or(DEFAULT))
    }

    /// Returns this number of columns, at least 40.
    pub fn new(columns: usize) -> Self {
        Self(columns.max(LEAST))
    }

    /// Returns whether this many characters fit into a line.
    pub fn have_room_for(self, characters: usize) -> bool {
        characters <= self.0
    }

    /// Returns the number of characters of a name that are shown: 48 of 80, which leaves room for what stands beside it.
    pub fn of_name(self) -> usize {
        self.0 / 5 * 3
    }

    /// Returns a name without characters that play tricks on a terminal, cut to what fits into a line.
    pub fn name(self, name: &str) -> String {
        let (mut shown, mut room) = (String::new(), self.of_name());
        for c in name.chars() {
            // One that is escaped becomes several.
            let c = Visible(c).to_string();
            let Some(left) = room.checked_sub(c.chars().count()) else {
                shown.push('…');
                break;
            };
            shown.push_str(&c);
            room = left;
        }
        shown
    }

    /// Writes a line of items after its title, continued below it; nothing if there are no items.
    pub fn wrapped(
        self,
        out: &mut impl Write,
        title: &str,
        items: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        let indent = title.chars().count();
        let mut is_begun = false;
        // The columns that are left in the line; `None` if it is full, or not begun.
        let mut room: Option<usize> = None;
        for item in items {
            let item = format!(" {item}");
            let width = item.chars().count();
            room = room.and_then(|room| room.checked_sub(width));
            if room.is_none() {
                match is_begun {
                    false => write!(out, "{title}")?,
                    true => write!(out, "\n{:indent$}", "")?,
                }
                is_begun = true;
                // An item that is wider than a line has one of its own.
                room = self.0.checked_sub(indent).and_then(|room| room.checked_sub(width));
            }
            out.write_all(item.as_bytes())?;
        }
        if is_begun { writeln!(out) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(columns: usize, item: &str) -> Vec<String> {
        let mut out = Vec::new();
        let items = (0..100).map(|_| item.into());
        Columns::new(columns).wrapped(&mut out, "  of", items).unwrap();
        String::from_utf8(out).unwrap().lines().map(Into::into).collect()
    }

    #[test]
    fn lines_are_as_wide_in_any_alphabet() {
        let widths = |item: &str| -> Vec<_> {
            wrapped(80, item).iter().map(|line| line.chars().count()).collect()
        };
        let latin = widths("length = 1,");
        assert_eq!(latin, widths("μήκος_ = 1,"));
        assert_eq!(latin[0], 4 + 6 * 12);
        assert!(widths("…").iter().all(|width| *width <= 80));
    }

    #[test]
    fn lines_fill_any_width() {
        for columns in LEAST..200 {
            let lines = wrapped(columns, "two");
            let (last, full) = lines.split_last().unwrap();
            assert!(full.iter().all(|line| (columns - 3..=columns).contains(&line.len())));
            assert!(last.len() <= columns && lines.concat().matches("two").count() == 100);
        }
        // Each has a line of its own.
        assert_eq!(wrapped(80, &"x".repeat(100)).len(), 100);
        let mut out = Vec::new();
        Columns::new(80).wrapped(&mut out, "  of", std::iter::empty()).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn names_are_cut_to_as_many_characters_in_any_alphabet() {
        for (columns, most) in [(0, 24), (80, 48), (132, 78)] {
            let columns = Columns::new(columns);
            assert_eq!(columns.name(&"é".repeat(most)), "é".repeat(most));
            assert_eq!(columns.name(&"é".repeat(most + 1)), "é".repeat(most) + "…");
            assert_eq!(columns.name(&"\n".repeat(most)), "\\n".repeat(most / 2) + "…");
        }
    }
}
