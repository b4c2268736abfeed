//! Percentiles of times.

use std::time::Duration;

use serde_json::{Value, json};

/// The times of one stage or limit.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// In the order of the runs.
    samples: Vec<Duration>,
}

impl Times {
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn add(&mut self, time: Duration) {
        self.samples.push(time);
    }

    /// Returns a percentile by the nearest-rank method, which always returns a measured time: the smallest time that
    /// at least `percent` percent of all times do not exceed. 0 is the minimum and 100 the maximum. Returns zero if there
    /// are no times.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let rank = (percent * sorted.len()).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// Formats the percentiles and the samples in seconds as JSON.
    pub fn json(&self) -> Value {
        let at = |percent| self.percentile(percent).as_secs_f64();
        let samples: Vec<f64> = self.samples.iter().map(Duration::as_secs_f64).collect();
        json!({
            "min_seconds": at(0),
            "p50_seconds": at(50),
            "p90_seconds": at(90),
            "p99_seconds": at(99),
            "max_seconds": at(100),
            "samples_seconds": samples,
        })
    }

    /// Formats the percentiles in milliseconds, in the columns of [`HEAD`].
    pub fn columns(&self) -> String {
        self.columns_of(1)
    }

    /// Formats the percentiles in microseconds, in the columns of [`HEAD`].
    pub fn columns_in_microseconds(&self) -> String {
        self.columns_of(1000)
    }

    fn columns_of(&self, factor: u32) -> String {
        let column =
            |percent| format!("{:>9}", ms(self.percentile(percent).saturating_mul(factor)));
        [0, 50, 90, 99, 100].map(column).concat()
    }
}

/// The head of the columns of [`Times::columns`].
pub const HEAD: &str = "      min      p50      p90      p99      max";

/// Formats a time in milliseconds, with four significant digits at most for times of 1 ms or more.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.3}"),
        ..100.0 => format!("{ms:.2}"),
        ..1000.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[u64]) -> Times {
        Times { samples: samples.iter().copied().map(Duration::from_millis).collect() }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let at = |samples: &[u64]| [0, 50, 90, 99, 100].map(|p| of(samples).percentile(p));
        let ms = |times: [u64; 5]| times.map(Duration::from_millis);
        assert_eq!(at(&[]), ms([0; 5]));
        assert_eq!(at(&[7]), ms([7; 5]));
        assert_eq!(at(&[2, 1]), ms([1, 1, 2, 2, 2]));
        assert_eq!(at(&[50, 15, 40, 20, 35]), ms([15, 35, 50, 50, 50]));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(at(&hundred), ms([1, 50, 90, 99, 100]));
        let many: Vec<u64> = (1..=1000).collect();
        assert_eq!(at(&many), ms([1, 500, 900, 990, 1000]));
    }

    #[test]
    fn formats_times_with_few_digits() {
        let shown = [1, 12_345, 123_456, 1_234_567].map(|us| ms(Duration::from_micros(us)));
        assert_eq!(shown, ["0.001", "12.35", "123.5", "1235"]);
        assert_eq!(of(&[1]).columns().len(), HEAD.len());
    }
}
