//! `corestream run`.

mod checks;
mod guests;
