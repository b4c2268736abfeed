//! What one run has measured of one thing.

use std::time::Duration;

/// The time of one thing in one run, its name in JSON, and that for people.
pub struct Row {
    pub key: &'static str,
    pub label: &'static str,
    pub time: Duration,
}

impl Row {
    pub fn new(key: &'static str, label: &'static str, time: Duration) -> Self {
        Self { key, label, time }
    }
}
