//! Runs the commands of README.md and of docs/guide.md, and compares their output with the pages.
//!
//! What a page shows must happen to a reader who copies it. The blocks of a section run in order in one directory, which
//! begins with the files of `examples/`, with `wordcount.wasm`, and with `guest.core` unless the section makes it.
//!
//! - A block `sh` is a script, which must succeed. A block `text` after it is its output.
//! - A block `console` is a session: each command after `$ ` is followed by its output. A command must succeed unless the
//!   next one is `echo $?`.
//! - A block that begins with `corestream receive` runs in the background until the section ends.
//! - In output, a line `...` stands for any lines, and `[..]` for any text within a line.
//! - A comment `<!-- not run: REASON -->` before a block excludes it.
//!
//! Sections with a guest need the feature `run`.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::debug::program;

/// Stands between the outputs of the commands of a session, followed by an exit code.
const MARK: &str = "-- end of a command:";

/// How README runs the tool in a checkout.
const CARGO_RUN: &str = "cargo run --release -p corestream-cli --features run --";

/// The port in the pages. A test uses a free one instead.
const PORT: &str = "127.0.0.1:4000";

#[test]
fn runs_the_commands_of_the_readme() {
    run_page("README.md", 4);
}

#[test]
fn runs_the_commands_of_the_guide() {
    run_page("docs/guide.md", 12);
}

#[test]
fn quotes_the_examples_of_wasmtime() {
    let examples: Vec<String> = fs::read_dir(root().join("crates/wasmtime/examples"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let mut count = 0;
    for page in ["README.md", "docs/guide.md"] {
        for block in sections(&read(page)).iter().flatten().filter(|b| b.kind == "rust,ignore") {
            let is_excerpt = |example: &String| {
                let mut lines = example.lines().map(str::trim);
                block.lines.iter().all(|wanted| {
                    wanted.trim().is_empty() || lines.any(|line| line == wanted.trim())
                })
            };
            assert!(examples.iter().any(is_excerpt), "{page}:{}: in no example", block.line);
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
}

/// The messages under "Troubleshooting" are in the source, so that they can be found by what the tool prints.
#[test]
fn lists_messages_of_the_source() {
    let mut source = String::new();
    for directory in
        ["src", "crates/cli/src", "crates/debug/src", "crates/symbols/src", "crates/wasmtime/src"]
    {
        read_sources(&root().join(directory), &mut source);
    }
    let guide = read("docs/guide.md");
    let (_, troubleshooting) = guide.split_once("\n## Troubleshooting\n").unwrap();
    let mut count = 0;
    for row in troubleshooting.lines().filter(|line| line.starts_with("| `")) {
        let messages = row.split('|').nth(1).unwrap();
        for message in messages.split('`').skip(1).step_by(2) {
            let fragments = message.split('…').map(str::trim).filter(|text| !text.is_empty());
            for fragment in fragments {
                assert!(source.contains(fragment), "no message with {fragment:?}");
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "DEVELOPERS.md", "SECURITY.md"]
            .map(PathBuf::from)
            .into();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        pages.push(Path::new("docs").join(entry.unwrap().file_name()));
    }
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = read(page);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => root().join(page),
                path => root().join(page).parent().unwrap().join(path),
            };
            assert!(path.exists(), "{}: {target}", page.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let is_here = headings.any(|heading| anchor_of(heading) == anchor);
                assert!(is_here, "{}: {target}", page.display());
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(page: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// Appends all Rust files, with strings that continue on the next line joined.
fn read_sources(directory: &Path, source: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, source);
        } else {
            for line in fs::read_to_string(path).unwrap().lines() {
                match line.trim().strip_suffix('\\') {
                    Some(line) => source.push_str(line),
                    None => source.push_str(&(line.trim().to_string() + "\n")),
                }
            }
        }
    }
}

/// Returns the anchor that GitHub gives a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A fenced block.
struct Block {
    /// The line of its fence in the page.
    line: usize,
    /// The words after its fence.
    kind: String,
    lines: Vec<String>,
    is_run: bool,
}

/// Returns the blocks of each section.
fn sections(page: &str) -> Vec<Vec<Block>> {
    let mut sections = vec![Vec::new()];
    let mut is_run = true;
    let mut lines = page.lines().enumerate();
    while let Some((i, line)) = lines.next() {
        if line.starts_with("# ") || line.starts_with("## ") {
            sections.push(Vec::new());
        }
        match line.strip_prefix("```") {
            Some(kind) => {
                let of_block = lines.by_ref().take_while(|(_, line)| *line != "```");
                let of_block = of_block.map(|(_, line)| line.to_string()).collect();
                let block = Block { line: i + 1, kind: kind.into(), lines: of_block, is_run };
                sections.last_mut().unwrap().push(block);
            }
            None if !line.is_empty() => is_run = !line.starts_with("<!-- not run: "),
            None => {}
        }
    }
    sections
}

/// Runs the blocks of a page, and fails if fewer than `least` ran.
fn run_page(page: &str, least: usize) {
    let mut count = 0;
    for section in sections(&read(page)) {
        let blocks: Vec<&Block> = section.iter().filter(|block| block.is_run).collect();
        let script: String = blocks.iter().flat_map(|block| &block.lines).cloned().collect();
        let needs_run = script.contains("corestream run") || script.contains(CARGO_RUN);
        if needs_run && !cfg!(feature = "run") {
            continue;
        }
        if script.contains("--lldb") && program("lldb").is_none() {
            continue;
        }
        let mut session = Session::new(page, &script);
        for (i, block) in blocks.iter().enumerate() {
            match block.kind.as_str() {
                "sh" => {
                    let output = blocks.get(i + 1).filter(|next| next.kind == "text");
                    session.script(block, output.copied());
                }
                "console" if block.lines[0].starts_with("$ corestream receive ") => {
                    session.receive(block);
                }
                "console" => session.commands(block),
                "text" | "toml" | "rust" | "rust,ignore" => continue,
                other => panic!("{page}:{}: {other}", block.line),
            }
            count += 1;
        }
        session.end();
    }
    assert!(count >= least, "{page}: only {count} blocks ran");
}

/// The directory of a section.
struct Session<'p> {
    page: &'p str,
    directory: TempDir,
    /// What takes the place of [`PORT`].
    address: String,
    receiver: Option<Receiver>,
}

struct Receiver {
    process: Child,
    output: BufReader<ChildStdout>,
    expected: Vec<String>,
    line: usize,
}

impl<'p> Session<'p> {
    fn new(page: &'p str, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let guest = "crates/cli/tests/guests/wordcount.wasm";
        fs::copy(root().join(guest), directory.path().join("wordcount.wasm")).unwrap();
        for kind in ["core", "wasm"].into_iter().filter(|_| script.contains("rust.core")) {
            let guest = format!("crates/cli/tests/guests/values/values-rs-O0-dwarf5.{kind}");
            fs::copy(root().join(guest), directory.path().join(format!("rust.{kind}"))).unwrap();
        }
        fs::create_dir(directory.path().join("examples")).unwrap();
        for name in ["guest.mem", "guest.json", "orders.wat", "composed.wat"] {
            let from = root().join("examples").join(name);
            fs::copy(&from, directory.path().join(name)).unwrap();
            fs::copy(&from, directory.path().join("examples").join(name)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let session = Self { page, directory, address, receiver: None };
        if !script.contains("-o guest.core") {
            let make = "corestream dump --manifest guest.json -o guest.core";
            assert!(session.bash(make).status().unwrap().success());
        }
        session
    }

    /// Returns a shell that runs a script, with everything that it prints on standard output.
    fn bash(&self, script: &str) -> Command {
        let tool = assert_cmd::cargo::cargo_bin!("corestream").parent().unwrap().to_path_buf();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(tool).chain(env::split_paths(&path))).unwrap();
        let script = script.replace(PORT, &self.address).replace(CARGO_RUN, "corestream");
        let mut command = Command::new("bash");
        command
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(self.directory.path())
            .envs([("HOME", self.directory.path().as_os_str()), ("PATH", &path)])
            .env("LC_ALL", "C")
            .env_remove("COLUMNS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Runs a block `sh`, and compares its output if the page shows it.
    fn script(&self, block: &Block, expected: Option<&Block>) {
        let script = block.lines.join("\n");
        let output = self.bash(&format!("set -e -o pipefail\n{script}")).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}:{}: {printed}", self.page, block.line);
        if let Some(expected) = expected {
            self.compare(&expected.lines, &printed, expected.line);
        }
    }

    /// Runs a block `console`.
    fn commands(&self, block: &Block) {
        let commands = commands(block);
        let mut script = String::new();
        for (command, _) in &commands {
            script.push_str(&format!(
                "{command}\ncode=$?; printf '\\n{MARK} %d\\n' $code; (exit $code)\n"
            ));
        }
        let output = self.bash(&script).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let mut rest = printed.as_str();
        for (i, (command, expected)) in commands.iter().enumerate() {
            let at = format!("{}:{}: {command}", self.page, block.line);
            let (of_command, after) = rest.split_once(&format!("\n{MARK} ")).expect(&at);
            let (code, after) = after.split_once('\n').unwrap();
            let asks = commands.get(i + 1).is_some_and(|(next, _)| next == "echo $?");
            assert!(code == "0" || asks, "{at}: exit code {code}\n{of_command}");
            self.compare(expected, of_command, block.line);
            rest = after;
        }
    }

    /// Starts a receiver, and waits until it listens.
    fn receive(&mut self, block: &Block) {
        let [(command, expected)] = &commands(block)[..] else { panic!("one command") };
        let mut process = self.bash(&format!("exec {command}")).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        self.compare(&expected[..1], &first, block.line);
        let (expected, line) = (expected[1..].to_vec(), block.line);
        self.receiver = Some(Receiver { process, output, expected, line });
    }

    /// Stops the receiver, if there is one, when it has printed as many lines as the page shows.
    fn end(mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let mut printed = String::new();
        for _ in &receiver.expected {
            receiver.output.read_line(&mut printed).unwrap();
        }
        let pid = Pid::from_raw(receiver.process.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(receiver.process.wait().unwrap().code(), Some(143));
        let mut last = String::new();
        receiver.output.read_to_string(&mut last).unwrap();
        assert_eq!(last.lines().count(), 1, "{last}");
        self.compare(&receiver.expected, &printed, receiver.line);
    }

    fn compare(&self, expected: &[String], printed: &str, line: usize) {
        let expected: Vec<String> =
            expected.iter().map(|line| line.replace(PORT, &self.address)).collect();
        let printed: Vec<&str> = printed.lines().collect();
        assert!(
            matches(&expected, &printed),
            "{}:{line}: expected\n{}\n\nbut the output is\n{}",
            self.page,
            expected.join("\n"),
            printed.join("\n")
        );
    }
}

/// Returns the commands of a session, each with the lines of its output.
fn commands(block: &Block) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in &block.lines {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.into(), Vec::new())),
            None => commands.last_mut().unwrap().1.push(line.clone()),
        }
    }
    commands
}

/// Whether lines are those expected, where `...` stands for any lines.
fn matches(expected: &[String], lines: &[&str]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return lines.is_empty() };
    if first == "..." {
        return (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]));
    }
    lines
        .split_first()
        .is_some_and(|(line, lines)| line_matches(first, line) && matches(rest, lines))
}

/// Whether a line is the one expected, where `[..]` stands for any text.
fn line_matches(expected: &str, line: &str) -> bool {
    match expected.split_once("[..]") {
        None => expected == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(i, _)| i).chain([rest.len()]);
            ends.any(|i| line_matches(after, &rest[i..]))
        }),
    }
}
