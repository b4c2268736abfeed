use std::io::{Read as _, Seek, SeekFrom, Write as _};
use std::thread;

use super::*;
use crate::receive::test_support::{connect, dump_of, foreign, sent, terms};

/// Takes `bytes` from a sender that then closes its half. Returns the result and what is in the file.
fn take_sent(bytes: &[u8], terms: &Terms) -> (Received, Vec<u8>) {
    let (connection, _sender) = sent(bytes);
    take_from(&connection, terms, &Stop::without_signal())
}

fn take_from(connection: &Connection, terms: &Terms, stop: &Stop) -> (Received, Vec<u8>) {
    let mut file = tempfile::tempfile().unwrap();
    let received = take(connection, &file, terms, stop);
    let mut taken = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut taken).unwrap();
    // Room may be reserved for the rest.
    taken.truncate(usize::try_from(received.bytes).unwrap());
    (received, taken)
}

/// Returns the reason why a dump is not kept, after the kind of fault.
fn fault(received: &Received) -> (&'static str, &str) {
    match received.outcome.as_ref().unwrap_err() {
        Fault::Broken(why) => ("broken", why),
        Fault::Refused(why) => ("refused", why),
        Fault::Stopped => ("stopped", ""),
    }
}

/// Returns the position of the first byte after the header that holds the length, and after everything before it.
fn end_of_header(dump: &[u8]) -> usize {
    let name = b"\x0acorestream";
    let at = dump.windows(name.len()).position(|window| window == name).unwrap();
    at + usize::from(dump[at - 1])
}

#[test]
fn asks_for_one_byte_past_the_end() {
    for (left, most, expected) in
        [(0, 10, 1), (3, 10, 4), (9, 10, 10), (10, 10, 10), (11, 10, 10), (u64::MAX, 10, 10)]
    {
        assert_eq!(one_more(left, most), expected, "{left} of {most}");
    }
}

#[test]
fn counts_bytes_against_the_length_of_the_dump() {
    let limits = terms().pace;
    let mut state = IntakeState::new(&limits, LastByte::new(false));
    state.received = 7;
    assert!(!state.is_complete());
    assert_eq!(state.so_far(), "7 bytes");
    assert!(
        matches!(state.excess_data_fault(5), Fault::Refused(why) if why == "exceeds --max-size (5 bytes)")
    );
    state.length = Some(7);
    assert!(state.is_complete());
    assert_eq!(state.so_far(), "7 of 7 bytes");
    assert!(
        matches!(state.excess_data_fault(7), Fault::Broken(why) if why == "has data past its end at 0x7")
    );
    state.length = Some(8);
    assert!(!state.is_complete());
}

#[test]
fn takes_a_complete_dump() {
    let dump = dump_of("guest");
    let (received, taken) = take_sent(&dump, &terms());
    assert_eq!(received.name.as_deref(), Some("guest"));
    assert_eq!(received.outcome.unwrap().bytes, dump.len() as u64);
    assert!(taken == dump);
}

/// The sender of a complete dump does not close its half: the receiver does not wait for longer than its timeout.
#[test]
fn takes_a_complete_dump_whose_sender_stays() {
    let dump = dump_of("guest");
    let (connection, mut sender) = connect();
    sender.write_all(&dump).unwrap();
    let (received, taken) = take_from(&connection, &terms(), &Stop::without_signal());
    assert!(received.outcome.is_ok() && taken == dump);
}

#[test]
fn reports_how_much_of_a_truncated_dump_has_come() {
    let dump = dump_of("guest");
    let (before, after) = dump.split_at(end_of_header(&dump));
    for len in [before.len(), before.len() + 1, before.len() + after.len() / 2, dump.len() - 1] {
        let (received, taken) = take_sent(&dump[..len], &terms());
        let expected = format!("truncated: {len} of {} bytes", dump.len());
        let (kind, why) = fault(&received);
        assert_eq!(kind, "broken");
        assert!(why.starts_with(&expected), "{why}");
        assert_eq!(received.name.as_deref(), Some("guest"));
        assert!(taken == dump[..len]);
    }
}

#[test]
fn gives_no_name_to_what_is_not_a_dump() {
    for bytes in [&b"something else"[..], b"\0asm"] {
        let (received, taken) = take_sent(bytes, &terms());
        assert_eq!((fault(&received).0, received.name.as_deref()), ("broken", None));
        // The last byte may stay in the socket.
        assert!(bytes.starts_with(&taken) && taken.len() + 1 >= bytes.len(), "{taken:?}");
    }
    let (received, _) = take_sent(b"", &terms());
    assert_eq!((fault(&received), received.bytes), (("broken", "has sent nothing"), 0));
}

#[test]
fn rejects_data_past_the_end() {
    let dump = dump_of("guest");
    let longer = [&dump[..], b"x"].concat();
    let (received, _) = take_sent(&longer, &terms());
    let expected = format!("has data past its end at {:#x}", dump.len());
    assert_eq!(fault(&received), ("broken", expected.as_str()));
}

#[test]
fn refuses_a_dump_over_the_maximum_size_when_its_length_is_known() {
    let dump = dump_of("guest");
    let len = dump.len() as u64;
    let terms = |max| Terms { max_size: Some(max), ..terms() };
    assert!(take_sent(&dump, &terms(len)).0.outcome.is_ok());
    let (received, taken) = take_sent(&dump, &terms(len - 1));
    let expected = format!("has {len} bytes, which exceeds --max-size ({} bytes)", len - 1);
    assert_eq!(fault(&received), ("refused", expected.as_str()));
    assert!(taken.len() < dump.len());
}

#[test]
fn refuses_a_dump_without_a_length_unless_any_tool_may_send() {
    let (received, _) = take_sent(&foreign(), &terms());
    let (kind, why) = fault(&received);
    assert_eq!(kind, "refused");
    assert!(why.starts_with("comes from another tool"), "{why}");
    let any_tool = Terms { any_tool: true, ..terms() };
    let (received, taken) = take_sent(&foreign(), &any_tool);
    assert_eq!(fault(&received).0, "broken", "it has no instances");
    assert_eq!((received.name.as_deref(), &taken), (Some("others"), &foreign()));
    // Its size is limited while it comes.
    let max_size = Some(foreign().len() as u64 - 1);
    let (received, _) = take_sent(&foreign(), &Terms { max_size, ..any_tool });
    let expected = format!("exceeds --max-size ({} bytes)", foreign().len() - 1);
    assert_eq!(fault(&received), ("refused", expected.as_str()));
}

#[test]
fn takes_the_rest_of_a_damaged_dump_only_if_it_is_kept() {
    let mut dump = dump_of("guest");
    // The id of the section after the header.
    let at = end_of_header(&dump);
    dump[at] = 99;
    for keep_damaged in [false, true] {
        let (received, taken) = take_sent(&dump, &Terms { keep_damaged, ..terms() });
        let (kind, why) = fault(&received);
        assert_eq!(kind, "broken");
        assert!(why.starts_with("is damaged: "), "{why}");
        assert_eq!(taken == dump, keep_damaged, "{} bytes", taken.len());
    }
}

#[test]
fn drops_an_incomplete_dump_after_a_signal() {
    let dump = dump_of("guest");
    let (connection, mut sender) = connect();
    sender.write_all(&dump[..dump.len() - 1]).unwrap();
    let (received, _) = take_from(&connection, &terms(), &Stop::with_signal(15));
    assert_eq!(fault(&received).0, "stopped");
}

#[test]
fn keeps_a_complete_dump_when_a_signal_comes() {
    let dump = dump_of("guest");
    let (connection, mut sender) = connect();
    let stop = Stop::without_signal();
    let slow = Limits { timeout: Duration::from_secs(60), min_rate: 0, max_time: None };
    let terms = Terms { pace: slow, ..terms() };
    thread::scope(|scope| {
        let taken = scope.spawn(|| take_from(&connection, &terms, &stop));
        sender.write_all(&dump).unwrap();
        // The last byte stays in the socket, so an empty queue does not tell. It takes a moment to read the rest.
        thread::sleep(Duration::from_millis(50));
        stop.request(15);
        let (received, taken) = taken.join().unwrap();
        assert!(received.outcome.is_ok() && taken == dump);
    });
}

#[test]
fn drops_a_sender_that_is_silent() {
    let dump = dump_of("guest");
    let half = dump.len() / 2;
    let (connection, mut sender) = connect();
    sender.write_all(&dump[..half]).unwrap();
    let (received, _) = take_from(&connection, &terms(), &Stop::without_signal());
    let expected = format!("truncated: {half} of {} bytes: no bytes arrived for 100ms", dump.len());
    assert_eq!(fault(&received), ("broken", expected.as_str()));
}

#[test]
fn limits_the_time_for_all_of_a_dump() {
    let dump = dump_of("guest");
    let (connection, mut sender) = connect();
    sender.write_all(&dump[..100]).unwrap();
    let max_time = Some(Duration::from_millis(50));
    let pace = Limits { timeout: Duration::from_secs(60), min_rate: 0, max_time };
    let terms = Terms { pace, ..terms() };
    let (received, _) = take_from(&connection, &terms, &Stop::without_signal());
    let (kind, why) = fault(&received);
    assert_eq!(kind, "broken");
    assert!(why.ends_with("it took longer than the 50ms of --max-time"), "{why}");
}
