//! The arguments of `--env` and `--dir`.

use std::path::PathBuf;
use std::str::FromStr;

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
            _ => Err("expected NAME=VALUE".into()),
        }
    }
}

/// A directory of the host, and its name in the guest.
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
            return Err("expected HOST or HOST::GUEST".into());
        }
        Ok(Self { host: host.into(), guest: guest.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_variables_and_directories() {
        let variable = |text: &str| text.parse::<Variable>().map(|v| (v.name, v.value));
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        let directory = |text: &str| text.parse::<Directory>().map(|d| (d.host, d.guest));
        assert_eq!(directory("/tmp::/t"), Ok(("/tmp".into(), "/t".into())));
        assert_eq!(directory("data"), Ok(("data".into(), "data".into())));
        assert!(
            directory("::/t").is_err() && directory("/tmp::").is_err() && directory("").is_err()
        );
    }
}
