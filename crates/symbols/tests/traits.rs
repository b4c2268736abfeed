//! Traits of public types that users build on, asserted when this file is compiled.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};

use corestream_symbols::{Error, Known, ModuleFile, Position, Resolved, Symbols, Variable};

/// A plain value.
const fn value<T: Clone + Debug + Eq + Send + Sync>() {}

/// A type that can be passed to another thread.
const fn sent<T: Send>() {}

/// An error that can be boxed.
const fn error<T: StdError + Send + Sync + 'static>() {}

/// A value that is shown.
const fn shown<T: Display>() {}

const _: () = {
    value::<Error>();
    value::<Known>();
    value::<ModuleFile<'_>>();
    value::<Position>();
    value::<Resolved>();
    value::<Variable>();
    sent::<Symbols<'_>>();
    error::<Error>();
    shown::<Known>();
};
