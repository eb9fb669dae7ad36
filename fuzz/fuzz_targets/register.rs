//! Fuzzes `tengate_fuzz::register`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::register(data));
