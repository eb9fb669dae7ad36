//! Fuzzes `tengate_fuzz::length_field`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::length_field(data));
