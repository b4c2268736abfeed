//! Help, manual pages and completions.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::environment::require;
use crate::help::{
    COLUMNS, Example, commands, corestream, examples, is_installed, printed, subcommands, with,
};
use crate::tool::{names, stderr};

/// The width of an example, which a terminal of the usual size does not wrap.
const EXAMPLE_COLUMNS: usize = 80;

#[test]
fn help_fits_and_ends_with_examples() {
    for command in commands() {
        let help = printed(&with(&command, &["--help"]));
        let examples = examples(&help);
        assert!((2..=4).contains(&examples.len()), "{command:?}: {}", examples.len());
        for line in help.lines() {
            assert!(line.chars().count() <= COLUMNS, "{command:?}: {line}");
        }
        for Example { purpose, lines } in examples {
            assert!(purpose.ends_with(':') && !lines.is_empty(), "{purpose}");
            for line in lines {
                assert!(line.len() + 4 <= EXAMPLE_COLUMNS, "{line}");
            }
        }
        let codes: Vec<_> = help.split("\nExit codes:\n").collect();
        assert_eq!(codes.len(), 2, "{help}");
        assert!(codes[1].starts_with("  0 ") || command == ["run"], "{help}");
        // The short help is short.
        let help = printed(&with(&command, &["-h"]));
        assert!(!help.contains("Examples:") && help.lines().count() < 50, "{help}");
    }
}

/// Returns the text of a page without its markup.
fn plain_text(page: &str) -> String {
    let font = ["\\fB", "\\fI", "\\fR"];
    let text = font.iter().fold(page.to_string(), |text, font| text.replace(font, ""));
    text.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\")
}

#[test]
fn manual_pages_contain_the_help() {
    let all: Vec<_> =
        commands().iter().map(|c| [&["corestream".into()], &c[..]].concat()).collect();
    for name in &all {
        let command = &name[1..];
        let page = printed(&[&["man"], &with(command, &[])[..]].concat());
        let help = printed(&with(command, &["--help"]));
        let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let expected =
            format!(".TH {} 1 \" \" \"corestream {version}\" \"User Commands\"", name.join("-"));
        assert_eq!(title, expected);

        let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        let mut expected =
            vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "\"EXIT STATUS\""];
        expected.retain(|heading| *heading != "SUBCOMMANDS" || command.is_empty());
        expected.extend(["EXAMPLES", "\"SEE ALSO\""]);
        assert_eq!(headings.collect::<Vec<_>>(), expected);

        let text = plain_text(&page);
        let section = |heading: &str| {
            let text = text.split(&format!(".SH {heading}\n")).nth(1).unwrap();
            text.split(".SH ").next().unwrap()
        };
        let about = help.lines().next().unwrap().replace('`', "");
        assert_eq!(section("NAME"), format!("{} - {about}\n", name.join("-")));
        assert!(section("DESCRIPTION").starts_with(&format!("{about}\n.PP\n")), "{text}");
        assert!(section("SYNOPSIS").starts_with(&name.join(" ")), "{text}");

        for option in long_options(&help) {
            let heads = section("OPTIONS").split(".TP\n").map(|item| item.lines().next());
            let mut heads = heads.flatten().flat_map(|head| head.split([' ', ',', '[']));
            assert!(heads.any(|word| word == option), "{name:?}: {option}");
            let known = matches!(option, "--help" | "--version" | "--output");
            assert!(known || section("SYNOPSIS").contains(option), "{name:?}: {option}");
        }
        for Example { purpose, lines } in examples(&help) {
            let block =
                format!("{}\n.RS 4\n.EX\n{}\n.EE\n", purpose.replace('`', ""), lines.join("\n"));
            assert!(section("EXAMPLES").contains(&block), "{block}\n{text}");
        }
        for (code, listed) in [("0", name.last().unwrap() != "run"), ("2", true)] {
            let item = format!(".TP\n{code}\n");
            assert_eq!(section("\"EXIT STATUS\"").contains(&item), listed, "{text}");
        }
        for other in all.iter().filter(|other| *other != name) {
            let other = format!("{}(1)", other.join("-"));
            assert!(section("\"SEE ALSO\"").contains(&other), "{name:?}: {other}");
        }
    }
}

/// Returns the long options in the output of `--help`.
fn long_options(help: &str) -> BTreeSet<&str> {
    let heads = help.lines().filter(|line| {
        let text = line.trim_start();
        matches!(line.len() - text.len(), 2 | 6) && text.starts_with('-')
    });
    let options =
        heads.flat_map(|head| head.split([' ', ',', '['])).filter(|w| w.starts_with("--"));
    let options: BTreeSet<_> = options.collect();
    assert!(options.contains("--help"), "{help}");
    options
}

/// Checks every page with a program for manual pages.
fn lint(program: &str, args: &[&str]) {
    for command in commands() {
        let page = printed(&[&["man"], &with(&command, &[])[..]].concat());
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert_eq!((output.status.code(), message.as_str()), (Some(0), ""), "{program}: {page}");
    }
}

#[test]
fn groff_accepts_every_manual_page() {
    require!("groff", is_installed("groff").then_some(()).ok_or("groff is not installed"));
    lint("groff", &["-man", "-ww", "-z"]);
}

#[test]
fn mandoc_accepts_every_manual_page() {
    require!("mandoc", is_installed("mandoc").then_some(()).ok_or("mandoc is not installed"));
    // A missing date and paragraphs of clap_mangen are warnings.
    lint("mandoc", &["-T", "lint", "-W", "error"]);
}

#[test]
fn writes_all_manual_pages_into_a_directory() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("share/man1");
    let all = ["man", "--all", directory.to_str().unwrap()];
    assert_eq!(printed(&all), "");
    let mut expected: Vec<_> =
        subcommands().iter().map(|name| format!("corestream-{name}.1")).collect();
    expected.push("corestream.1".into());
    expected.sort();
    assert_eq!(names(&directory), expected);
    let page = directory.join("corestream-dump.1");
    assert_eq!(fs::read_to_string(&page).unwrap(), printed(&["man", "dump"]));
    assert_eq!(page.metadata().unwrap().permissions().mode() & 0o777, 0o644);

    // If a page exists, it stays, and no other page is written.
    for name in expected.iter().filter(|name| *name != "corestream-verify.1") {
        fs::remove_file(directory.join(name)).unwrap();
    }
    let page = directory.join("corestream-verify.1");
    let mine = place.path().join("mine");
    fs::write(&mine, "mine").unwrap();
    fs::remove_file(&page).unwrap();
    symlink(&mine, &page).unwrap();
    let output = corestream(&all);
    let message = format!("corestream: {}: exists; use --force to overwrite it\n", page.display());
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), message));
    assert_eq!(names(&directory), ["corestream-verify.1"]);

    assert_eq!(printed(&[&all[..], &["--force"]].concat()), "");
    assert_eq!(names(&directory), expected);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine", "a link is not followed");
    assert_eq!(fs::read_to_string(&page).unwrap(), printed(&["man", "verify"]));

    let output = corestream(&["man", "--all", mine.to_str().unwrap()]);
    let message = format!("corestream: --all {}: not a directory\n", mine.display());
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), message));
}

#[test]
fn prints_completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("max-segments") && script.contains("corestream"), "{shell}");
    }
}
