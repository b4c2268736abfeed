//! Facts about mappings from `/proc/self/smaps`: whether any page of a mapping is resident or swapped, and whether a
//! userfaultfd supplies its pages.
//!
//! # The problem
//! An untouched page of private anonymous memory is zero, unless a userfaultfd is registered for missing faults in it
//! (`um`). Then a read returns the data that the holder of the userfaultfd supplies. The holder may be another
//! process, for example if a snapshot is restored lazily. Then no descriptor of this process reveals it. The kernel
//! only reports it in the line `VmFlags` of smaps. If the pagemap cannot be read, smaps is also the only source that
//! reports untouched memory.
//!
//! # The idea
//! The file is read as a stream of mappings, only when a page is about to be skipped, once for all memories, and no
//! further than the queried addresses. Two tables keep the ranges that matter, with neighbors merged, and with at
//! most [`MAX_RANGES`] ranges each.
//!
//! # The cost
//! The kernel walks the page tables of each mapping before it prints it: 13 ms per GiB that is present in pages of 4
//! KiB, and 5 µs for each mapping without any. In memory that is entirely present, no page is skipped, so the file is
//! not read.
//!
//! # The invariant
//! In case of doubt, a range is data. After a mapping without `VmFlags`, a line that cannot be parsed, a full table
//! or a read error, the rest of the address space must be read.
//!
//! # Sources
//! [proc_pid_smaps(5)](https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;

use super::mappings::{LINE_BYTES, MapsLine, parse, read_line};
use super::proc;

/// The maximum number of ranges in a table, of 16 bytes each.
const MAX_RANGES: usize = 16 << 10;

/// A reader of smaps, with tables of the facts that it has read.
pub(super) struct Smaps<R = BufReader<File>> {
    /// `None` at the end, and after the first line that could not be parsed.
    lines: Option<R>,
    /// The line that starts the next mapping.
    header: Option<MapsLine>,
    /// All mappings that end at or below this address are in the tables.
    read_to: u64,
    /// Whether the file was read to its end without an error.
    is_complete: bool,
    /// Pages that a userfaultfd supplies.
    supplied: Vec<Range<u64>>,
    /// Private anonymous memory without resident or swapped pages.
    untouched: Vec<Range<u64>>,
}

/// The answer to a yes-or-no query about a range that starts at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Yes, up to this address.
    Yes(u64),
    /// No or unknown, up to this address.
    No(u64),
}

impl Smaps {
    /// Opens the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub(super) fn open() -> std::io::Result<Self> {
        Ok(Self::new(BufReader::new(proc::open_proc_file("/proc/self/smaps")?)))
    }
}

impl<R: BufRead> Smaps<R> {
    fn new(lines: R) -> Self {
        let (supplied, untouched) = (Vec::new(), Vec::new());
        let (header, read_to, is_complete) = (None, 0, false);
        let mut this =
            Self { lines: Some(lines), header, read_to, is_complete, supplied, untouched };
        this.next_mapping();
        this
    }

    /// Returns `true` if the first mapping could be parsed.
    pub(super) fn is_usable(&self) -> bool {
        self.lines.is_some() && self.read_to > 0
    }

    /// Answers whether no userfaultfd supplies the pages from `address` to `end`. The answer may cover less.
    pub(super) fn is_not_supplied(&mut self, address: u64, end: u64) -> Fact {
        self.read_until(end);
        match next_range_after(&self.supplied, address) {
            Some(range) if range.start <= address => Fact::No(range.end),
            range => {
                let known = if self.is_complete { u64::MAX } else { self.read_to };
                let clean = known.min(range.map_or(u64::MAX, |range| range.start));
                if clean > address { Fact::Yes(clean) } else { Fact::No(u64::MAX) }
            }
        }
    }

    /// Answers whether the memory from `address` to `end` is untouched. The answer may cover less.
    pub(super) fn is_untouched(&mut self, address: u64, end: u64) -> Fact {
        self.read_until(end);
        match next_range_after(&self.untouched, address) {
            Some(range) if range.start <= address => Fact::Yes(range.end),
            range => Fact::No(range.map_or(u64::MAX, |range| range.start)),
        }
    }

    /// Reads mappings until all below `end` are in the tables.
    fn read_until(&mut self, end: u64) {
        while self.read_to < end && self.lines.is_some() {
            self.next_mapping();
        }
    }

    /// Reads one mapping into the tables. Closes the file at its end, and for good after a failure.
    fn next_mapping(&mut self) {
        if self.read_mapping().is_none() {
            self.lines = None;
        }
    }

    fn read_mapping(&mut self) -> Option<()> {
        let lines = self.lines.as_mut()?;
        let mut text = Vec::with_capacity(LINE_BYTES);
        let header = match self.header.take() {
            Some(header) => header,
            None => {
                let is_there = read_line(lines, &mut text).ok()?;
                is_there.then(|| parse(&text))??
            }
        };
        let mut fields = Fields::default();
        let next = loop {
            text.clear();
            // After an error, the rest of the file is unknown, so an error must not count as the end.
            if !read_line(lines, &mut text).ok()? {
                break None;
            }
            if fields.parse_line(&text) {
                continue;
            }
            break Some(parse(&text)?);
        };
        if header.start >= header.end {
            return None;
        }
        let is_supplied = fields.is_supplied?;
        // If a mapping was merged with the previous one after that was printed, it starts below the previous end.
        let range = header.start.max(self.read_to)..header.end;
        if !range.is_empty() {
            if is_supplied {
                push_range(&mut self.supplied, range.clone())?;
            } else if header.is_anonymous()
                && fields.resident == Some(0)
                && fields.swapped == Some(0)
            {
                // If the table is full, the range is read.
                let _ = push_range(&mut self.untouched, range.clone());
            }
            self.read_to = range.end;
        }
        self.is_complete = next.is_none();
        self.header = next;
        // After the last mapping there is nothing to read.
        self.header.is_some().then_some(())
    }
}

/// The fields of a mapping that matter.
#[derive(Default)]
struct Fields {
    /// In kB.
    resident: Option<u64>,
    /// In kB.
    swapped: Option<u64>,
    is_supplied: Option<bool>,
}

impl Fields {
    /// Parses a line of the form `Key: value`. Returns `false` if the line has another form.
    fn parse_line(&mut self, line: &[u8]) -> bool {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let (key, value) = line.split_at(colon);
        // In the first line of a mapping, a space comes before the first colon.
        if key.contains(&b' ') {
            return false;
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match key {
            b"Rss" => self.resident = parse_kilobytes(value),
            b"Swap" => self.swapped = parse_kilobytes(value),
            b"VmFlags" => {
                // A truncated line may lack a flag.
                let is_complete = line.len() < LINE_BYTES;
                let is_supplied = value.split(|byte| *byte == b' ').any(|flag| flag == b"um");
                self.is_supplied = is_complete.then_some(is_supplied);
            }
            _ => {}
        }
        true
    }
}

fn parse_kilobytes(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.strip_suffix(" kB")?.trim().parse().ok()
}

/// Appends a range that does not start before the end of the last one. Returns `None` if the table is full.
fn push_range(table: &mut Vec<Range<u64>>, range: Range<u64>) -> Option<()> {
    if let Some(last) = table.last_mut()
        && last.end == range.start
    {
        last.end = range.end;
        return Some(());
    }
    if table.len() >= MAX_RANGES {
        return None;
    }
    table.try_reserve(1).ok()?;
    table.push(range);
    Some(())
}

/// Returns the first range that ends after `address`.
fn next_range_after(table: &[Range<u64>], address: u64) -> Option<Range<u64>> {
    let index = table.partition_point(|range| range.end <= address);
    table.get(index).cloned()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "tables of one range")]
mod tests {
    use std::io::Read;

    use super::*;

    fn mapping(range: &str, rest: &str, resident: u64, swapped: u64, flags: &str) -> String {
        format!(
            "{range} {rest}\nSize: 8 kB\nRss:   {resident} kB\nPss: 4 kB\nSwap:  {swapped} kB\n\
             SwapPss: 0 kB\nTHPeligible:    0\nVmFlags: {flags} \n"
        )
    }

    const ANONYMOUS: &str = "rw-p 00000000 00:00 0 ";

    fn smaps(text: &str) -> Smaps<&[u8]> {
        Smaps::new(text.as_bytes())
    }

    #[test]
    fn untouched_memory_is_anonymous_without_resident_or_swapped_pages() {
        for (rest, resident, swapped, flags, untouched) in [
            (ANONYMOUS, 0, 0, "rd wr mr mw me ac", true),
            ("rw-p 00000000 00:00 0      [anon:guest]", 0, 0, "rd", true),
            (ANONYMOUS, 4, 0, "rd", false),
            (ANONYMOUS, 0, 4, "rd", false),
            (ANONYMOUS, 0, 0, "rd um", false),
            ("rw-s 00000000 00:00 0 ", 0, 0, "rd", false),
            ("rw-p 00000000 00:01 7  /memfd:x (deleted)", 0, 0, "rd", false),
        ] {
            let text = mapping("1000-3000", rest, resident, swapped, flags)
                + &mapping("8000-9000", ANONYMOUS, 0, 0, "rd");
            let mut smaps = smaps(&text);
            let expected = if untouched { Fact::Yes(0x3000) } else { Fact::No(0x8000) };
            assert_eq!(smaps.is_untouched(0x2000, 0x9000), expected, "{text}");
            assert_eq!(smaps.is_untouched(0x8000, 0x9000), Fact::Yes(0x9000));
            assert_eq!(smaps.is_untouched(0x9000, 0xa000), Fact::No(u64::MAX));
        }
    }

    #[test]
    fn finds_supplied_memory_and_merges_neighbors() {
        let text = mapping("1000-2000", ANONYMOUS, 0, 0, "rd")
            + &mapping("2000-3000", ANONYMOUS, 0, 0, "rd um")
            + &mapping("3000-4000", ANONYMOUS, 0, 0, "um uw")
            + &mapping("5000-6000", ANONYMOUS, 0, 0, "rd uw");
        let mut smaps = smaps(&text);
        assert_eq!(smaps.is_not_supplied(0x1000, 0x2000), Fact::Yes(0x2000));
        assert_eq!(smaps.is_not_supplied(0x1000, 0x6000), Fact::Yes(0x2000));
        assert_eq!(smaps.is_not_supplied(0x2800, 0x3000), Fact::No(0x4000));
        assert_eq!(smaps.is_not_supplied(0x5000, 0x6000), Fact::Yes(u64::MAX));
        assert_eq!(smaps.supplied, [0x2000..0x4000]);
    }

    /// The kernel prints a mapping again after merging it with one that it has already printed.
    #[test]
    fn accepts_overlapping_mappings() {
        let text = mapping("1000-3000", ANONYMOUS, 4, 0, "rd")
            + &mapping("1000-4000", ANONYMOUS, 0, 0, "rd")
            + &mapping("2000-4000", ANONYMOUS, 0, 0, "rd um")
            + &mapping("3000-6000", ANONYMOUS, 0, 0, "rd um");
        let mut smaps = smaps(&text);
        smaps.read_until(u64::MAX);
        assert!(smaps.is_complete);
        assert_eq!((smaps.untouched, smaps.supplied), (vec![0x3000..0x4000], vec![0x4000..0x6000]));
    }

    #[test]
    fn reads_no_further_than_needed() {
        let text = mapping("1000-2000", ANONYMOUS, 0, 0, "rd")
            + &mapping("2000-3000", ANONYMOUS, 0, 0, "rd")
            + &mapping("3000-4000", ANONYMOUS, 0, 0, "rd");
        let mut smaps = smaps(&text);
        assert!(smaps.is_usable());
        assert_eq!(smaps.is_not_supplied(0x1000, 0x1800), Fact::Yes(0x2000));
        assert_eq!(smaps.read_to, 0x2000);
    }

    #[test]
    fn treats_unparsable_mappings_as_data() {
        let good = mapping("1000-2000", ANONYMOUS, 0, 0, "rd");
        let last = mapping("4000-5000", ANONYMOUS, 0, 0, "rd");
        for bad in [
            "2000-3000 rw-p 0 00:00 0 \nRss: 0 kB\nSwap: 0 kB\n".to_string(),
            mapping("2000-x", ANONYMOUS, 0, 0, "rd"),
            mapping("2000-2000", ANONYMOUS, 0, 0, "rd"),
            mapping("2000-3000", ANONYMOUS, 0, 0, &"rd ".repeat(LINE_BYTES)),
            "nonsense\n".into(),
        ] {
            let text = format!("{good}{bad}{last}");
            let mut smaps = smaps(&text);
            assert_eq!(smaps.is_not_supplied(0x2000, 0x5000), Fact::No(u64::MAX), "{bad}");
            assert_eq!(smaps.is_not_supplied(0x4000, 0x5000), Fact::No(u64::MAX), "{bad}");
            assert_eq!(smaps.is_untouched(0x4000, 0x5000), Fact::No(u64::MAX), "{bad}");
        }
        for empty in ["", "x", "\n"] {
            let mut smaps = smaps(empty);
            assert!(!smaps.is_usable());
            assert_eq!(smaps.is_not_supplied(0, 1), Fact::No(u64::MAX));
        }
    }

    /// A read error is not the end of the file: the missing part may contain anything.
    #[test]
    fn treats_unreadable_mappings_as_data() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::OutOfMemory.into())
            }
        }
        let good = mapping("1000-2000", ANONYMOUS, 0, 0, "rd");
        for cut in [good.len(), good.len() - 1] {
            let text = good.as_bytes()[..cut].chain(Broken);
            let mut smaps = Smaps::new(BufReader::new(text));
            assert_eq!(smaps.is_not_supplied(0x1000, 0x5000), Fact::No(u64::MAX), "{cut}");
            assert_eq!(smaps.is_not_supplied(0x4000, 0x5000), Fact::No(u64::MAX), "{cut}");
            assert!(!smaps.is_complete);
        }
    }

    #[test]
    fn bounds_the_tables() {
        let mut text = String::new();
        for i in 0..MAX_RANGES + 10 {
            let range = format!("{:x}-{:x}", (2 * i + 1) << 12, (2 * i + 2) << 12);
            text += &mapping(&range, ANONYMOUS, 0, 0, if i % 2 == 0 { "rd" } else { "rd um" });
        }
        let mut bounded = smaps(&text);
        bounded.read_until(u64::MAX);
        assert!(bounded.supplied.len() <= MAX_RANGES && bounded.untouched.len() <= MAX_RANGES);
        let text = text.replace("rd um", "um").replace("VmFlags: rd", "VmFlags: um");
        let mut full = smaps(&text);
        assert_eq!(full.is_not_supplied(1 << 40, 1 << 41), Fact::No(u64::MAX));
    }

    /// The parser understands every line that the running kernel prints.
    #[test]
    fn parses_all_mappings_of_this_process() {
        let Ok(mut smaps) = Smaps::open() else { return };
        assert!(smaps.is_usable());
        smaps.read_until(u64::MAX);
        assert!(smaps.is_complete);
        let local = 0_u8;
        let address = (&raw const local).addr() as u64;
        assert!(matches!(smaps.is_not_supplied(address, address + 1), Fact::Yes(_)));
        assert!(matches!(smaps.is_untouched(address, address + 1), Fact::No(_)));
    }
}
