//! The examples and exit codes that `--help` and the man pages show in addition to the options.

use std::fmt::Write;

use clap::builder::PossibleValuesParser;

/// An example: its purpose, and the shell commands.
pub struct Example {
    pub purpose: &'static str,
    pub lines: &'static [&'static str],
}

const fn example(purpose: &'static str, lines: &'static [&'static str]) -> Example {
    Example { purpose, lines }
}

/// One or more exit codes and their meaning.
pub type ExitCode = (&'static str, &'static str);

const TOOL: &[Example] = &[
    example("Dump a memory image:", &["corestream dump --memory guest.mem -o guest.core"]),
    example("Show what a dump contains:", &["corestream inspect guest.core"]),
    example(
        "Extract the first memory of the dump:",
        &["corestream extract guest.core --memory 0 -o again.mem"],
    ),
];

const DUMP: &[Example] = &[
    example(
        "Dump a memory image to a file:",
        &["corestream dump --memory guest.mem -o guest.core"],
    ),
    example(
        "Dump the guest that a manifest describes, without one range of memory 0:",
        &["corestream dump --manifest guest.json --exclude 0:0x400..0x800 -o '%n.core'"],
    ),
    example(
        "Compress the dump while it is written:",
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
        "Run a guest with arguments for at most 10 seconds, and dump it with locals:",
        &["corestream run guest.wasm --locals --time-limit 10 -- first second"],
    ),
    example(
        "Run a guest, and dump it at each SIGUSR1 while it runs on:",
        &["corestream run guest.wasm --snapshot-on USR1 -o '%n.%c.core'"],
    ),
    example(
        "Call a function of a component, with stubs for unknown imports, and keep the compiled code:",
        &["corestream run composed.wat --stub-imports --cache --invoke 'check(\"\")'"],
    ),
    example(
        "Run a guest, and debug it in LLDB if it traps:",
        &["corestream run --debug guest.wasm -o crash.core"],
    ),
];

const INSPECT: &[Example] = &[
    example(
        "Show the trap, the backtraces and a summary of the guest:",
        &["corestream inspect guest.core"],
    ),
    example(
        "Show names of functions, source lines and variables too:",
        &["corestream inspect guest.core --symbols guest.wasm"],
    ),
    example("Draw a map of each memory:", &["corestream inspect guest.core --map"]),
    example("Print JSON:", &["corestream inspect guest.core --json | jq .threads"]),
];

const DEBUG: &[Example] = &[
    example(
        "Open a dump in LLDB 22 or newer:",
        &["corestream debug guest.core --symbols guest.wasm --lldb"],
    ),
    example(
        "Print a backtrace and the variables of the youngest frame:",
        &[
            "corestream debug guest.core --symbols guest.wasm --lldb -- -b -o bt \\",
            "    -o 'frame variable'",
        ],
    ),
    example(
        "Wait for debuggers, such as VS Code, until Ctrl-C or SIGTERM:",
        &["corestream debug guest.core --symbols guest.wasm"],
    ),
    example(
        "Wait at a TCP port of this machine, which any local user can reach:",
        &["corestream debug guest.core --symbols guest.wasm --listen tcp:127.0.0.1:4000"],
    ),
];

const VERIFY: &[Example] = &[
    example("Check a file:", &["corestream verify guest.core"]),
    example(
        "Check a dump while it is decompressed:",
        &["zstd -dc guest.core.zst | corestream verify -"],
    ),
];

const EXTRACT: &[Example] = &[
    example(
        "Extract one memory as a raw image:",
        &["corestream extract guest.core --memory 0 -o again.mem"],
    ),
    example(
        "Extract everything, and make the same dump from it again:",
        &[
            "corestream extract guest.core --all guest",
            "corestream dump --manifest guest/manifest.json -o again.core",
        ],
    ),
    example(
        "Extract the readable parts of a damaged dump; the exit code is still 3:",
        &["corestream extract damaged.core --salvage --memory 0 -o again.mem"],
    ),
];

const RECEIVE: &[Example] = &[
    example(
        "Accept dumps from this machine, until Ctrl-C or SIGTERM:",
        &["corestream receive unix:dumps.sock -o 'dumps/%n.%t.core'"],
    ),
    example(
        "Accept dumps of at most 8 GiB, from other machines too:",
        &[
            "corestream receive tcp:0.0.0.0:4000 --any-host --max-size 8GiB \\",
            "    -o 'dumps/%n.%t.core'",
        ],
    ),
    example("Accept one dump:", &["corestream receive tcp:127.0.0.1:4000 --once -o guest.core"]),
];

const BENCH: &[Example] = &[
    example(
        "Measure dumps to files, on the disk that dumps will be written to:",
        &["corestream bench guest.mem --dir dumps"],
    ),
    example(
        "Measure dumps to a TCP socket, and print JSON:",
        &["corestream bench guest.mem --to tcp --runs 20 --json | jq .stages.whole"],
    ),
    example(
        "Measure how long a running guest of 1 GiB stands still for a snapshot:",
        &["corestream bench --live 1GiB --writes 5000 --faults signal"],
    ),
];

const COMPLETIONS: &[Example] = &[
    example(
        "Enable completion in bash; add this line to ~/.bashrc:",
        &["eval \"$(corestream completions bash)\""],
    ),
    example(
        "Enable completion in zsh, if ~/.zshrc has `fpath+=~/.zfunc` before `compinit`:",
        &["corestream completions zsh >~/.zfunc/_corestream"],
    ),
    example(
        "Enable completion in fish:",
        &["corestream completions fish >~/.config/fish/completions/corestream.fish"],
    ),
];

const MAN: &[Example] = &[
    example("Read a man page:", &["corestream man dump | man -l -"]),
    example("Install all man pages:", &["corestream man --all ~/.cargo/share/man/man1"]),
];

/// The examples of each subcommand.
const SUBCOMMANDS: &[(&str, &[Example])] = &[
    ("dump", DUMP),
    #[cfg(feature = "run")]
    ("run", RUN),
    ("inspect", INSPECT),
    ("debug", DEBUG),
    ("verify", VERIFY),
    ("extract", EXTRACT),
    ("receive", RECEIVE),
    ("bench", BENCH),
    ("completions", COMPLETIONS),
    ("man", MAN),
];

/// Returns the examples of a subcommand, or of the tool itself for `None`.
pub fn examples(subcommand: Option<&str>) -> &'static [Example] {
    let Some(name) = subcommand else { return TOOL };
    SUBCOMMANDS.iter().find(|(of, _)| *of == name).map_or(&[], |(_, examples)| examples)
}

/// Returns the exit codes of a subcommand, or of the tool itself for `None`.
pub fn exit_codes(subcommand: Option<&str>) -> Vec<ExitCode> {
    const USAGE: ExitCode = ("2", "Usage error");
    if subcommand == Some("run") {
        return vec![
            USAGE,
            ("124", "The guest exceeded its time limit"),
            ("125", "The tool itself failed"),
            ("134", "The guest trapped (even if dumping it failed or was stopped by a signal)"),
            ("0 to 255", "With --debug, after a trap: the code of LLDB"),
            ("128+n", "Signal n stopped the guest"),
            ("any other", "The low 8 bits of the guest's exit code, or 1 if only these bits are 0"),
        ];
    }
    if subcommand == Some("debug") {
        return vec![
            ("0", "The code of LLDB, with --lldb"),
            ("1", "Failure"),
            USAGE,
            ("125", "The tool itself failed, with --lldb"),
            ("129, 130, 143", "Stopped by SIGHUP, SIGINT or SIGTERM"),
            ("any other", "The code of LLDB, with --lldb"),
        ];
    }
    let success = match subcommand {
        Some("bench" | "completions" | "man") => "Success",
        Some("receive") => "With --once: the dump is intact and has its name",
        Some("dump") => "Success: the dump is complete",
        Some("inspect" | "verify" | "extract") => "Success: no damage was found in the dump",
        _ => "Success: output is complete, and no damage was found in input",
    };
    let damaged = match subcommand {
        None | Some("inspect" | "verify" | "extract") => {
            Some(("3", "The input dump is damaged or truncated"))
        }
        Some("receive") => Some(("3", "With --once: the dump is damaged or truncated")),
        _ => None,
    };
    // `completions` and `man` handle no signals: they have nothing to clean up.
    let handles_signals = !matches!(subcommand, Some("completions" | "man"));
    let stopped =
        handles_signals.then_some(("129, 130, 143", "Stopped by SIGHUP, SIGINT or SIGTERM"));
    let failure = ("1", "Failure");
    [("0", success), failure, USAGE].into_iter().chain(damaged).chain(stopped).collect()
}

/// The note after the exit codes of the tool.
pub const RUN_EXIT_CODES: &str = "`run` has other exit codes; see `corestream run --help`";

/// Returns the clap command with examples and exit codes appended to each long help.
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
    for Example { purpose, lines } in examples(subcommand) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {purpose}");
        for line in *lines {
            let _ = write!(text, "\n    {line}");
        }
    }
    text.push_str("\n\nExit codes:");
    let codes = exit_codes(subcommand);
    let width = codes.iter().map(|(code, _)| code.len()).max().unwrap_or_default();
    for (code, meaning) in codes {
        let _ = write!(text, "\n  {code:<width$}  {meaning}");
    }
    if subcommand.is_none() {
        if cfg!(feature = "run") {
            text.push_str(&format!("\n  {RUN_EXIT_CODES}"));
        }
        text.push_str(
            "\n\n`corestream COMMAND --help` shows the examples and exit codes of a command.",
        );
    }
    text
}
