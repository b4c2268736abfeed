//! `corestream inspect`.

mod facts;
mod hostile_names;
mod lines;
mod report;
mod symbols;
mod values;
