//! Explores all orders of events of small snapshots.
//!
//! # The model
//! A memory has three pages. Two threads write numbers to them, and the first one also freezes the snapshot. Another
//! thread handles faults, and one prepares, reads the frozen pages and ends the snapshot. A third reader may read them at
//! the same time. A step is a critical section, or a system call outside of one. A write to a protected page posts a
//! message and waits until the page is unprotected. A signal can post the message again.
//!
//! The test explores every order of the steps, from each state once. The reader must find the contents of the freeze. If
//! no step is possible, all writes must have been made, and the snapshot must have ended.
//!
//! # The cost
//! The tables of a [`State`] are mappings, which are slow to create. So there is one `State`, and each step first loads
//! its tables from a [`Node`].

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const PAGES: usize = 3;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Writer {
    /// The number of operations that are done.
    done: usize,
    /// The page for which it waits.
    waits_for: Option<usize>,
}

/// The thread that handles faults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Handler {
    Idle,
    /// It has taken a message for this page, and judges it.
    Judging(u64),
    /// It is about to unprotect these pages.
    Unprotecting(Range<u64>),
}

/// The thread that prepares, reads and ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Protecting(usize),
    Scanning(usize),
    ProtectingAgain,
    /// It waits for the freeze.
    Prepared,
    Reading(usize),
    /// It copies these pinned pages one by one, and has these contents so far.
    Copying(Range<usize>, Pin, Vec<u8>),
    /// It has read the pages before this one.
    Releasing(usize),
    Unprotecting(usize, Range<u64>),
    Ending,
    Unregistering,
    Done,
}

/// A thread that reads the frozen pages once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scanner {
    Reading(usize),
    /// It copies these pinned pages one by one, and has these contents so far.
    Copying(Range<usize>, Pin, Vec<u8>),
    Done,
}

/// The kernel and the threads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    contents: [u8; PAGES],
    populated: [bool; PAGES],
    protected: [bool; PAGES],
    messages: Vec<u64>,
    writers: [Writer; 2],
    handler: Handler,
    owner: Owner,
    scanner: Scanner,
    /// The contents at the freeze.
    frozen: Option<[u8; PAGES]>,
    /// How many messages a signal may still post again.
    duplicates: usize,
}

/// The tables of a [`State`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tables {
    phase: Phase,
    failure: Option<Failure>,
    present: [bool; PAGES],
    open: [bool; PAGES],
    copies: [Option<u8>; PAGES],
    released: usize,
    pins: Vec<Option<Range<u64>>>,
    last_fault: (u64, u64),
}

/// A state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    model: Model,
    tables: Tables,
}

struct World {
    operations: [&'static [Operation]; 2],
    releases: bool,
    /// The maximum number of pages that the reader pins at once.
    most: usize,
    /// Whether the snapshot may be cancelled at any time after the freeze.
    may_cancel: bool,
    model: Model,
    state: State,
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
    Scanner,
    Cancel,
}

fn index(page: u64) -> usize {
    usize::try_from(page - FIRST).unwrap()
}

impl World {
    fn new(scenario: &Scenario, slots: usize, at_limit: AtLimit, may_cancel: bool) -> Self {
        let pages = MemoryPages::new(FIRST..FIRST + PAGES as u64).unwrap();
        let copies = Copies::new(slots, PAGE_BYTES).unwrap();
        Self {
            operations: scenario.operations,
            releases: scenario.releases,
            most: scenario.most,
            may_cancel,
            model: Model {
                contents: [0; PAGES],
                populated: scenario.populated,
                protected: [false; PAGES],
                messages: Vec::new(),
                writers: [Writer::default(); 2],
                handler: Handler::Idle,
                owner: Owner::Protecting(0),
                scanner: if scenario.pins.is_some() { Scanner::Reading(0) } else { Scanner::Done },
                frozen: None,
                duplicates: scenario.duplicates,
            },
            state: State::new(vec![pages], copies, at_limit, scenario.pins.unwrap_or(1)),
        }
    }

    fn save(&self) -> Node {
        let state = &self.state;
        let memory = &state.memories[0];
        let tables = Tables {
            phase: state.phase,
            failure: state.failure,
            present: std::array::from_fn(|i| memory.present.contains(i)),
            open: std::array::from_fn(|i| memory.open.contains(i)),
            copies: std::array::from_fn(|i| Some(state.copies.get(FIRST + i as u64)?[0])),
            released: memory.released,
            pins: state.pins.clone(),
            last_fault: state.last_fault,
        };
        Node { model: self.model.clone(), tables }
    }

    fn load(&mut self, node: &Node) {
        let Node { model, tables } = node.clone();
        let state = &mut self.state;
        (state.phase, state.failure) = (tables.phase, tables.failure);
        (state.pins, state.last_fault) = (tables.pins, tables.last_fault);
        let memory = &mut state.memories[0];
        memory.released = tables.released;
        memory.present.remove(0..PAGES);
        memory.open.remove(0..PAGES);
        for i in 0..PAGES {
            if tables.present[i] {
                memory.present.insert(i..i + 1);
            }
            if tables.open[i] {
                memory.open.insert(i..i + 1);
            }
            state.copies.remove(FIRST + i as u64);
        }
        for (page, copy) in (FIRST..).zip(tables.copies) {
            if let Some(copy) = copy {
                state.copies.add(page).unwrap().fill(copy);
            }
        }
        self.model = model;
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (i, writer) in self.model.writers.iter().enumerate() {
            match self.operations[i].get(writer.done) {
                // The freeze needs the finished preparation, or finds that it has ended.
                Some(Freeze) if self.model.owner != Owner::Prepared => {}
                Some(_) if writer.waits_for.is_none() => steps.push(Step::Writer(i)),
                Some(_) if self.model.duplicates > 0 => steps.push(Step::PostAgain(i)),
                _ => {}
            }
        }
        if self.model.handler != Handler::Idle || !self.model.messages.is_empty() {
            steps.push(Step::Handler);
        }
        if !matches!(self.model.owner, Owner::Prepared | Owner::Done) {
            steps.push(Step::Owner);
        }
        // The owner waits for the scanner before it ends the snapshot, unless it is cancelled.
        if self.model.scanner != Scanner::Done && self.model.frozen.is_some() {
            steps.push(Step::Scanner);
        }
        if self.may_cancel && self.model.frozen.is_some() && self.state.phase == Phase::Frozen {
            steps.push(Step::Cancel);
        }
        steps
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Writer(i) => self.step_writer(i),
            Step::PostAgain(i) => {
                self.model.duplicates -= 1;
                let page = self.model.writers[i].waits_for.unwrap();
                self.model.messages.push(FIRST + page as u64);
            }
            Step::Handler => self.step_handler(),
            Step::Owner => self.step_owner(),
            Step::Scanner => self.step_scanner(),
            Step::Cancel => self.state.end(None),
        }
        self.check_invariant();
    }

    /// Checks the invariant of the state machine.
    fn check_invariant(&self) {
        let (State { phase: Phase::Frozen, memories, .. }, Some(frozen)) =
            (&self.state, self.model.frozen)
        else {
            return;
        };
        let memory = &memories[0];
        for (page, frozen) in frozen.into_iter().enumerate().skip(memory.released) {
            let copy = self.state.copies.get(FIRST + page as u64);
            match (memory.present.contains(page), memory.open.contains(page)) {
                (true, true) => assert_eq!(copy.map(|copy| copy[0]), Some(frozen)),
                (true, false) => {
                    assert!(self.model.protected[page], "page {page} is writable");
                    assert_eq!(self.model.contents[page], frozen, "page {page}");
                }
                (false, _) => assert_eq!(frozen, 0, "page {page} is missing"),
            }
        }
    }

    fn step_writer(&mut self, i: usize) {
        match self.operations[i][self.model.writers[i].done] {
            Write(page, value) if !self.model.protected[page] => {
                self.model.contents[page] = value;
                self.model.populated[page] = true;
                self.model.writers[i].done += 1;
            }
            Write(page, _) => {
                self.model.writers[i].waits_for = Some(page);
                self.model.messages.push(FIRST + page as u64);
            }
            Freeze => {
                self.scan(0..PAGES);
                let (contents, protected) =
                    (Contents(self.model.contents), &mut self.model.protected);
                let protect = |pages: &Range<u64>| {
                    pages.clone().for_each(|page| protected[index(page)] = true);
                    Ok(())
                };
                self.state.freeze(&contents, protect).unwrap();
                self.model.frozen = Some(self.model.contents);
                self.model.owner = Owner::Reading(0);
                self.model.writers[i].done += 1;
                let memory = &self.state.memories[0];
                for page in 0..PAGES {
                    // The page is writable if and only if it is open.
                    if memory.present.contains(page) {
                        assert_eq!(memory.open.contains(page), !self.model.protected[page]);
                    }
                }
            }
        }
    }

    fn scan(&mut self, pages: Range<usize>) {
        for page in pages {
            if self.model.populated[page] {
                self.state.add_pages(0, page..page + 1, !self.model.protected[page]);
            }
        }
    }

    fn unprotect(&mut self, pages: Range<u64>) {
        for page in pages.map(index) {
            self.model.protected[page] = false;
            for writer in &mut self.model.writers {
                writer.waits_for = writer.waits_for.filter(|waits_for| *waits_for != page);
            }
        }
    }

    fn step_handler(&mut self) {
        self.model.handler = match self.model.handler.clone() {
            Handler::Idle => Handler::Judging(self.model.messages.remove(0)),
            Handler::Judging(page) => {
                match self.state.judge(page, &Contents(self.model.contents)) {
                    Verdict::Foreign => panic!("the page belongs to the memory"),
                    Verdict::UnprotectLocked(pages) => {
                        self.unprotect(pages);
                        Handler::Idle
                    }
                    Verdict::Unprotect(pages) => Handler::Unprotecting(pages),
                    Verdict::Wait | Verdict::Failed => Handler::Judging(page),
                }
            }
            Handler::Unprotecting(pages) => {
                self.unprotect(pages);
                Handler::Idle
            }
        };
    }

    fn step_owner(&mut self) {
        let has_ended = self.state.phase == Phase::Ended;
        self.model.owner = match self.model.owner.clone() {
            Owner::Protecting(page) => {
                self.model.protected[page] = self.model.populated[page];
                Owner::Scanning(page)
            }
            Owner::Scanning(page) => {
                self.scan(page..page + 1);
                if page + 1 < PAGES { Owner::Protecting(page + 1) } else { Owner::ProtectingAgain }
            }
            Owner::ProtectingAgain => {
                let protected = &mut self.model.protected;
                let protect = |pages: &Range<u64>| {
                    pages.clone().for_each(|page| protected[index(page)] = true);
                    Ok(())
                };
                self.state.protect_again(0, 0, 32, protect).unwrap();
                Owner::Prepared
            }
            Owner::Reading(_) if has_ended => Owner::Ending,
            Owner::Reading(page) => match self.state.begin_read(0, page, self.most) {
                Stretch::Zeros(pages) => {
                    (page..page + pages).for_each(|page| self.check(page, 0));
                    Owner::Releasing(page + pages)
                }
                Stretch::Pinned(pages, pin) => Owner::Copying(page..page + pages, pin, Vec::new()),
                Stretch::Copied => {
                    self.check(page, self.state.copies.get(FIRST + page as u64).unwrap()[0]);
                    Owner::Releasing(page + 1)
                }
                Stretch::Busy => Owner::Reading(page),
                Stretch::Released => panic!("only this reader releases pages"),
            },
            Owner::Copying(pages, pin, mut contents) if contents.len() < pages.len() => {
                contents.push(self.model.contents[pages.start + contents.len()]);
                Owner::Copying(pages, pin, contents)
            }
            Owner::Copying(pages, pin, contents) => {
                if self.state.unpin(0, pin) {
                    let end = pages.end;
                    pages.zip(contents).for_each(|(page, value)| self.check(page, value));
                    Owner::Releasing(end)
                } else {
                    assert!(has_ended);
                    Owner::Ending
                }
            }
            Owner::Releasing(end) if !self.releases => Self::next_read(end),
            Owner::Releasing(end) => match self.state.release(0, end) {
                Some(pages) => Owner::Unprotecting(end, pages),
                None => Owner::Ending,
            },
            Owner::Unprotecting(end, pages) => {
                self.unprotect(pages);
                Self::next_read(end)
            }
            Owner::Ending if self.model.scanner != Scanner::Done && !has_ended => Owner::Ending,
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

    fn step_scanner(&mut self) {
        let has_ended = self.state.phase == Phase::Ended;
        let next_read = |page| if page < PAGES { Scanner::Reading(page) } else { Scanner::Done };
        self.model.scanner = match self.model.scanner.clone() {
            Scanner::Reading(_) if has_ended => Scanner::Done,
            Scanner::Reading(page) => match self.state.begin_read(0, page, self.most) {
                Stretch::Zeros(pages) => {
                    (page..page + pages).for_each(|page| self.check(page, 0));
                    next_read(page + pages)
                }
                Stretch::Pinned(pages, pin) => {
                    Scanner::Copying(page..page + pages, pin, Vec::new())
                }
                Stretch::Copied => {
                    self.check(page, self.state.copies.get(FIRST + page as u64).unwrap()[0]);
                    next_read(page + 1)
                }
                Stretch::Busy => Scanner::Reading(page),
                Stretch::Released => Scanner::Done,
            },
            Scanner::Copying(pages, pin, mut contents) if contents.len() < pages.len() => {
                contents.push(self.model.contents[pages.start + contents.len()]);
                Scanner::Copying(pages, pin, contents)
            }
            Scanner::Copying(pages, pin, contents) => {
                // The other reader may have released the pages meanwhile, or the snapshot has ended.
                if self.state.unpin(0, pin) {
                    let end = pages.end;
                    pages.zip(contents).for_each(|(page, value)| self.check(page, value));
                    next_read(end)
                } else {
                    Scanner::Done
                }
            }
            Scanner::Done => panic!("it has nothing to do"),
        };
    }

    /// Returns the step after all pages before `page` were read.
    fn next_read(page: usize) -> Owner {
        if page < PAGES { Owner::Reading(page) } else { Owner::Ending }
    }

    /// Checks the contents of a page that the reader has read.
    fn check(&self, page: usize, value: u8) {
        assert_eq!(value, self.model.frozen.unwrap()[page], "page {page}");
    }
}

/// The writes of the two threads, and the memory at first.
struct Scenario {
    operations: [&'static [Operation]; 2],
    populated: [bool; PAGES],
    duplicates: usize,
    /// Whether the reader releases the pages that it has read.
    releases: bool,
    /// The maximum number of pages that a reader pins at once.
    most: usize,
    /// The number of pins if there are two readers.
    pins: Option<usize>,
}

/// Explores all orders of steps. Returns the number of states.
fn explore(scenario: &Scenario, slots: usize, at_limit: AtLimit, may_cancel: bool) -> usize {
    let mut world = World::new(scenario, slots, at_limit, may_cancel);
    let first = world.save();
    let mut seen = HashSet::from([first.clone()]);
    // The step that first led to a state, and the index of the step before it.
    let mut steps: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut stack = vec![(first, 0)];
    while let Some((node, at)) = stack.pop() {
        world.load(&node);
        let mut has_progress = false;
        for step in world.steps() {
            world.load(&node);
            let applied = catch_unwind(AssertUnwindSafe(|| world.apply(step)));
            assert!(applied.is_ok(), "after {:?} and {step:?}", path(&steps, at));
            let next = world.save();
            has_progress |= next != node;
            if seen.insert(next.clone()) {
                stack.push((next, steps.len()));
                steps.push((at, Some(step)));
            }
        }
        if !has_progress {
            let is_done = (0..2).all(|i| node.model.writers[i].done == world.operations[i].len());
            let is_done = is_done && node.model.owner == Owner::Done;
            let is_done = is_done && node.model.protected == [false; PAGES];
            assert!(is_done, "stuck after {:?}: {node:?}", path(&steps, at));
        }
    }
    seen.len()
}

/// Returns the steps that led to a state.
fn path(steps: &[(usize, Option<Step>)], mut at: usize) -> Vec<Step> {
    let mut path = Vec::new();
    while let (before, Some(step)) = steps[at] {
        path.push(step);
        at = before;
    }
    path.reverse();
    path
}

fn two_readers(releases: bool) -> Scenario {
    Scenario {
        operations: [&[Freeze, Write(0, 1), Write(1, 2)], &[Write(0, 3)]],
        populated: [true, true, false],
        duplicates: 0,
        releases,
        most: PAGES,
        pins: None,
    }
}

#[test]
fn every_order_of_events_is_consistent() {
    let scenario = |operations, populated| Scenario {
        operations,
        populated,
        duplicates: 1,
        releases: true,
        most: PAGES,
        pins: None,
    };
    let scenarios = [
        // Both threads write to the same pages. The second page is populated by its first write.
        scenario(
            [
                &[Write(0, 1), Write(1, 2), Freeze, Write(0, 3), Write(1, 4)],
                &[Write(0, 5), Write(0, 6)],
            ],
            [true, false, false],
        ),
        scenario(
            [
                &[Write(0, 1), Freeze, Write(0, 2), Write(0, 3)],
                &[Write(1, 4), Write(0, 5), Write(1, 6)],
            ],
            [true, false, false],
        ),
        scenario(
            [&[Freeze, Write(1, 1)], &[Write(1, 2), Write(1, 3), Write(0, 4)]],
            [true, false, false],
        ),
        // Writes in order, so that one fault releases several pages.
        scenario(
            [&[Write(0, 1), Freeze, Write(0, 2), Write(1, 3), Write(2, 4)], &[Write(1, 5)]],
            [true, true, true],
        ),
        // The same, with a reader of single pages and without releases: a fault that releases several pages reaches one
        // that is pinned.
        Scenario {
            operations: [&[Freeze, Write(0, 2), Write(1, 3), Write(2, 4)], &[]],
            populated: [true, true, true],
            duplicates: 1,
            releases: false,
            most: 1,
            pins: None,
        },
        // Two readers, of which one releases pages, with a pin for each, and with one for both.
        Scenario { pins: Some(2), ..two_readers(true) },
        Scenario { pins: Some(1), ..two_readers(true) },
        Scenario { pins: Some(2), most: 1, ..two_readers(false) },
    ];
    let mut states = 0;
    for scenario in scenarios {
        for (slots, at_limit) in [(8, AtLimit::Fail), (1, AtLimit::Fail), (1, AtLimit::Wait)] {
            for may_cancel in [false, true] {
                states += explore(&scenario, slots, at_limit, may_cancel);
            }
        }
    }
    assert!(states > 10_000, "{states} states are too few");
}
