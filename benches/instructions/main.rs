//! The guard: how many instructions each stage takes, beside the counts in `counts.txt`. It fails
//! when one has risen by more than 5%.
//!
//! - `cargo bench --bench instructions` counts and compares.
//! - `cargo bench --bench instructions -- --update` counts and writes the file.
//! - `cargo bench --bench instructions -- --test` only checks the answers of the stages, and that the
//!   file has a count of each.
//!
//! Callgrind counts, in a process of its own for each count, nothing but what
//! [`stages::measured`] runs. What could make two counts of the same code differ is kept out: there
//! is one thread, so no pool; the images are slices that are scanned whole, so the kernel is asked
//! nothing, whose answers are parsed; and options, which ask for the number of cores, are made before.
//! The C library and crc32fast choose their code by the processor, but the one that valgrind shows
//! them is the same wherever there is AVX2. What is left is the compiler: the file names it.

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
        // Without this argument of cargo's it is not `cargo bench` that asks.
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

/// Runs one stage once: what is run under valgrind.
fn run(stage: &str, name: &str, backend: &str) -> Result {
    let case = Case::all().find(|case| case.is(stage, name, backend));
    let case = case.ok_or_else(|| format!("no such case: {stage} {name} {backend}"))?;
    case.run(&input(case.input))
}

/// Checks the answers, or nothing is counted.
fn check_answers() {
    for name in INPUTS {
        let bytes = input(name);
        for case in here().filter(|case| case.input == name) {
            case.check(&bytes);
        }
    }
}

/// The cases that this machine can run.
fn here() -> impl Iterator<Item = Case> {
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
    for case in here() {
        case.run(&input(case.input))?;
    }
    let committed = committed()?;
    let names: BTreeSet<_> = Case::all().map(|case| case.to_string()).collect();
    if !names.iter().eq(committed.counts.keys()) {
        let path = path().display();
        return Err(
            format!("{path}: not of the stages that there are; to mend it: {UPDATE}").into()
        );
    }
    println!("{} counts, all answers are right", names.len());
    Ok(())
}

fn update() -> Result {
    if Scanner::avx2().is_none() {
        return Err("this machine has no AVX2, which the file has counts of".into());
    }
    check_answers();
    let counted = valgrind::count(here())?;
    std::fs::write(path(), counted.to_string())?;
    println!("{counted}\nwritten to {}", path().display());
    Ok(())
}

fn check() -> Result {
    check_answers();
    let mut committed = committed()?;
    if Scanner::avx2().is_none() {
        println!("no AVX2 here: its counts are left out, and the C library may count differently");
        committed.counts.retain(|name, _| !name.ends_with(" avx2"));
    }
    let counted = valgrind::count(here())?;
    for (ours, theirs) in
        [(&counted.rustc, &committed.rustc), (&counted.valgrind, &committed.valgrind)]
    {
        if ours != theirs {
            println!("this is {ours}, the counts are of {theirs}: that alone may change them");
        }
    }
    let rows = counted.compare(&committed);
    for row in &rows {
        println!("{row}");
    }
    let failed: Vec<_> = rows.iter().filter(|row| row.verdict().fails()).collect();
    if failed.is_empty() {
        if rows.iter().any(|row| row.verdict() == Verdict::Fallen) {
            println!("\nsome counts fell, good; to hold them: {UPDATE}");
        }
        return Ok(());
    }
    let mut message = String::from("\nthe guard of instruction counts fails:\n");
    for row in failed {
        message += &format!("  {}\n", row.reason());
    }
    Err(format!("{message}if that is meant to be: {UPDATE}").into())
}
