//! What the types of the public API promise at compile time.

mod must_use;
mod traits;
