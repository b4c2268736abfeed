//! The report of `dump --stats json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The statistics of a dump. The fields are written in the order of their declaration, which is alphabetical. Times are
/// in seconds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Indices of the memories that changed while they were read.
    changing_memories: Vec<u32>,
    data_bytes: u64,
    dump_bytes: u64,
    extent_bytes: u64,
    extent_methods: Vec<String>,
    extent_notes: Vec<String>,
    extent_seconds: f64,
    image_bytes: u128,
    left_out_bytes: u128,
    left_out_ranges: u64,
    memory_bytes: u128,
    plan_seconds: f64,
    scan_seconds: f64,
    /// The same as `extent_bytes`: all extents are scanned.
    scanned_bytes: u64,
    scanner: String,
    segments: u64,
    threads: u64,
    /// The reason why V8 refuses the dump, if it does.
    v8_refusal: Option<String>,
    /// `null` if the dump was not written.
    write_seconds: Option<f64>,
}

impl Stats {
    /// Combines the statistics of a plan with the facts that the tool adds.
    pub fn new(
        stats: &corestream::Stats,
        changing_memories: Vec<u32>,
        extent_methods: Vec<String>,
        v8_refusal: Option<&str>,
        write_time: Option<Duration>,
    ) -> Self {
        Self {
            changing_memories,
            data_bytes: stats.data_bytes,
            dump_bytes: stats.dump_bytes,
            extent_bytes: stats.extent_bytes,
            extent_methods,
            extent_notes: stats.extent_notes.clone(),
            extent_seconds: stats.extent_time.as_secs_f64(),
            image_bytes: stats.image_bytes,
            left_out_bytes: stats.excluded_bytes,
            left_out_ranges: stats.excluded_ranges,
            memory_bytes: stats.memory_bytes,
            plan_seconds: stats.plan_time.as_secs_f64(),
            scan_seconds: stats.scan_time.as_secs_f64(),
            scanned_bytes: stats.extent_bytes,
            scanner: stats.scanner.into(),
            segments: stats.segments,
            threads: stats.threads as u64,
            v8_refusal: v8_refusal.map(Into::into),
            write_seconds: write_time.map(|time| time.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip() {
        let text = concat!(
            r#"{"changing_memories":[0,2],"data_bytes":9644,"dump_bytes":9995,"extent_bytes":12288,"#,
            r#""extent_methods":["seek"],"extent_notes":["a note"],"extent_seconds":0.25,"#,
            r#""image_bytes":131072,"left_out_bytes":0,"left_out_ranges":0,"memory_bytes":131072,"#,
            r#""plan_seconds":0.5,"scan_seconds":1.0,"scanned_bytes":12288,"scanner":"avx2","#,
            r#""segments":3,"threads":2,"v8_refusal":null,"write_seconds":null}"#,
        );
        let stats: Stats = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&stats).unwrap(), text);
    }
}
