//! Explores all orders of events of small snapshots.
//!
//! # The model
//! A memory has two pages. Two threads write numbers to them, and the first one also freezes the snapshot. Another thread
//! handles faults, one prepares, one reads the frozen pages and ends the snapshot. A step is what happens under the mutex,
//! or a system call outside of it. A write to a protected page posts a message and waits until the page is unprotected. A
//! signal can post the message again.
//!
//! Every order of the steps is explored, from each state once. In every state, what the reader has read must be what the
//! pages had at the freeze. Where no step is possible, all writes must have been made, and the reader must be done.

use std::collections::HashSet;

use super::*;

const PAGES: usize = 2;
/// The number of the first page.
const FIRST: u64 = 100;
const PAGE_BYTES: usize = 16;

/// A step of a thread that writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Write(usize, u8),
    Freeze,
}
use Operation::{Freeze, Write};

/// A thread that writes.
#[derive(Clone, Debug)]
struct Writer {
    operations: Vec<Operation>,
    next: usize,
    /// The page for which it waits.
    waits_for: Option<usize>,
}

/// The thread that handles faults.
#[derive(Clone, Debug, PartialEq)]
enum Handler {
    Idle,
    /// It has taken a message for this page, and judges it.
    Judging(u64),
    /// It is about to unprotect these pages.
    Unprotecting(Range<u64>),
}

/// The thread that prepares, reads and ends.
#[derive(Clone, Debug, PartialEq)]
enum Owner {
    Protecting(usize),
    Scanning(usize),
    ProtectingAgain,
    /// It waits for the freeze.
    Prepared,
    Reading(usize),
    /// It has pinned a page, and copies it.
    Copying(usize, Pin),
    /// It has copied a page with these contents, and removes the pin.
    Unpinning(usize, Pin, u8),
    Releasing(usize),
    Unprotecting(usize, Range<u64>),
    Ending,
    Unregistering,
    Done,
}

struct World {
    state: State,
    contents: [u8; PAGES],
    populated: [bool; PAGES],
    protected: [bool; PAGES],
    messages: Vec<u64>,
    writers: [Writer; 2],
    handler: Handler,
    owner: Owner,
    /// The contents at the freeze.
    frozen: Option<[u8; PAGES]>,
    /// How many messages may be posted again.
    duplicates: usize,
    /// Whether the snapshot may be cancelled at any time.
    may_cancel: bool,
}

/// Reads pages of the model.
struct Contents([u8; PAGES]);

impl PageReader for Contents {
    fn read(&self, page: u64, to: &mut [u8]) {
        to.fill(self.0[index(page)]);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Writer(usize),
    PostAgain(usize),
    Handler,
    Owner,
    Cancel,
}

fn index(page: u64) -> usize {
    usize::try_from(page - FIRST).unwrap()
}

impl World {
    fn new(writes: [&[Operation]; 2], slots: usize, at_limit: AtLimit, may_cancel: bool) -> Self {
        let pages = MemoryPages::new(FIRST..FIRST + PAGES as u64).unwrap();
        let copies = Copies::new(slots, PAGE_BYTES).unwrap();
        let writer = |operations: &[Operation]| Writer {
            operations: operations.into(),
            next: 0,
            waits_for: None,
        };
        Self {
            state: State::new(vec![pages], copies, at_limit, 1),
            contents: [0; PAGES],
            // The second page is populated by its first write.
            populated: [true, false],
            protected: [false; PAGES],
            messages: Vec::new(),
            writers: writes.map(writer),
            handler: Handler::Idle,
            owner: Owner::Protecting(0),
            frozen: None,
            duplicates: 1,
            may_cancel,
        }
    }

    fn copy(&self) -> Self {
        let State { phase, failure, at_limit, last_fault, copied_by_faults, .. } = self.state;
        let memory = &self.state.memories[0];
        let mut copies =
            Copies::new(self.state.copies.room() + self.state.copies.len(), PAGE_BYTES).unwrap();
        for page in memory.pages.clone() {
            if let Some(copy) = self.state.copies.get(page) {
                copies.add(page).unwrap().copy_from_slice(copy);
            }
        }
        let memory = MemoryPages {
            pages: memory.pages.clone(),
            present: memory.present.grown(PAGES).unwrap(),
            open: memory.open.grown(PAGES).unwrap(),
            released: memory.released,
        };
        let (memories, pins) = (vec![memory], self.state.pins.clone());
        Self {
            state: State {
                phase,
                failure,
                memories,
                copies,
                at_limit,
                pins,
                last_fault,
                copied_by_faults,
            },
            messages: self.messages.clone(),
            writers: self.writers.clone(),
            handler: self.handler.clone(),
            owner: self.owner.clone(),
            ..*self
        }
    }

    /// Describes the whole state.
    fn fingerprint(&self) -> String {
        let state = &self.state;
        let memory = &state.memories[0];
        let pages: Vec<_> = (0..PAGES)
            .map(|i| {
                let copy = state.copies.get(FIRST + i as u64).map(|copy| copy[0]);
                (
                    memory.present.contains(i),
                    memory.open.contains(i),
                    copy,
                    self.contents[i],
                    self.protected[i],
                    self.populated[i],
                )
            })
            .collect();
        format!(
            "{:?} {:?} {pages:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {}",
            state.phase,
            state.failure,
            state.pins,
            state.last_fault,
            memory.released,
            self.messages,
            self.writers.each_ref().map(|writer| (writer.next, writer.waits_for)),
            self.handler,
            self.owner,
            self.frozen,
            self.duplicates,
        )
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (i, writer) in self.writers.iter().enumerate() {
            match writer.operations.get(writer.next) {
                // The freeze needs the finished preparation, or finds that it has ended.
                Some(Freeze) if self.owner != Owner::Prepared => {}
                Some(_) if writer.waits_for.is_none() => steps.push(Step::Writer(i)),
                Some(_) if self.duplicates > 0 => steps.push(Step::PostAgain(i)),
                _ => {}
            }
        }
        if self.handler != Handler::Idle || !self.messages.is_empty() {
            steps.push(Step::Handler);
        }
        if !matches!(self.owner, Owner::Prepared | Owner::Done) {
            steps.push(Step::Owner);
        }
        if self.may_cancel && self.frozen.is_some() && self.state.phase == Phase::Frozen {
            steps.push(Step::Cancel);
        }
        steps
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Writer(i) => self.step_writer(i),
            Step::PostAgain(i) => {
                self.duplicates -= 1;
                let page = self.writers[i].waits_for.unwrap();
                self.messages.push(FIRST + page as u64);
            }
            Step::Handler => self.step_handler(),
            Step::Owner => self.step_owner(),
            Step::Cancel => self.state.end(None),
        }
    }

    fn step_writer(&mut self, i: usize) {
        match self.writers[i].operations[self.writers[i].next] {
            Write(page, value) if !self.protected[page] => {
                self.contents[page] = value;
                self.populated[page] = true;
                self.writers[i].next += 1;
            }
            Write(page, _) => {
                self.writers[i].waits_for = Some(page);
                self.messages.push(FIRST + page as u64);
            }
            Freeze => {
                self.scan(0..PAGES);
                let (contents, protected) = (Contents(self.contents), &mut self.protected);
                let protect = |pages: &Range<u64>| {
                    pages.clone().for_each(|page| protected[index(page)] = true);
                    Ok(())
                };
                self.state.freeze(&contents, protect).unwrap();
                self.frozen = Some(self.contents);
                self.owner = Owner::Reading(0);
                self.writers[i].next += 1;
                let memory = &self.state.memories[0];
                for page in 0..PAGES {
                    // The page is writable if and only if it is open.
                    if memory.present.contains(page) {
                        assert_eq!(memory.open.contains(page), !self.protected[page]);
                    }
                }
            }
        }
    }

    fn scan(&mut self, pages: Range<usize>) {
        for page in pages {
            if self.populated[page] {
                self.state.add_pages(0, page..page + 1, !self.protected[page]);
            }
        }
    }

    fn unprotect(&mut self, pages: Range<u64>) {
        for page in pages.map(index) {
            self.protected[page] = false;
            for writer in &mut self.writers {
                writer.waits_for = writer.waits_for.filter(|waits_for| *waits_for != page);
            }
        }
    }

    fn step_handler(&mut self) {
        self.handler = match self.handler.clone() {
            Handler::Idle => Handler::Judging(self.messages.remove(0)),
            Handler::Judging(page) => match self.state.judge(page, &Contents(self.contents)) {
                Verdict::Foreign => panic!("the page belongs to the memory"),
                Verdict::UnprotectLocked(pages) => {
                    self.unprotect(pages);
                    Handler::Idle
                }
                Verdict::Unprotect(pages) => Handler::Unprotecting(pages),
                Verdict::Wait | Verdict::Failed => Handler::Judging(page),
            },
            Handler::Unprotecting(pages) => {
                self.unprotect(pages);
                Handler::Idle
            }
        };
    }

    fn step_owner(&mut self) {
        let has_ended = self.state.phase == Phase::Ended;
        self.owner = match self.owner.clone() {
            Owner::Protecting(page) => {
                self.protected[page] = self.populated[page];
                Owner::Scanning(page)
            }
            Owner::Scanning(page) => {
                self.scan(page..page + 1);
                if page + 1 < PAGES { Owner::Protecting(page + 1) } else { Owner::ProtectingAgain }
            }
            Owner::ProtectingAgain => {
                let protected = &mut self.protected;
                let protect = |pages: &Range<u64>| {
                    pages.clone().for_each(|page| protected[index(page)] = true);
                    Ok(())
                };
                self.state.protect_again(0, 0, 32, protect).unwrap();
                Owner::Prepared
            }
            Owner::Reading(_) if has_ended => Owner::Ending,
            Owner::Reading(page) => match self.state.begin_read(0, page, 1) {
                Stretch::Zeros(_) => {
                    self.check(page, 0);
                    Owner::Releasing(page)
                }
                Stretch::Pinned(_, pin) => Owner::Copying(page, pin),
                Stretch::Copied => {
                    self.check(page, self.state.copies.get(FIRST + page as u64).unwrap()[0]);
                    Owner::Releasing(page)
                }
                Stretch::Released | Stretch::Busy => panic!("there is one reader"),
            },
            Owner::Copying(page, pin) => Owner::Unpinning(page, pin, self.contents[page]),
            Owner::Unpinning(page, pin, value) => {
                if self.state.unpin(0, pin) {
                    self.check(page, value);
                    Owner::Releasing(page)
                } else {
                    assert!(has_ended);
                    Owner::Ending
                }
            }
            Owner::Releasing(page) => match self.state.release(0, page + 1) {
                Some(pages) => Owner::Unprotecting(page, pages),
                None => Owner::Ending,
            },
            Owner::Unprotecting(page, pages) => {
                self.unprotect(pages);
                if page + 1 < PAGES { Owner::Reading(page + 1) } else { Owner::Ending }
            }
            Owner::Ending => {
                self.state.end(None);
                Owner::Unregistering
            }
            Owner::Unregistering => {
                self.unprotect(FIRST..FIRST + PAGES as u64);
                Owner::Done
            }
            Owner::Prepared | Owner::Done => panic!("it has nothing to do"),
        };
    }

    /// Checks what the reader has read.
    fn check(&self, page: usize, value: u8) {
        assert_eq!(value, self.frozen.unwrap()[page], "page {page}");
    }
}

/// Explores all orders of steps. Returns the number of states.
fn explore(writes: [&[Operation]; 2], slots: usize, at_limit: AtLimit, may_cancel: bool) -> usize {
    let first = World::new(writes, slots, at_limit, may_cancel);
    let mut seen = HashSet::from([first.fingerprint()]);
    let mut stack = vec![(first, Vec::new())];
    while let Some((world, path)) = stack.pop() {
        let mut has_progress = false;
        for step in world.steps() {
            let mut next = world.copy();
            let mut path = path.clone();
            path.push(step);
            let applied =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next.apply(step)));
            assert!(applied.is_ok(), "after {path:?}");
            let fingerprint = next.fingerprint();
            has_progress |= fingerprint != world.fingerprint();
            if seen.insert(fingerprint) {
                stack.push((next, path));
            }
        }
        if !has_progress {
            let is_done = world.writers.iter().all(|writer| writer.next == writer.operations.len());
            assert!(
                is_done && world.owner == Owner::Done,
                "stuck after {path:?}: {}",
                world.fingerprint()
            );
        }
    }
    seen.len()
}

/// Explores each of the programs with room for many copies and for one, and with and without cancellation. Returns the
/// number of states.
fn explore_all(programs: &[[&[Operation]; 2]]) -> usize {
    let mut states = 0;
    for writes in programs {
        for (slots, at_limit) in [(4, AtLimit::Fail), (1, AtLimit::Fail), (1, AtLimit::Wait)] {
            for may_cancel in [false, true] {
                states += explore(*writes, slots, at_limit, may_cancel);
            }
        }
    }
    states
}

#[test]
fn every_order_of_events_is_consistent() {
    let states = explore_all(&[
        [&[Write(0, 1), Freeze, Write(0, 2)], &[Write(0, 3)]],
        [&[Freeze, Write(1, 1)], &[Write(1, 2)]],
    ]);
    assert!(states > 1000, "{states} states are too few");
}

#[test]
#[ignore = "takes minutes"]
fn every_order_of_more_events_is_consistent() {
    let states = explore_all(&[
        [&[Write(0, 1), Freeze, Write(0, 2), Write(0, 3)], &[Write(1, 4), Write(0, 5)]],
        [&[Freeze, Write(1, 1)], &[Write(1, 2), Write(1, 3), Write(0, 4)]],
        [&[Write(1, 1), Write(1, 2), Freeze, Write(1, 3)], &[Write(1, 4)]],
    ]);
    assert!(states > 10_000, "{states} states are too few");
}
