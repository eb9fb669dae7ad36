//! Fuzzes `tengate_fuzz::connect_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::connect_body(data));
