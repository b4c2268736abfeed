//! The guard of instruction counts: reading the file and judging a change. `benches/instructions` does the counting.

use crate::counts;
use counts::{Counts, Verdict};

fn counts(lines: &str) -> Counts {
    format!("# compiler: rustc 1\n# counted by: valgrind-3\n{lines}").parse().unwrap()
}

#[test]
fn reads_the_file_that_it_writes() {
    let text = "scan dense avx2 20\n\nplan zero scalar   1000000\n";
    let read = counts(text);
    assert_eq!((&read.rustc[..], &read.valgrind[..]), ("rustc 1", "valgrind-3"));
    let names: Vec<_> = read.counts.iter().map(|(name, count)| (&name[..], *count)).collect();
    assert_eq!(names, [("plan zero scalar", 1_000_000), ("scan dense avx2", 20)]);
    assert_eq!(read.to_string().parse(), Ok(read));
}

#[test]
fn rejects_a_file_without_counts() {
    for (text, why) in [
        ("scan dense avx2", "expected a name and a count: scan dense avx2"),
        ("scan 1\nscan  2", "two counts of scan"),
    ] {
        assert_eq!(text.parse::<Counts>(), Err(why.into()));
    }
}

#[test]
fn fails_above_five_percent() {
    use Verdict::{Fallen, Risen, Same};
    let committed = counts("stage 1000");
    for (count, verdict) in [
        (0, Fallen),
        (949, Fallen),
        (950, Same),
        (1000, Same),
        (1050, Same),
        (1051, Risen),
        (u64::MAX, Risen),
    ] {
        let counted = counts(&format!("stage {count}"));
        let rows = counted.compare(&committed);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].verdict(), verdict, "{count}");
        assert_eq!(rows[0].verdict().fails(), verdict == Risen);
    }
}

#[test]
fn names_the_count_and_its_change() {
    let (committed, counted) = (counts("a 1000\nb 1000\nold 7"), counts("a 1123\nb 1000\nnew 8"));
    let rows = counted.compare(&committed);
    let failed: Vec<_> = rows.iter().filter(|row| row.verdict().fails()).collect();
    let reasons: Vec<_> = failed.iter().map(|row| row.reason()).collect();
    assert_eq!(
        reasons,
        [
            "a: +12.30%, from 1000 to 1123 instructions; the limit is +5%",
            "new: not in the file",
            "old: in the file, but no such case exists",
        ]
    );
    let columns: Vec<_> = rows
        .iter()
        .map(|row| row.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        columns,
        ["a 1000 1123 +12.30% risen", "b 1000 1000 +0.00%", "new - 8 - new", "old 7 - - gone"]
    );
}
