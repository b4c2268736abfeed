//! The arguments of `--env`, `--dir` and `--time-limit`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.into(), value: value.into() })
            }
            _ => Err("a variable is NAME=VALUE".into()),
        }
    }
}

/// A folder of the host, and what the guest calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub host: PathBuf,
    pub guest: String,
}

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = text.split_once("::").unwrap_or((text, text));
        if host.is_empty() || guest.is_empty() {
            return Err("a folder is HOST or HOST::GUEST".into());
        }
        Ok(Self { host: host.into(), guest: guest.into() })
    }
}

/// Seconds, and parts of them.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    limit.ok_or_else(|| "a time limit is a number of seconds above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_folders() {
        let variable = |text: &str| text.parse::<Variable>().map(|v| (v.name, v.value));
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        let folder = |text: &str| text.parse::<Directory>().map(|d| (d.host, d.guest));
        assert_eq!(folder("/tmp::/t"), Ok(("/tmp".into(), "/t".into())));
        assert_eq!(folder("data"), Ok(("data".into(), "data".into())));
        assert!(folder("::/t").is_err() && folder("/tmp::").is_err() && folder("").is_err());
    }

    #[test]
    fn time_limits() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["0", "-1", "x", "NaN", "inf", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
