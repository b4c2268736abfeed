//! `corestream run`: runs a guest with WASI, and dumps it if it traps or exceeds the time limit.

mod arguments;
mod backtrace;
mod cause;
mod check;
mod component_call;
mod component_guest;
mod component_state;
mod exit_code;
mod expose;
mod guest;
mod guest_cells;
mod host;
mod host_call;
mod host_state;
mod invoke;
mod module;
mod module_guest;
mod options;
mod output_stream;
mod overflow;
mod shared;
mod snapshot;
mod standard_input;
mod stub;
mod target;
mod thread_activity;
mod time_limit;
mod unreachable;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use corestream::Dumper;
use corestream_wasmtime::Captured;
use wasmtime::{Error, Trap, WasmBacktrace, WasmCoreDump};
use wasmtime_wasi::I32Exit;

use self::arguments::deadline;
use self::exit_code::{FAILED, FAILED_GUEST, TIME_LIMIT, TRAPPED};
use self::guest::Guest;
use self::host::{Outcome, Stopped, module_of_frame};
use self::host_call::Pending;
use self::module_guest::ModuleGuest;
use self::overflow::StackPointer;
use self::snapshot::{Requests, Setup, Snapshots};
use self::target::Target;
use crate::debug::Lldb;
use crate::dump;
use crate::log;
use crate::progress::ProgressDisplay;
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

pub use self::arguments::Run;

impl Run {
    /// Runs the guest. Returns its exit code, or the code for a trap or the time limit.
    pub fn run(mut self) -> Result<ExitCode, Failure> {
        // A limit beyond the range of the clock counts as unlimited.
        self.time_limit = self.time_limit.filter(|limit| deadline(*limit).is_some());
        self.locals |= self.debug;
        let done = self.execute().map(ExitCode::from);
        done.map_err(|failure| Failure::with_code(failure.message, FAILED))
    }

    fn execute(&self) -> Result<u8, Failure> {
        let targets = self.targets();
        let count = self.has_snapshots().then_some(1);
        // Checks the destination before the guest runs.
        let output = self.output.is_some().then(|| targets.trap(count)).transpose()?;
        let requests = match count {
            Some(count) => {
                targets.snapshot(count)?;
                Some(Snapshots::requests(self)?)
            }
            None => None,
        };
        if self.debug {
            // Before the guest runs, because it may run for long.
            Lldb::find(None)?;
        }
        let mut guest = Guest::load(self)?;
        let running = self.start_snapshots(&guest, requests)?;
        let ended = guest.run(self);
        // Waits for a snapshot that has begun. A signal then ends the tool with `code`.
        let finish = |running: Option<(Snapshots, Arc<Interrupt>)>, code| {
            running.map(|(snapshots, interrupt)| {
                interrupt.expect_end_of_guest(code);
                (snapshots.finish(), interrupt)
            })
        };
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(failure) => {
                finish(running, FAILED);
                return Err(failure);
            }
        };
        match outcome {
            Outcome::Returned(results) => {
                finish(running, 0);
                report::result(&results)?;
                Ok(0)
            }
            Outcome::Failed(error) => {
                if let Some(I32Exit(code)) = error.downcast_ref() {
                    let code = self.exit_code(code.cast_unsigned());
                    finish(running, code);
                    return Ok(code);
                }
                let trapped =
                    error.is::<Trap>() || error.is::<WasmBacktrace>() || error.is::<WasmCoreDump>();
                if !trapped {
                    finish(running, FAILED);
                    let cause = cause::plain(&error);
                    return Err(Failure::new(format!("{}: {cause}", self.guest.display())));
                }
                // The guest has stopped from here on, even if writing the dump fails.
                let pending = error.downcast_ref::<Pending>();
                let limit =
                    pending.is_some() || matches!(error.downcast_ref(), Some(Trap::Interrupt));
                let code = if limit { TIME_LIMIT } else { TRAPPED };
                let interrupt = match &running {
                    Some((_, interrupt)) => interrupt.clone(),
                    None => Arc::new(Interrupt::watch_dump_of_guest(code)),
                };
                let module = guest.module();
                let waits = module.is_some_and(|module| module.waits(&error));
                let first_added = module.map(ModuleGuest::first_added);
                let Stopped { mut captured, place, stack } = guest.stopped(self, &error);
                let cause = match pending {
                    Some(pending) => format!("{} {pending}", self.limit_message()),
                    None if limit && waits => {
                        format!("{} in memory.atomic.wait", self.limit_message())
                    }
                    None if limit => self.limit_message(),
                    None => trap_cause(&error, stack.as_ref(), captured.as_ref().ok()),
                };
                let name = self.name();
                let threads = captured.as_ref().map_or(&[][..], |captured| &captured.dump.threads);
                let dumped = threads.first().map_or(0, |thread| thread.frames.len());
                // The modules of a component are named after their places in it.
                let module = |frame| {
                    let module = module_of_frame(&captured.as_ref().ok()?.dump, frame)?;
                    module.name.clone()
                };
                let is_component = first_added.is_none();
                let modules = if is_component { dumped.min(backtrace::PRINTED_FRAMES) } else { 0 };
                let modules: Vec<_> = (0..modules).map(module).collect();
                let backtrace =
                    backtrace::render(&name, &cause, &error, first_added, place, dumped, &modules);
                report::raw(&backtrace);
                if let Ok(captured) = &mut captured {
                    if pending.is_some() || (limit && waits) {
                        let note = format!("{cause}; the frames are from its entry");
                        captured.dump.notes.push(note);
                    }
                    captured.dump.trap = Some(cause);
                }
                let output = match finish(running, code) {
                    Some((count, _)) => {
                        interrupt.expect_dump_of_guest(code);
                        targets.trap(Some(count + 1))
                    }
                    None => output.map_or_else(|| targets.trap(None), Ok),
                };
                match self.dump(output, captured, &interrupt) {
                    Some(path) if self.debug => Err(self.open_in_lldb(&path)),
                    _ => Ok(code),
                }
            }
        }
    }

    /// Starts to serve requests for snapshots, if there can be any.
    fn start_snapshots(
        &self,
        guest: &Guest,
        requests: Option<Requests>,
    ) -> Result<Option<(Snapshots, Arc<Interrupt>)>, Failure> {
        let (Some((memories, exchange)), Some(requests)) = (guest.snapshot_parts(), requests)
        else {
            return Ok(None);
        };
        sigbus::install_for_snapshots();
        let interrupt = Arc::new(Interrupt::watch_running_guest());
        let setup = Setup {
            name: self.name(),
            targets: self.targets(),
            memories,
            exchange,
            interrupt: interrupt.clone(),
            copy_limit: self.copy_limit,
            at_limit: self.at_copy_limit.into(),
            write_timeout: self.write_timeout,
            first_added: guest.module().map(ModuleGuest::first_added),
        };
        Ok(Some((Snapshots::start(requests, setup)?, interrupt)))
    }

    /// Returns the low 8 bits of the guest's exit code, or 1 if the code is not 0 but these bits are.
    fn exit_code(&self, code: u32) -> u8 {
        let low = code.to_le_bytes()[0];
        if low != 0 || code == 0 {
            return low;
        }
        let name = self.name();
        report::line(&format!(
            "{name}: the guest's exit code {code} does not fit in 8 bits; exiting with {FAILED_GUEST}"
        ));
        FAILED_GUEST
    }

    /// Replaces this process by `corestream debug --lldb`, which frees the memory of the guest and handles signals as LLDB
    /// needs it. Returns only if that fails.
    fn open_in_lldb(&self, dump: &Path) -> Failure {
        log::flush(log::exit_timeout());
        let tool = std::env::current_exe();
        let failed = |error| Failure::new(format!("run: cannot start `corestream debug`: {error}"));
        match tool {
            // The dot keeps `-x` from being an option, and `0=x` from naming a module.
            Ok(tool) => failed(
                Command::new(tool)
                    .args(["debug", "--lldb", "--symbols"])
                    .arg(Path::new(".").join(&self.guest))
                    .arg(Path::new(".").join(dump))
                    .exec(),
            ),
            Err(error) => failed(error),
        }
    }

    /// Writes the dump and reports its path, which it returns. A failure does not change that the guest crashed.
    fn dump(
        &self,
        output: Result<Target, Failure>,
        captured: Result<Captured<'_>, corestream::Error>,
        interrupt: &Interrupt,
    ) -> Option<PathBuf> {
        let written = captured.map_err(|error| Failure::new(error.to_string()));
        let written = written.and_then(|captured| self.write(output?, captured, interrupt));
        match written {
            Ok(path) => {
                report::line(&format!("{}: core dumped", path.display()));
                Some(path)
            }
            Err(failure) => {
                report::line(&format!("no core dump: {}", failure.message));
                None
            }
        }
    }

    fn write(
        &self,
        target: Target,
        mut captured: Captured<'_>,
        interrupt: &Interrupt,
    ) -> Result<PathBuf, Failure> {
        let Target { path, output } = target;
        for note in &captured.notes {
            let note = cause::note(note);
            report::line(&format!("warning: {note}"));
            captured.dump.notes.push(note);
        }
        let progress = ProgressDisplay::start(self.progress, output.name());
        let dumper = Dumper::new().cancel(interrupt.cancel()).progress(progress.callback());
        let planned = dumper.plan(&captured.dump);
        let plan = planned.map_err(|error| interrupt.failure().unwrap_or_else(|| error.into()))?;
        for shortfall in plan.shortfalls() {
            report::line(&format!("warning: {shortfall}"));
        }
        let written = dump::write(&plan, &output, self.write_timeout, interrupt, &progress);
        written.map_err(|failure| interrupt.failure().unwrap_or(failure))?;
        progress.finish();
        Ok(path)
    }
}

/// Returns the cause of a trap, preceded by the message for a stack overflow if there was one.
fn trap_cause(
    error: &Error,
    stack: Option<&StackPointer>,
    captured: Option<&Captured<'_>>,
) -> String {
    let cause = error.root_cause().to_string();
    let overflow = || {
        let trap = error.downcast_ref::<Trap>()?;
        stack?.verdict(&captured?.dump, *trap)
    };
    match overflow() {
        Some(overflow) => format!("{overflow} ({cause})"),
        None => cause,
    }
}
