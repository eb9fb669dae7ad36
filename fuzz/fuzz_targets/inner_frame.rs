//! Fuzzes `tengate_fuzz::inner_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::inner_frame(data));
