//! `corestream verify`: checks a dump and prints the verdict in one line.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use corestream::Visible;
use corestream::read::{DamageReport, IntactDump, Producer, Verdict, Verifier};

use crate::blocking_stream::BlockingStream;
use crate::input::{self, Input};
use crate::module_file::MAGIC_BYTES;
use crate::number_option::within;
use crate::placeholder::is_placeholder;
use crate::progress::{ProgressDisplay, ProgressMode};
use crate::report::{self, Failure};

/// Check that a dump is intact: structure, index and checksums
///
/// It checks a file in parallel, and a stream while it arrives, in bounded memory. For a damaged dump, it prints
/// where the damage is and which memory ranges it affects. Dumps of other tools have no checksums, so only their
/// structure can be checked.
#[derive(Args)]
pub struct Verify {
    /// Path of the dump, or - for standard input
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Number of threads that check, or 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within(0..=u16::MAX),
          allow_negative_numbers = true)]
    threads: u16,

    /// When to show progress on standard error, for a check that takes longer than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressMode,
}

impl Verify {
    pub fn run(self) -> Result<(), Failure> {
        if self.dump == Path::new("-") {
            let name = "standard input";
            if is_placeholder(std::io::stdin()) {
                return Err(Failure::new(format!("{name}: is closed")));
            }
            let progress = ProgressDisplay::start(self.progress, name);
            let verifier = Verifier::new().progress(progress.callback());
            let stdin = BlockingStream(std::io::stdin().lock());
            let mut stdin = Recorder { stream: stdin, start: Vec::new() };
            let verdict = verifier.verify_stream(&mut stdin);
            progress.finish();
            let verdict = verdict.map_err(|error| input::failure_of(name, &error, &stdin.start));
            return print_verdict(name, verdict?);
        }
        let input = Input::open(&self.dump, None)?;
        let progress = ProgressDisplay::start(self.progress, &input.name());
        let verifier = Verifier::new().threads(self.threads.into()).progress(progress.callback());
        let verdict = verifier.verify(input.source());
        progress.finish();
        input.check_read()?;
        print_verdict(
            &self.dump.display().to_string(),
            verdict.map_err(|error| input.failure(&error))?,
        )
    }
}

/// Keeps the first bytes of a stream.
struct Recorder<R> {
    stream: R,
    start: Vec<u8>,
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        let missing = MAGIC_BYTES.saturating_sub(self.start.len());
        self.start.extend(buffer.iter().take(len.min(missing)));
        Ok(len)
    }
}

fn print_verdict(name: &str, verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Intact(whole) => report::result(&format!("{}\n", Visible(line(name, &whole)))),
        Verdict::Damaged(damage) => {
            Err(Failure::damaged(format!("{name}: {}", describe_damage(&damage))))
        }
    }
}

/// Describes damage, with the byte range of the dump.
pub fn describe_damage(damage: &DamageReport) -> String {
    let prefix = if damage.truncated { "" } else { "is damaged: " };
    format!("{prefix}{damage}")
}

/// Returns the line for an undamaged dump.
fn line(name: &str, whole: &IntactDump) -> String {
    let segments = report::count(whole.segments, "segment");
    let (verdict, bytes) = (verdict_word(whole), whole.bytes);
    format!("{name}: {verdict}, {bytes} bytes in {segments}{}", notes(whole))
}

/// Returns the verdict for an undamaged dump in a few words.
pub fn verdict_word(whole: &IntactDump) -> &'static str {
    match (whole.rewritten, whole.partial) {
        (true, _) => "rewritten",
        (false, true) => "intact but partial",
        (false, false) => "intact",
    }
}

/// Returns the notes about an undamaged dump, which follow its verdict and its size.
pub fn notes(whole: &IntactDump) -> String {
    let mut line = String::from(match (whole.producer, whole.checksums) {
        _ if whole.rewritten => {
            ", another tool has moved or changed its sections: only its structure can be checked, because \
             its checksums belong to the original"
        }
        (Producer::Corestream, true) => ", all checksums match",
        (Producer::Corestream, false) => ", without checksums",
        (Producer::Other, _) => ", by another tool: only its structure can be checked",
    });
    if let (Producer::Other, Some(layout)) = (whole.producer, whole.layout) {
        line.push_str(&format!("; frames: {layout}"));
    }
    if whole.appended > 0 {
        let appended = report::bytes(whole.appended);
        line.push_str(&format!("; another tool has added {appended} of sections after its end"));
    }
    if whole.rewritten && whole.partial {
        line.push_str("; memory ranges were excluded on purpose");
    }
    let excluded = whole.excluded.iter().map(|of| (of.memory, of.bytes, of.ranges));
    if let Some(excluded) = report::excluded(excluded) {
        line.push_str("; ");
        line.push_str(&excluded);
    }
    if !whole.changing.is_empty() {
        let changing: Vec<_> = whole.changing.iter().map(ToString::to_string).collect();
        let memories = if changing.len() == 1 { "memory" } else { "memories" };
        line.push_str(&format!("; {memories} {} changing while read", changing.join(", ")));
    }
    if whole.degraded {
        line.push_str("; incomplete: parts of the guest exceeded the limits of the format");
    }
    line
}
