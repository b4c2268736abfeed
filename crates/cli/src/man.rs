//! `corestream man`: man pages, generated from the clap command and the examples and exit codes in `help`.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use corestream::{FileOptions, UnnamedFile};

use crate::help::{self, Example};
use crate::report::{self, Failure};

/// The preamble that `clap_mangen` writes before every section: it defines the apostrophe.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Print a man page, or write all man pages to a directory
///
/// The pages have the same content as `--help` and always match this version of the tool. For each directory
/// DIR/bin in PATH, `man` searches DIR/share/man/man1.
#[derive(Args)]
pub struct Man {
    /// Subcommand to print the page of; by default the page of the tool itself
    command: Option<String>,

    /// Write all pages (corestream.1, corestream-dump.1, ...) to this directory; create it if necessary
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    all: Option<PathBuf>,

    /// Overwrite existing pages
    #[arg(long, requires = "all")]
    force: bool,
}

impl Man {
    pub fn run(self, tool: clap::Command) -> Result<(), Failure> {
        let tool = build(tool);
        if let Some(directory) = &self.all {
            return write_all(&tool, directory, self.force);
        }
        let command = self.command.as_deref();
        let command = command.and_then(|name| tool.find_subcommand(name)).unwrap_or(&tool);
        report::result(&page(&tool, command)?)
    }
}

/// Builds the clap command, which fills in all names and options.
fn build(tool: clap::Command) -> clap::Command {
    let mut tool = tool.disable_help_subcommand(true);
    tool.build();
    tool
}

fn write_all(tool: &clap::Command, directory: &Path, force: bool) -> Result<(), Failure> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| {
        Failure::new(format!("{}: {why}", path.display()))
    };
    fs::create_dir_all(directory).map_err(|error| {
        let cause = match directory.is_dir() || !directory.exists() {
            true => format!("cannot create: {error}"),
            false => "not a directory".into(),
        };
        Failure::new(format!("--all {}: {cause}", directory.display()))
    })?;
    let mut files = Vec::new();
    for command in std::iter::once(tool).chain(tool.get_subcommands()) {
        let path = directory.join(format!("{}.1", page_name(command)));
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(failed(&path, &"is a directory")),
            Ok(_) if !force => return Err(failed(&path, &"exists; use --force to overwrite it")),
            _ => {}
        }
        let file = UnnamedFile::create_in(directory, FileOptions::new().replace(force))?;
        let written = file.file().write_all(page(tool, command)?.as_bytes());
        written.map_err(|error| failed(&path, &format_args!("cannot write: {error}")))?;
        // All users of the machine read man pages. This fails on a file system without modes, whose mount options
        // decide who may read them.
        let _ = file.file().set_permissions(Permissions::from_mode(0o644));
        files.push((file, path));
    }
    for (file, path) in files {
        file.commit([path])?;
    }
    Ok(())
}

/// Returns the name of a command's page.
fn page_name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Renders the page of `command`, which is `tool` or one of its subcommands.
fn page(tool: &clap::Command, command: &clap::Command) -> Result<String, Failure> {
    let name = page_name(command);
    let subcommand = (name != page_name(tool)).then(|| command.get_name());
    let source = format!("{} {}", tool.get_name(), env!("CARGO_PKG_VERSION"));
    // With an empty date, clap_mangen omits the argument, and `man` would show the source as the date.
    let page = clap_mangen::Man::new(command.clone()).date(" ").source(source);
    let page = page.manual("User Commands");

    let mut text = Vec::new();
    let written = page
        .render_title(&mut text)
        .and_then(|()| layout().to_writer(&mut text))
        .and_then(|()| page.render_name_section(&mut text))
        .and_then(|()| synopsis(command).to_writer(&mut text))
        .and_then(|()| page.render_description_section(&mut text))
        .and_then(|()| page.render_options_section(&mut text))
        .and_then(|()| match command.has_subcommands() {
            true => page.render_subcommands_section(&mut text),
            false => Ok(()),
        })
        .and_then(|()| end(tool, name, subcommand).to_writer(&mut text));
    let text = written.and_then(|()| String::from_utf8(text).map_err(io::Error::other));
    let text =
        text.map_err(|error| Failure::new(format!("{name}: cannot render the page: {error}")))?;
    Ok(format!("{APOSTROPHE}{}", code_in_bold(&text.replace(APOSTROPHE, ""))))
}

/// Returns requests that disable hyphenation, so that names can be searched for, and justification.
fn layout() -> Roff {
    let mut roff = Roff::new();
    roff.control("nh", []).control("ad", ["l"]);
    roff
}

/// Renders the synopsis. Unlike the synopsis of `clap_mangen`, it includes the values of options.
fn synopsis(command: &clap::Command) -> Roff {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    let is_listed = |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version");
    for arg in command.get_arguments().filter(is_listed) {
        let (open, close) = if arg.is_required_set() { ("", "") } else { ("[", "]") };
        let values = || arg.get_value_names().unwrap_or_default().join(" ");
        line.push(roman(format!(" {open}")));
        match (arg.get_short(), arg.get_long()) {
            (Some(short), _) => line.push(bold(format!("-{short}"))),
            (None, Some(long)) => line.push(bold(format!("--{long}"))),
            (None, None) if arg.is_last_set() => line.push(bold("--")),
            (None, None) => {}
        }
        if arg.get_action().takes_values() {
            let space = if arg.is_positional() && !arg.is_last_set() { "" } else { " " };
            line.extend([roman(space), italic(values())]);
        }
        let more = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
        line.push(roman(format!("{close}{more}")));
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND"), roman(" ...")]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]).text(line);
    roff
}

/// Renders the sections after the options: exit codes, examples, and references to the other pages.
fn end(tool: &clap::Command, name: &str, subcommand: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in help::exit_codes(subcommand) {
        roff.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    if subcommand.is_none() && cfg!(feature = "run") {
        roff.control("PP", []).text([roman(help::RUN_EXIT_CODES)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (i, Example { purpose, lines }) in help::examples(subcommand).iter().enumerate() {
        if i > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*purpose)]).control("RS", ["4"]).control("EX", []);
        for line in *lines {
            roff.text([roman(*line)]);
        }
        // `EE` turns groff's hyphenation on again.
        roff.control("EE", []).control("nh", []).control("RE", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages = std::iter::once(tool).chain(tool.get_subcommands()).map(page_name);
    let mut others: Vec<Inline> = Vec::new();
    for page in pages.filter(|page| *page != name) {
        if !others.is_empty() {
            others.push(roman(", "));
        }
        others.extend([bold(page), roman("(1)")]);
    }
    roff.text(others);
    roff
}

/// Sets text between backquotes in bold. A man page would show a backquote as an opening quotation mark.
fn code_in_bold(text: &str) -> String {
    let mut bold = String::with_capacity(text.len());
    for (i, part) in text.split('`').enumerate() {
        if i > 0 {
            bold.push_str(if i % 2 == 1 { "\\fB" } else { "\\fR" });
        }
        bold.push_str(part);
    }
    bold
}
