//! Recordings of real peers (`testdata/*.hex`), for the tests of the codecs.

use alloc::vec::Vec;

/// Everything one side wrote in a recording: `client` or `server`, then hexadecimal, a line a write.
pub(super) fn written_by(side: &str, recording: &str) -> Vec<u8> {
    recording
        .lines()
        .filter_map(|line| line.strip_prefix(side))
        .flat_map(|line| line.trim().as_bytes().chunks(2))
        .map(|digits| {
            let digits = core::str::from_utf8(digits).expect("recordings are ASCII");
            u8::from_str_radix(digits, 16).expect("recordings are hexadecimal")
        })
        .collect()
}
