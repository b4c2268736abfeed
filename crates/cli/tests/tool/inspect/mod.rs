//! `corestream inspect`.

mod facts;
mod hostile_names;
mod report;
mod symbols;
mod values;
