//! A client of `lldb-dap`: what VS Code does.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

/// The time limit for a message. LLDB reads and indexes modules when it connects.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `lldb-dap`.
pub struct Dap {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Json>,
    backlog: VecDeque<Json>,
    sequence: u64,
}

impl Dap {
    /// Starts `lldb-dap`, and connects it to a server by `command`. Returns it with the event of the first stop.
    pub fn attach(program: &str, command: &str) -> (Self, Json) {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, messages) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || read_messages(output, |message| sender.send(message).is_ok()));
        let input = child.stdin.take().unwrap();
        let mut dap = Self { child, input, messages, backlog: VecDeque::new(), sequence: 0 };
        dap.request(
            "initialize",
            json!({ "clientID": "test", "adapterID": "lldb-dap", "pathFormat": "path",
                "linesStartAt1": true, "columnsStartAt1": true, "supportsVariableType": true,
                "supportsMemoryReferences": true }),
        );
        let attach = dap.send(
            "attach",
            json!({ "name": "core dump", "type": "lldb-dap", "request": "attach",
                "stopOnEntry": true, "attachCommands": [command] }),
        );
        dap.wait(|message| message["event"] == "initialized");
        dap.request("configurationDone", json!({}));
        let attached = dap.wait(|message| message["request_seq"] == attach);
        assert_eq!(attached["success"], true, "{attached}");
        let stopped = dap.wait(|message| message["event"] == "stopped");
        (dap, stopped["body"].clone())
    }

    fn send(&mut self, command: &str, arguments: Json) -> u64 {
        self.sequence += 1;
        let message = json!({ "seq": self.sequence, "type": "request", "command": command,
            "arguments": arguments })
        .to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{message}", message.len()).unwrap();
        self.input.flush().unwrap();
        self.sequence
    }

    /// Waits for a message.
    pub fn wait(&mut self, mut is_wanted: impl FnMut(&Json) -> bool) -> Json {
        if let Some(found) = self.backlog.iter().position(&mut is_wanted) {
            return self.backlog.remove(found).unwrap();
        }
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap();
            if is_wanted(&message) {
                return message;
            }
            self.backlog.push_back(message);
        }
    }

    /// Sends a request, and returns the response, which may be a failure.
    pub fn ask(&mut self, command: &str, arguments: Json) -> Json {
        let sent = self.send(command, arguments);
        self.wait(|message| message["type"] == "response" && message["request_seq"] == sent)
    }

    /// Sends a request, and returns the body of the response.
    pub fn request(&mut self, command: &str, arguments: Json) -> Json {
        let response = self.ask(command, arguments);
        assert_eq!(response["success"], true, "{response}");
        response["body"].clone()
    }

    /// Returns the frames of a thread, inlined ones included.
    pub fn frames(&mut self, thread: u64) -> Vec<Json> {
        let arguments = json!({ "threadId": thread, "startFrame": 0, "levels": 1000 });
        let mut stack = self.request("stackTrace", arguments);
        serde_json::from_value(stack["stackFrames"].take()).unwrap()
    }

    /// Returns the variables of a scope of a frame.
    pub fn scope(&mut self, frame: &Json, name: &str) -> Vec<Json> {
        let scopes = self.request("scopes", json!({ "frameId": frame["id"] }));
        let scopes = scopes["scopes"].as_array().unwrap();
        let scope = scopes.iter().find(|scope| scope["name"] == name).unwrap();
        self.variables(&scope["variablesReference"])
    }

    /// Returns the variables with a reference: the members of a value.
    pub fn variables(&mut self, reference: &Json) -> Vec<Json> {
        if reference == &json!(0) {
            return Vec::new();
        }
        let mut body = self.request("variables", json!({ "variablesReference": reference }));
        serde_json::from_value(body["variables"].take()).unwrap()
    }

    /// Ends the session.
    pub fn disconnect(mut self) {
        self.request("disconnect", json!({ "terminateDebuggee": false }));
        drop(self.input);
        self.child.wait().unwrap();
    }
}

fn read_messages(mut output: impl BufRead, mut take: impl FnMut(Json) -> bool) {
    loop {
        let mut len = 0;
        loop {
            let mut line = String::new();
            if output.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim().split_once(": ") {
                Some(("Content-Length", value)) => len = value.parse().unwrap(),
                _ if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut message = vec![0; len];
        output.read_exact(&mut message).unwrap();
        if !take(serde_json::from_slice(&message).unwrap()) {
            return;
        }
    }
}
