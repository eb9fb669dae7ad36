//! Fuzzes `tengate_fuzz::php_session_merge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tengate_fuzz::php_session_merge(data));
