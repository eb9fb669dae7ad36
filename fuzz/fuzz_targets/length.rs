//! Fuzzes `tengate_fuzz::length`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::length(data));
