//! `corestream extract`.

mod damaged;
mod files;
