//! Fuzzes `tengate_fuzz::client_id`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::client_id(data));
