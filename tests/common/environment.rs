//! Capabilities of the machine that some tests need, such as strace, FUSE or root.
#![allow(dead_code, unused_macros, reason = "each test crate uses a part")]

use std::fmt::Display;
use std::io::{self, Write as _};

/// The names that `CORESTREAM_REQUIRE` may list.
pub const CAPABILITIES: &[&str] = &[
    "append-only",
    "avx2",
    "binaryen",
    "clang",
    "fallocate",
    "fuse",
    "groff",
    "hugepages",
    "hugetlb",
    "leases",
    "lldb",
    "llvm",
    "mandoc",
    "maps",
    "mount",
    "node",
    "overlay",
    "pagemap",
    "pagemap-scan",
    "procmap-query",
    "root",
    "strace",
    "swap",
    "tmpfs",
    "userfaultfd",
    "vdso",
    "vfat",
];

/// Returns from the test, which then counts as skipped, if the machine lacks a capability.
///
/// - `require!(strace)` and `require!(root)` check a capability.
/// - `let fuse = require!("fuse", Fuse::new(faults));` evaluates to the value of a `Result` whose error, anything that
///   can be displayed, means that the capability is missing.
///
/// The test must return `()`. A helper returns the `Result` to its test instead of using this macro.
///
/// # Panics
/// Panics if the capability is missing and `CORESTREAM_REQUIRE` names it (see [`report_missing`]).
macro_rules! require {
    (strace) => {
        $crate::environment::require!("strace", $crate::strace::probe())
    };
    (root) => {
        $crate::environment::require!("root", $crate::environment::probe_root())
    };
    ($capability:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => return $crate::environment::report_missing($capability, why),
        }
    };
}
#[allow(unused_imports, reason = "some test crates only report what is missing")]
pub(crate) use require;

/// Reports on standard error that a test, or a part of it, is skipped because the machine lacks `capability`.
///
/// libtest captures what `eprintln!` writes, so this writes to standard error itself: a skipped test is visible in the
/// output of `cargo test`.
///
/// # Panics
/// Panics if `CORESTREAM_REQUIRE` is `all` or a comma-separated list that names the capability. CI lists there what it
/// has set up, so a test that could run there never passes without running. Also panics if the capability, or a name
/// in the list, is unknown.
pub fn report_missing(capability: &str, why: impl Display) {
    let is_known = |name: &str| CAPABILITIES.contains(&name);
    assert!(is_known(capability), "{capability} is not in CAPABILITIES");
    let required = std::env::var("CORESTREAM_REQUIRE").unwrap_or_default();
    let mut names = required.split(',').filter(|name| !name.is_empty());
    let is_required = names.any(|name| {
        assert!(name == "all" || is_known(name), "CORESTREAM_REQUIRE: unknown capability {name}");
        name == "all" || name == capability
    });
    assert!(!is_required, "{capability} is required but missing: {why}");
    let test = std::thread::current();
    let test = test.name().unwrap_or("a thread of a test");
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "skipped: {test} needs {capability}: {why}");
}

/// Returns an error if this process does not run as root.
pub fn probe_root() -> Result<(), &'static str> {
    rustix::process::geteuid().is_root().then_some(()).ok_or("the tests do not run as root")
}
