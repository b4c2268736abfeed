//! The kind of memory in a mapping, which decides what may be skipped in it.
//!
//! # The problem
//! An untouched page is not always zero. In a mapping of a file, a memfd or shared memory, and in pages of the kernel
//! such as `[vdso]`, a page contains data even if this process never touched it.
//!
//! # The idea
//! Two kinds of mappings have pages that are known to be zero:
//! - Private anonymous memory: pages that were never touched are zero. The kernel marks such a mapping with device
//!   0:0, inode 0, no sharing, and one of few names: none, `[heap]`, `[stack]`, or `[anon:...]`. Any other name in
//!   brackets is the kernel's own.
//! - Shared mappings of files in tmpfs: the holes of the file are zero ([`tmpfs`](super::tmpfs)).
//!
//! Everything else is data, including every address for which the kernel gives no answer.
//!
//! # The cost
//! `PROCMAP_QUERY` finds one mapping by address. It is queried for the name only if all else indicates anonymous
//! memory, because names of files take time to build and can be long. Older kernels list all mappings in
//! `/proc/self/maps`, which is read once, and only as far as needed. Each line is truncated to [`LINE_BYTES`],
//! because names have any length. A truncated line never counts as anonymous.
//!
//! # Sources
//! [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html).

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::proc::{Maps, Vma};

/// The number of bytes of a line of `/proc/self/maps` that are kept: all numbers, and any name of anonymous memory.
pub(super) const LINE_BYTES: usize = 256;

/// The mapping, or the lack of one, at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The first address after it.
    pub(super) end: u64,
    pub(super) kind: MappingKind,
}

/// What is known about a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MappingKind {
    /// Any page may contain data.
    Data,
    /// Private anonymous memory: a page is zero unless the kernel reports it as present or swapped.
    Anonymous,
    /// A shared mapping of a file.
    SharedFile(BackingFile),
}

/// The file of a shared mapping, and the part of the file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackingFile {
    /// The addresses of the mapping.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The position in the file that is mapped at `start`, in bytes.
    pub(super) offset: u64,
    /// The major and minor number of the device.
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
}

impl Mapping {
    /// The result if nothing is known from an address on.
    pub(super) const UNKNOWN: Self = Self { end: u64::MAX, kind: MappingKind::Data };
}

/// Finds mappings in address order.
pub(super) enum MappingFinder<'k> {
    Query(&'k Maps),
    Lines(MapsReader),
}

impl MappingFinder<'_> {
    /// Returns the mapping at `address`, which must not be below the previous address.
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

/// Returns `true` if anonymous memory of a process can have this name. Other names in brackets, such as `[vdso]`, are
/// pages of the kernel, which contain data before they are touched.
fn is_name_of_memory(name: &[u8]) -> bool {
    matches!(name, b"" | b"[heap]" | b"[stack]") || name.starts_with(b"[anon:")
}

fn query(maps: &Maps, address: u64) -> Option<Mapping> {
    let vma = maps.query(address).ok()?;
    if vma.start > address {
        return Some(Mapping { end: vma.start, kind: MappingKind::Data });
    }
    if let Some(backing) = vma.backing() {
        return Some(Mapping { end: vma.end, kind: MappingKind::SharedFile(backing) });
    }
    if !vma.is_anonymous() {
        return Some(Mapping { end: vma.end, kind: MappingKind::Data });
    }
    // The name is queried separately, because names of files take time to build and can be long.
    match maps.query_with_name(address, is_name_of_memory) {
        // Mappings can be merged and split between the two calls. The second answer counts.
        Ok((vma, true)) if vma.start <= address && vma.is_anonymous() => {
            Some(Mapping { end: vma.end, kind: MappingKind::Anonymous })
        }
        Ok((vma, _)) if vma.start <= address => {
            Some(Mapping { end: vma.end, kind: MappingKind::Data })
        }
        _ => Some(Mapping { end: vma.end, kind: MappingKind::Data }),
    }
}

impl Vma {
    fn is_anonymous(&self) -> bool {
        !self.shared && self.inode == 0 && self.device == (0, 0)
    }

    /// Returns the file, if this is a shared mapping of one.
    fn backing(&self) -> Option<BackingFile> {
        let Self { start, end, offset, device, inode, .. } = *self;
        (self.shared && inode != 0).then_some(BackingFile { start, end, offset, device, inode })
    }
}

/// Reads `/proc/self/maps` once, and only as far as needed.
///
/// The kernel guarantees that addresses never decrease, and that a mapping that exists the whole time is listed,
/// whatever other threads do in the meantime.
pub(super) struct MapsReader {
    file: Option<BufReader<File>>,
    line: Option<MapsLine>,
}

/// A parsed line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MapsLine {
    pub(super) start: u64,
    pub(super) end: u64,
    kind: MappingKind,
}

impl MapsLine {
    pub(super) fn is_anonymous(&self) -> bool {
        self.kind == MappingKind::Anonymous
    }
}

impl MapsReader {
    /// Opens the file. If that fails, nothing is known about any address.
    pub(super) fn open() -> Self {
        let file = Maps::open().ok().map(|maps| BufReader::new(maps.into_lines()));
        Self { file, line: None }
    }

    /// Returns `true` if the next line can be parsed.
    pub(super) fn is_usable(&mut self) -> bool {
        self.next_line().is_some()
    }

    fn at(&mut self, address: u64) -> Option<Mapping> {
        while self.line.as_ref().is_none_or(|line| line.end <= address) {
            self.line = Some(self.next_line()?);
        }
        let line = self.line.as_ref()?;
        Some(if line.start > address {
            Mapping { end: line.start, kind: MappingKind::Data }
        } else {
            Mapping { end: line.end, kind: line.kind }
        })
    }

    fn next_line(&mut self) -> Option<MapsLine> {
        let mut line = Vec::with_capacity(LINE_BYTES);
        match read_line(self.file.as_mut()?, &mut line) {
            Ok(true) => parse(&line),
            _ => {
                // Close the file, so that reading never resumes in the middle.
                self.file = None;
                None
            }
        }
    }
}

/// Appends the next line, without its newline and truncated to [`LINE_BYTES`], to `line`. Returns `false` at the end
/// of the file.
///
/// # Errors
/// Returns an error if the file cannot be read, or ends within a line. `line` is incomplete then.
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
        // A bound, not a sum: the remaining room is 0 if the line is full.
        line.extend(text.iter().take(LINE_BYTES.saturating_sub(line.len())));
        let taken = part.len();
        file.consume(taken);
        if ended {
            return Ok(true);
        }
    }
}

/// Parses a line `start-end permissions offset device inode name`. All numbers except the inode are hexadecimal.
pub(super) fn parse(line: &[u8]) -> Option<MapsLine> {
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
    let is_complete = line.len() < LINE_BYTES;
    let kind = match vma.backing() {
        Some(backing) => MappingKind::SharedFile(backing),
        None if vma.is_anonymous() && is_complete && is_name_of_memory(name) => {
            MappingKind::Anonymous
        }
        None => MappingKind::Data,
    };
    Some(MapsLine { start, end, kind })
}

/// Parses a major and a minor number, both hexadecimal.
fn parse_device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_only_private_anonymous_memory() {
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
    fn parses_the_file_of_a_shared_mapping() {
        let kind = |rest: &str| parse(format!("1000-3000 {rest}").as_bytes()).unwrap().kind;
        let backing =
            BackingFile { start: 0x1000, end: 0x3000, offset: 0x5000, device: (0, 1), inode: 1036 };
        let expected = MappingKind::SharedFile(backing);
        assert_eq!(kind("rw-s 00005000 00:01 1036    /memfd:guest (deleted)"), expected);
        assert_eq!(kind("rw-s 00005000 00:01 1036 "), expected);
        let long = format!("rw-s 00005000 00:01 1036 /{}", "x".repeat(LINE_BYTES));
        assert_eq!(kind(&long), expected);
        assert_eq!(kind("rw-p 00005000 00:01 1036    /memfd:guest (deleted)"), MappingKind::Data);
        assert_eq!(kind("rw-s 00000000 00:00 0 "), MappingKind::Data);
    }

    #[test]
    fn truncates_long_lines_and_finds_the_next() {
        let text = format!("{}\nnext\nlast", "x".repeat(10_000));
        for capacity in [1, 7, 8192] {
            let mut file = BufReader::with_capacity(capacity, text.as_bytes());
            let mut read = || {
                let mut line = Vec::new();
                (read_line(&mut file, &mut line).ok(), line)
            };
            assert_eq!(read(), (Some(true), vec![b'x'; LINE_BYTES]));
            assert_eq!(read(), (Some(true), b"next".to_vec()));
            // Without a newline, the line may be incomplete.
            assert_eq!(read(), (None, b"last".to_vec()));
            assert_eq!(read(), (Some(false), Vec::new()));
        }
    }

    /// `PROCMAP_QUERY` and the lines agree about every mapping of this process that stays as it is.
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
