//! The arguments of `--memory` and `--write-timeout`, and the options of how a dump is planned.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use corestream::limits::MAX_DATA_SEGMENTS;
use corestream::{Dumper, Memory, MemoryType};

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
        let mut changing = false;
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
                ("maximum", Some(pages)) => {
                    let pages = pages.parse().map_err(|_| format!("maximum={pages}: no number"))?;
                    ty.maximum = Some(pages);
                }
                ("page-size", Some("1")) => ty.page_size = 1,
                ("page-size", Some("65536")) => ty.page_size = 65_536,
                ("page-size", Some(size)) => {
                    return Err(format!("page-size={size}: a page has 1 or 65536 bytes"));
                }
                _ => {
                    return Err(format!(
                        "there is no option {option}, only memory64, shared, changing, \
                         maximum=PAGES and page-size=1"
                    ));
                }
            }
            image = path;
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

/// How a dump is planned.
#[derive(Args)]
pub struct PlanOptions {
    /// Data segments that the dump may have; each memory that holds data has one, and each range between
    /// data that is left out on purpose makes one more, whatever this is
    #[arg(long, value_name = "N", default_value_t = MAX_DATA_SEGMENTS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DATA_SEGMENTS)))]
    max_segments: u32,

    /// Threads that scan; by default one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

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
        let dumper = Dumper::new()
            .max_segments(self.max_segments)
            .trust_holes(!self.no_trust_holes)
            .checksums(!self.no_checksum);
        match self.threads {
            Some(threads) => dumper.threads(threads.into()),
            None => dumper,
        }
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
    fn path_and_options() {
        let parse = |text: &str| MemoryOption::parse(text.into());
        let plain = parse("a/b.mem").unwrap();
        let image = "a/b.mem".into();
        let ty = MemoryType::wasm32(0);
        assert_eq!(plain, MemoryOption { image, ty, changing: false });
        let all = parse("m,memory64,page-size=1,maximum=70000,shared,changing").unwrap();
        let ty = MemoryType::wasm64(0).with_page_size(1).with_maximum(70_000).with_shared();
        assert_eq!(all, MemoryOption { image: "m".into(), ty, changing: true });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("m,memory65", "there is no option memory65, only memory64"),
            ("m,maximum=x", "maximum=x: no number"),
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
