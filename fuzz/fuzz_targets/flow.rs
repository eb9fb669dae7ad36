//! Fuzzes `tengate_fuzz::flow`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::flow(data));
