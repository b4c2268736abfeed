//! `corestream inspect`: what is in a dump, for people in the columns of their terminal, or as JSON.

mod columns;
mod map;
mod modules;

use std::env;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use corestream::read::{DamageReport, MemoryView, OpenOptions, Producer, Verdict};
use corestream::{
    CoreDumpFile, ErrorKind, Frame, Global, Instance, ModuleIdentity, Value, Visible,
};
use corestream_symbols::{Position, Symbols};
use serde::Serialize;

use self::columns::Columns;
use self::modules::Modules;
use crate::input::Input;
use crate::json::{self, Inspection};
use crate::patient::Patient;
use crate::report::{self, Failure};
use crate::symbol_files::{SymbolFile, SymbolFiles};

/// Ranges that were left out of a memory, of which so many are listed.
const RANGES: usize = 8;

/// Shows what is in a dump: process, modules, instances, memories, globals and threads
///
/// It reads the dumps of this tool and of every known writer, names the layout of their frames, and of
/// one that is cut off it shows what there is: that is exit code 3. It does not compare checksums: `verify` does that.
/// Without `--symbols`, functions are numbers and offsets.
#[derive(Args)]
pub struct Inspect {
    /// The dump
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Print JSON: the shape of a manifest, with lengths, coverage and offsets; no checksums are compared
    #[arg(long)]
    json: bool,

    /// Draw a picture of each memory: what of it is zero, sparse, dense or left out
    #[arg(long, conflicts_with = "json")]
    map: bool,

    /// Name functions, lines and variables of frames by the file of a module
    #[arg(long, value_name = "[INDEX=]GUEST.wasm")]
    symbols: Vec<SymbolFile>,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        let input = Input::open(&self.dump, None)?;
        let dump = input.dump(&OpenOptions::new())?;
        let files = SymbolFiles::read(&self.symbols)?;
        let symbols = files.symbols(&dump)?;
        let mut out = BufWriter::new(Patient(io::stdout().lock()));
        let printed = if self.json {
            print_json(&mut out, &dump, &symbols)
        } else {
            let columns = Columns::of_standard_output();
            let map = self.map.then(|| style(&dump));
            Text { out: &mut out, dump: &dump, columns, map, symbols: &symbols }.print()
        };
        let printed = printed.and_then(|()| Ok(out.flush()?));
        match printed {
            Ok(()) => {}
            Err(Unprinted::Output(error)) => report::printed(Err(error))?,
            Err(Unprinted::Dump(why)) => {
                input.check_read()?;
                return Err(Failure::new(format!("{}: {why}", input.name())));
            }
        }
        input.check_read()?;
        match dump.damage() {
            // What is not known here may come of damage.
            Some(damage) if damage.kind() == ErrorKind::Unsupported => {
                verify(&input, &dump)?;
                Err(input.failed(damage))
            }
            Some(damage) => Err(input.failed(damage)),
            // Verifying a dump without an index parses its sections again and reports those that are missing.
            None if !dump.has_index() => verify(&input, &dump),
            None => Ok(()),
        }
    }
}

/// Fails if the verifier finds damage, or cannot look for it.
fn verify(input: &Input, dump: &CoreDumpFile<'_>) -> Result<(), Failure> {
    match finding(dump.verify()) {
        Ok(Some(damage)) => Err(input.damaged(damage)),
        Ok(None) => Ok(()),
        Err(error) => Err(input.failed(&error)),
    }
}

/// Returns the damage that a verifier found. A dump that the verifier does not support may be whole.
///
/// # Errors
/// Returns any other error of the verifier: the dump could not be read, or there was no memory.
fn finding(verified: corestream::Result<Verdict>) -> corestream::Result<Option<DamageReport>> {
    match verified {
        Ok(Verdict::Damaged(damage)) => Ok(Some(damage)),
        Ok(Verdict::Intact(_)) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// How pictures are drawn on this standard output.
fn style(dump: &CoreDumpFile<'_>) -> map::Style {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    map::Style {
        // The first that is set says it, as for setlocale(3).
        unicode: ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).is_some_and(|locale| {
            let locale = locale.to_string_lossy().to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        }),
        // <https://no-color.org>: whatever it is, unless it is empty.
        colour: io::stdout().is_terminal()
            && !report::is_dumb_terminal()
            && set("NO_COLOR").is_none(),
        // Other tools' dumps have no way to tell zero from not captured.
        zero_known: dump.has_index() && !dump.is_rewritten(),
    }
}

/// Why a dump was not printed.
enum Unprinted {
    /// Standard output does not take it.
    Output(io::Error),
    /// The dump cannot be read.
    Dump(String),
}

impl From<io::Error> for Unprinted {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<corestream::Error> for Unprinted {
    fn from(error: corestream::Error) -> Self {
        Self::Dump(error.to_string())
    }
}

impl From<serde_json::Error> for Unprinted {
    fn from(error: serde_json::Error) -> Self {
        match error.is_io() {
            true => Self::Output(error.into()),
            false => Self::Dump(error.to_string()),
        }
    }
}

type Printed = Result<(), Unprinted>;

fn print_json(out: &mut impl Write, dump: &CoreDumpFile<'_>, symbols: &Symbols<'_>) -> Printed {
    let names =
        |frame: &Frame, index| Ok(symbols.resolve(frame, index)?.as_ref().map(json::Symbols::from));
    let formatter = json::VisibleFormatter::default();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, formatter);
    Inspection::new(dump, &names).serialize(&mut serializer)?;
    Ok(out.write_all(b"\n")?)
}

struct Text<'t, W> {
    out: &'t mut W,
    dump: &'t CoreDumpFile<'t>,
    columns: Columns,
    /// How memories are drawn, if they are.
    map: Option<map::Style>,
    symbols: &'t Symbols<'t>,
}

impl<W: Write> Text<'_, W> {
    fn print(&mut self) -> Printed {
        let dump = self.dump;
        writeln!(self.out, "core dump of {}", self.columns.name(dump.name()))?;
        writeln!(self.out, "  {} bytes, {}", dump.len(), kind(dump))?;
        let mut framed = false;
        for thread in dump.threads() {
            framed |= thread?.frames().len() > 0;
        }
        let layout = dump.frame_layout();
        if !layout.is_known() || (framed && dump.producer() == Producer::Other) {
            writeln!(self.out, "  frames: {layout}")?;
        }
        if dump.is_partial() {
            writeln!(self.out, "  partial: ranges of memories were left out on purpose")?;
        }
        if dump.is_degraded() {
            let line = "  parts of the guest are left out that the format has no room for";
            writeln!(self.out, "{line}")?;
        }
        if let Some(time) = dump.captured_at() {
            writeln!(self.out, "  captured at {time}")?;
        }
        if let Some(trap) = dump.trap() {
            writeln!(self.out, "  trap: {}", Visible(trap))?;
        }
        for note in dump.notes() {
            writeln!(self.out, "  note: {}", Visible(note?))?;
        }
        let modules = dump.modules().zip(dump.module_identities());
        let modules = modules.map(|(name, identity)| Ok((name?, identity?)));
        self.list("modules", modules, Self::module)?;
        self.list("instances", dump.instances(), Self::instance)?;
        self.list("memories", dump.memories().map(Ok), Self::memory)?;
        self.list("globals", dump.globals(), Self::global)?;
        let mut modules = Modules::new(dump, self.columns);
        for thread in dump.threads() {
            let thread = thread?;
            writeln!(self.out, "thread {}", self.columns.name(thread.name()))?;
            for (i, frame) in thread.frames().enumerate() {
                let frame = frame?;
                let module = modules.of(frame.instance)?;
                let (function, offset) = (frame.function, frame.offset);
                writeln!(self.out, "  {i}: {module} function {function} at {offset:#x}")?;
                self.named(&frame, i)?;
                self.values("     locals", &frame.locals)?;
                self.values("     stack", &frame.stack)?;
            }
        }
        Ok(())
    }

    /// Prints what a frame of this index in its thread is called in the source.
    fn named(&mut self, frame: &Frame, index: usize) -> Printed {
        let Some(named) = self.symbols.resolve(frame, index)? else { return Ok(()) };
        if let (Some(function), true) = (&named.name, named.positions.is_empty()) {
            writeln!(self.out, "     {}", self.columns.name(function))?;
        }
        if let Some((own, inlined)) = named.positions.split_last() {
            for position in inlined {
                self.position(position.function.as_deref(), " inlined", position)?;
            }
            self.position(named.name.as_deref(), "", own)?;
        }
        if let Some(problem) = named.problem {
            writeln!(self.out, "     {}", Visible(problem))?;
        }
        Ok(())
    }

    /// Where a function is, and the variables that are in scope.
    fn position(
        &mut self,
        function: Option<&str>,
        word: &str,
        position: &Position,
    ) -> io::Result<()> {
        let columns = self.columns;
        let function = function.map_or("?".into(), |function| columns.name(function));
        writeln!(self.out, "     {function}{word}{}", place(position, columns))?;
        let mut variables = position.variables.iter().peekable();
        let items = std::iter::from_fn(|| {
            let variable = variables.next()?;
            let comma = if variables.peek().is_some() { "," } else { "" };
            Some(format!("{} {}{comma}", columns.name(&variable.name), variable.known))
        });
        columns.wrapped(self.out, "      ", items)
    }

    fn list<T>(
        &mut self,
        title: &str,
        items: impl Iterator<Item = corestream::Result<T>>,
        show: impl Fn(&mut Self, u32, T) -> Printed,
    ) -> Printed {
        for (i, item) in (0..).zip(items) {
            if i == 0 {
                writeln!(self.out, "{title}")?;
            }
            show(self, i, item?)?;
        }
        Ok(())
    }

    fn module(&mut self, i: u32, (name, identity): (String, ModuleIdentity)) -> Printed {
        writeln!(self.out, "  {i}: {}", self.columns.name(&name))?;
        if let Some(build_id) = identity.build_id {
            let build_id = json::hex(&build_id);
            writeln!(self.out, "     build id {}", self.columns.name(&build_id))?;
        }
        if let Some(sha256) = identity.sha256 {
            writeln!(self.out, "     SHA-256 {}", json::hex(&sha256))?;
        }
        Ok(())
    }

    fn instance(&mut self, i: u32, instance: Instance) -> Printed {
        let module = known(instance.module);
        writeln!(self.out, "  {i}: module {module}")?;
        let memories = instance.memories.into_iter().map(known);
        self.columns.wrapped(self.out, "     memories", memories)?;
        Ok(self.columns.wrapped(
            self.out,
            "     globals",
            instance.globals.into_iter().map(known),
        )?)
    }

    fn memory(&mut self, i: u32, memory: MemoryView<'_>) -> Printed {
        let (ty, coverage) = (memory.ty(), memory.coverage());
        writeln!(self.out, "  {i}: {ty}")?;
        let size = ty.byte_len().map_or("2^64".into(), |len| len.to_string());
        let segments = report::count(coverage.segments, "segment");
        writeln!(self.out, "     {} of {size} bytes kept in {segments}", coverage.data_bytes)?;
        if let Some(pages) = memory.declared_pages() {
            if self.dump.damage().is_some() && pages == 0 {
                writeln!(self.out, "     its size is lost, this is what its segments need")?;
            } else {
                let pages = report::count(pages, "page");
                writeln!(self.out, "     declared with {pages}, its segments need more")?;
            }
        }
        write!(self.out, "     coverage {}", json::coverage(self.dump, &coverage))?;
        match coverage.unknown_bytes() {
            0 => writeln!(self.out)?,
            bytes => writeln!(self.out, ", without {}", report::bytes(bytes))?,
        }
        let mut ranges =
            memory.unknown().map(|range| format!("{:#x}..={:#x}", range.start(), range.end()));
        for range in ranges.by_ref().take(RANGES) {
            writeln!(self.out, "     left out {range}")?;
        }
        match ranges.count() {
            0 => {}
            more => writeln!(self.out, "     and {} more", report::count(more as u64, "range"))?,
        }
        Ok(self.picture(memory)?)
    }

    fn picture(&mut self, memory: MemoryView<'_>) -> io::Result<()> {
        let last = memory.ty().byte_len().map_or(Some(u64::MAX), |len| len.checked_sub(1));
        let (Some(style), Some(last)) = (self.map, last) else { return Ok(()) };
        let parts = memory.contents().map(|content| map::part(&content));
        map::draw(self.out, self.columns, last, parts, style)
    }

    fn global(&mut self, i: u32, global: Global) -> Printed {
        let mutable = if global.mutable { "mutable " } else { "" };
        Ok(writeln!(self.out, "  {i}: {mutable}{}", global.value)?)
    }

    fn values(&mut self, title: &str, values: &[Value]) -> io::Result<()> {
        self.columns.wrapped(self.out, title, values.iter().map(ToString::to_string))
    }
}

fn kind(dump: &CoreDumpFile<'_>) -> &'static str {
    match (dump.producer(), dump.has_index(), dump.has_checksums()) {
        _ if dump.is_rewritten() => "rewritten by another tool, its checksums are void",
        (Producer::Corestream, true, true) => "with index and checksums",
        (Producer::Corestream, true, false) => "with index, without checksums",
        (Producer::Corestream, false, _) => "its index is lost",
        (Producer::Other, ..) => "by another tool, without index and checksums",
    }
}

/// File, line and column, after the name of a function; of a long path its end.
fn place(position: &Position, columns: Columns) -> String {
    let Some(file) = &position.file else { return String::new() };
    let last = file.char_indices().rev().take(columns.of_name()).last();
    let start = last.map_or(0, |(start, _)| start);
    let cut = if start > 0 { "…" } else { "" };
    let mut shown = format!(" at {cut}{}", Visible(file.get(start..).unwrap_or_default()));
    for number in [position.line, position.column].into_iter().map_while(|number| number) {
        shown += &format!(":{number}");
    }
    shown
}

/// An index, `?` for one that is not known.
fn known(index: Option<impl Display>) -> String {
    index.map_or("?".into(), |index| index.to_string())
}

#[cfg(test)]
mod tests {
    use corestream::read::Verifier;
    use corestream::{CoreDump, Dumper, Error};

    use super::*;

    #[test]
    fn keeps_the_errors_of_a_verifier_that_are_not_about_the_dump() {
        for kind in [ErrorKind::Input, ErrorKind::OutOfMemory, ErrorKind::Cancelled] {
            let error = finding(Err(Error::new(kind, "the disk is gone"))).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (kind, "the disk is gone".into()));
        }
        let unsupported = Error::new(ErrorKind::Unsupported, "a later version");
        assert!(finding(Err(unsupported)).unwrap().is_none());

        let bytes = Dumper::new().plan(&CoreDump::new("guest")).unwrap().to_vec().unwrap();
        assert!(finding(Verifier::new().verify(&bytes)).unwrap().is_none());
        let cut = &bytes[..bytes.len() - 1];
        assert!(finding(Verifier::new().verify(cut)).unwrap().unwrap().truncated);
    }
}
