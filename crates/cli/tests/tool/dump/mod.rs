//! `corestream dump`, and what all outputs have in common.

mod changing;
mod close;
mod directories;
mod engines;
mod faults;
mod holes;
mod naming;
mod notes;
mod partial;
mod peers;
mod renumbered;
mod streams;
mod targets;
