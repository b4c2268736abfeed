//! `corestream dump`.

mod changing;
mod command_line;
mod engines;
mod faults;
mod holes;
mod notes;
mod partial;
mod peers;
mod renumbered;
mod streams;
