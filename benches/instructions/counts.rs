//! The file of instruction counts, and the comparison of new counts with it.
//!
//! A line of the file is a comment, which starts with `#`, or a name and its count. Two of the comments name the tool
//! versions on which the counts depend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The permitted rise of a count, in percent.
pub const LIMIT: u64 = 5;

const ABOUT: &str = "# stage, input, backend, instructions; written by\n\
                     # cargo bench --bench instructions -- --update";
const RUSTC: &str = "# compiler: ";
const VALGRIND: &str = "# counted by: ";

/// Counts by name, and the tool versions on which they depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub rustc: String,
    pub valgrind: String,
    pub counts: BTreeMap<String, u64>,
}

impl Counts {
    /// Pairs these counts with the `committed` ones, sorted by name.
    pub fn compare<'c>(&'c self, committed: &'c Self) -> Vec<Row<'c>> {
        let names: BTreeSet<_> = self.counts.keys().chain(committed.counts.keys()).collect();
        let row = |name: &'c String| Row {
            name,
            counted: self.counts.get(name).copied(),
            committed: committed.counts.get(name).copied(),
        };
        names.into_iter().map(row).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{ABOUT}\n{RUSTC}{}\n{VALGRIND}{}", self.rustc, self.valgrind)?;
        let width = self.counts.keys().map(String::len).max().unwrap_or(0);
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name:<width$} {count:>9}"))
    }
}

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tool = |name| {
            let version = text.lines().find_map(|line| line.strip_prefix(name));
            version.map_or_else(|| "unknown".into(), String::from)
        };
        let mut counts = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (name, count) = line
                .rsplit_once(' ')
                .and_then(|(name, count)| Some((name.trim_end(), count.parse().ok()?)))
                .ok_or_else(|| format!("expected a name and a count: {line}"))?;
            if counts.insert(name.into(), count).is_some() {
                return Err(format!("two counts of {name}"));
            }
        }
        Ok(Self { rustc: tool(RUSTC), valgrind: tool(VALGRIND), counts })
    }
}

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The count changed by at most [`LIMIT`].
    Same,
    /// The count rose by more than [`LIMIT`].
    Risen,
    /// The count fell by more than [`LIMIT`].
    Fallen,
    /// The file has no such count.
    New,
    /// Only the file has such a count.
    Gone,
}

impl Verdict {
    pub fn fails(self) -> bool {
        matches!(self, Self::Risen | Self::New | Self::Gone)
    }
}

/// A new count and the committed one.
#[derive(Clone, Copy, Debug)]
pub struct Row<'c> {
    name: &'c str,
    counted: Option<u64>,
    committed: Option<u64>,
}

impl Row<'_> {
    pub fn verdict(&self) -> Verdict {
        let percent = |count: u64, percent: u64| u128::from(count) * u128::from(percent);
        match (self.committed, self.counted) {
            (None, _) => Verdict::New,
            (_, None) => Verdict::Gone,
            (Some(old), Some(new)) if percent(new, 100) > percent(old, 100 + LIMIT) => {
                Verdict::Risen
            }
            (Some(old), Some(new)) if percent(new, 100) < percent(old, 100 - LIMIT) => {
                Verdict::Fallen
            }
            _ => Verdict::Same,
        }
    }

    /// Returns the reason for a failure, in one line.
    pub fn reason(&self) -> String {
        let name = self.name;
        match (self.committed, self.counted) {
            (Some(old), Some(new)) => {
                let change = change(old, new);
                format!(
                    "{name}: {change}, from {old} to {new} instructions; the limit is +{LIMIT}%"
                )
            }
            (None, _) => format!("{name}: not in the file"),
            (_, None) => format!("{name}: in the file, but no such case exists"),
        }
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: Option<u64>| count.map_or_else(|| "-".into(), |n| n.to_string());
        let change = match (self.committed, self.counted) {
            (Some(old), Some(new)) => change(old, new),
            _ => "-".into(),
        };
        let (old, new) = (number(self.committed), number(self.counted));
        let note = match self.verdict() {
            Verdict::Same => "",
            Verdict::Risen => "  risen",
            Verdict::Fallen => "  fallen",
            Verdict::New => "  new",
            Verdict::Gone => "  gone",
        };
        write!(f, "{:<40} {old:>10} {new:>10} {change:>9}{note}", self.name)
    }
}

/// Formats the change in percent.
fn change(old: u64, new: u64) -> String {
    format!("{:+.2}%", (new as f64 / old as f64 - 1.0) * 100.0)
}
