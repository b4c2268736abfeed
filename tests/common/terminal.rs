//! A pseudoterminal on which a test reads what the tool shows.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

pub struct Terminal {
    /// The end from which the test reads.
    pub screen: File,
    /// The path of the end for the tool.
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

    /// Reads until no process has the terminal open.
    pub fn rest(&mut self) -> String {
        let mut shown = Vec::new();
        // The end is reported as an error.
        let _ = self.screen.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    }

    /// Reads until `text` is shown, and returns everything that was shown.
    pub fn until(&mut self, text: &str) -> String {
        let (mut shown, mut part) = (Vec::new(), [0; 1024]);
        loop {
            let n = self.screen.read(&mut part).unwrap();
            shown.extend(&part[..n]);
            let so_far = String::from_utf8_lossy(&shown).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
        }
    }
}
