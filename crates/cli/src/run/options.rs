//! The arguments of `--env` and `--dir`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
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

impl Directory {
    /// Parses `HOST` or `HOST::GUEST`. Only the name in the guest must be valid UTF-8.
    ///
    /// # Errors
    /// Returns a message if one of the two is empty, or if the name in the guest is not valid UTF-8.
    pub fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let (host, guest) = match bytes.windows(2).position(|pair| pair == b"::") {
            Some(at) => (&bytes[..at], &bytes[at + 2..]),
            None => (bytes, bytes),
        };
        if host.is_empty() || guest.is_empty() {
            return Err("expected HOST or HOST::GUEST".into());
        }
        let guest = std::str::from_utf8(guest)
            .map_err(|_| "the guest's name of the directory is not valid UTF-8; use HOST::GUEST")?;
        Ok(Self { host: OsStr::from_bytes(host).into(), guest: guest.into() })
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
        let directory = |text: &str| Directory::parse(text.into()).map(|d| (d.host, d.guest));
        assert_eq!(directory("/tmp::/t"), Ok(("/tmp".into(), "/t".into())));
        assert_eq!(directory("data"), Ok(("data".into(), "data".into())));
        assert!(
            directory("::/t").is_err() && directory("/tmp::").is_err() && directory("").is_err()
        );
        let directory = |bytes: &[u8]| Directory::parse(OsStr::from_bytes(bytes).into());
        assert_eq!(directory(b"\xff::/t").unwrap().guest, "/t");
        let error = directory(b"\xff").unwrap_err();
        assert!(error.ends_with("is not valid UTF-8; use HOST::GUEST"), "{error}");
    }
}
