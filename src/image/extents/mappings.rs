//! Which mappings may have pages skipped: private anonymous ones, and nothing else.
//!
//! A page of any other mapping can hold data although it was never touched: that of a file, of a
//! memfd, of shared memory, or of the kernel. Source:
//! [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html).

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::proc::{Maps, Vma};

/// Bytes of a line of `/proc/self/maps` that matter: all numbers, and any name of anonymous memory.
const LINE_BYTES: usize = 256;

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The address after it.
    pub(super) end: u64,
    /// Whether its pages are zero unless the kernel says that they are somewhere.
    pub(super) skippable: bool,
}

impl Mapping {
    /// Nothing is known from an address on.
    const UNKNOWN: Self = Self { end: u64::MAX, skippable: false };
}

/// Finds mappings in the order of their addresses.
pub(super) enum Mappings<'k> {
    Query(&'k Maps),
    Lines(Lines),
}

impl Mappings<'_> {
    /// What lies at `address`, which is not below the one before.
    pub(super) fn at(&mut self, address: u64) -> Mapping {
        let found = match self {
            Self::Query(maps) => query(maps, address),
            Self::Lines(lines) => lines.at(address),
        };
        match found {
            Some(mapping) if mapping.end > address => mapping,
            _ => Mapping::UNKNOWN,
        }
    }
}

/// Whether anonymous memory of a process has such a name; the kernel's own pages, such as `[vdso]`,
/// hold data before they are touched.
fn names_memory(name: &[u8]) -> bool {
    matches!(name, b"" | b"[heap]" | b"[stack]") || name.starts_with(b"[anon:")
}

fn query(maps: &Maps, address: u64) -> Option<Mapping> {
    let anonymous = |vma: &Vma| !vma.shared && !vma.file;
    let vma = maps.query(address).ok()?;
    if vma.start > address {
        return Some(Mapping { end: vma.start, skippable: false });
    }
    if !anonymous(&vma) {
        return Some(Mapping { end: vma.end, skippable: false });
    }
    // Only now, because names of files take time to make and can be long.
    match maps.query_name(address, names_memory) {
        // Mappings can be joined and split between the two calls: the second one counts.
        Ok((vma, is_memory)) if vma.start <= address => {
            Some(Mapping { end: vma.end, skippable: anonymous(&vma) && is_memory })
        }
        _ => Some(Mapping { end: vma.end, skippable: false }),
    }
}

/// Reads `/proc/self/maps` once, as far as it is needed.
///
/// The kernel promises that addresses never go backwards, and that a mapping which is there all the
/// time is listed, whatever other threads do elsewhere.
pub(super) struct Lines {
    file: Option<BufReader<File>>,
    line: Option<Line>,
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    start: u64,
    end: u64,
    skippable: bool,
}

impl Lines {
    /// Opens the file; if it can't be had, nothing is known.
    pub(super) fn open() -> Self {
        let file = Maps::open().ok().map(|maps| BufReader::new(maps.into_lines()));
        Self { file, line: None }
    }

    /// Whether there is a line that can be understood.
    pub(super) fn works(mut self) -> bool {
        self.next_line().is_some()
    }

    fn at(&mut self, address: u64) -> Option<Mapping> {
        while self.line.as_ref().is_none_or(|line| line.end <= address) {
            self.line = Some(self.next_line()?);
        }
        let line = self.line.as_ref()?;
        Some(if line.start > address {
            Mapping { end: line.start, skippable: false }
        } else {
            Mapping { end: line.end, skippable: line.skippable }
        })
    }

    fn next_line(&mut self) -> Option<Line> {
        let mut line = Vec::with_capacity(LINE_BYTES);
        if read_line(self.file.as_mut()?, &mut line).is_none() {
            // Never start again in the middle.
            self.file = None;
        }
        parse(&line)
    }
}

/// Appends a line without its end to `line`, cut to [`LINE_BYTES`]; `None` where there is no more.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> Option<()> {
    loop {
        let bytes = match file.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.ok().filter(|bytes| !bytes.is_empty())?,
        };
        let part = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let ended = part.len() < bytes.len();
        line.extend(part.iter().take(LINE_BYTES.saturating_sub(line.len())));
        let taken = part.len().saturating_add(ended.into());
        file.consume(taken);
        if ended {
            return Some(());
        }
    }
}

/// `start-end permissions offset device inode name`; numbers are hexadecimal but for the inode.
fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let mut field = || fields.next();
    let addresses = std::str::from_utf8(field()?).ok()?;
    let (permissions, _offset, device, inode) = (field()?, field()?, field()?, field()?);
    let name = field().unwrap_or_default().trim_ascii();
    let (start, end) = addresses.split_once('-')?;
    let address = |digits| u64::from_str_radix(digits, 16).ok();
    let anonymous = permissions.get(3) == Some(&b'p') && device == b"00:00" && inode == b"0";
    let whole = line.len() < LINE_BYTES;
    Some(Line {
        start: address(start)?,
        end: address(end)?,
        skippable: anonymous && whole && names_memory(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_anonymous_memory_may_be_skipped() {
        let long = format!("[anon:{}]", "x".repeat(LINE_BYTES));
        for (rest, skippable) in [
            ("rw-p 00000000 00:00 0 ", true),
            ("rw-p 00000000 00:00 0", true),
            ("---p 00000000 00:00 0                  [anon:guest memory]", true),
            ("rw-p 00000000 00:00 0                          [heap]", true),
            ("rw-p 00000000 00:00 0                          [stack]", true),
            ("r-xp 00000000 00:00 0                          [vdso]", false),
            ("r--p 00000000 00:00 0                          [vvar]", false),
            ("rw-s 00000000 00:00 0 ", false),
            ("rw-s 00000000 00:01 0                          /SYSV00000000 (deleted)", false),
            ("rw-p 00000000 00:01 0                          ", false),
            ("rw-p 00000000 00:01 1036  /memfd:guest (deleted)", false),
            ("rw-p 00000000 00:0f 2048  /anon_hugepage (deleted)", false),
            ("rw-p 00001000 fe:01 77    /a file", false),
            ("rw-p 00000000 00:00 0                          /a file", false),
            (long.as_str(), false),
            (&format!("rw-p 00000000 00:00 0     {long}"), false),
        ] {
            let line = format!("7f0000001000-7f0000003000 {rest}");
            let parsed = parse(line.as_bytes());
            if rest.starts_with('[') {
                assert_eq!(parsed, None, "{line}");
                continue;
            }
            let expected = Line { start: 0x7f00_0000_1000, end: 0x7f00_0000_3000, skippable };
            assert_eq!(parsed, Some(expected), "{line}");
        }
        for line in ["", "1000", "1000-2000", "x-y rw-p 0 00:00 0", "1-2-3 rw-p 0 00:00 0"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn long_lines_are_cut_and_the_next_is_found() {
        let text = format!("{}\nnext\nlast", "x".repeat(10_000));
        for capacity in [1, 7, 8192] {
            let mut file = BufReader::with_capacity(capacity, text.as_bytes());
            let mut read = || {
                let mut line = Vec::new();
                (read_line(&mut file, &mut line), line)
            };
            assert_eq!(read(), (Some(()), vec![b'x'; LINE_BYTES]));
            assert_eq!(read(), (Some(()), b"next".to_vec()));
            assert_eq!(read(), (None, b"last".to_vec()));
            assert_eq!(read(), (None, Vec::new()));
        }
    }

    /// Both ways to ask agree about every mapping of this process that stays as it is.
    #[test]
    fn both_methods_agree() {
        let Ok(maps) = Maps::open() else { return };
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        if maps.query(0).is_err() {
            return;
        }
        let fixed = ["[stack]", "[vdso]", "[vvar]", ".so.6"];
        let named = |line: &&str| fixed.iter().any(|name| line.ends_with(name));
        let mut seen = 0;
        for line in text.lines().filter(named) {
            let line = parse(line.as_bytes()).unwrap();
            let asked = query(&maps, line.start).unwrap();
            if asked.end == line.end {
                assert_eq!(asked.skippable, line.skippable, "{line:?}");
                seen += 1;
            }
        }
        assert!(seen > 0, "{text}");
    }
}
