#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| corestream_fuzz::debug::run(bytes));
