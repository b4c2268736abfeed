//! Traits that the public types implement, asserted when this file is compiled.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};

use corestream_symbols::{
    Error, Member, Mismatch, ModuleMatch, Position, Resolved, StaticUnit, SymbolFile, Symbols,
    Text, Unknown, Value, ValueLimits, Variable, Verdict,
};

/// Asserts the traits of a plain value.
const fn value<T: Clone + Debug + Eq + Send + Sync>() {}

/// Asserts that a type can be sent to another thread.
const fn sent<T: Send>() {}

/// Asserts that an error can be boxed and sent.
const fn error<T: StdError + Send + Sync + 'static>() {}

/// Asserts that a type can be displayed.
const fn shown<T: Display>() {}

const _: () = {
    value::<Error>();
    value::<Value>();
    value::<SymbolFile<'_>>();
    value::<Position>();
    value::<Resolved>();
    value::<Variable>();
    value::<Member>();
    value::<Mismatch>();
    value::<ModuleMatch>();
    value::<StaticUnit>();
    value::<Text>();
    value::<Unknown>();
    value::<ValueLimits>();
    value::<Verdict>();
    sent::<Symbols<'_>>();
    error::<Error>();
    shown::<Value>();
    shown::<Mismatch>();
    shown::<Unknown>();
};
