//! `corestream inspect`: prints the contents of a dump as text that fits the terminal, or as JSON.

mod columns;
mod map;
mod modules;
mod source;
mod symbols;

use std::env;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use corestream::read::{DamageReport, MemoryView, OpenOptions, Producer, Verdict};
use corestream::{
    CoreDumpFile, ErrorKind, Frame, Global, Instance, ModuleIdentity, Value, Visible,
};
use corestream_symbols::{StaticScope, StaticUnits, Symbols};
use serde::Serialize;

use self::columns::Columns;
use self::modules::Modules;
use self::source::SourceDirectories;
use self::symbols::{SymbolOptions, SymbolPrinter};
use crate::blocking_stream::BlockingStream;
use crate::input::Input;
use crate::json::{self, Inspection, UnitStatics};
use crate::report::{self, Failure};
use crate::symbol_files::SymbolFiles;

/// The maximum number of missing ranges of a memory that are listed.
const MAX_LISTED_RANGES: usize = 8;

/// Show the process, modules, instances, memories, globals and threads of a dump
///
/// It reads dumps of this tool and of every other known writer, and shows their frame layout. For a damaged or
/// truncated dump, it shows the readable parts and exits with code 3. It does not compare checksums; use `verify` for
/// that. Without `--symbols`, functions are shown as indices and code offsets.
#[derive(Args)]
pub struct Inspect {
    /// Path of the dump
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Print JSON: the fields of a manifest, with lengths, coverage and offsets
    #[arg(long)]
    json: bool,

    /// Draw a map of each memory that shows its zero, sparse, dense and missing parts
    #[arg(long, conflicts_with = "json")]
    map: bool,

    #[command(flatten)]
    symbols: SymbolOptions,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        let input = Input::open(&self.dump, None)?;
        let dump = input.dump(&OpenOptions::new())?;
        let files = SymbolFiles::read(&self.symbols.symbols)?;
        let symbols = files.symbols(&dump, self.symbols.limits())?;
        let scope = self.symbols.static_scope();
        let mut out = BufWriter::new(BlockingStream(io::stdout().lock()));
        let printed = if self.json {
            print_json(&mut out, &dump, &symbols, scope)
        } else {
            let columns = Columns::of_standard_output();
            let map = self.map.then(|| map_style(&dump));
            let sources = SourceDirectories::new(&self.symbols.source);
            let symbols = SymbolPrinter { symbols: &symbols, columns, sources, scope };
            TextPrinter { out: &mut out, dump: &dump, columns, map, symbols }.print()
        };
        let printed = printed.and_then(|()| Ok(out.flush()?));
        match printed {
            Ok(()) => {}
            Err(PrintError::Output(error)) => report::ignore_broken_pipe(Err(error))?,
            Err(PrintError::Dump(cause)) => {
                input.check_read()?;
                return Err(Failure::new(format!("{}: {cause}", input.name())));
            }
        }
        input.check_read()?;
        match dump.damage() {
            // An unsupported feature may in fact be damage.
            Some(damage) if damage.kind() == ErrorKind::Unsupported => {
                verify(&input, &dump)?;
                Err(input.failure(damage))
            }
            Some(damage) => Err(input.failure(damage)),
            // Verifying a dump without an index parses its sections again and reports those that are missing.
            None if !dump.has_index() => verify(&input, &dump),
            None => Ok(()),
        }
    }
}

/// Verifies the dump.
///
/// # Errors
/// Returns an error if the verifier finds damage, or if it cannot read the dump.
fn verify(input: &Input, dump: &CoreDumpFile<'_>) -> Result<(), Failure> {
    match finding(dump.verify()) {
        Ok(Some(damage)) => Err(input.damaged(damage)),
        Ok(None) => Ok(()),
        Err(error) => Err(input.failure(&error)),
    }
}

/// Returns the damage that a verifier found. A dump that the verifier does not support counts as intact.
///
/// # Errors
/// Returns any other error of the verifier: the dump could not be read, or the process is out of memory.
fn finding(verified: corestream::Result<Verdict>) -> corestream::Result<Option<DamageReport>> {
    match verified {
        Ok(Verdict::Damaged(damage)) => Ok(Some(damage)),
        Ok(Verdict::Intact(_)) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the style of maps on standard output.
fn map_style(dump: &CoreDumpFile<'_>) -> map::Style {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    map::Style {
        // The first variable that is set decides, as in setlocale(3).
        unicode: ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).is_some_and(|locale| {
            let locale = locale.to_string_lossy().to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        }),
        // Any value except an empty one disables colour (<https://no-color.org>).
        colour: io::stdout().is_terminal()
            && !report::is_dumb_terminal()
            && set("NO_COLOR").is_none(),
        // Dumps of other tools do not distinguish zero from not captured.
        zero_known: dump.has_index() && !dump.is_rewritten(),
    }
}

/// The reason why a dump was not printed.
enum PrintError {
    /// Standard output cannot be written.
    Output(io::Error),
    /// The dump cannot be read.
    Dump(String),
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<corestream::Error> for PrintError {
    fn from(error: corestream::Error) -> Self {
        Self::Dump(error.to_string())
    }
}

impl From<serde_json::Error> for PrintError {
    fn from(error: serde_json::Error) -> Self {
        match error.is_io() {
            true => Self::Output(error.into()),
            false => Self::Dump(error.to_string()),
        }
    }
}

type PrintResult = Result<(), PrintError>;

fn print_json(
    out: &mut impl Write,
    dump: &CoreDumpFile<'_>,
    symbols: &Symbols<'_>,
    scope: Option<StaticScope>,
) -> PrintResult {
    let names =
        |frame: &Frame, index| Ok(symbols.resolve(frame, index)?.as_ref().map(json::Symbols::from));
    let units = match scope {
        Some(scope) => symbols.static_units(scope)?,
        None => StaticUnits::default(),
    };
    if units.has_more {
        report::line(&format!("warning: {}", self::symbols::describe_static_limit()));
    }
    let units = units.units;
    let statics = |index: usize| {
        let unit = units
            .get(index)
            .ok_or_else(|| corestream::Error::new(ErrorKind::Option, "no such unit"))?;
        let statics = symbols.read_statics(unit)?;
        Ok(UnitStatics::new(unit.instance(), symbols.static_unit_name(unit), &statics))
    };
    let formatter = json::VisibleFormatter::default();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, formatter);
    let matches = symbols.matches();
    let inspection = Inspection::new(dump, &names).with_symbols(matches, units.len(), &statics);
    inspection.serialize(&mut serializer)?;
    Ok(out.write_all(b"\n")?)
}

/// Prints a dump as text.
struct TextPrinter<'t, W> {
    out: &'t mut W,
    dump: &'t CoreDumpFile<'t>,
    columns: Columns,
    /// The style of maps; `None` to draw no maps.
    map: Option<map::Style>,
    symbols: SymbolPrinter<'t>,
}

impl<W: Write> TextPrinter<'_, W> {
    fn print(&mut self) -> PrintResult {
        let dump = self.dump;
        writeln!(self.out, "core dump of {}", self.columns.name(dump.name()))?;
        writeln!(self.out, "  {} bytes, {}", dump.len(), origin(dump))?;
        let mut has_frames = false;
        for thread in dump.threads() {
            has_frames |= thread?.frames().len() > 0;
        }
        let layout = dump.frame_layout();
        if !layout.is_known() || (has_frames && dump.producer() == Producer::Other) {
            writeln!(self.out, "  frames: {layout}")?;
        }
        if dump.is_partial() {
            writeln!(self.out, "  partial: memory ranges were excluded on purpose")?;
        }
        if dump.is_degraded() {
            let line = "  incomplete: parts of the guest exceeded the limits of the format";
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
        self.print_list("modules", modules, Self::print_module)?;
        self.print_list("instances", dump.instances(), Self::print_instance)?;
        self.print_list("memories", dump.memories().map(Ok), Self::print_memory)?;
        self.print_list("globals", dump.globals(), Self::print_global)?;
        let mut modules = Modules::new(dump, self.columns);
        for thread in dump.threads() {
            let thread = thread?;
            writeln!(self.out, "thread {}", self.columns.name(thread.name()))?;
            for (i, frame) in thread.frames().enumerate() {
                let frame = frame?;
                let module = modules.name_for(frame.instance)?;
                let (function, offset) = (frame.function, frame.offset);
                writeln!(self.out, "  {i}: {module} function {function} at {offset:#x}")?;
                self.symbols.print_frame(self.out, &frame, i)?;
                self.print_values("     locals", &frame.locals)?;
                self.print_values("     stack", &frame.stack)?;
            }
        }
        self.symbols.print_statics(self.out)
    }

    fn print_list<T>(
        &mut self,
        title: &str,
        items: impl Iterator<Item = corestream::Result<T>>,
        print: impl Fn(&mut Self, u32, T) -> PrintResult,
    ) -> PrintResult {
        for (i, item) in (0..).zip(items) {
            if i == 0 {
                writeln!(self.out, "{title}")?;
            }
            print(self, i, item?)?;
        }
        Ok(())
    }

    fn print_module(&mut self, i: u32, (name, identity): (String, ModuleIdentity)) -> PrintResult {
        writeln!(self.out, "  {i}: {}", self.columns.name(&name))?;
        if let Some(build_id) = identity.build_id {
            let build_id = json::hex(&build_id);
            writeln!(self.out, "     build id {}", self.columns.name(&build_id))?;
        }
        if let Some(sha256) = identity.sha256 {
            writeln!(self.out, "     SHA-256 {}", json::hex(&sha256))?;
        }
        self.symbols.print_match(self.out, i)
    }

    fn print_instance(&mut self, i: u32, instance: Instance) -> PrintResult {
        let module = index_or_unknown(instance.module);
        writeln!(self.out, "  {i}: module {module}")?;
        let memories = instance.memories.into_iter().map(index_or_unknown);
        self.columns.write_wrapped(self.out, "     memories", memories)?;
        let globals = instance.globals.into_iter().map(index_or_unknown);
        Ok(self.columns.write_wrapped(self.out, "     globals", globals)?)
    }

    fn print_memory(&mut self, i: u32, memory: MemoryView<'_>) -> PrintResult {
        let (ty, coverage) = (memory.ty(), memory.coverage());
        writeln!(self.out, "  {i}: {ty}")?;
        let size = ty.byte_len().map_or("2^64".into(), |len| len.to_string());
        let segments = report::count(coverage.segments, "segment");
        writeln!(self.out, "     {} of {size} bytes kept in {segments}", coverage.data_bytes)?;
        if let Some(pages) = memory.declared_pages() {
            if self.dump.damage().is_some() && pages == 0 {
                writeln!(
                    self.out,
                    "     its size is lost; showing the size that its segments need"
                )?;
            } else {
                let pages = report::count(pages, "page");
                writeln!(self.out, "     declared with {pages}, but its segments need more")?;
            }
        }
        write!(self.out, "     coverage {}", json::coverage(self.dump, &coverage))?;
        match coverage.unknown_bytes() {
            0 => writeln!(self.out)?,
            bytes => writeln!(self.out, ", {} missing", report::bytes(bytes))?,
        }
        let mut ranges =
            memory.unknown().map(|range| format!("{:#x}..={:#x}", range.start(), range.end()));
        for range in ranges.by_ref().take(MAX_LISTED_RANGES) {
            writeln!(self.out, "     missing {range}")?;
        }
        match ranges.count() {
            0 => {}
            more => writeln!(self.out, "     and {}", report::count(more as u64, "more range"))?,
        }
        Ok(self.print_map(memory)?)
    }

    fn print_map(&mut self, memory: MemoryView<'_>) -> io::Result<()> {
        let last = memory.ty().byte_len().map_or(Some(u64::MAX), |len| len.checked_sub(1));
        let (Some(style), Some(last)) = (self.map, last) else { return Ok(()) };
        let parts = memory.contents().map(|content| map::part(&content));
        map::draw(self.out, self.columns, last, parts, style)
    }

    fn print_global(&mut self, i: u32, global: Global) -> PrintResult {
        let mutable = if global.mutable { "mutable " } else { "" };
        Ok(writeln!(self.out, "  {i}: {mutable}{}", global.value)?)
    }

    fn print_values(&mut self, title: &str, values: &[Value]) -> io::Result<()> {
        self.columns.write_wrapped(self.out, title, values.iter().map(ToString::to_string))
    }
}

/// Describes the writer of a dump, and its index and checksums.
fn origin(dump: &CoreDumpFile<'_>) -> &'static str {
    match (dump.producer(), dump.has_index(), dump.has_checksums()) {
        _ if dump.is_rewritten() => "rewritten by another tool, so its checksums are void",
        (Producer::Corestream, true, true) => "with index and checksums",
        (Producer::Corestream, true, false) => "with index, without checksums",
        (Producer::Corestream, false, _) => "its index is lost",
        (Producer::Other, ..) => "by another tool, without index and checksums",
    }
}

/// Formats an index, or `?` if it is unknown.
fn index_or_unknown(index: Option<impl Display>) -> String {
    index.map_or("?".into(), |index| index.to_string())
}

#[cfg(test)]
mod tests {
    use corestream::read::Verifier;
    use corestream::{CoreDump, Dumper, Error};

    use super::*;

    #[test]
    fn returns_errors_of_the_verifier_that_do_not_concern_the_dump() {
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
