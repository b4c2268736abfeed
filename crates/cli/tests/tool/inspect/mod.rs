//! `corestream inspect`.

mod facts;
mod hostile_names;
mod symbols;
