//! What kind of memory a mapping is, which decides what may be skipped in it.
//!
//! In private anonymous memory, pages that were never touched are zero. A page of any other mapping can
//! hold data although it was never touched: that of a file, of a memfd, of shared memory, or of the
//! kernel. Of a shared mapping of a file in tmpfs, the holes of the file are zero. Source:
//! [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html).

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::proc::{Maps, Vma};

/// Bytes of a line of `/proc/self/maps` that matter: all numbers, and any name of anonymous memory.
pub(super) const LINE_BYTES: usize = 256;

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The address after it.
    pub(super) end: u64,
    pub(super) kind: Kind,
}

/// What is known of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any page may hold data.
    Data,
    /// Private anonymous memory: a page is zero unless the kernel says that it is somewhere.
    Anonymous,
    /// A shared mapping of a file.
    SharedFile(Backing),
}

/// The file behind a shared mapping, and which part of it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backing {
    /// The addresses of the mapping.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The position in the file that `start` maps, in bytes.
    pub(super) offset: u64,
    /// Major and minor number of the device.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
}

impl Mapping {
    /// Nothing is known from an address on.
    pub(super) const UNKNOWN: Self = Self { end: u64::MAX, kind: Kind::Data };
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
    let vma = maps.query(address).ok()?;
    if vma.start > address {
        return Some(Mapping { end: vma.start, kind: Kind::Data });
    }
    if let Some(backing) = vma.backing() {
        return Some(Mapping { end: vma.end, kind: Kind::SharedFile(backing) });
    }
    if !vma.is_anonymous() {
        return Some(Mapping { end: vma.end, kind: Kind::Data });
    }
    // Only now, because names of files take time to make and can be long.
    match maps.query_name(address, names_memory) {
        // Mappings can be joined and split between the two calls: the second one counts.
        Ok((vma, true)) if vma.start <= address && vma.is_anonymous() => {
            Some(Mapping { end: vma.end, kind: Kind::Anonymous })
        }
        Ok((vma, _)) if vma.start <= address => Some(Mapping { end: vma.end, kind: Kind::Data }),
        _ => Some(Mapping { end: vma.end, kind: Kind::Data }),
    }
}

impl Vma {
    fn is_anonymous(&self) -> bool {
        !self.shared && self.inode == 0 && self.device == (0, 0)
    }

    /// The file behind it, if it is a shared mapping of one.
    fn backing(&self) -> Option<Backing> {
        let Self { start, end, offset, device, inode, .. } = *self;
        (self.shared && inode != 0).then_some(Backing { start, end, offset, device, inode })
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

/// A line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) start: u64,
    pub(super) end: u64,
    kind: Kind,
}

impl Line {
    pub(super) fn is_anonymous(&self) -> bool {
        self.kind == Kind::Anonymous
    }
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
            Mapping { end: line.start, kind: Kind::Data }
        } else {
            Mapping { end: line.end, kind: line.kind }
        })
    }

    fn next_line(&mut self) -> Option<Line> {
        let mut line = Vec::with_capacity(LINE_BYTES);
        match read_line(self.file.as_mut()?, &mut line) {
            Ok(true) => parse(&line),
            _ => {
                // Never start again in the middle.
                self.file = None;
                None
            }
        }
    }
}

/// Appends a line without its end to `line`, cut to [`LINE_BYTES`]; false where there is no more.
///
/// # Errors
/// Returns an error if the file can't be read, or ends within a line. `line` is then incomplete.
pub(super) fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let bytes = match file.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if bytes.is_empty() {
            return if line.is_empty() {
                Ok(false)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let part = bytes.split_inclusive(|b| *b == b'\n').next().unwrap_or_default();
        let (text, ended) = match part.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (part, false),
        };
        // The room that is left: none in a line that is full.
        line.extend(text.iter().take(LINE_BYTES.saturating_sub(line.len())));
        let taken = part.len();
        file.consume(taken);
        if ended {
            return Ok(true);
        }
    }
}

/// `start-end permissions offset device inode name`; numbers are hexadecimal but for the inode.
pub(super) fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
    let (addresses, permissions, offset) = (field()?, field()?, field()?);
    let (device, inode) = (field()?, field()?);
    let name = fields.next().unwrap_or_default().trim_ascii();
    let (start, end) = addresses.split_once('-')?;
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    let vma = Vma {
        start,
        end,
        offset: hexadecimal(offset)?,
        shared: permissions.as_bytes().get(3) != Some(&b'p'),
        device: parse_device(device)?,
        inode: inode.parse().ok()?,
    };
    let is_whole = line.len() < LINE_BYTES;
    let kind = match vma.backing() {
        Some(backing) => Kind::SharedFile(backing),
        None if vma.is_anonymous() && is_whole && names_memory(name) => Kind::Anonymous,
        None => Kind::Data,
    };
    Some(Line { start, end, kind })
}

/// Major and minor number, both hexadecimal.
fn parse_device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some((number(major)?, number(minor)?))
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
            let parsed = parsed.map(|line| (line.start, line.end, line.is_anonymous()));
            assert_eq!(parsed, Some((0x7f00_0000_1000, 0x7f00_0000_3000, skippable)), "{line}");
        }
        for line in ["", "1000", "1000-2000", "x-y rw-p 0 00:00 0", "1-2-3 rw-p 0 00:00 0"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn shared_mappings_name_their_file() {
        let kind = |rest: &str| parse(format!("1000-3000 {rest}").as_bytes()).unwrap().kind;
        let backing =
            Backing { start: 0x1000, end: 0x3000, offset: 0x5000, device: (0, 1), inode: 1036 };
        let expected = Kind::SharedFile(backing);
        assert_eq!(kind("rw-s 00005000 00:01 1036    /memfd:guest (deleted)"), expected);
        assert_eq!(kind("rw-s 00005000 00:01 1036 "), expected);
        let long = format!("rw-s 00005000 00:01 1036 /{}", "x".repeat(LINE_BYTES));
        assert_eq!(kind(&long), expected);
        assert_eq!(kind("rw-p 00005000 00:01 1036    /memfd:guest (deleted)"), Kind::Data);
        assert_eq!(kind("rw-s 00000000 00:00 0 "), Kind::Data);
    }

    #[test]
    fn long_lines_are_cut_and_the_next_is_found() {
        let text = format!("{}\nnext\nlast", "x".repeat(10_000));
        for capacity in [1, 7, 8192] {
            let mut file = BufReader::with_capacity(capacity, text.as_bytes());
            let mut read = || {
                let mut line = Vec::new();
                (read_line(&mut file, &mut line).ok(), line)
            };
            assert_eq!(read(), (Some(true), vec![b'x'; LINE_BYTES]));
            assert_eq!(read(), (Some(true), b"next".to_vec()));
            // It has no end, so that more of it may be missing.
            assert_eq!(read(), (None, b"last".to_vec()));
            assert_eq!(read(), (Some(false), Vec::new()));
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
                assert_eq!(asked.kind, line.kind, "{line:?}");
                seen += 1;
            }
        }
        assert!(seen > 0, "{text}");
    }
}
