//! Fuzzes `tengate_fuzz::dispatcher`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::dispatcher(data));
