//! Prints the symbols of frames: functions, source lines, variables and static variables.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use corestream::{Frame, Visible};
use corestream_symbols::limits::MAX_STATIC_UNITS;
use corestream_symbols::{
    ModuleMatch, Position, StaticScope, Symbols, ValueLimits, Variable, Verdict,
};

use super::PrintResult;
use super::columns::Columns;
use super::source::SourceDirectories;
use crate::symbol_files::SymbolFile;

/// The width of the text before a name.
const INDENT: usize = 5;

/// The options of symbols.
#[derive(Args)]
pub(super) struct SymbolOptions {
    /// File of a module or component, to show function names, source lines and variables of its frames; also a file with
    /// a module's debugging information, a .dwo or a .dwp file
    #[arg(long, value_name = "[INDEX=]GUEST.wasm")]
    pub(super) symbols: Vec<SymbolFile>,

    /// Directory in which to look for source files, to show three lines around each position
    #[arg(long, value_name = "DIR", requires = "symbols", conflicts_with = "json")]
    pub(super) source: Vec<PathBuf>,

    /// Static variables to show: of the source files in the backtrace, of all source files, or none
    #[arg(long, value_enum, value_name = "WHICH", default_value = "frames", requires = "symbols")]
    statics: Statics,

    /// Maximum depth of nested values
    #[arg(long, value_name = "N", default_value_t = ValueLimits::default().depth, requires = "symbols")]
    max_depth: u32,

    /// Maximum number of elements of an array and of members of a structure
    #[arg(long, value_name = "N", default_value_t = ValueLimits::default().elements, requires = "symbols")]
    max_elements: u64,

    /// Maximum number of bytes of text
    #[arg(long, value_name = "N", default_value_t = ValueLimits::default().text, requires = "symbols")]
    max_text: u64,

    /// Maximum number of pointers to follow, one after the other
    #[arg(long, value_name = "N", default_value_t = ValueLimits::default().pointers, requires = "symbols")]
    max_pointers: u32,

    /// Maximum number of values of one variable
    #[arg(long, value_name = "N", default_value_t = ValueLimits::default().values, requires = "symbols")]
    max_values: u64,
}

/// Which static variables are shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Statics {
    Frames,
    All,
    None,
}

impl SymbolOptions {
    pub(super) fn limits(&self) -> ValueLimits {
        ValueLimits {
            depth: self.max_depth,
            elements: self.max_elements,
            text: self.max_text,
            pointers: self.max_pointers,
            values: self.max_values,
        }
    }

    pub(super) fn static_scope(&self) -> Option<StaticScope> {
        match self.statics {
            Statics::Frames => Some(StaticScope::Frames),
            Statics::All => Some(StaticScope::All),
            Statics::None => None,
        }
    }
}

/// Prints symbols as text.
pub(super) struct SymbolPrinter<'t> {
    pub(super) symbols: &'t Symbols<'t>,
    pub(super) columns: Columns,
    pub(super) sources: SourceDirectories<'t>,
    pub(super) scope: Option<StaticScope>,
}

impl SymbolPrinter<'_> {
    /// Prints whether the build of a module's symbols is verified.
    pub(super) fn print_match(&self, out: &mut impl Write, module: u32) -> PrintResult {
        let matches = self.symbols.matches();
        let Ok(found) = matches.binary_search_by_key(&module, |found| found.module.0) else {
            return Ok(());
        };
        let line = match matches.get(found) {
            Some(ModuleMatch { verdict: Verdict::Certain, .. }) => "symbols: build verified",
            Some(ModuleMatch { verdict: Verdict::Plausible, code: Some(_), .. }) => {
                "symbols: all frames fit, build not verified"
            }
            // There is a warning about a mismatch, and about a file without code.
            _ => return Ok(()),
        };
        Ok(writeln!(out, "     {line}")?)
    }

    /// Prints the function name, source lines and variables of a frame. `index` is its index in its thread.
    pub(super) fn print_frame(
        &mut self,
        out: &mut impl Write,
        frame: &Frame,
        index: usize,
    ) -> PrintResult {
        let Some(resolved) = self.symbols.resolve(frame, index)? else { return Ok(()) };
        if let (Some(function), true) = (&resolved.name, resolved.positions.is_empty()) {
            writeln!(out, "     {}", self.columns.name(function))?;
        }
        if let Some((outermost, inlined)) = resolved.positions.split_last() {
            for position in inlined {
                self.print_position(out, position.function.as_deref(), " inlined", position)?;
            }
            self.print_position(out, resolved.name.as_deref(), "", outermost)?;
        }
        if let Some(problem) = resolved.problem {
            writeln!(out, "     {}", Visible(problem))?;
        }
        Ok(())
    }

    /// Prints a function, its source position, the source around it, and the variables in scope.
    fn print_position(
        &mut self,
        out: &mut impl Write,
        function: Option<&str>,
        word: &str,
        position: &Position,
    ) -> PrintResult {
        let function = function.map_or("?".into(), |function| self.columns.name(function));
        let head = format!("{function}{word}");
        match self.format_place(position, head.chars().count()) {
            None => writeln!(out, "     {head}")?,
            Some(Place::SameLine(place)) => writeln!(out, "     {head} at {place}")?,
            Some(Place::NextLine(place)) => writeln!(out, "     {head}\n       at {place}")?,
        }
        if let (Some(file), Some(line)) = (&position.file, position.line) {
            let md5 = position.file_md5;
            self.sources.print_excerpt(out, file, md5, line, self.columns)?;
        }
        print_variables(out, "       ", &position.variables)
    }

    /// Formats file, line and column. On a terminal, a place that does not fit after the name has a line to itself, with
    /// the end of a path that is longer than the line.
    fn format_place(&self, position: &Position, before: usize) -> Option<Place> {
        let file = Visible(position.file.as_ref()?).to_string();
        let mut numbers = String::new();
        for number in [position.line, position.column].into_iter().map_while(|number| number) {
            numbers += &format!(":{number}");
        }
        let width = |text: &str| text.chars().count();
        let whole = INDENT + before + " at ".len() + width(&file) + width(&numbers);
        if self.columns.have_room_for(whole) || !self.columns.truncate_names() {
            return Some(Place::SameLine(file + &numbers));
        }
        let room =
            self.columns.name_width().saturating_sub(INDENT + width("  at …") + width(&numbers));
        let start = match file.char_indices().rev().take(room).last() {
            Some((start, _)) if start > 0 => start,
            _ => return Some(Place::NextLine(file + &numbers)),
        };
        Some(Place::NextLine(format!("…{}{numbers}", file.get(start..).unwrap_or_default())))
    }

    /// Prints the static variables.
    pub(super) fn print_statics(&self, out: &mut impl Write) -> PrintResult {
        let Some(scope) = self.scope else { return Ok(()) };
        let found = self.symbols.static_units(scope)?;
        for unit in found.units {
            let statics = self.symbols.read_statics(&unit)?;
            if statics.variables.is_empty() && statics.problem.is_none() {
                continue;
            }
            let file = self.symbols.static_unit_name(&unit).unwrap_or_else(|| "?".into());
            writeln!(
                out,
                "statics of {} in instance {}",
                self.columns.name(&file),
                unit.instance()
            )?;
            print_variables(out, "  ", &statics.variables)?;
            if let Some(problem) = statics.problem {
                writeln!(out, "  {}", Visible(problem))?;
            }
        }
        if found.has_more {
            writeln!(out, "{}", describe_static_limit())?;
        }
        Ok(())
    }
}

/// Returns the line for a dump with more static variables than are shown.
pub(super) fn describe_static_limit() -> String {
    format!("only the statics of the first {MAX_STATIC_UNITS} source files are shown")
}

enum Place {
    SameLine(String),
    NextLine(String),
}

/// Prints variables, one in each line.
fn print_variables(out: &mut impl Write, indent: &str, variables: &[Variable]) -> PrintResult {
    for variable in variables {
        writeln!(out, "{indent}{} = {}", Visible(&variable.name), variable.value)?;
    }
    Ok(())
}
