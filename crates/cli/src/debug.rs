//! `corestream debug`: serves a dump to LLDB, over the gdb-remote protocol.

mod clients;
mod hints;
mod lldb;
mod private_directory;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use corestream::CoreDumpFile;
use corestream::read::Verdict;
use corestream_debug::{Options, Target};

use self::clients::serve;
use self::lldb::Debugger;
#[cfg(feature = "run")]
pub use self::lldb::Lldb;
#[cfg(not(feature = "run"))]
use self::lldb::Lldb;
use self::private_directory::PrivateDirectory;
use crate::input;
use crate::limits::MAX_VERIFIED_BYTES;
use crate::listener::Listener;
use crate::log;
use crate::peer::Peer;
use crate::report::{self, Failure, USAGE};
use crate::stop::Stop;
use crate::symbol_files::{SymbolFile, SymbolFiles};

/// The exit code with --lldb if the tool itself fails, because LLDB has exit codes of its own.
const FAILED: u8 = 125;

/// Debug a dump in LLDB or VS Code
///
/// With `--lldb`, starts LLDB 22 or newer on the dump. Otherwise listens for debuggers until a signal stops it: prints
/// the address to standard output, and the LLDB command and the VS Code configuration to standard error. Nothing of the
/// dump is loaded before the debugger asks for it. Values that LLDB would read wrongly are withheld where the server can
/// tell, and warnings name the rest.
#[derive(Args)]
pub struct Debug {
    /// The dump
    #[arg(value_name = "DUMP")]
    pub dump: PathBuf,

    /// Module of the guest, a component with its modules, or a companion with debugging information; repeat for each file
    #[arg(long, value_name = "[INDEX=]GUEST.wasm")]
    pub symbols: Vec<SymbolFile>,

    /// Thread whose values are served, by its index in the dump, which begins at 0; by default the first one with frames
    #[arg(long, value_name = "N")]
    pub thread: Option<usize>,

    /// Start LLDB on the dump, and exit with its exit code; by default `lldb` or the newest `lldb-NN` of PATH
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true)]
    pub lldb: Option<Option<PathBuf>>,

    /// Listen on tcp:HOST:PORT or unix:PATH instead of a Unix socket in a private directory. Any local user can connect
    /// to a TCP port
    #[arg(long, value_name = "ADDRESS", conflicts_with = "lldb",
          value_parser = OsStringValueParser::new().try_map(Peer::to_listen_on))]
    pub listen: Option<Peer>,

    /// Allow an address that other machines can reach; connections are neither encrypted nor authenticated
    #[arg(long, requires = "listen")]
    pub any_host: bool,

    /// Arguments of LLDB, such as -b -o bt
    #[arg(last = true, value_name = "LLDB-ARGS", requires = "lldb")]
    pub lldb_args: Vec<OsString>,
}

impl Debug {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match &self.lldb {
            Some(path) => self.run_lldb(path.as_deref()).map_err(|failure| match failure.code {
                // A usage error, or a signal.
                USAGE | 129.. => failure,
                _ => Failure::with_code(failure.message, FAILED),
            }),
            None => self.listen(),
        }
    }

    /// Starts LLDB, and serves it until it ends.
    fn run_lldb(&self, path: Option<&Path>) -> Result<ExitCode, Failure> {
        let lldb = Lldb::find(path)?;
        self.with_target(|target| {
            // The terminal sends SIGINT to LLDB too, which ends its command.
            let stop = Stop::watch_without_interrupt("debug").map_err(cannot_watch)?;
            let directory = PrivateDirectory::create("set TMPDIR to another one")?;
            let listener = Listener::bind("debug", &directory.socket(), false)?;
            let (done, ended) = io::pipe()
                .map_err(|error| Failure::new(format!("debug: cannot create a pipe: {error}")))?;
            let commands = hints::commands(&listener, target);
            thread::scope(|scope| {
                // Ends when LLDB has ended, because `wait` closes the pipe.
                let run = || {
                    if let Err(failure) = serve(target, &listener, &stop, Some(&done)) {
                        report::line(&failure.message);
                    }
                };
                thread::Builder::new().spawn_scoped(scope, run).map_err(|error| {
                    Failure::new(format!("debug: cannot start a thread: {error}"))
                })?;
                Debugger::start(&lldb, &commands, &self.lldb_args)?.wait(&stop, ended)
            })
        })
    }

    /// Serves debuggers until a signal arrives.
    fn listen(&self) -> Result<ExitCode, Failure> {
        let directory;
        let listener = match &self.listen {
            Some(address) => Listener::bind("debug", address, self.any_host)?,
            None => {
                directory = PrivateDirectory::create("choose a socket with --listen unix:PATH")?;
                Listener::bind("debug", &directory.socket(), false)?
            }
        };
        self.with_target(|target| {
            let stop = Stop::watch("debug").map_err(cannot_watch)?;
            log::never_wait().map_err(|error| {
                Failure::new(format!("debug: cannot start a thread for standard error: {error}"))
            })?;
            report::raw(&hints::text(&hints::commands(&listener, target), &self.dump));
            listener.announce("debug")?;
            serve(target, &listener, &stop, None)?;
            match stop.failure() {
                Some(stopped) => Err(stopped),
                None => Ok(ExitCode::SUCCESS),
            }
        })
    }

    /// Opens the dump and prepares it for debuggers.
    fn with_target<T>(
        &self,
        run: impl FnOnce(&Target<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let dump = self.open()?;
        // LLDB has a working directory of its own.
        let files: Result<Vec<_>, _> = self.symbols.iter().map(SymbolFile::absolute).collect();
        let files = SymbolFiles::read(&files?)?;
        let mut options = Options::new();
        if let Some(thread) = self.thread {
            options = options.with_thread(thread);
        }
        let name = self.dump.display();
        let target = Target::new(&dump, &files.files(), &options)
            .map_err(|error| input::failure_of(&name.to_string(), &error, &[]))?;
        if dump.damage().is_none() {
            check(&dump, &name.to_string());
        }
        if let Some(damage) = dump.damage() {
            report::line(&format!("warning: {name}: {damage}; lost data reads as an error"));
        }
        target.warnings().for_each(|warning| report::line(&format!("warning: {warning}")));
        run(&target)
    }

    /// Opens the dump, or the readable parts of a damaged one. It is read and not mapped: a file that another process
    /// truncates must give an error, and not zeros.
    fn open(&self) -> Result<CoreDumpFile<'static>, Failure> {
        input::open_to_read(&self.dump)
    }
}

/// Compares the checksums of a dump, if that takes no time, and warns of damage. Otherwise warns that they are not compared.
fn check(dump: &CoreDumpFile<'_>, name: &str) {
    let line = match dump.len() {
        0..=MAX_VERIFIED_BYTES => match dump.verify() {
            Ok(Verdict::Damaged(damage)) => format!("{name}: {damage}; values can be wrong"),
            _ => return,
        },
        _ => format!("{name}: its checksums are not compared; `corestream verify` does that"),
    };
    report::line(&format!("warning: {line}"));
}

fn cannot_watch(error: std::io::Error) -> Failure {
    Failure::new(format!("debug: cannot watch signals: {error}"))
}
