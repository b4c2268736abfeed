//! Parses the argument of `--memory`, sizes and times, and defines the options for planning.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use corestream::limits::{MAX_DATA_SEGMENTS, PAGE_BYTES};
use corestream::{ByteSize, Dumper, Memory, MemoryType};

use crate::image;
use crate::number_option::within;
use crate::report::Failure;

/// The path of an image and the type of its memory. The length of the image determines the number of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryOption {
    pub image: PathBuf,
    pub ty: MemoryType,
    /// Whether the image is assumed to change while it is dumped.
    pub changing: bool,
}

impl MemoryOption {
    /// Parses `PATH[,OPTION]...`. A text that is the path of an existing file has no options.
    ///
    /// # Errors
    /// Returns an error if an option is unknown or invalid, or if the path is empty.
    pub fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str() {
            _ if Path::new(&text).exists() => Ok(Self::plain(text)),
            Some(text) => Self::with_options(text),
            // Opening the file will report that it does not exist.
            None if !text.as_bytes().contains(&b',') => Ok(Self::plain(text)),
            None => {
                Err("the path is not valid UTF-8 and contains a comma, so it cannot have options; \
                         link to it under another name"
                    .into())
            }
        }
    }

    fn plain(image: OsString) -> Self {
        Self { image: image.into(), ty: MemoryType::wasm32(0), changing: false }
    }

    fn with_options(text: &str) -> Result<Self, String> {
        let mut ty = MemoryType::wasm32(0);
        let (mut maximum, mut changing) = (None, false);
        let mut image = text;
        // Split from the end, so that a path may contain commas before its last options.
        while let Some((path, option)) = image.rsplit_once(',') {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            match (key, value) {
                ("memory64", None) => ty.memory64 = true,
                ("shared", None) => ty.shared = true,
                ("changing", None) => changing = true,
                ("maximum", Some(value)) => maximum = Some(value),
                ("page-size", Some(value)) => {
                    ty.page_size = page_size(value).map_err(|why| format!("{option}: {why}"))?;
                }
                _ => {
                    return Err(format!(
                        "unknown option {option}; expected memory64, shared, changing, \
                         maximum=PAGES|SIZE or page-size=1"
                    ));
                }
            }
            image = path;
        }
        if let Some(value) = maximum {
            // Parse the maximum last: it depends on the page size, which any option may set.
            let pages =
                pages(value, ty.page_size).map_err(|why| format!("maximum={value}: {why}"))?;
            ty.maximum = Some(pages);
        }
        if image.is_empty() {
            return Err("missing path of the image".into());
        }
        Ok(Self { image: image.into(), ty, changing })
    }

    /// Opens the image and returns the memory.
    ///
    /// # Errors
    /// Returns an error if the image cannot be opened, or if the memory is invalid.
    pub fn memory(&self) -> Result<Memory<'static>, Failure> {
        let memory = image::memory(image::open(&self.image, self.changing)?, None, self.ty);
        let checked = memory.validate();
        checked.map_err(|error| {
            let why = self.with_remedy(&memory.ty, error.to_string());
            Failure::new(format!("{}: {why}", self.image.display()))
        })?;
        Ok(memory)
    }

    /// Adds the argument to write instead to the message about an invalid memory of type `ty`.
    fn with_remedy(&self, ty: &MemoryType, why: String) -> String {
        // The library's remedy is for programs.
        if let Some((why, _)) = why.split_once("; use a 64-bit memory") {
            let mut ty = self.ty;
            ty.memory64 = true;
            return format!("{why}; write {}", Self { ty, ..self.clone() });
        }
        if ty.shared && ty.maximum.is_none() {
            let ty = self.ty.with_maximum(ty.minimum.max(1));
            return format!("{why}, such as {}", Self { ty, ..self.clone() });
        }
        why
    }

    /// Returns the default name of the process: the file name of the image.
    pub fn name(&self) -> String {
        self.image.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Formats the option as [`MemoryOption::parse`] accepts it.
impl fmt::Display for MemoryOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.image.display())?;
        if self.ty.memory64 {
            write!(f, ",memory64")?;
        }
        if u64::from(self.ty.page_size) != u64::from(PAGE_BYTES) {
            write!(f, ",page-size={}", self.ty.page_size)?;
        }
        if self.ty.shared {
            write!(f, ",shared")?;
        }
        if self.changing {
            write!(f, ",changing")?;
        }
        match self.ty.maximum {
            Some(maximum) => write!(f, ",maximum={maximum}"),
            None => Ok(()),
        }
    }
}

/// Parses a page size.
fn page_size(text: &str) -> Result<u32, String> {
    let size = text.parse::<ByteSize>().map_err(|error| error.to_string())?;
    let size = u32::try_from(u64::from(size)).ok();
    let size = size.filter(|size| [1, PAGE_BYTES].contains(size));
    size.ok_or_else(|| format!("invalid page size; expected 1 or {PAGE_BYTES} bytes"))
}

/// Parses a number of pages of `page_size` bytes, or a size that is a multiple of the page size.
fn pages(text: &str, page_size: u32) -> Result<u64, String> {
    let ByteSize(number) = text.parse().map_err(|error: corestream::Error| error.to_string())?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(number);
    }
    match number.checked_rem(page_size.into()) {
        Some(0) => Ok(number / u64::from(page_size)),
        _ => Err(format!("not a multiple of the page size of {page_size} bytes")),
    }
}

/// The options for planning a dump.
#[derive(Args)]
pub struct PlanOptions {
    /// Maximum number of data segments in the dump
    ///
    /// The dump can exceed this number: it has at least one segment for each memory with data, and one more for each
    /// excluded range between data.
    #[arg(long, value_name = "N", default_value_t = MAX_DATA_SEGMENTS,
          value_parser = within(1..=MAX_DATA_SEGMENTS), allow_negative_numbers = true)]
    max_segments: u32,

    /// Number of threads that scan, or 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within(0..=u16::MAX),
          allow_negative_numbers = true)]
    threads: u16,

    /// Read the holes of image files too, if the file system may report them wrongly
    #[arg(long)]
    pub no_trust_holes: bool,

    /// Write no checksums; without them, a reader can check only the structure of the dump
    #[arg(long)]
    pub no_checksum: bool,
}

impl PlanOptions {
    /// Returns whether the number of threads was chosen.
    pub fn has_threads(&self) -> bool {
        self.threads != 0
    }

    /// Returns a dumper with these options.
    pub fn dumper(&self) -> Dumper {
        Dumper::new()
            .max_segments(self.max_segments)
            .threads(self.threads.into())
            .trust_holes(!self.no_trust_holes)
            .checksums(!self.no_checksum)
    }
}

/// Parses a size of at least 1 byte.
pub fn parse_nonzero_size(text: &str) -> Result<ByteSize, String> {
    match text.parse() {
        Ok(ByteSize(0)) => Err("must be at least 1 byte".into()),
        Ok(size) => Ok(size),
        Err(error) => Err(corestream::Error::to_string(&error)),
    }
}

/// Parses a positive number of seconds, which may have a fraction.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let Ok(seconds) = text.parse() else {
        return Err("expected seconds without a unit, such as 0.5".into());
    };
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| "expected a number of seconds from 1e-9 to 1.8e19".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_times() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["", "0", "-1", "1e-30", "1e300", "inf", "nan", "1s"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
        let message = "expected seconds without a unit, such as 0.5";
        assert_eq!(parse_seconds("1s"), Err(message.into()));
        let message = "expected a number of seconds from 1e-9 to 1.8e19";
        assert_eq!(parse_seconds("-1"), Err(message.into()));
    }

    #[test]
    fn parses_sizes_of_at_least_one_byte() {
        assert_eq!(parse_nonzero_size("1.5KiB"), Ok(ByteSize(1536)));
        assert_eq!(parse_nonzero_size("0GiB"), Err("must be at least 1 byte".into()));
        assert_eq!(
            parse_nonzero_size("8g"),
            Err("unknown unit \"g\", did you mean 8GiB or 8GB?".into())
        );
    }

    #[test]
    fn parses_path_and_options() {
        let parse = |text: &str| MemoryOption::parse(text.into());
        let plain = parse("a/b.mem").unwrap();
        let image = "a/b.mem".into();
        let ty = MemoryType::wasm32(0);
        assert_eq!(plain, MemoryOption { image, ty, changing: false });
        let all = parse("m,memory64,page-size=1,maximum=70000,shared,changing").unwrap();
        let ty = MemoryType::wasm64(0).with_page_size(1).with_maximum(70_000).with_shared();
        assert_eq!(all, MemoryOption { image: "m".into(), ty, changing: true });
        for (text, ty) in [
            ("m,maximum=16", MemoryType::wasm32(0).with_maximum(16)),
            ("m,maximum=1MiB,page-size=64KiB", MemoryType::wasm32(0).with_maximum(16)),
            ("m,memory64,maximum=1.5TiB", MemoryType::wasm64(0).with_maximum(3 << 23)),
            (
                "m,maximum=1MB,page-size=1",
                MemoryType::wasm32(0).with_page_size(1).with_maximum(1_000_000),
            ),
        ] {
            assert_eq!(parse(text).unwrap().ty, ty, "{text}");
        }
    }

    #[test]
    fn names_the_argument_that_makes_a_memory_valid() {
        let remedy = |text: &str, pages, why: &str| {
            let option = MemoryOption::parse(text.into()).unwrap();
            let mut ty = option.ty;
            ty.minimum = pages;
            option.with_remedy(&ty, why.into())
        };
        assert_eq!(
            remedy("m,shared", 4, "a shared memory needs a maximum"),
            "a shared memory needs a maximum, such as m,shared,maximum=4"
        );
        assert_eq!(
            remedy("m,page-size=1,shared,changing", 0, "why"),
            "why, such as m,page-size=1,shared,changing,maximum=1"
        );
        assert_eq!(
            remedy("m,maximum=9", 70_000, "too many; use a 64-bit memory (memory64)"),
            "too many; write m,memory64,maximum=9"
        );
        assert_eq!(remedy("m", 1, "why"), "why");
    }

    #[test]
    fn reports_invalid_options() {
        for (text, expected) in [
            ("m,memory65", "unknown option memory65; expected memory64"),
            ("m,maximum=x", "maximum=x: invalid size \"x\"; expected a size such as"),
            ("m,maximum=-1", "maximum=-1: invalid size \"-1\"; expected a size such as"),
            ("m,maximum=4G", "maximum=4G: unknown unit \"G\", did you mean 4GiB or 4GB?"),
            ("m,maximum=1MB", "maximum=1MB: not a multiple of the page size of 65536 bytes"),
            (
                "m,page-size=1,maximum=0.3KiB",
                "maximum=0.3KiB: 0.3KiB is not a whole number of bytes",
            ),
            ("m,page-size=64kib", "page-size=64kib: unknown unit \"kib\", did you mean 64KiB?"),
            ("m,page-size=4096", "page-size=4096: invalid page size; expected 1 or 65536 bytes"),
            ("m,shared=1", "unknown option shared=1"),
            ("m,changing=yes", "unknown option changing=yes"),
            (",shared", "missing path of the image"),
        ] {
            let error = MemoryOption::parse(text.into()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
