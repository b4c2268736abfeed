//! `corestream receive`.

mod ends;
mod files;
mod hostile;
