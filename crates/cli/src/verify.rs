//! `corestream verify`: whether a dump is whole, in one line.

use std::path::{Path, PathBuf};

use clap::Args;
use corestream::Visible;
use corestream::read::{DamageReport, IntactDump, Producer, Verdict, Verifier};

use crate::input::{self, Input};
use crate::patient::Patient;
use crate::placeholder::is_placeholder;
use crate::progress::{Display, When};
use crate::report::{self, Failure};

/// Checks that a dump is whole: structure, index and checksums
///
/// A file is checked in parallel, a stream in bounded memory as it comes. Of a dump that is damaged
/// a line says where, and which memory lies there. Dumps of other tools have no checksums, so that
/// only their structure can be checked.
#[derive(Args)]
pub struct Verify {
    /// The dump, - is standard input
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Threads that check; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,

    /// Show on standard error how far a check has come that takes more than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: When,
}

impl Verify {
    pub fn run(self) -> Result<(), Failure> {
        if self.dump == Path::new("-") {
            let name = "standard input";
            if is_placeholder(std::io::stdin()) {
                return Err(Failure::new(format!("{name}: is closed")));
            }
            let progress = Display::start(self.progress, name);
            let verifier = Verifier::new().progress(progress.watcher());
            let verdict = verifier.verify_stream(Patient(std::io::stdin().lock()));
            progress.finish();
            return print_verdict(name, verdict.map_err(|error| input::failed(name, &error))?);
        }
        let input = Input::open(&self.dump, None)?;
        let progress = Display::start(self.progress, &input.name());
        let verifier = Verifier::new().threads(self.threads.into()).progress(progress.watcher());
        let verdict = verifier.verify(input.source());
        progress.finish();
        input.check_read()?;
        print_verdict(
            &self.dump.display().to_string(),
            verdict.map_err(|error| input.failed(&error))?,
        )
    }
}

fn print_verdict(name: &str, verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Intact(whole) => report::result(&format!("{}\n", Visible(line(name, &whole)))),
        Verdict::Damaged(damage) => Err(Failure::damaged(format!("{name}: {}", fault(&damage)))),
    }
}

/// What to say of a dump that is damaged.
pub fn fault(damage: &DamageReport) -> String {
    let range = &damage.range;
    let what = if damage.truncated { "" } else { "is damaged: " };
    format!("{what}{damage} (bytes {:#x}..{:#x})", range.start, range.end)
}

fn line(name: &str, whole: &IntactDump) -> String {
    let s = if whole.segments == 1 { "" } else { "s" };
    let what = what(whole);
    let (bytes, segments) = (whole.bytes, whole.segments);
    let line = format!("{name}: {what}, {bytes} bytes in {segments} segment{s}");
    line + &notes(whole)
}

/// What a dump is called in which nothing is wrong.
pub fn what(whole: &IntactDump) -> &'static str {
    match (whole.rewritten, whole.partial) {
        (true, _) => "rewritten",
        (false, true) => "whole as planned",
        (false, false) => "whole",
    }
}

/// What else there is to say of a dump that is whole.
pub fn notes(whole: &IntactDump) -> String {
    let mut line = String::from(match (whole.producer, whole.checksums) {
        _ if whole.rewritten => {
            ", another tool has moved or changed its sections: only its structure can be checked, its \
             checksums are of the original"
        }
        (Producer::Corestream, true) => ", all checksums hold",
        (Producer::Corestream, false) => ", without checksums",
        (Producer::Other, _) => ", by another tool: only its structure can be checked",
    });
    if let (Producer::Other, Some(layout)) = (whole.producer, whole.layout) {
        line.push_str(&format!("; frames: {layout}"));
    }
    if whole.appended > 0 {
        let s = if whole.appended == 1 { "" } else { "s" };
        let appended = whole.appended;
        line.push_str(&format!(
            "; another tool has added {appended} byte{s} of sections after its end"
        ));
    }
    if whole.rewritten && whole.partial {
        line.push_str("; ranges of memories were left out on purpose");
    }
    let excluded = whole.excluded.iter().map(|of| (of.memory, of.bytes, of.ranges));
    if let Some(partial) = report::partial(excluded) {
        line.push_str("; ");
        line.push_str(&partial);
    }
    if !whole.changing.is_empty() {
        let changing: Vec<_> = whole.changing.iter().map(ToString::to_string).collect();
        let memories = if changing.len() == 1 { "memory" } else { "memories" };
        line.push_str(&format!("; {memories} {} changing while read", changing.join(", ")));
    }
    if whole.degraded {
        line.push_str("; parts of the guest are left out that the format has no room for");
    }
    line
}
