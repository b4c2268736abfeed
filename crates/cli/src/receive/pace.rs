//! Limits on slow senders: idle time, minimum rate, total time.

use std::time::{Duration, Instant};

/// The limits on slow senders.
pub struct Limits {
    /// The maximum time without any bytes.
    pub timeout: Duration,
    /// The minimum rate in bytes per second, averaged over `timeout`.
    pub min_rate: u64,
    /// The maximum time for a whole dump.
    pub max_time: Option<Duration>,
}

/// Measures the pace of a sender. Only time spent waiting for the sender counts, so a slow disk of the receiver is not
/// held against it.
pub struct Pace<'l> {
    limits: &'l Limits,
    start: Instant,
    /// The time spent waiting since the last check of the rate.
    waited: Duration,
    /// The number of bytes received at the last check.
    before: u64,
}

impl<'l> Pace<'l> {
    /// Starts measuring a new sender.
    pub fn new(limits: &'l Limits) -> Self {
        Self { limits, start: Instant::now(), waited: Duration::ZERO, before: 0 }
    }

    /// Returns the remaining time for the whole dump, or `None` if it is unlimited.
    ///
    /// # Errors
    /// Returns a message if the time is over.
    pub fn left(&self) -> Result<Option<Duration>, String> {
        let Some(max) = self.limits.max_time else { return Ok(None) };
        let left = max.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero());
        left.map(Some).ok_or_else(|| format!("it took longer than the {max:?} of --max-time"))
    }

    /// Returns how long to wait for more bytes. `received` is the number of bytes received so far.
    ///
    /// # Errors
    /// Returns a message if the sender is too slow.
    pub fn patience(&mut self, received: u64) -> Result<Duration, String> {
        let Limits { timeout, min_rate, .. } = *self.limits;
        let left = self.left()?;
        if self.waited >= timeout {
            // The count of received bytes never decreases.
            let came = received - self.before;
            // Bytes per millisecond, times a thousand.
            let least = u128::from(min_rate).checked_mul(self.waited.as_millis());
            if least.is_none_or(|least| u128::from(came) * 1000 < least) {
                let waited = self.waited;
                return Err(format!(
                    "only {came} bytes arrived in {waited:.1?}, below the {min_rate} bytes per second of \
                     --min-rate"
                ));
            }
            (self.waited, self.before) = (Duration::ZERO, received);
        }
        Ok(left.map_or(timeout, |left| left.min(timeout)))
    }

    /// Adds time spent waiting for the sender.
    pub fn add(&mut self, waited: Duration) {
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn enforces_the_rate_over_the_timeout() {
        let limits = Limits { timeout: 10 * SECOND, min_rate: 100, max_time: None };
        let mut pace = Pace::new(&limits);
        // A burst satisfies the rate only for the interval in which it arrives.
        for received in [1, 2, 999, 1000] {
            assert_eq!(pace.patience(received), Ok(10 * SECOND));
            pace.add(SECOND * 5 / 2);
        }
        for received in [1000, 1001] {
            assert_eq!(pace.patience(received), Ok(10 * SECOND));
            pace.add(5 * SECOND);
        }
        let message =
            "only 999 bytes arrived in 10.0s, below the 100 bytes per second of --min-rate";
        assert_eq!(pace.patience(1999), Err(message.into()));
        // If more than the timeout has passed, more bytes are required.
        pace.add(10 * SECOND);
        assert!(pace.patience(2999).is_err());
        assert_eq!(pace.patience(3000), Ok(10 * SECOND));
    }

    #[test]
    fn a_rate_of_zero_is_unlimited() {
        let limits = Limits { timeout: SECOND, min_rate: 0, max_time: None };
        let mut pace = Pace::new(&limits);
        pace.add(1000 * SECOND);
        assert_eq!((pace.left(), pace.patience(0)), (Ok(None), Ok(SECOND)));
    }

    #[test]
    fn enforces_the_total_time() {
        let limits = Limits { timeout: SECOND, min_rate: 0, max_time: Some(3600 * SECOND) };
        let mut pace = Pace::new(&limits);
        assert_eq!(pace.patience(0), Ok(SECOND));
        assert!(pace.left().unwrap().is_some_and(|left| left > 3000 * SECOND));
        let limits = Limits { max_time: Some(Duration::from_nanos(1)), ..limits };
        let mut pace = Pace::new(&limits);
        std::thread::sleep(Duration::from_millis(1));
        let over = "it took longer than the 1ns of --max-time";
        assert_eq!(pace.left(), Err(over.into()));
        assert_eq!(pace.patience(1 << 40), Err(over.into()));
    }
}
