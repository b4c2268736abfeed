//! One measurement of one run.

use std::time::Duration;

/// The time of one stage or limit in one run.
pub struct Measurement {
    /// The name in JSON.
    pub key: &'static str,
    /// The name in the table.
    pub label: &'static str,
    pub time: Duration,
}

impl Measurement {
    pub fn new(key: &'static str, label: &'static str, time: Duration) -> Self {
        Self { key, label, time }
    }
}
