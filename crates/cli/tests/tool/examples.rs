//! Runs each example of the tool's help, and checks the files that it makes.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corestream::read::{Verdict, Verifier};
use corestream::{CoreDumpFile, MemoryIndex};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::help::{Example, commands, examples, is_installed, printed, with};
use crate::tool::{names, signal, stderr, tool_path};

/// Programs that the examples call and a machine may lack, with scripts that replace them.
const STAND_INS: [(&str, &str); 4] = [
    ("jq", "cat"),
    ("lldb", "if [ \"$1\" = --version ]; then echo lldb version 22.0.0; else echo \"$@\"; fi"),
    ("man", "cat"),
    ("zstd", "if [ \"$1\" = -dc ]; then cat \"$2\"; else cat >\"$2\"; fi"),
];

#[test]
fn runs_every_example() {
    let mut count = 0;
    for command in commands() {
        for example in examples(&printed(&with(&command, &["--help"]))) {
            try_out(&example);
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// Runs an example in a directory with its inputs, and checks the files that it makes.
fn try_out(example: &Example) {
    let place = Place::new();
    let script = example.lines.join("\n");
    place.prepare(&script);
    let before = place.files();
    let (code, stdout, message) = match script.strip_prefix("corestream receive ") {
        Some(args) => place.receive(args),
        None if script.contains("corestream debug") && !script.contains("--lldb") => {
            place.debug(&script)
        }
        None if script.contains("127.0.0.1:4000") => place.send(&script),
        // The shell must know the completions.
        None if script.starts_with("eval") => {
            place.run(&format!("{script}\ncomplete -p corestream"))
        }
        None => place.run(&script),
    };
    let expected = match &script {
        script if script.contains("--salvage") => 3,
        script if script.contains("run --debug") => 0,
        script if script.contains("corestream run") => 134,
        script if script.contains("corestream receive") && !script.contains("--once") => 143,
        script if script.contains("corestream debug") && !script.contains("--lldb") => 143,
        _ => 0,
    };
    assert_eq!(code, Some(expected), "{script}\n{message}");
    let new: Vec<_> = place.files().difference(&before).cloned().collect();
    assert!(!new.is_empty() || !stdout.trim().is_empty(), "nothing came of {script}");
    for path in new {
        place.check(&path, &script);
    }
}

/// Asks a server for the stop reason, and returns the reply.
fn ask(mut client: impl Read + Write) -> String {
    client.write_all(b"$?#3f").unwrap();
    let mut reply = Vec::new();
    while reply.iter().filter(|byte| **byte == b'#').count() == 0 {
        let mut buffer = [0; 1024];
        let len = client.read(&mut buffer).unwrap();
        assert!(len > 0, "{reply:?}");
        reply.extend(&buffer[..len]);
    }
    String::from_utf8(reply).unwrap()
}

/// A directory with the inputs of the examples.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes the files that a script uses, and not those that it makes.
    fn prepare(&self, script: &str) {
        for directory in ["dumps", "bin", ".config/fish/completions", ".zfunc", "made"] {
            fs::create_dir_all(self.path(directory)).unwrap();
        }
        let missing = STAND_INS.iter().filter(|(program, _)| !is_installed(program));
        for (program, script) in missing {
            let path = self.path("bin").join(program);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        for name in ["guest.mem", "guest.json", "composed.wat"] {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name),
                self.path(name),
            )
            .unwrap();
        }
        fs::write(self.path("guest.wasm"), self.guest()).unwrap();
        if script.contains("corestream debug") {
            // A debugger needs frames that fit the guest.
            let manifest = fs::read(self.path("guest.json")).unwrap();
            let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            manifest["threads"][0]["frames"] =
                serde_json::json!([{ "instance": 0, "function": 3, "offset": 1 }]);
            fs::write(self.path("guest.json"), manifest.to_string()).unwrap();
        }
        let (code, _, message) = self.run(
            "corestream dump --manifest guest.json -o made/guest.core
            head -c -9 made/guest.core >made/damaged.core
            zstd -o made/guest.core.zst <made/guest.core",
        );
        assert_eq!(code, Some(0), "{message}");
        for name in names(&self.path("made")) {
            if !script.contains(&format!("-o {name}")) {
                fs::rename(self.path("made").join(&name), self.path(&name)).unwrap();
            }
        }
        fs::remove_dir_all(self.path("made")).unwrap();
    }

    /// Returns the guest that the manifest describes. It traps in its first instruction.
    fn guest(&self) -> Vec<u8> {
        use wasm_encoder::*;
        let mut module = Module::new();
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut functions = FunctionSection::new();
        let mut code = CodeSection::new();
        let mut named = NameMap::new();
        for (i, name) in (0..).zip(["_start", "parse", "divide", "remainder"]) {
            functions.function(0);
            let mut body = Function::new([]);
            body.instructions().unreachable().end();
            code.function(&body);
            named.append(i, name);
        }
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 2,
            maximum: Some(16),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut exports = ExportSection::new();
        exports.export("_start", ExportKind::Func, 0).export("memory", ExportKind::Memory, 0);
        let mut data = DataSection::new();
        data.active(0, &ConstExpr::i32_const(0), fs::read(self.path("guest.mem")).unwrap());
        let mut name_section = NameSection::new();
        name_section.functions(&named);
        module.section(&types).section(&functions).section(&memories).section(&exports);
        module.section(&code).section(&data).section(&name_section);
        module.finish()
    }

    fn shell(&self, script: &str) -> Command {
        let tool = tool_path().parent().unwrap().to_path_buf();
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = [tool, self.path("bin")].into_iter().chain(env::split_paths(&path));
        let mut command = Command::new("bash");
        command
            .args(["-e", "-o", "pipefail", "-c", script])
            .current_dir(self.0.path())
            .env("PATH", env::join_paths(directories).unwrap())
            .env("HOME", self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a script. Returns its exit code, standard output and standard error.
    fn run(&self, script: &str) -> (Option<i32>, String, String) {
        let output = self.shell(script).output().unwrap();
        let message = stderr(&output);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), message)
    }

    /// Does the same for a script that sends a dump, with a receiver for it.
    fn send(&self, script: &str) -> (Option<i32>, String, String) {
        let (receiver, port) =
            self.listen("corestream receive tcp:127.0.0.1:0 --once -o received.core");
        let sent = self.run(&script.replace("127.0.0.1:4000", &port));
        assert!(receiver.wait_with_output().unwrap().status.success(), "{script}");
        sent
    }

    /// Does the same for a script that receives a dump, with a sender for it.
    fn receive(&self, args: &str) -> (Option<i32>, String, String) {
        let (mut receiver, address) =
            self.listen(&format!("corestream receive {}", args.replace(":4000", ":0")));
        let to = match args.starts_with("unix:") {
            true => address,
            false => format!("tcp:127.0.0.1:{}", address.rsplit_once(':').unwrap().1),
        };
        let (code, _, message) =
            self.run(&format!("corestream dump --manifest guest.json --to {to}"));
        assert_eq!(code, Some(0), "{message}");
        // The line about the dump.
        let mut message = BufReader::new(receiver.stderr.take().unwrap());
        let mut line = String::new();
        message.read_line(&mut line).unwrap();
        if !args.contains("--once") {
            signal(&receiver, Signal::TERM);
        }
        let code = receiver.wait().unwrap().code();
        message.read_to_string(&mut line).unwrap();
        (code, String::new(), line)
    }

    /// Does the same for a script that waits for debuggers: asks it for the stop reason.
    fn debug(&self, script: &str) -> (Option<i32>, String, String) {
        let (server, address) = self.listen(&script.replace(":4000", ":0"));
        let reply = match address.strip_prefix("unix:") {
            Some(path) => ask(UnixStream::connect(path).unwrap()),
            None => ask(TcpStream::connect(address).unwrap()),
        };
        signal(&server, Signal::TERM);
        let output = server.wait_with_output().unwrap();
        (output.status.code(), reply, stderr(&output))
    }

    /// Starts a server. Returns it with its address: `unix:PATH` or `HOST:PORT`.
    fn listen(&self, script: &str) -> (Child, String) {
        let mut server = self.shell(&format!("exec {script}")).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").expect(&line);
        (server, address.trim_start_matches("tcp:").into())
    }

    /// Returns all files in the directory and below.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut directories = vec![self.0.path().to_path_buf()];
        while let Some(directory) = directories.pop() {
            for name in names(&directory) {
                let path = directory.join(name);
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.insert(path);
                }
            }
        }
        files
    }

    /// Checks a file that an example has made.
    fn check(&self, path: &Path, script: &str) {
        if path.starts_with(self.path(".cache")) {
            // Wasmtime's cache of compiled guests.
            return;
        }
        let bytes = fs::read(path).unwrap();
        let image = fs::read(self.path("guest.mem")).unwrap();
        let shown = path.display();
        match path.extension().unwrap_or_default().to_str().unwrap() {
            // zsh names the file after the command.
            "" => assert!(String::from_utf8(bytes).unwrap().starts_with("#compdef corestream")),
            "core" => {
                let verdict = Verifier::new().threads(1).verify(&bytes).unwrap();
                assert!(matches!(verdict, Verdict::Intact(_)), "{shown}: {verdict:?}");
                let dump = CoreDumpFile::from_slice(&bytes).unwrap();
                if script.contains("composed.wat") {
                    // This component has memories of its own.
                    assert_eq!(dump.memories().len(), 2);
                    return;
                }
                let of_dump = dump.memory(MemoryIndex(0)).unwrap();
                let excluded = if script.contains("--exclude") {
                    0x400..0x800
                } else {
                    image.len()..image.len()
                };
                for range in [0..excluded.start, excluded.end..image.len()] {
                    let mut memory = vec![0; range.len()];
                    of_dump.read(range.start as u64, &mut memory).unwrap();
                    assert!(memory == image[range], "{shown}");
                }
                for address in excluded {
                    of_dump.read(address as u64, &mut [0]).unwrap_err();
                }
            }
            "mem" => assert!(bytes == image, "{shown}"),
            "json" => {
                assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(), "{shown}")
            }
            "zst" => {
                let (code, stdout, message) =
                    self.run(&format!("zstd -dc {shown} | corestream verify -"));
                assert_eq!(code, Some(0), "{shown}: {message}");
                assert!(stdout.contains("all checksums match"), "{stdout}");
            }
            "fish" => assert!(String::from_utf8(bytes).unwrap().contains("complete -c corestream")),
            "1" => assert!(String::from_utf8(bytes).unwrap().contains(".TH corestream")),
            other => panic!("{shown}: {other}"),
        }
    }
}
