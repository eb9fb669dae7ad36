//! Fuzzes `tengate_fuzz::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::text(data));
