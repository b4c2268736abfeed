//! The regression guard: counts the instructions of each stage and compares them with `counts.txt`. It fails if a count
//! has risen by more than 5%.
//!
//! - `cargo bench --bench instructions` counts and compares.
//! - `cargo bench --bench instructions -- --update` counts and writes the file.
//! - `cargo bench --bench instructions -- --test` only checks the results of the stages, and that the file has a count
//!   for each.
//!
//! Each count is one run of callgrind in a process of its own, which counts only the instructions within
//! [`stages::measured`]. Everything that could make two counts of the same code differ is excluded. There is one thread
//! and so no pool. The images are slices that are scanned as a whole, so no answers of the kernel are parsed. Options
//! that query the number of cores are created before. The C library and crc32fast choose their code by processor, but
//! valgrind emulates the same one wherever AVX2 is available. Only the compiler remains: the file names its version.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../common/mod.rs"]
mod common;
mod counts;
#[path = "../../tests/common/mod.rs"]
mod decoded;
mod stages;
mod valgrind;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use corestream::internals::Scanner;
use counts::{Counts, Verdict};
use stages::{Case, INPUTS, input};

const UPDATE: &str = "cargo bench --bench instructions -- --update";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["run", stage, name, backend] => run(stage, name, backend),
        // `cargo bench` passes this argument. Without it, something else started the program.
        _ if !args.contains(&"--bench") || args.contains(&"--test") => test(),
        _ if args.contains(&"--update") => update(),
        _ => check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Runs one stage once. This is the program that valgrind runs.
fn run(stage: &str, name: &str, backend: &str) -> Result {
    let case = Case::all().find(|case| case.is(stage, name, backend));
    let case = case.ok_or_else(|| format!("no such case: {stage} {name} {backend}"))?;
    case.run(&input(case.input))
}

/// Checks the results of all stages, before anything is counted.
///
/// # Panics
/// Panics if one is wrong.
fn check_answers() {
    for name in INPUTS {
        let bytes = input(name);
        for case in supported_cases().filter(|case| case.input == name) {
            case.check(&bytes);
        }
    }
}

/// Returns the cases that this machine can run.
fn supported_cases() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.scanner().is_some())
}

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/counts.txt"))
}

fn committed() -> Result<Counts> {
    let text = std::fs::read_to_string(path()).map_err(|e| format!("{}: {e}", path().display()))?;
    Ok(text.parse().map_err(|e| format!("{}: {e}", path().display()))?)
}

fn test() -> Result {
    check_answers();
    for case in supported_cases() {
        case.run(&input(case.input))?;
    }
    let committed = committed()?;
    let names: BTreeSet<_> = Case::all().map(|case| case.to_string()).collect();
    if !names.iter().eq(committed.counts.keys()) {
        let path = path().display();
        return Err(
            format!("{path}: does not match the existing stages; to update it: {UPDATE}").into()
        );
    }
    println!("{} counts; all results are correct", names.len());
    Ok(())
}

fn update() -> Result {
    if Scanner::avx2().is_none() {
        return Err("this machine has no AVX2, so it cannot update the AVX2 counts".into());
    }
    check_answers();
    let counted = valgrind::count(supported_cases())?;
    std::fs::write(path(), counted.to_string())?;
    println!("{counted}\nwritten to {}", path().display());
    Ok(())
}

fn check() -> Result {
    check_answers();
    let mut committed = committed()?;
    if Scanner::avx2().is_none() {
        println!(
            "no AVX2 on this machine: its counts are skipped, and the C library may count differently"
        );
        committed.counts.retain(|name, _| !name.ends_with(" avx2"));
    }
    let counted = valgrind::count(supported_cases())?;
    for (ours, theirs) in
        [(&counted.rustc, &committed.rustc), (&counted.valgrind, &committed.valgrind)]
    {
        if ours != theirs {
            println!(
                "this machine has {ours}, the committed counts are from {theirs}; the difference may change them"
            );
        }
    }
    let rows = counted.compare(&committed);
    for row in &rows {
        println!("{row}");
    }
    let failed: Vec<_> = rows.iter().filter(|row| row.verdict().fails()).collect();
    if failed.is_empty() {
        if rows.iter().any(|row| row.verdict() == Verdict::Fallen) {
            println!("\nsome counts fell; to record them: {UPDATE}");
        }
        return Ok(());
    }
    let mut message = String::from("\ninstruction counts have risen:\n");
    for row in failed {
        message += &format!("  {}\n", row.reason());
    }
    Err(format!("{message}if this is intended: {UPDATE}").into())
}
