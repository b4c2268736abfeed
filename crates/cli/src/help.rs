//! What `--help` and the manual pages say beside the options, once for both: examples and exit codes.

use std::fmt::Write;

use clap::builder::PossibleValuesParser;

/// What somebody wants, and the lines of a shell that do it.
pub struct Example {
    pub want: &'static str,
    pub lines: &'static [&'static str],
}

const fn example(want: &'static str, lines: &'static [&'static str]) -> Example {
    Example { want, lines }
}

/// An exit code, or several, and what it says.
pub type ExitCode = (&'static str, &'static str);

const TOOL: &[Example] = &[
    example(
        "Make a dump of a memory's image:",
        &["corestream dump --memory guest.mem -o guest.core"],
    ),
    example("Look at a dump:", &["corestream inspect guest.core"]),
    example(
        "Get its first memory back as it was:",
        &["corestream extract guest.core --memory 0 -o again.mem"],
    ),
];

const DUMP: &[Example] = &[
    example(
        "Dump a memory's image to a file:",
        &["corestream dump --memory guest.mem -o guest.core"],
    ),
    example(
        "Dump the guest that a manifest describes, but for a range of its memory 0:",
        &["corestream dump --manifest guest.json --exclude 0:0x400..0x800 -o '%n.core'"],
    ),
    example(
        "Compress the dump on its way:",
        &["corestream dump --memory guest.mem -o - | zstd -o guest.core.zst"],
    ),
    example(
        "Send the dump to `corestream receive`:",
        &["corestream dump --memory guest.mem --to tcp:127.0.0.1:4000"],
    ),
];

#[cfg(feature = "run")]
const RUN: &[Example] = &[
    example(
        "Run a guest with arguments; where it traps, guest.wasm.core is its dump:",
        &["corestream run guest.wasm -- first second"],
    ),
    example(
        "With locals and operand stacks in the dump, for at most 10 seconds:",
        &["corestream run guest.wasm --locals --time-limit 10 -o crash.core"],
    ),
];

const INSPECT: &[Example] = &[
    example("See what happened, and what there is:", &["corestream inspect guest.core"]),
    example(
        "With names of functions, lines and variables:",
        &["corestream inspect guest.core --symbols guest.wasm"],
    ),
    example("Draw a picture of each memory:", &["corestream inspect guest.core --map"]),
    example("For a program:", &["corestream inspect guest.core --json | jq .threads"]),
];

const VERIFY: &[Example] = &[
    example("Check a file:", &["corestream verify guest.core"]),
    example("Check a stream as it comes:", &["zstd -dc guest.core.zst | corestream verify -"]),
];

const EXTRACT: &[Example] = &[
    example(
        "Get a memory back as it was:",
        &["corestream extract guest.core --memory 0 -o again.mem"],
    ),
    example(
        "Get everything, and make the same dump from it:",
        &[
            "corestream extract guest.core --all guest",
            "corestream dump --manifest guest/manifest.json -o again.core",
        ],
    ),
    example(
        "Get what is left in a damaged dump; the exit code is 3 all the same:",
        &["corestream extract damaged.core --salvage --memory 0 -o again.mem"],
    ),
];

const RECEIVE: &[Example] = &[
    example(
        "Take the dumps of this machine, until Ctrl-C or SIGTERM:",
        &["corestream receive unix:dumps.sock -o 'dumps/%n.%t.core'"],
    ),
    example(
        "Take the dumps of other machines too, none over 8 GiB:",
        &[
            "corestream receive tcp:0.0.0.0:4000 --any-host --max-size 8GiB \\",
            "    -o 'dumps/%n.%t.core'",
        ],
    ),
    example("Take one dump:", &["corestream receive tcp:127.0.0.1:4000 --once -o guest.core"]),
];

const BENCH: &[Example] = &[
    example(
        "Measure dumps to files, on the disk where they are to go:",
        &["corestream bench guest.mem --dir dumps"],
    ),
    example(
        "Measure dumps to a TCP socket, for a program:",
        &["corestream bench guest.mem --to tcp --runs 20 --json | jq .stages.whole"],
    ),
];

const COMPLETIONS: &[Example] = &[
    example("For bash, as a line of ~/.bashrc:", &["eval \"$(corestream completions bash)\""]),
    example(
        "For fish:",
        &["corestream completions fish >~/.config/fish/completions/corestream.fish"],
    ),
];

const MAN: &[Example] = &[
    example("Read a page:", &["corestream man dump | man -l -"]),
    example("Install all of them:", &["corestream man --all ~/.cargo/share/man/man1"]),
];

/// All subcommands, and their examples.
const SUBCOMMANDS: &[(&str, &[Example])] = &[
    ("dump", DUMP),
    #[cfg(feature = "run")]
    ("run", RUN),
    ("inspect", INSPECT),
    ("verify", VERIFY),
    ("extract", EXTRACT),
    ("receive", RECEIVE),
    ("bench", BENCH),
    ("completions", COMPLETIONS),
    ("man", MAN),
];

/// The examples of a subcommand, or of the tool itself.
pub fn examples(subcommand: Option<&str>) -> &'static [Example] {
    let Some(name) = subcommand else { return TOOL };
    SUBCOMMANDS.iter().find(|(of, _)| *of == name).map_or(&[], |(_, examples)| examples)
}

/// The exit codes of a subcommand, or of the tool itself.
pub fn exit_codes(subcommand: Option<&str>) -> Vec<ExitCode> {
    const USAGE: ExitCode = ("2", "The command line is wrong");
    if subcommand == Some("run") {
        return vec![
            USAGE,
            ("124", "The guest ran out of time"),
            ("125", "The tool itself failed"),
            ("134", "The guest trapped (even if dumping it failed, or a signal stopped that)"),
            ("128+n", "Signal n ended the guest while it ran"),
            ("any other", "The guest's own: its low 8 bits, or 1 if only these are 0"),
        ];
    }
    let done = match subcommand {
        Some("bench" | "completions" | "man") => "It is done",
        Some("receive") => "With --once: the dump is whole, and has its name",
        _ => "It is done: a dump that was written or read is whole",
    };
    let damaged = match subcommand {
        None | Some("inspect" | "verify" | "extract") => {
            Some(("3", "The dump that is read is damaged or cut off"))
        }
        Some("receive") => Some(("3", "With --once: the dump is damaged or cut off")),
        _ => None,
    };
    // The others make nothing that would have to be removed.
    let stopped = !matches!(subcommand, Some("completions" | "man"));
    let stopped =
        stopped.then_some(("129, 130, 143", "It was stopped by SIGHUP, SIGINT or SIGTERM"));
    [("0", done), ("1", "It failed"), USAGE].into_iter().chain(damaged).chain(stopped).collect()
}

/// Returns what clap knows of the tool, with examples at the end of each long help.
pub fn with_examples(tool: clap::Command) -> clap::Command {
    let pages = PossibleValuesParser::new(SUBCOMMANDS.iter().map(|(name, _)| *name));
    tool.after_long_help(end_of_help(None))
        .mut_subcommands(|command| {
            let end = end_of_help(Some(command.get_name()));
            command.after_long_help(end)
        })
        .mut_subcommand("man", |man| man.mut_arg("command", |page| page.value_parser(pages)))
}

fn end_of_help(subcommand: Option<&str>) -> String {
    let mut text = String::from("Examples:");
    for Example { want, lines } in examples(subcommand) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {want}");
        for line in *lines {
            let _ = write!(text, "\n    {line}");
        }
    }
    if subcommand.is_none() {
        text.push_str("\n\nExit codes:");
        for (code, meaning) in exit_codes(None) {
            let _ = write!(text, "\n  {code:<15}{meaning}");
        }
        text.push_str("\n\n`corestream COMMAND --help` has the examples of a command.");
    }
    text
}
