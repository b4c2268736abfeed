//! Capabilities of the machine that some tests need, such as strace, FUSE or root.

/// Reports that a test does not run because the machine lacks `capability`.
///
/// # Panics
/// Panics if the comma-separated list in `CORESTREAM_REQUIRE` names the capability: CI lists there
/// what it has set up, so a test that could run there never passes without running.
pub fn skip(capability: &str, why: impl std::fmt::Display) {
    let required = std::env::var("CORESTREAM_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name == capability);
    assert!(!is_required, "{capability} is required but missing: {why}");
    println!("skipped, needs {capability}: {why}");
}
