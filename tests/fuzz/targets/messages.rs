#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| unanimous_tests::fuzz::check("messages", bytes));
