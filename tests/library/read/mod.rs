//! Opening, listing, reading and restoring dumps.

mod control;
mod dumps;
mod facts;
mod limits;
mod old_dumps;
mod other_writers;
mod restore;
mod rewritten_file;
mod salvage;
mod sources;
