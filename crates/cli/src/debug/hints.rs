//! What a user types to connect a debugger.

use std::path::Path;

use corestream::Visible;
use corestream_debug::Target;

use crate::listener::Listener;

/// Returns the LLDB commands that open a dump: the settings that it needs, and the connection.
pub fn commands(listener: &Listener, target: &Target<'_>) -> Vec<String> {
    let settings = target.lldb_settings().into_iter().map(str::to_owned);
    settings.chain([connect_command(listener)]).collect()
}

/// Returns the command that connects LLDB to a listener.
fn connect_command(listener: &Listener) -> String {
    let name = listener.name();
    let url = match (name.strip_prefix("unix:"), name.strip_prefix("tcp:")) {
        (Some(path), _) => {
            // LLDB resolves a relative path in its own working directory.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            format!("unix-connect://{}", path.display())
        }
        (None, Some(host)) => format!("connect://{}", reachable(host)),
        (None, None) => name.to_owned(),
    };
    format!("process connect --plugin wasm {}", quote(&url))
}

/// Returns the address at which a client reaches a listener: one that listens on all addresses is also on this machine.
fn reachable(address: &str) -> String {
    match (address.strip_prefix("0.0.0.0:"), address.strip_prefix("[::]:")) {
        (Some(rest), _) => format!("127.0.0.1:{}", rest),
        (_, Some(rest)) => format!("[::1]:{}", rest),
        _ => address.to_owned(),
    }
}

/// Quotes an argument of an LLDB command, if it needs quotes.
fn quote(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/:.-_[]@%+,=".contains(c);
    if argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    let escaped = argument.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// Returns the LLDB command line and the entry for the `launch.json` of VS Code.
pub fn text(commands: &[String], dump: &Path) -> String {
    let name = dump.file_name().unwrap_or(dump.as_os_str()).to_string_lossy();
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let arguments: Vec<_> =
        commands.iter().map(|command| format!("-o '{}'", command.replace('\'', "'\\''"))).collect();
    let attach: Vec<_> = commands.iter().map(|command| json(command)).collect();
    format!(
        "In a shell, with LLDB 22 or newer:\n  lldb {arguments}\n\
         In the launch.json of VS Code, with the extension LLDB DAP:\n  \
         {{ \"type\": \"lldb-dap\", \"request\": \"attach\", \"name\": {name}, \"stopOnEntry\": true,\n    \
         \"attachCommands\": [{attach}] }}\n",
        arguments = Visible(&arguments.join(" ")),
        name = json(&format!("core dump {name}")),
        attach = attach.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_needs_it() {
        assert_eq!(
            quote("unix-connect:///run/user/0/a-1/lldb.sock"),
            "unix-connect:///run/user/0/a-1/lldb.sock"
        );
        assert_eq!(quote("unix-connect:///a b\"\\"), r#""unix-connect:///a b\"\\""#);
    }

    #[test]
    fn a_listener_on_all_addresses_is_on_this_machine() {
        assert_eq!(reachable("0.0.0.0:4000"), "127.0.0.1:4000");
        assert_eq!(reachable("[::]:4000"), "[::1]:4000");
        assert_eq!(reachable("127.0.0.1:4000"), "127.0.0.1:4000");
    }
}
