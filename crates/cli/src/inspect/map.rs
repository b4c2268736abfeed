//! The picture of a memory: rows of cells, each of which stands for as many bytes.
//!
//! A pure function of the parts of a memory and of the width of a line. It needs memory for the rows and cells below,
//! whatever the size of the memory that is drawn; the work is linear in the parts.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use corestream::read::Content;

use super::columns::Columns;

/// Rows of a picture at most.
const ROWS: u64 = 32;
/// Cells of a row: as many as fit beside its address. Powers of two, so that addresses are round.
const CELLS: [usize; 5] = [256, 128, 64, 32, 16];
/// A cell is at least 2^10 bytes: a page of 64 KiB is a row of 64 cells.
const LEAST: u32 = 10;

/// What a range of a memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its bytes are in the dump.
    Kept,
    /// It is in no segment.
    Zero,
    /// Nobody knows its bytes.
    Excluded,
}

/// A range of a memory, by its first and its last address.
pub type Part = (Kind, RangeInclusive<u64>);

/// A part of a memory as the reader gives it.
pub fn part(content: &Content) -> Part {
    let kind = match content {
        Content::Data { .. } => Kind::Kept,
        Content::Zero(_) => Kind::Zero,
        _ => Kind::Excluded,
    };
    (kind, content.addresses().clone())
}

/// How pictures are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With the block characters of Unicode, else with those of ASCII.
    pub unicode: bool,
    /// With colours.
    pub colour: bool,
    /// What is in no segment is known to be zero.
    pub zero_known: bool,
}

impl Style {
    /// The signs of zero, the three shares, and left out.
    fn signs(self) -> [char; 5] {
        if self.unicode { ['·', '░', '▒', '█', '╳'] } else { ['.', '-', '+', '#', 'x'] }
    }
}

/// Which of the signs a cell has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shade {
    Zero = 0,
    Sparse = 1,
    Half = 2,
    Dense = 3,
    Excluded = 4,
}

impl Shade {
    /// The escape sequence that begins its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Zero => "\x1b[2m",
            Self::Sparse | Self::Half | Self::Dense => "\x1b[32m",
            Self::Excluded => "\x1b[31m",
        }
    }
}

/// The bytes of a cell that are kept, and that were left out.
#[derive(Clone, Copy, Default)]
struct Cell {
    kept: u64,
    excluded: u64,
}

impl Cell {
    /// Returns how a cell of `size` bytes is drawn. Bytes that are left out show however few they are: one would look
    /// for them.
    fn shade(self, size: u64) -> Shade {
        let quarters = 4 * u128::from(self.kept);
        match self {
            Self { excluded: 1.., .. } => Shade::Excluded,
            Self { kept: 0, .. } => Shade::Zero,
            _ if quarters < u128::from(size) => Shade::Sparse,
            _ if quarters < 3 * u128::from(size) => Shade::Half,
            _ => Shade::Dense,
        }
    }
}

/// Draws a memory whose last address is `last`, in lines that are no wider than `columns`. `parts` are in the order of
/// addresses, without overlap.
pub fn draw(
    out: &mut impl Write,
    columns: Columns,
    last: u64,
    parts: impl Iterator<Item = Part>,
    style: Style,
) -> io::Result<()> {
    let digits = format!("{last:x}").len();
    let fits = |cells: &usize| columns.have_room_for("0x".len() + digits + " ".len() + cells);
    let row = CELLS.into_iter().find(fits).unwrap_or(16);
    // Of the cells of 2^63 bytes two are enough for any memory.
    let log2 = (LEAST..63).find(|log2| (last >> log2) / (row as u64) < ROWS).unwrap_or(63);
    let cells = cells(last, log2, parts);
    let mut shades: Vec<_> = cells.iter().map(|cell| cell.shade(1 << log2)).collect();
    if let (Some(shade), Some(cell)) = (shades.last_mut(), cells.last()) {
        // The last one may be cut short by the end of the memory.
        *shade = cell.shade((last & mask(log2)) + 1);
    }
    legend(out, columns, log2, style)?;
    let mut text = String::new();
    for (i, shades) in (0_u64..).zip(shades.chunks(row)) {
        let address = (i * row as u64) << log2;
        let _ = write!(text, "0x{address:0digits$x} ");
        line(&mut text, shades, style);
    }
    out.write_all(text.as_bytes())
}

/// Returns the bits of an address within a cell. A cell has at most 2^63 bytes.
fn mask(log2: u32) -> u64 {
    (1 << log2) - 1
}

/// Returns the cells up to the one of the address `last`.
fn cells(last: u64, log2: u32, parts: impl Iterator<Item = Part>) -> Vec<Cell> {
    let mut cells: Vec<_> = (0..=last >> log2).map(|_| Cell::default()).collect();
    for (kind, range) in parts {
        if kind == Kind::Zero {
            continue;
        }
        // Past the end of a memory is nothing to draw.
        let (first, end) = (*range.start(), (*range.end()).min(last));
        let touched = usize::try_from(first >> log2).ok().and_then(|i| cells.get_mut(i..));
        let touched = (first >> log2..=end >> log2).zip(touched.unwrap_or_default());
        for (i, cell) in touched {
            let begin = i << log2;
            let (first, end) = (first.max(begin), end.min(begin | mask(log2)));
            // No cell has more bytes than fit.
            let bytes = end - first + 1;
            match kind {
                Kind::Excluded => cell.excluded += bytes,
                _ => cell.kept += bytes,
            }
        }
    }
    cells
}

fn line(text: &mut String, shades: &[Shade], style: Style) {
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

/// Writes the line that says what each sign means.
fn legend(out: &mut impl Write, columns: Columns, log2: u32, style: Style) -> io::Result<()> {
    let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let mut sizes = units.into_iter().filter_map(|(unit, of)| Some((log2.checked_sub(of)?, unit)));
    let (log2, unit) = sizes.next().unwrap_or((log2, "bytes"));
    let [zero, sparse, half, dense, excluded] = style.signs();
    let nothing = if style.zero_known { "zero" } else { "not kept" };
    let items = [
        format!("{zero} {nothing},"),
        format!("{sparse} < 1/4 kept,"),
        format!("{half} < 3/4,"),
        format!("{dense} more,"),
        format!("{excluded} left out"),
    ];
    columns.wrapped(out, &format!("each cell {} {unit}:", 1_u64 << log2), items.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: Style = Style { unicode: false, colour: false, zero_known: true };

    fn picture(columns: usize, last: u64, parts: &[Part], style: Style) -> String {
        let (mut out, parts) = (Vec::new(), parts.iter().cloned());
        draw(&mut out, Columns::new(columns), last, parts, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows(last: u64, parts: &[Part], style: Style) -> Vec<String> {
        picture(80, last, parts, style).lines().skip(1).map(Into::into).collect()
    }

    #[test]
    fn shares_of_a_cell() {
        let kept = |first: u64, len: u64| (Kind::Kept, first..=first + len - 1);
        let left = |first: u64, len: u64| (Kind::Excluded, first..=first + len - 1);
        let parts = [
            kept(0, 1),
            kept(1024, 255),
            kept(2048, 256),
            kept(3072, 767),
            kept(4096, 768),
            kept(5120, 1024 + 1),
            (Kind::Zero, 6145..=8191),
            left(8192, 1),
            kept(9216, 100),
            left(9316, 101),
            kept(10240, 101),
            left(10341, 100),
        ];
        let row = format!("0x0000 --++##-.xxx{}", ".".repeat(53));
        assert_eq!(rows(65_535, &parts, ASCII), [row]);
    }

    /// Every address of a memory is in exactly one cell, however large it is, and cells are no more
    /// than they may be and fit into the columns.
    #[test]
    fn any_size_is_bounded() {
        let sizes = (0..64).flat_map(|log2| [(1_u64 << log2) - 1, 1 << log2]);
        for last in sizes.chain([u64::MAX, (1 << 40) - 1, 759 * 65_536 - 1]) {
            for columns in [40, 79, 80, 132, 1000] {
                is_bounded(last, columns);
            }
        }
    }

    fn is_bounded(last: u64, columns: usize) {
        let text = picture(columns, last, &[(Kind::Kept, 0..=last)], ASCII);
        assert!(text.lines().all(|line| line.len() <= columns), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("0x")).collect();
        assert!((1..=32).contains(&rows.len()), "{last:#x}");
        let cells: String = rows.iter().map(|row| row.split_once(' ').unwrap().1).collect();
        assert!(cells.chars().all(|c| c == '#'), "{text}");
        // Addresses of rows are those of their first cells.
        if let [first, second, ..] = rows[..] {
            let at = |row: &str| u64::from_str_radix(&row[2..row.find(' ').unwrap()], 16).unwrap();
            let row = (first.len() - first.find(' ').unwrap() - 1) as u64;
            let cell = (at(second) - at(first)) / row;
            assert!(cell.is_power_of_two() && cells.len() as u64 == last / cell + 1);
            // No more than half of a line is empty.
            assert!(first.len() * 2 > columns.min(256), "{text}");
        }
    }

    #[test]
    fn one_byte_shows_wherever_it_is() {
        let last = (1_u64 << 40) - 1;
        for at in [0, 1, (1 << 29) - 1, 1 << 29, 0x98_7654_3210, last - 1, last] {
            let rows = rows(last, &[(Kind::Kept, at..=at)], ASCII);
            let cell = usize::try_from(at >> 29).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let found = row.split_once(' ').unwrap().1.find('-');
                assert_eq!(found, (cell / 64 == i).then_some(cell % 64), "{row}");
            }
        }
    }

    #[test]
    fn what_is_behind_the_end_is_not_drawn() {
        let parts = [(Kind::Kept, 2048..=u64::MAX), (Kind::Excluded, 1 << 40..=u64::MAX)];
        assert_eq!(rows(4095, &parts, ASCII), ["0x000 ..##"]);
        assert_eq!(rows(99, &[], ASCII), ["0x00 ."]);
    }

    /// A share is one of what the memory has there.
    #[test]
    fn the_last_cell_ends_with_the_memory() {
        let signs = [(24, '-'), (25, '+'), (74, '+'), (75, '#'), (100, '#')];
        for (kept, sign) in signs {
            assert_eq!(rows(99, &[(Kind::Kept, 0..=kept - 1)], ASCII), [format!("0x00 {sign}")]);
            let second = [(Kind::Kept, 1024..=1023 + kept)];
            assert_eq!(rows(1123, &second, ASCII), [format!("0x000 .{sign}")]);
        }
        assert_eq!(rows(0, &[(Kind::Kept, 0..=0)], ASCII), ["0x0 #"]);
    }

    #[test]
    fn legends() {
        let legend =
            |last, style| picture(80, last, &[], style).lines().next().unwrap().to_string();
        let ascii = "each cell 1 KiB: . zero, - < 1/4 kept, + < 3/4, # more, x left out";
        assert_eq!(legend(65_535, ASCII), ascii);
        let unicode = Style { unicode: true, zero_known: false, ..ASCII };
        let huge = "each cell 16 PiB: · not kept, ░ < 1/4 kept, ▒ < 3/4, █ more, ╳ left out";
        assert_eq!(legend(u64::MAX, unicode), huge);
    }

    /// A colour begins where it changes, and none is left on at the end of a line.
    #[test]
    fn colours() {
        let parts = [(Kind::Kept, 1024..=3000), (Kind::Excluded, 3072..=4095)];
        let style = Style { unicode: true, colour: true, zero_known: true };
        let row = "0x000 \x1b[2m·\x1b[0m\x1b[32m██\x1b[0m\x1b[31m╳\x1b[0m";
        assert_eq!(rows(4095, &parts, style), [row]);
    }
}
