//! `corestream run`, as its user runs it.
