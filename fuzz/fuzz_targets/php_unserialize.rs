//! Fuzzes `tengate_fuzz::php_unserialize`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::php_unserialize(data));
