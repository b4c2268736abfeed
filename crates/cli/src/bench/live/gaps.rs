//! The time between two iterations of a guest.

use std::time::Duration;

/// The parts of a round, for which gaps are recorded separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Before,
    Prepare,
    /// The memory is prepared, and the guest has not seen that yet.
    Ready,
    Dump,
    /// The end of the snapshot, which unprotects what is left.
    Finish,
    After,
}

/// All phases, in order.
pub const PHASES: [Phase; 6] =
    [Phase::Before, Phase::Prepare, Phase::Ready, Phase::Dump, Phase::Finish, Phase::After];

/// The number of subdivisions of an octave.
const PARTS: usize = 8;

/// The gaps of one phase.
#[derive(Clone, Debug)]
pub struct Gaps {
    /// The number of gaps by their logarithm, in eighths of an octave of nanoseconds.
    counts: Vec<u64>,
    iterations: u64,
    writes: u64,
    largest: Duration,
    /// The sum of all gaps.
    time: Duration,
}

impl Gaps {
    pub fn new() -> Self {
        let none = Duration::ZERO;
        Self { counts: vec![0; 64 * PARTS], iterations: 0, writes: 0, largest: none, time: none }
    }

    /// Adds the gap of one iteration.
    pub fn add(&mut self, gap: Duration) {
        // Shorter gaps have no eighths.
        let nanos = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX).max(8);
        let octave = nanos.ilog2();
        let part = usize::try_from((nanos >> (octave - 3)) & 7).unwrap_or(0);
        if let Some(count) = self.counts.get_mut(octave as usize * PARTS + part) {
            *count += 1;
        }
        self.iterations += 1;
        self.largest = self.largest.max(gap);
        self.time += gap;
    }

    pub fn add_write(&mut self) {
        self.writes += 1;
    }

    pub fn largest(&self) -> Duration {
        self.largest
    }

    /// Returns the gap that `percent` percent of all gaps do not exceed, to an eighth of an octave. Returns zero if there
    /// are no gaps.
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.iterations * percent).div_ceil(100);
        let mut below = 0;
        for (i, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank && below > 0 {
                let (octave, part) = (i / PARTS, i % PARTS);
                return Duration::from_nanos(((PARTS + part) as u64) << (octave - 3));
            }
        }
        Duration::ZERO
    }

    pub fn writes_per_second(&self) -> f64 {
        self.per_second(self.writes)
    }

    pub fn iterations_per_second(&self) -> f64 {
        self.per_second(self.iterations)
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.time.is_zero() { 0.0 } else { count as f64 / self.time.as_secs_f64() }
    }
}
