//! Fuzzes `tengate_fuzz::netstack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::netstack(data));
