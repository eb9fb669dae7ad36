//! Fuzzes `tengate_fuzz::ext`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::ext(data));
