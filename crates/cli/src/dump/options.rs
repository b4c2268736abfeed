//! The arguments of `--memory`, sizes and times, and the options of how a dump is planned.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use corestream::limits::{MAX_DATA_SEGMENTS, PAGE_BYTES};
use corestream::{ByteSize, Dumper, Memory, MemoryType};

use crate::image;
use crate::report::Failure;

/// An image and the type of its memory; how many pages it has is its image's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryOption {
    pub image: PathBuf,
    pub ty: MemoryType,
    /// Whether the image is taken to change while it is dumped.
    pub changing: bool,
}

impl MemoryOption {
    /// Parses `PATH[,OPTION]...`; what is the name of a file as a whole has no options.
    pub fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str() {
            _ if Path::new(&text).exists() => Ok(Self::plain(text)),
            Some(text) => Self::with_options(text),
            // That it is not there is said when it is opened.
            None if !text.as_bytes().contains(&b',') => Ok(Self::plain(text)),
            None => Err("such a path can have no options: link to it under another name".into()),
        }
    }

    fn plain(image: OsString) -> Self {
        Self { image: image.into(), ty: MemoryType::wasm32(0), changing: false }
    }

    fn with_options(text: &str) -> Result<Self, String> {
        let mut ty = MemoryType::wasm32(0);
        let (mut maximum, mut changing) = (None, false);
        let mut image = text;
        // From the end, so that a path may contain commas as long as no option follows one.
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
                        "there is no option {option}, only memory64, shared, changing, \
                         maximum=PAGES|SIZE and page-size=1"
                    ));
                }
            }
            image = path;
        }
        if let Some(value) = maximum {
            // Not before all options are read: it is the size of a page that counts.
            let pages =
                pages(value, ty.page_size).map_err(|why| format!("maximum={value}: {why}"))?;
            ty.maximum = Some(pages);
        }
        if image.is_empty() {
            return Err("the path of the image is missing".into());
        }
        Ok(Self { image: image.into(), ty, changing })
    }

    /// The memory, with its image.
    pub fn memory(&self) -> Result<Memory<'static>, Failure> {
        let memory = image::memory(image::open(&self.image, self.changing)?, None, self.ty);
        let checked = memory.validate();
        checked.map_err(|why| Failure::new(format!("{}: {why}", self.image.display())))?;
        Ok(memory)
    }

    /// What the process is called, if nothing else says: as the file.
    pub fn name(&self) -> String {
        self.image.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Parses the size of a page.
fn page_size(text: &str) -> Result<u32, String> {
    let size = text.parse::<ByteSize>().map_err(|error| error.to_string())?;
    let size = u32::try_from(u64::from(size)).ok();
    let size = size.filter(|size| [1, PAGE_BYTES].contains(size));
    size.ok_or_else(|| format!("a page has 1 or {PAGE_BYTES} bytes"))
}

/// Parses a number of pages of `page_size` bytes, or a size that is a whole number of them.
fn pages(text: &str, page_size: u32) -> Result<u64, String> {
    let ByteSize(number) = text.parse().map_err(|error: corestream::Error| error.to_string())?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(number);
    }
    match number.checked_rem(page_size.into()) {
        Some(0) => Ok(number / u64::from(page_size)),
        _ => Err(format!("is not a whole number of pages of {page_size} bytes")),
    }
}

/// How a dump is planned.
#[derive(Args)]
pub struct PlanOptions {
    /// Data segments that the dump may have; each memory that holds data has one, and each range between
    /// data that is left out on purpose makes one more, whatever this is
    #[arg(long, value_name = "N", default_value_t = MAX_DATA_SEGMENTS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DATA_SEGMENTS)))]
    max_segments: u32,

    /// Threads that scan; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,

    /// Read the holes of image files too, where the file system is not to be trusted with them
    #[arg(long)]
    pub no_trust_holes: bool,

    /// Leave out the checksums, by which a reader can check the dump
    #[arg(long)]
    pub no_checksum: bool,
}

impl PlanOptions {
    /// What plans so.
    pub fn dumper(&self) -> Dumper {
        Dumper::new()
            .max_segments(self.max_segments)
            .threads(self.threads.into())
            .trust_holes(!self.no_trust_holes)
            .checksums(!self.no_checksum)
    }
}

/// Parses a size of at least one byte.
pub fn some_bytes(text: &str) -> Result<ByteSize, String> {
    match text.parse() {
        Ok(ByteSize(0)) => Err("must be at least 1 byte".into()),
        Ok(size) => Ok(size),
        Err(error) => Err(corestream::Error::to_string(&error)),
    }
}

/// A time in seconds, with a fraction if it has one.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let range = "must be a number of seconds above 0, from 1e-9 to 1.8e19";
    time.filter(|time| !time.is_zero()).ok_or_else(|| range.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["", "0", "-1", "1e-30", "1e300", "inf", "nan", "1s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_at_least_one_byte() {
        assert_eq!(some_bytes("1.5KiB"), Ok(ByteSize(1536)));
        assert_eq!(some_bytes("0GiB"), Err("must be at least 1 byte".into()));
        assert_eq!(some_bytes("8g"), Err("unknown unit \"g\", did you mean 8GiB or 8GB?".into()));
    }

    #[test]
    fn path_and_options() {
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
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("m,memory65", "there is no option memory65, only memory64"),
            ("m,maximum=x", "maximum=x: invalid size \"x\", one is such as"),
            ("m,maximum=-1", "maximum=-1: invalid size \"-1\", one is such as"),
            ("m,maximum=4G", "maximum=4G: unknown unit \"G\", did you mean 4GiB or 4GB?"),
            ("m,maximum=1MB", "maximum=1MB: is not a whole number of pages of 65536 bytes"),
            (
                "m,page-size=1,maximum=0.3KiB",
                "maximum=0.3KiB: 0.3KiB is not a whole number of bytes",
            ),
            ("m,page-size=64kib", "page-size=64kib: unknown unit \"kib\", did you mean 64KiB?"),
            ("m,page-size=4096", "page-size=4096: a page has 1 or 65536 bytes"),
            ("m,shared=1", "there is no option shared=1"),
            ("m,changing=yes", "there is no option changing=yes"),
            (",shared", "the path of the image is missing"),
        ] {
            let error = MemoryOption::parse(text.into()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
