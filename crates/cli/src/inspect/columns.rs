//! Fits text to the width of standard output: wraps lists, and truncates names.

use std::io::{self, IsTerminal, Write};

use corestream::Visible;
use rustix::termios::tcgetwinsize;

/// The width if neither a terminal nor `COLUMNS` defines it.
const DEFAULT_COLUMNS: usize = 80;
/// The minimum width. A narrower terminal breaks the lines itself.
const MIN_COLUMNS: usize = 40;

/// The maximum number of characters of a name outside of a terminal. A hostile dump can have a million frames whose module
/// has a name of 100,000 bytes.
const MAX_NAME_CHARS: usize = corestream_symbols::limits::MAX_NAME_CHARS;

/// The width of the text before a name, and of the mark of a truncated one.
const NAME_INDENT: usize = 8;

/// A width in columns. Each character counts as one column.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    width: usize,
    /// Whether names that are wider than a line are truncated: on a terminal. Other readers search the text.
    truncate: bool,
}

impl Columns {
    /// Returns the width of standard output: the width of the terminal, otherwise the value of `COLUMNS`, otherwise 80.
    /// Clap uses the same order for `--help`.
    pub fn of_standard_output() -> Self {
        let stdout = io::stdout();
        let size = if stdout.is_terminal() { tcgetwinsize(&stdout).ok() } else { None };
        let of_terminal = size.map(|size| size.ws_col.into()).filter(|columns| *columns > 0);
        let set = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
        let width = of_terminal.or_else(set).unwrap_or(DEFAULT_COLUMNS);
        Self { truncate: stdout.is_terminal(), ..Self::new(width) }
    }

    /// Returns the width of a terminal with this many columns, but at least 40.
    pub fn new(columns: usize) -> Self {
        Self { width: columns.max(MIN_COLUMNS), truncate: true }
    }

    /// Returns whether this many characters fit into a line.
    pub fn have_room_for(self, characters: usize) -> bool {
        characters <= self.width
    }

    /// Returns whether names are truncated.
    pub fn truncate_names(self) -> bool {
        self.truncate
    }

    /// Returns the maximum number of characters of a name: on a terminal a line, without the indentation.
    pub fn name_width(self) -> usize {
        if self.truncate { self.width - NAME_INDENT } else { MAX_NAME_CHARS }
    }

    /// Escapes control characters in a name and truncates it to [`name_width`](Self::name_width).
    pub fn name(self, name: &str) -> String {
        let (mut shown, mut room) = (String::new(), self.name_width());
        for c in name.chars() {
            // An escaped character becomes several characters.
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

    /// Writes a title and a list of items, wrapped and indented. Writes nothing if there are no items.
    ///
    /// # Errors
    /// Returns an error if writing fails.
    pub fn write_wrapped(
        self,
        out: &mut impl Write,
        title: &str,
        items: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        let indent = title.chars().count();
        let mut is_begun = false;
        // The columns left in the line; `None` if the line is full or no line has begun.
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
                // An item wider than a line gets a line to itself.
                room = self.width.checked_sub(indent).and_then(|room| room.checked_sub(width));
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
        Columns::new(columns).write_wrapped(&mut out, "  of", items).unwrap();
        String::from_utf8(out).unwrap().lines().map(Into::into).collect()
    }

    #[test]
    fn lines_are_equally_wide_in_any_alphabet() {
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
        for columns in MIN_COLUMNS..200 {
            let lines = wrapped(columns, "two");
            let (last, full) = lines.split_last().unwrap();
            assert!(full.iter().all(|line| (columns - 3..=columns).contains(&line.len())));
            assert!(last.len() <= columns && lines.concat().matches("two").count() == 100);
        }
        // Each wide item has a line to itself.
        assert_eq!(wrapped(80, &"x".repeat(100)).len(), 100);
        let mut out = Vec::new();
        Columns::new(80).write_wrapped(&mut out, "  of", std::iter::empty()).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn truncates_names_to_the_same_length_in_any_alphabet() {
        for (columns, most) in [(0, 32), (80, 72), (132, 124)] {
            let columns = Columns::new(columns);
            assert_eq!(columns.name(&"é".repeat(most)), "é".repeat(most));
            assert_eq!(columns.name(&"é".repeat(most + 1)), "é".repeat(most) + "…");
            assert_eq!(columns.name(&"\n".repeat(most)), "\\n".repeat(most / 2) + "…");
            // Only a terminal has an end of the line.
            let searched = Columns { truncate: false, ..columns };
            assert_eq!(searched.name(&"é".repeat(1000)), "é".repeat(1000));
        }
    }
}
