use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use corestream::FileOptions;
use tempfile::TempDir;

use super::super::naming::Naming;
use super::*;
use crate::peer::Peer;
use crate::receive::test_support::{dump_of, foreign, sent, terms};

/// Returns a receiver that names dumps `%n` in a directory, and that directory.
fn receiver(max_partials: Option<usize>) -> (TempDir, Receiver) {
    let directory = tempfile::tempdir().unwrap();
    let naming = Naming::new(&directory.path().join("%n")).unwrap();
    let socket = format!("unix:{}", directory.path().join("socket").display());
    let terms = Terms { keep_damaged: max_partials.is_some(), ..terms() };
    let receiver = Receiver {
        terms,
        keeper: Keeper::new(naming, FileOptions::new(), max_partials),
        listener: Listener::bind("receive", &Peer::to_listen_on(&socket).unwrap(), false).unwrap(),
        stop: Stop::without_signal(),
        turn: Mutex::new(()),
        is_short: AtomicBool::new(false),
    };
    (directory, receiver)
}

/// Serves one sender of `bytes`. Returns how that ended, and the line about it.
fn serve(receiver: &Receiver, bytes: &[u8]) -> (&'static str, String) {
    let (connection, _sender) = sent(bytes);
    let begun = receiver.begin().map_err(NotBegun::into_failure);
    match receiver.take(connection, begun) {
        Served::Named(line) => ("named", line),
        Served::Dropped(failure) => ("dropped", failure.message),
        Served::Nothing(failure) => ("nothing", failure.message),
    }
}

/// Returns the names of the files in a directory, sorted, without the socket.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| !entry.file_type().unwrap().is_socket());
    let mut names: Vec<_> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_a_complete_dump() {
    let (directory, receiver) = receiver(None);
    let dump = dump_of("guest");
    for name in ["guest", "guest.1"] {
        let path = directory.path().join(name);
        let (kind, line) = serve(&receiver, &dump);
        let expected = format!(
            "receive: {}: {} bytes from unix:test, intact, all checksums match",
            path.display(),
            dump.len()
        );
        assert_eq!((kind, line), ("named", expected));
        assert!(std::fs::read(path).unwrap() == dump);
    }
}

#[test]
fn distinguishes_a_sender_that_sends_nothing() {
    let (directory, receiver) = receiver(Some(10));
    let expected = ("nothing", "receive: unix:test: has sent nothing".into());
    assert_eq!(serve(&receiver, b""), expected);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn drops_what_is_not_wanted() {
    let (directory, receiver) = receiver(None);
    let dump = dump_of("guest");
    for (bytes, expected) in [
        (&dump[..dump.len() - 1], "receive: unix:test: truncated: "),
        (b"something else", "receive: unix:test: not a core dump: "),
        (&foreign(), "receive: unix:test: comes from another tool"),
    ] {
        let (kind, line) = serve(&receiver, bytes);
        assert_eq!(kind, "dropped");
        assert!(line.starts_with(expected), "{line}");
    }
    assert!(names(directory.path()).is_empty());
}

/// Each sender has a name and a file of its own: nothing of one is left for the next.
#[test]
fn keeps_partial_dumps_under_the_names_of_their_senders() {
    let (directory, receiver) = receiver(Some(10));
    let [first, second] = ["first", "second"].map(dump_of);
    let path = |name: &str| directory.path().join(name);
    for (bytes, kept) in [
        (&first[..first.len() / 2], Some("first.partial")),
        // Not a dump, so it has no name.
        (b"something else", None),
        (&second[..second.len() / 3], Some("second.partial")),
        // Refused, although it has a name.
        (&foreign(), None),
    ] {
        let (kind, line) = serve(&receiver, bytes);
        assert_eq!(kind, "dropped");
        let Some(kept) = kept else {
            assert!(!line.contains("kept as"), "{line}");
            continue;
        };
        assert!(line.ends_with(&format!("; kept as {}", path(kept).display())), "{line}");
        assert!(std::fs::read(path(kept)).unwrap() == bytes);
    }
    assert_eq!(serve(&receiver, &first).0, "named");
    assert_eq!(names(directory.path()), ["first", "first.partial", "second.partial"]);
}

/// A sender gets the reason why the file of its dump could not be begun.
#[test]
fn reports_a_file_that_cannot_be_begun() {
    let (directory, receiver) = receiver(None);
    std::fs::remove_dir_all(directory.path()).unwrap();
    let (kind, line) = serve(&receiver, &dump_of("guest"));
    assert_eq!(kind, "dropped");
    assert!(line.starts_with("receive: unix:test: "), "{line}");
    // It may be repaired, so the receiver starts all the same.
    assert!(receiver.check_descriptors().is_ok());
}

#[test]
fn a_signal_ends_the_wait_for_senders() {
    let (_directory, receiver) = receiver(None);
    receiver.stop.request(15);
    assert!(receiver.accept().unwrap().is_none());
    assert!(!receiver.once().unwrap());
    assert!(!receiver.serve(3).unwrap());
}

#[test]
fn tells_errors_that_pass_from_others() {
    let errno = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
    for (error, shortage, transient) in [
        (errno(Errno::MFILE), true, false),
        (errno(Errno::NFILE), true, false),
        (errno(Errno::AGAIN), false, true),
        (errno(Errno::INTR), false, true),
        (errno(Errno::CONNABORTED), false, true),
        (errno(Errno::NOMEM), false, false),
        (errno(Errno::INVAL), false, false),
    ] {
        assert_eq!((is_shortage(&error), is_transient(&error)), (shortage, transient), "{error}");
    }
}
