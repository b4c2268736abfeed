//! Counting: this program runs itself under callgrind, once for each case.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::Result;
use super::counts::Counts;
use super::stages::Case;

/// A pattern for the mangled name of the function whose instructions are counted.
const MEASURED: &str = "*instructions*stages*measured*";

/// Counts `cases`, one per core at a time.
pub fn count(cases: impl Iterator<Item = Case>) -> Result<Counts> {
    let (rustc, valgrind) = (version("rustc")?, version("valgrind")?);
    let cases: Vec<_> = cases.collect();
    let queue = Mutex::new(cases.iter());
    let next = || queue.lock().unwrap().next();
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let mut counted = Vec::new();
        while let Some(case) = next() {
            counted.push((case.to_string(), count_one(case)?));
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(counted)
    };
    let counted = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Result<Vec<_>>>()
    })?;
    Ok(Counts { rustc, valgrind, counts: counted.into_iter().flatten().collect() })
}

fn count_one(case: &Case) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .arg("run")
        .args(case.to_string().split(' '))
        .output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        return Err(format!("{case}: {}\n{said}", output.status).into());
    }
    let count = total(&file)?;
    if count == 0 {
        return Err(format!(
            "{case}: no instructions counted; does {MEASURED} match the name of the function?"
        )
        .into());
    }
    Ok(count)
}

/// Returns the total number of instructions in an output file of callgrind.
fn total(file: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind gave no total")?.trim().parse()?)
}

/// Returns the version that `program` reports.
fn version(program: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{program}: {error}; install the package of that name"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}
