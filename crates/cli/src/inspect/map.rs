//! Draws a map of a memory: rows of cells, where each cell stands for the same number of bytes.
//!
//! # Problem
//!
//! A map shows where a guest's data lies. It must fit the terminal, for a memory of one page as well as for one of 2^64
//! bytes. A dump can describe a memory with millions of parts. And a single kept byte must remain visible.
//!
//! # Solution
//!
//! The number of bytes per cell is the smallest power of two, at least 2^[`MIN_CELL_LOG2`], with which the memory needs
//! at most [`MAX_ROWS`] rows. The number of cells per row is a power of two too, so that each row starts at a round
//! address. A single pass over the parts adds up the kept and the missing bytes of each cell. The shade of a cell then
//! depends on the kept share of its bytes, with two exceptions: a cell with any missing byte is drawn as missing,
//! because the user looks for those, and a cell with any kept byte is never drawn as zero. The last cell may be shorter
//! than the others, and its share is relative to its real size.
//!
//! # Cost
//!
//! Memory is bounded by `MAX_ROWS` rows of 256 cells, whatever the size of the memory. The work is linear in the number
//! of parts and cells: a part touches the cells that it overlaps, and consecutive parts share at most one cell.
//!
//! The result depends only on the parts, the width of a line, and the style.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use corestream::read::Content;

use super::columns::Columns;

/// The maximum number of rows of a map.
const MAX_ROWS: u64 = 32;
/// The possible numbers of cells in a row. The largest number that fits next to the address is used.
const ROW_CELLS: [usize; 5] = [256, 128, 64, 32, 16];
/// The base-2 logarithm of the smallest cell in bytes. With cells of 2^10 bytes, a page of 64 KiB is a row of 64 cells.
const MIN_CELL_LOG2: u32 = 10;

/// The kind of a range of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// Its bytes are in the dump.
    Kept,
    /// It is in no segment.
    Zero,
    /// Its bytes are not in the dump, and they are unknown.
    Missing,
}

/// A range of a memory, with its first and its last address.
pub type MemoryPart = (PartKind, RangeInclusive<u64>);

/// Converts a part of a memory from the reader's type.
pub fn part(content: &Content) -> MemoryPart {
    let kind = match content {
        Content::Data { .. } => PartKind::Kept,
        Content::Zero(_) => PartKind::Zero,
        _ => PartKind::Missing,
    };
    (kind, content.addresses().clone())
}

/// The style of a map.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to draw with Unicode block characters instead of ASCII.
    pub unicode: bool,
    /// Whether to draw in colour.
    pub colour: bool,
    /// Whether ranges in no segment are known to be zero.
    pub zero_known: bool,
}

impl Style {
    /// Returns the signs of the shades, indexed by [`Shade`].
    fn signs(self) -> [char; 5] {
        if self.unicode { ['·', '░', '▒', '█', '╳'] } else { ['.', '-', '+', '#', 'x'] }
    }
}

/// The shade of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shade {
    Zero = 0,
    Sparse = 1,
    Half = 2,
    Dense = 3,
    Missing = 4,
}

impl Shade {
    /// Returns the escape sequence that starts its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Zero => "\x1b[2m",
            Self::Sparse | Self::Half | Self::Dense => "\x1b[32m",
            Self::Missing => "\x1b[31m",
        }
    }
}

/// The numbers of kept and of missing bytes in a cell.
#[derive(Clone, Copy, Default)]
struct Cell {
    kept: u64,
    missing: u64,
}

impl Cell {
    /// Returns the shade of a cell of `size` bytes. Missing bytes always show, however few: the user looks for them.
    fn shade(self, size: u64) -> Shade {
        let quarters = 4 * u128::from(self.kept);
        match self {
            Self { missing: 1.., .. } => Shade::Missing,
            Self { kept: 0, .. } => Shade::Zero,
            _ if quarters < u128::from(size) => Shade::Sparse,
            _ if quarters < 3 * u128::from(size) => Shade::Half,
            _ => Shade::Dense,
        }
    }
}

/// Draws a memory whose last address is `last`, in lines no wider than `columns`. `parts` must be in the order of
/// addresses and must not overlap.
///
/// # Errors
/// Returns an error if writing fails.
pub fn draw(
    out: &mut impl Write,
    columns: Columns,
    last: u64,
    parts: impl Iterator<Item = MemoryPart>,
    style: Style,
) -> io::Result<()> {
    let digits = format!("{last:x}").len();
    let fits = |cells: &usize| columns.have_room_for("0x".len() + digits + " ".len() + cells);
    let row = ROW_CELLS.into_iter().find(fits).unwrap_or(16);
    // Two cells of 2^63 bytes are enough for any memory.
    let log2 =
        (MIN_CELL_LOG2..63).find(|log2| (last >> log2) / (row as u64) < MAX_ROWS).unwrap_or(63);
    let cells = cells(last, log2, parts);
    let mut shades: Vec<_> = cells.iter().map(|cell| cell.shade(1 << log2)).collect();
    if let (Some(shade), Some(cell)) = (shades.last_mut(), cells.last()) {
        // The memory may end within the last cell.
        *shade = cell.shade((last & mask(log2)) + 1);
    }
    write_legend(out, columns, log2, style)?;
    let mut text = String::new();
    for (i, shades) in (0_u64..).zip(shades.chunks(row)) {
        let address = (i * row as u64) << log2;
        let _ = write!(text, "0x{address:0digits$x} ");
        push_row(&mut text, shades, style);
    }
    out.write_all(text.as_bytes())
}

/// Returns the mask for the offset of an address within its cell. A cell has at most 2^63 bytes.
fn mask(log2: u32) -> u64 {
    (1 << log2) - 1
}

/// Counts the kept and missing bytes of each cell, up to the cell that contains the address `last`.
fn cells(last: u64, log2: u32, parts: impl Iterator<Item = MemoryPart>) -> Vec<Cell> {
    let mut cells: Vec<_> = (0..=last >> log2).map(|_| Cell::default()).collect();
    for (kind, range) in parts {
        if kind == PartKind::Zero {
            continue;
        }
        // Clip parts at the end of the memory.
        let (first, end) = (*range.start(), (*range.end()).min(last));
        let touched = usize::try_from(first >> log2).ok().and_then(|i| cells.get_mut(i..));
        let touched = (first >> log2..=end >> log2).zip(touched.unwrap_or_default());
        for (i, cell) in touched {
            let begin = i << log2;
            let (first, end) = (first.max(begin), end.min(begin | mask(log2)));
            // Parts do not overlap, so no sum exceeds the size of the cell.
            let bytes = end - first + 1;
            match kind {
                PartKind::Missing => cell.missing += bytes,
                _ => cell.kept += bytes,
            }
        }
    }
    cells
}

/// Appends a row of cells. Changes the colour only between cells of different colours.
fn push_row(text: &mut String, shades: &[Shade], style: Style) {
    let mut before = None;
    for shade in shades {
        let colour = style.colour.then(|| shade.colour());
        if colour != before {
            let reset = if before.is_some() { "\x1b[0m" } else { "" };
            let _ = write!(text, "{reset}{}", colour.unwrap_or_default());
            before = colour;
        }
        text.push(style.signs()[*shade as usize]);
    }
    text.push_str(if before.is_some() { "\x1b[0m\n" } else { "\n" });
}

/// Writes the legend: the size of a cell and the meaning of each sign.
fn write_legend(out: &mut impl Write, columns: Columns, log2: u32, style: Style) -> io::Result<()> {
    let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let mut sizes = units.into_iter().filter_map(|(unit, of)| Some((log2.checked_sub(of)?, unit)));
    let (log2, unit) = sizes.next().unwrap_or((log2, "bytes"));
    let [zero, sparse, half, dense, missing] = style.signs();
    let in_no_segment = if style.zero_known { "zero" } else { "not kept" };
    let items = [
        format!("{zero} {in_no_segment},"),
        format!("{sparse} < 1/4 kept,"),
        format!("{half} < 3/4,"),
        format!("{dense} more,"),
        format!("{missing} missing"),
    ];
    columns.write_wrapped(out, &format!("each cell {} {unit}:", 1_u64 << log2), items.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: Style = Style { unicode: false, colour: false, zero_known: true };

    fn map(columns: usize, last: u64, parts: &[MemoryPart], style: Style) -> String {
        let (mut out, parts) = (Vec::new(), parts.iter().cloned());
        draw(&mut out, Columns::new(columns), last, parts, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows(last: u64, parts: &[MemoryPart], style: Style) -> Vec<String> {
        map(80, last, parts, style).lines().skip(1).map(Into::into).collect()
    }

    #[test]
    fn the_share_of_kept_bytes_selects_the_sign() {
        let kept = |first: u64, len: u64| (PartKind::Kept, first..=first + len - 1);
        let missing = |first: u64, len: u64| (PartKind::Missing, first..=first + len - 1);
        let parts = [
            kept(0, 1),
            kept(1024, 255),
            kept(2048, 256),
            kept(3072, 767),
            kept(4096, 768),
            kept(5120, 1024 + 1),
            (PartKind::Zero, 6145..=8191),
            missing(8192, 1),
            kept(9216, 100),
            missing(9316, 101),
            kept(10240, 101),
            missing(10341, 100),
        ];
        let row = format!("0x0000 --++##-.xxx{}", ".".repeat(53));
        assert_eq!(rows(65_535, &parts, ASCII), [row]);
    }

    /// For a memory of any size, each address is in exactly one cell, the number of cells is bounded, and each row fits
    /// into the columns.
    #[test]
    fn a_map_of_any_size_is_bounded() {
        let sizes = (0..64).flat_map(|log2| [(1_u64 << log2) - 1, 1 << log2]);
        for last in sizes.chain([u64::MAX, (1 << 40) - 1, 759 * 65_536 - 1]) {
            for columns in [40, 79, 80, 132, 1000] {
                assert_bounded(last, columns);
            }
        }
    }

    fn assert_bounded(last: u64, columns: usize) {
        let text = map(columns, last, &[(PartKind::Kept, 0..=last)], ASCII);
        assert!(text.lines().all(|line| line.len() <= columns), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("0x")).collect();
        assert!((1..=32).contains(&rows.len()), "{last:#x}");
        let cells: String = rows.iter().map(|row| row.split_once(' ').unwrap().1).collect();
        assert!(cells.chars().all(|c| c == '#'), "{text}");
        // The address of a row is the address of its first cell.
        if let [first, second, ..] = rows[..] {
            let at = |row: &str| u64::from_str_radix(&row[2..row.find(' ').unwrap()], 16).unwrap();
            let row = (first.len() - first.find(' ').unwrap() - 1) as u64;
            let cell = (at(second) - at(first)) / row;
            assert!(cell.is_power_of_two() && cells.len() as u64 == last / cell + 1);
            // At most half of a line is empty.
            assert!(first.len() * 2 > columns.min(256), "{text}");
        }
    }

    #[test]
    fn a_single_byte_is_visible_anywhere() {
        let last = (1_u64 << 40) - 1;
        for at in [0, 1, (1 << 29) - 1, 1 << 29, 0x98_7654_3210, last - 1, last] {
            let rows = rows(last, &[(PartKind::Kept, at..=at)], ASCII);
            let cell = usize::try_from(at >> 29).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let found = row.split_once(' ').unwrap().1.find('-');
                assert_eq!(found, (cell / 64 == i).then_some(cell % 64), "{row}");
            }
        }
    }

    #[test]
    fn parts_past_the_end_are_not_drawn() {
        let parts = [(PartKind::Kept, 2048..=u64::MAX), (PartKind::Missing, 1 << 40..=u64::MAX)];
        assert_eq!(rows(4095, &parts, ASCII), ["0x000 ..##"]);
        assert_eq!(rows(99, &[], ASCII), ["0x00 ."]);
    }

    /// The share of the last cell is relative to the bytes that the memory has in it.
    #[test]
    fn the_last_cell_ends_with_the_memory() {
        let signs = [(24, '-'), (25, '+'), (74, '+'), (75, '#'), (100, '#')];
        for (kept, sign) in signs {
            let first = [(PartKind::Kept, 0..=kept - 1)];
            assert_eq!(rows(99, &first, ASCII), [format!("0x00 {sign}")]);
            let second = [(PartKind::Kept, 1024..=1023 + kept)];
            assert_eq!(rows(1123, &second, ASCII), [format!("0x000 .{sign}")]);
        }
        assert_eq!(rows(0, &[(PartKind::Kept, 0..=0)], ASCII), ["0x0 #"]);
    }

    #[test]
    fn the_legend_explains_each_sign() {
        let legend = |last, style| map(80, last, &[], style).lines().next().unwrap().to_string();
        let ascii = "each cell 1 KiB: . zero, - < 1/4 kept, + < 3/4, # more, x missing";
        assert_eq!(legend(65_535, ASCII), ascii);
        let unicode = Style { unicode: true, zero_known: false, ..ASCII };
        let huge = "each cell 16 PiB: · not kept, ░ < 1/4 kept, ▒ < 3/4, █ more, ╳ missing";
        assert_eq!(legend(u64::MAX, unicode), huge);
    }

    /// An escape sequence is written only where the colour changes, and each line ends with a reset.
    #[test]
    fn colours_change_only_between_cells() {
        let parts = [(PartKind::Kept, 1024..=3000), (PartKind::Missing, 3072..=4095)];
        let style = Style { unicode: true, colour: true, zero_known: true };
        let row = "0x000 \x1b[2m·\x1b[0m\x1b[32m██\x1b[0m\x1b[31m╳\x1b[0m";
        assert_eq!(rows(4095, &parts, style), [row]);
    }
}
