//! `corestream man`: manual pages, of what clap knows and of what `help` adds to it.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use corestream::{FileOptions, UnnamedFile};

use crate::help::{self, Example};
use crate::report::{self, Failure};

/// What stands before every part that the page's language is asked for: how an apostrophe is written.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Prints a manual page, or writes all of them to a directory
///
/// The pages are made of the same as `--help`, and are always those of this version. `man` finds them in
/// share/man/man1 beside each bin directory of PATH.
#[derive(Args)]
pub struct Man {
    /// Subcommand whose page it is; by default that of the tool
    command: Option<String>,

    /// Write corestream.1, corestream-dump.1 and so on to a directory, which is created if it does not exist
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    all: Option<PathBuf>,

    /// Replace pages that exist
    #[arg(long, requires = "all")]
    force: bool,
}

impl Man {
    pub fn run(self, tool: clap::Command) -> Result<(), Failure> {
        let tool = filled_in(tool);
        if let Some(directory) = &self.all {
            return write_all(&tool, directory, self.force);
        }
        let command = self.command.as_deref();
        let command = command.and_then(|name| tool.find_subcommand(name)).unwrap_or(&tool);
        report::result(&page(&tool, command)?)
    }
}

/// Returns what clap knows of the tool, all names and options filled in.
fn filled_in(tool: clap::Command) -> clap::Command {
    let mut tool = tool.disable_help_subcommand(true);
    tool.build();
    tool
}

fn write_all(tool: &clap::Command, directory: &Path, force: bool) -> Result<(), Failure> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| {
        Failure::new(format!("{}: {why}", path.display()))
    };
    let make = |error: io::Error| failed(directory, &format_args!("cannot make it: {error}"));
    fs::create_dir_all(directory).map_err(make)?;
    let mut files = Vec::new();
    for command in std::iter::once(tool).chain(tool.get_subcommands()) {
        let path = directory.join(format!("{}.1", page_name(command)));
        match path.symlink_metadata() {
            Ok(there) if there.is_dir() => return Err(failed(&path, &"is a directory")),
            Ok(_) if !force => return Err(failed(&path, &"exists, use --force to replace it")),
            _ => {}
        }
        let file = UnnamedFile::create_in(directory, FileOptions::new().replace(force))?;
        let written = file.file().write_all(page(tool, command)?.as_bytes());
        written.map_err(|error| failed(&path, &format_args!("cannot write: {error}")))?;
        // A page is for all who use the machine. On a file system without modes the mount decides that.
        let _ = file.file().set_permissions(Permissions::from_mode(0o644));
        files.push((file, path));
    }
    for (file, path) in files {
        file.commit([path])?;
    }
    Ok(())
}

/// The name of a command's page.
fn page_name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of a command, which is the tool or one of its subcommands.
fn page(tool: &clap::Command, command: &clap::Command) -> Result<String, Failure> {
    let name = page_name(command);
    let subcommand = (name != page_name(tool)).then(|| command.get_name());
    let source = format!("{} {}", tool.get_name(), env!("CARGO_PKG_VERSION"));
    // A date that is empty would not be there at all, and the source would stand in its place.
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
        text.map_err(|error| Failure::new(format!("{name}: cannot make the page: {error}")))?;
    Ok(format!("{APOSTROPHE}{}", code_in_bold(&text.replace(APOSTROPHE, ""))))
}

/// No hyphens that are not in the text, so that names can be searched for, and no stretched lines.
fn layout() -> Roff {
    let mut roff = Roff::new();
    roff.control("nh", []).control("ad", ["l"]);
    roff
}

/// How it is called, with the values of its options, which clap's pages do without.
fn synopsis(command: &clap::Command) -> Roff {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    let own = |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version");
    for arg in command.get_arguments().filter(own) {
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

/// What comes after the options: exit codes, examples, and the other pages.
fn end(tool: &clap::Command, name: &str, subcommand: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in help::exit_codes(subcommand) {
        roff.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (i, Example { want, lines }) in help::examples(subcommand).iter().enumerate() {
        if i > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*want)]).control("RS", ["4"]).control("EX", []);
        for line in *lines {
            roff.text([roman(*line)]);
        }
        // With it groff begins to hyphenate again.
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

/// What stands between backquotes becomes bold: a page would show them as quotation marks that open.
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
