//! Limits on slow senders: idle time, minimum rate, total time.

use std::time::{Duration, Instant};

/// What a sender may take its time for.
pub struct Limits {
    /// How long it may be silent.
    pub timeout: Duration,
    /// Bytes a second that it must send at least, over the time of `timeout`.
    pub min_rate: u64,
    /// How long it may take for all of its dump.
    pub max_time: Option<Duration>,
}

/// A sender's pace. Only time that was waited for the sender counts: a receiver whose disk is slow does
/// not blame it.
pub struct Pace<'l> {
    limits: &'l Limits,
    start: Instant,
    /// How long the sender was waited for since the rate was looked at.
    waited: Duration,
    /// The bytes that had come by then.
    before: u64,
}

impl<'l> Pace<'l> {
    /// That of a sender who begins now.
    pub fn new(limits: &'l Limits) -> Self {
        Self { limits, start: Instant::now(), waited: Duration::ZERO, before: 0 }
    }

    /// How long the sender may take for all from now on; `None` is for ever.
    ///
    /// # Errors
    /// That time is over.
    pub fn left(&self) -> Result<Option<Duration>, String> {
        let Some(max) = self.limits.max_time else { return Ok(None) };
        let left = max.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero());
        left.map(Some).ok_or_else(|| format!("it took longer than the {max:?} of --max-time"))
    }

    /// How long to wait for more, where `received` bytes have come.
    ///
    /// # Errors
    /// The sender is too slow.
    pub fn patience(&mut self, received: u64) -> Result<Duration, String> {
        let Limits { timeout, min_rate, .. } = *self.limits;
        let left = self.left()?;
        if self.waited >= timeout {
            // Nothing that came is taken back.
            let came = received - self.before;
            // Bytes a millisecond, by a thousand.
            let least = u128::from(min_rate).checked_mul(self.waited.as_millis());
            if least.is_none_or(|least| u128::from(came) * 1000 < least) {
                let waited = self.waited;
                return Err(format!(
                    "only {came} bytes came in {waited:.1?}, fewer than the {min_rate} a second of \
                     --min-rate"
                ));
            }
            (self.waited, self.before) = (Duration::ZERO, received);
        }
        Ok(left.map_or(timeout, |left| left.min(timeout)))
    }

    /// The sender was waited for.
    pub fn add(&mut self, waited: Duration) {
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_sender_is_held_to_a_rate_over_the_timeout() {
        let limits = Limits { timeout: 10 * SECOND, min_rate: 100, max_time: None };
        let mut pace = Pace::new(&limits);
        // A burst is enough for the time in which it comes, and for that only.
        for received in [1, 2, 999, 1000] {
            assert_eq!(pace.patience(received), Ok(10 * SECOND));
            pace.add(SECOND * 5 / 2);
        }
        for received in [1000, 1001] {
            assert_eq!(pace.patience(received), Ok(10 * SECOND));
            pace.add(5 * SECOND);
        }
        let said = "only 999 bytes came in 10.0s, fewer than the 100 a second of --min-rate";
        assert_eq!(pace.patience(1999), Err(said.into()));
        // More than the timeout may have passed, and then more must have come.
        pace.add(10 * SECOND);
        assert!(pace.patience(2999).is_err());
        assert_eq!(pace.patience(3000), Ok(10 * SECOND));
    }

    #[test]
    fn a_rate_of_nothing_is_none() {
        let limits = Limits { timeout: SECOND, min_rate: 0, max_time: None };
        let mut pace = Pace::new(&limits);
        pace.add(1000 * SECOND);
        assert_eq!((pace.left(), pace.patience(0)), (Ok(None), Ok(SECOND)));
    }

    #[test]
    fn a_sender_may_take_so_long_in_all() {
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
