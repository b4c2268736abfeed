//! The names of the signals that `--snapshot-on` accepts.

use std::str::FromStr;

/// The signals that have no other meaning for the tool, for the engine or for the kernel.
const FREE: [(&str, i32); 9] = [
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("QUIT", libc::SIGQUIT),
    ("ALRM", libc::SIGALRM),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("IO", libc::SIGIO),
    ("URG", libc::SIGURG),
    ("PWR", libc::SIGPWR),
];

/// The signals that are in use, and their users.
const USED: [(&str, &str); 15] = [
    ("SEGV", "the engine uses it"),
    ("ILL", "the engine uses it"),
    ("FPE", "the engine uses it"),
    ("TRAP", "debuggers use it"),
    ("BUS", "snapshots use it themselves"),
    ("ABRT", "it ends a process that has failed"),
    ("HUP", "it ends the tool"),
    ("INT", "it ends the tool"),
    ("TERM", "it ends the tool"),
    ("PIPE", "the tool ignores it"),
    ("XFSZ", "the tool ignores it"),
    ("KILL", "no process can handle it"),
    ("STOP", "no process can handle it"),
    ("CHLD", "the kernel sends it for child processes"),
    ("WINCH", "the terminal sends it"),
];

/// A signal that requests a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalName {
    pub number: i32,
}

impl FromStr for SignalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = FREE.into_iter().find(|(free, _)| *free == name) {
            return Ok(Self { number });
        }
        if let Some(offset) = name.strip_prefix("RTMIN") {
            let offset = match offset {
                "" => Some(0),
                _ => offset.strip_prefix('+').and_then(|offset| offset.parse().ok()),
            };
            let number = offset.and_then(|offset: i32| libc::SIGRTMIN().checked_add(offset));
            if let Some(number) = number.filter(|number| *number <= libc::SIGRTMAX()) {
                return Ok(Self { number });
            }
        }
        let names = FREE.map(|(name, _)| name).join(", ");
        match USED.into_iter().find(|(used, _)| *used == name) {
            Some((_, why)) => Err(format!("cannot be used, because {why}; use USR1 or USR2")),
            None => Err(format!("unknown signal; expected one of {names}, or RTMIN+N")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_of_signals() {
        for (text, number) in [
            ("USR1", libc::SIGUSR1),
            ("sigusr2", libc::SIGUSR2),
            ("RTMIN", libc::SIGRTMIN()),
            ("RTMIN+3", libc::SIGRTMIN() + 3),
        ] {
            assert_eq!(text.parse(), Ok(SignalName { number }), "{text}");
        }
        for text in ["", "SEGV", "SIGBUS", "TERM", "KILL", "RTMIN+99", "RTMIN-1", "10", "FOO"] {
            assert!(text.parse::<SignalName>().is_err(), "{text}");
        }
        let error = "SIGSEGV".parse::<SignalName>().unwrap_err();
        assert_eq!(error, "cannot be used, because the engine uses it; use USR1 or USR2");
    }
}
