//! Fuzzes `tengate_fuzz::worker`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::worker(data));
