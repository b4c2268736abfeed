//! A terminal that a test looks at.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal: the end of who looks at it, and the path of the other one.
pub struct Terminal {
    pub screen: File,
    pub path: String,
}

impl Terminal {
    pub fn new() -> Self {
        Self::with_columns(80)
    }

    pub fn with_columns(ws_col: u16) -> Self {
        let screen: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let size = Winsize { ws_row: 24, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen, size).unwrap();
        let path = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        Self { screen: screen.into(), path }
    }

    pub fn open(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    /// What is on it, up to its end, which is when no process has it any more.
    pub fn rest(&mut self) -> String {
        let mut shown = Vec::new();
        // The end is an error.
        let _ = self.screen.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    }

    /// What is on it until there is `wanted`.
    pub fn until(&mut self, wanted: &str) -> String {
        let (mut shown, mut part) = (Vec::new(), [0; 1024]);
        loop {
            let n = self.screen.read(&mut part).unwrap();
            shown.extend(&part[..n]);
            let text = String::from_utf8_lossy(&shown).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    }
}
