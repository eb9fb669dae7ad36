//! Payloads that say when they were sent, so that every receiver, in whichever process, knows how long they took.

use std::io::Write as _;

/// Fewest bytes of a stamped payload: a mark and the stamp.
pub(crate) const STAMPED_BYTES_MIN: usize = 1 + STAMP_BYTES;

/// Makes `payload` one of `bytes` bytes: a mark, the instant in hexadecimal digits, filler.
pub(crate) fn encode(nanos: u64, bytes: usize, payload: &mut Vec<u8>) {
    payload.clear();
    write!(payload, "{}{nanos:0width$x}", char::from(MARK), width = STAMP_BYTES)
        .expect("a vector takes everything");
    payload.resize(bytes.max(STAMPED_BYTES_MIN), b'x');
}

/// The instant; `None` when the payload has none.
pub(crate) fn decode(payload: &[u8]) -> Option<u64> {
    let digits = payload.get(1..STAMPED_BYTES_MIN).filter(|_| payload[0] == MARK)?;
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// A broadcast goes out as it came, with its verb; so every payload begins with it.
const MARK: u8 = crate::worker::BROADCAST;
const STAMP_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_out_as_it_went_in() {
        let mut payload = Vec::new();
        for (nanos, bytes) in [(0, 0), (1_234_567_890, 64), (u64::MAX, 17)] {
            encode(nanos, bytes, &mut payload);
            assert_eq!(payload.len(), bytes.max(STAMPED_BYTES_MIN));
            assert_eq!(decode(&payload), Some(nanos));
        }
        for payload in [&b""[..], b"*", b"+room", b"x0000000000000001", b"*000000000000000g"] {
            assert_eq!(decode(payload), None);
        }
    }
}
