//! Usage errors, each reported as one line.
//!
//! Clap's own message has several lines: the error, the usage, and a reference to `--help`. This module builds one line
//! in the same words from the context of the error. Its tests compare the result with clap's message.

use std::error::Error as _;
use std::process::ExitCode;

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::report::{self, USAGE};

/// Reports a clap error: prints help and version to standard output, and a usage error as one line to standard error.
/// Returns the exit code.
pub fn report(error: &Error) -> ExitCode {
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        report::line(&message(error));
        return ExitCode::from(USAGE);
    }
    match report::ignore_broken_pipe(error.print()) {
        Err(failure) => {
            report::line(&failure.message);
            ExitCode::from(failure.code)
        }
        // The arguments are missing, and clap has printed help to standard error.
        Ok(()) if error.use_stderr() => ExitCode::from(USAGE),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Returns the message: the cause, suggestions, and the next step.
fn message(error: &Error) -> String {
    let kind = || error.kind().as_str().unwrap_or("invalid command line").into();
    let mut message = cause(error).unwrap_or_else(kind);
    for tip in tips(error) {
        message.push_str(&format!(" ({tip})"));
    }
    if is_guest_argument(error) {
        message.push_str("; write -- before the arguments of the guest");
    }
    if lacks_run(error) {
        message.push_str(" (install corestream-cli with --features run)");
    }
    message + "; see --help"
}

/// Returns whether the error is about the subcommand `run`, which this build of the tool does not have.
fn lacks_run(error: &Error) -> bool {
    cfg!(not(feature = "run"))
        && error.kind() == ErrorKind::InvalidSubcommand
        && text(error, ContextKind::InvalidSubcommand) == Some("run")
}

/// Returns whether the error is about an argument of `run` that may be meant for the guest.
fn is_guest_argument(error: &Error) -> bool {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let is_run =
        usage.split_whitespace().skip_while(|word| *word == "Usage:").nth(1) == Some("run");
    let argument = text(error, ContextKind::InvalidArg);
    is_run
        && error.kind() == ErrorKind::UnknownArgument
        && argument.is_some_and(|argument| !argument.starts_with('-'))
}

/// Returns the cause; `None` if the error lacks the context that its kind usually has, or is of another kind.
fn cause(error: &Error) -> Option<String> {
    let invalid = || text(error, ContextKind::InvalidArg);
    Some(match error.kind() {
        ErrorKind::ArgumentConflict => return conflict(error),
        ErrorKind::NoEquals => {
            format!("equal sign is needed when assigning values to '{}'", invalid()?)
        }
        ErrorKind::InvalidValue => {
            let (argument, value) = (invalid()?, text(error, ContextKind::InvalidValue)?);
            let choice = choice(error, "possible values", ContextKind::ValidValue);
            if value.is_empty() {
                format!("a value is required for '{argument}' but none was supplied{choice}")
            } else {
                format!("invalid value '{value}' for '{argument}'{choice}")
            }
        }
        ErrorKind::ValueValidation => {
            let (argument, value) = (invalid()?, text(error, ContextKind::InvalidValue)?);
            let why = error.source().map_or(String::new(), |why| format!(": {why}"));
            format!("invalid value '{value}' for '{argument}'{why}")
        }
        ErrorKind::TooManyValues => {
            let (argument, value) = (invalid()?, text(error, ContextKind::InvalidValue)?);
            format!("unexpected value '{value}' for '{argument}' found; no more were expected")
        }
        ErrorKind::TooFewValues => {
            let least = number(error, ContextKind::MinValues)?;
            let were = were_provided(number(error, ContextKind::ActualNumValues)?);
            format!("{least} values required by '{}'; only {were}", invalid()?)
        }
        ErrorKind::WrongNumberOfValues => {
            let expected = number(error, ContextKind::ExpectedNumValues)?;
            let were = were_provided(number(error, ContextKind::ActualNumValues)?);
            format!("{expected} values required for '{}' but {were}", invalid()?)
        }
        ErrorKind::UnknownArgument => format!("unexpected argument '{}' found", invalid()?),
        ErrorKind::MissingRequiredArgument => {
            let missing = Some(texts(error, ContextKind::InvalidArg).join(" "));
            let missing = missing.filter(|missing| !missing.is_empty())?;
            format!("the following required arguments were not provided: {missing}")
        }
        ErrorKind::InvalidSubcommand => {
            let command = text(error, ContextKind::InvalidSubcommand)?;
            format!("unrecognized subcommand '{command}'")
        }
        ErrorKind::MissingSubcommand => {
            let command = text(error, ContextKind::InvalidSubcommand)?;
            let choice = choice(error, "subcommands", ContextKind::ValidSubcommand);
            format!("'{command}' requires a subcommand but one was not provided{choice}")
        }
        _ => return None,
    })
}

/// Describes a conflict between arguments.
fn conflict(error: &Error) -> Option<String> {
    let (what, name) = match text(error, ContextKind::InvalidArg) {
        Some(name) => ("argument", name),
        None => ("subcommand", text(error, ContextKind::InvalidSubcommand)?),
    };
    let others = texts(error, ContextKind::PriorArg);
    let with = match others {
        [other] if other == name => {
            return Some(format!("the {what} '{name}' cannot be used multiple times"));
        }
        [other] => format!(" '{other}'"),
        [] => " one or more of the other specified arguments".into(),
        others => format!(": {}", others.join(" ")),
    };
    Some(format!("the {what} '{name}' cannot be used with{with}"))
}

/// Returns clap's suggestions.
fn tips(error: &Error) -> impl Iterator<Item = String> {
    let similar = [
        ("subcommand", ContextKind::SuggestedSubcommand),
        ("argument", ContextKind::SuggestedArg),
        ("value", ContextKind::SuggestedValue),
    ];
    let similar = similar.into_iter().filter_map(|(what, of)| match texts(error, of) {
        [] => None,
        [one] => Some(format!("a similar {what} exists: '{one}'")),
        some => Some(format!("some similar {what}s exist: '{}'", some.join("', '"))),
    });
    let others = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => &tips[..],
        _ => &[],
    };
    similar.chain(others.iter().map(ToString::to_string))
}

/// Returns the possible values in brackets, or an empty string if the error has none.
fn choice(error: &Error, what: &str, of: ContextKind) -> String {
    match texts(error, of) {
        [] => String::new(),
        values => format!(" [{what}: {}]", values.join(", ")),
    }
}

fn were_provided(values: isize) -> String {
    format!("{values} {} provided", if values > 1 { "were" } else { "was" })
}

fn text(error: &Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the texts of this kind, of which there may be none.
fn texts(error: &Error, kind: ContextKind) -> &[String] {
    match error.get(kind) {
        Some(ContextValue::String(text)) => std::slice::from_ref(text),
        Some(ContextValue::Strings(texts)) => texts,
        _ => &[],
    }
}

fn number(error: &Error, kind: ContextKind) -> Option<isize> {
    match error.get(kind)? {
        ContextValue::Number(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use clap::{Arg, ArgAction, Command};

    use super::*;

    /// A command whose arguments can cause every kind of error.
    fn command() -> Command {
        let sub = Command::new("dump")
            .arg(Arg::new("force").long("force").action(ArgAction::SetTrue))
            .arg(Arg::new("forget").long("forget").action(ArgAction::SetTrue))
            .arg(Arg::new("memory").long("memory").required(true))
            .arg(Arg::new("image"));
        Command::new("tool")
            .subcommand(sub)
            .subcommand(
                Command::new("inner").subcommand_required(true).subcommand(Command::new("most")),
            )
            .arg(Arg::new("equals").long("equals").require_equals(true))
            .arg(Arg::new("format").long("format").value_parser(["text", "json"]))
            .arg(Arg::new("n").long("number").value_parser(clap::value_parser!(u16).range(1..)))
            .arg(Arg::new("pair").long("pair").num_args(2))
            .arg(Arg::new("some").long("some").num_args(2..=3))
            .arg(Arg::new("flag").long("flag").action(ArgAction::SetTrue))
            .arg(Arg::new("a").long("a").action(ArgAction::SetTrue).conflicts_with_all(["b", "c"]))
            .arg(Arg::new("b").long("b").action(ArgAction::SetTrue))
            .arg(Arg::new("c").long("c").action(ArgAction::SetTrue))
            .arg(Arg::new("alone").long("alone").action(ArgAction::SetTrue).exclusive(true))
            .args_conflicts_with_subcommands(true)
    }

    fn parse_error(args: &[&str]) -> Error {
        command().try_get_matches_from(["tool"].iter().chain(args)).unwrap_err()
    }

    /// Returns clap's message as one line, without usage and without its reference to `--help`.
    fn clap_message(error: &Error) -> String {
        let text = error.to_string();
        let (text, _) = text.split_once("\n\nUsage:").unwrap_or((&text, ""));
        let (text, _) = text.split_once("\n\nFor more").unwrap_or((text, ""));
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines = lines.map(|line| match line.strip_prefix("tip: ") {
            Some(tip) => format!("({tip})"),
            None => line.into(),
        });
        let text = lines.collect::<Vec<_>>().join(" ");
        text.strip_prefix("error: ").unwrap().to_string() + "; see --help"
    }

    #[test]
    fn reports_each_kind_in_one_line_with_the_words_of_clap() {
        use ErrorKind::*;

        for (args, kind, expected) in [
            (
                &["--flag", "--flag"][..],
                ArgumentConflict,
                "the argument '--flag' cannot be used multiple times",
            ),
            (&["--a", "--b"], ArgumentConflict, "the argument '--a' cannot be used with '--b'"),
            (
                &["--a", "--b", "--c"],
                ArgumentConflict,
                "the argument '--a' cannot be used with: --b --c",
            ),
            (
                &["--flag", "--alone"],
                ArgumentConflict,
                "the argument '--alone' cannot be used with one or more of the other specified arguments",
            ),
            (
                &["--flag", "dump", "--memory", "m"],
                ArgumentConflict,
                "the subcommand 'dump' cannot be used with '--flag'",
            ),
            (
                &["--equals", "x"],
                NoEquals,
                "equal sign is needed when assigning values to '--equals=<equals>'",
            ),
            (
                &["--format", "jso"],
                InvalidValue,
                "invalid value 'jso' for '--format <format>' [possible values: text, json] (a similar value exists: \
                 'json')",
            ),
            (
                &["--format"],
                InvalidValue,
                "a value is required for '--format <format>' but none was supplied [possible values: text, json]",
            ),
            (
                &["--number", "0"],
                ValueValidation,
                "invalid value '0' for '--number <n>': 0 is not in 1..=65535",
            ),
            (
                &["--number", "many"],
                ValueValidation,
                "invalid value 'many' for '--number <n>': invalid digit found in string",
            ),
            (
                &["--flag=yes"],
                TooManyValues,
                "unexpected value 'yes' for '--flag' found; no more were expected",
            ),
            (
                &["--some", "1"],
                TooFewValues,
                "2 values required by '--some <some> <some>...'; only 1 was provided",
            ),
            (
                &["--pair", "1"],
                WrongNumberOfValues,
                "2 values required for '--pair <pair> <pair>' but 1 was provided",
            ),
            (&["--nothing"], UnknownArgument, "unexpected argument '--nothing' found"),
            (
                &["dump", "--forg"],
                UnknownArgument,
                "unexpected argument '--forg' found (a similar argument exists: '--forget')",
            ),
            (
                &["dump", "--memory", "m", "--xyz"],
                UnknownArgument,
                "unexpected argument '--xyz' found (to pass '--xyz' as a value, use '-- --xyz')",
            ),
            (
                &["dump"],
                MissingRequiredArgument,
                "the following required arguments were not provided: --memory <memory>",
            ),
            (
                &["dumb"],
                InvalidSubcommand,
                "unrecognized subcommand 'dumb' (a similar subcommand exists: 'dump')",
            ),
            (
                &["inner"],
                MissingSubcommand,
                "'tool inner' requires a subcommand but one was not provided [subcommands: most, help]",
            ),
        ] {
            let error = parse_error(args);
            assert_eq!(error.kind(), kind, "{args:?}: {error}");
            assert_eq!(message(&error), format!("{expected}; see --help"));
            assert_eq!(message(&error), clap_message(&error));
        }
    }

    #[cfg(not(feature = "run"))]
    #[test]
    fn names_the_feature_of_a_missing_subcommand() {
        assert_eq!(
            message(&parse_error(&["run"])),
            "unrecognized subcommand 'run' (install corestream-cli with --features run); see --help"
        );
    }

    #[test]
    fn joins_similar_names_in_one_tip() {
        let mut error = parse_error(&["dumb"]);
        let similar = ["dump".into(), "dumps".into()].to_vec();
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(similar));
        assert!(message(&error).contains(" (some similar subcommands exist: 'dump', 'dumps'); "));
        assert_eq!(message(&error), clap_message(&error));
    }

    #[test]
    fn reports_the_kind_of_an_error_without_context() {
        let not_text = OsStr::from_bytes(b"\xff");
        let args = [OsStr::new("tool"), OsStr::new("--equals"), not_text];
        let error = command().mut_arg("equals", |arg| arg.require_equals(false));
        let error = error.try_get_matches_from(args).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUtf8);
        let line = "invalid UTF-8 was detected in one or more arguments; see --help";
        assert_eq!(message(&error), line);
        for kind in
            [ErrorKind::ValueValidation, ErrorKind::ArgumentConflict, ErrorKind::TooFewValues]
        {
            let error = Error::new(kind);
            assert_eq!(message(&error), clap_message(&error));
        }
    }
}
