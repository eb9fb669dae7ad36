//! Fuzzes `tengate_fuzz::register_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::register_client(data));
