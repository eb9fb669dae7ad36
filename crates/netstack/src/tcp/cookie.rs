//! SYN cookies (RFC 4987 3.6): a connection's beginning, kept in the numbers of our SYN-ACK instead of in memory.
//!
//! A cookie is five bits of time (64 s each), three that choose a segment size, and 24 of a keyed hash over both ends, the
//! peer's own number and the other eight bits. With timestamps, the lowest five bits of ours hold the peer's window scale
//! and whether it knows SACK; they come back as the echo. Without, neither can be used.

use core::net::Ipv6Addr;

use tengate_base::Instant;

use super::tcb::recv_scale;
use crate::flow::FlowKey;
use crate::seq::Seq;
use crate::siphash::SipKey;
use crate::wire::tcp::Options;

/// The initial sequence number that answers a SYN.
pub(crate) fn encode(
    key: SipKey,
    flow: &FlowKey,
    local: Ipv6Addr,
    now: Instant,
    peer_iss: Seq,
    mss: u16,
) -> Seq {
    let index = SIZES.iter().rposition(|size| *size <= mss).unwrap_or(0);
    let head = period(now) << 3 | u32::try_from(index).expect("one of eight");
    Seq(head << 24 | hash(key, flow, local, peer_iss, head))
}

/// The segment size in the cookie that a peer acknowledges, if it is one of ours and not older than two minutes.
pub(crate) fn decode(
    key: SipKey,
    flow: &FlowKey,
    local: Ipv6Addr,
    now: Instant,
    peer_iss: Seq,
    cookie: Seq,
) -> Option<u16> {
    let head = cookie.0 >> 24;
    let age = period(now).wrapping_sub(head >> 3) & PERIOD_MASK;
    let is_ours = cookie.0 & 0x00ff_ffff == hash(key, flow, local, peer_iss, head);
    (age <= PERIODS_MAX && is_ours).then(|| SIZES[(head & 7) as usize])
}

/// A timestamp not after `now_timestamp` that holds what a SYN offered.
pub(crate) fn encode_timestamp(now_timestamp: u32, offered: &Options) -> u32 {
    let scale = offered.window_scale.map_or(NO_SCALE, u32::from);
    let bits = scale << 1 | u32::from(offered.sack_permitted);
    let timestamp = now_timestamp & !TIMESTAMP_BITS | bits;
    let is_later = now_timestamp.wrapping_sub(timestamp).cast_signed() < 0;
    if is_later { timestamp.wrapping_sub(TIMESTAMP_BITS + 1) } else { timestamp }
}

/// What the SYN offered, from the echo of such a timestamp.
pub(crate) fn decode_timestamp(echo: u32) -> Options {
    let scale = u8::try_from((echo & TIMESTAMP_BITS) >> 1).expect("four bits");
    Options {
        window_scale: (u32::from(scale) != NO_SCALE).then_some(scale),
        sack_permitted: echo & 1 == 1,
        ..Options::default()
    }
}

/// The window scale that our SYN-ACK tells a peer whose options come back.
pub(crate) fn own_scale(offered: &Options, window_bytes: u32) -> Option<u8> {
    offered.window_scale.filter(|_| offered.timestamps.is_some()).map(|_| recv_scale(window_bytes))
}

fn period(now: Instant) -> u32 {
    u32::try_from((now.as_nanos() / PERIOD_NANOS) & u64::from(PERIOD_MASK)).expect("five bits")
}

#[expect(clippy::cast_possible_truncation, reason = "24 bits are wanted")]
fn hash(key: SipKey, flow: &FlowKey, local: Ipv6Addr, peer_iss: Seq, head: u32) -> u32 {
    let [a, b, c, d, ports] = flow.words(local);
    let numbers = u64::from(peer_iss.0) << 32 | u64::from(head);
    key.hash(&[a, b, c, d, ports, numbers]) as u32 & 0x00ff_ffff
}

/// What paths carry, ascending: IPv4 at least, IPv6 at least, tunnels, PPPoE, Ethernet with IPv6 and IPv4, jumbo frames.
const SIZES: [u16; 8] = [536, 1220, 1360, 1400, 1432, 1440, 1460, 8960];
const PERIOD_NANOS: u64 = 64 * 1_000_000_000;
const PERIOD_MASK: u32 = 31;
/// Periods after its own in which a cookie is good.
const PERIODS_MAX: u32 = 1;
const TIMESTAMP_BITS: u32 = 31;
const NO_SCALE: u32 = 15;

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const FLOW: FlowKey =
        FlowKey { remote: Ipv6Addr::LOCALHOST, remote_port: 5, local_port: 80, local: 0 };

    proptest! {
        #[test]
        fn cookies_come_back_for_a_minute_and_nothing_else_does(
            seconds in 0..1_000_000_u64, age in 0..600_u64, iss: u32, mss: u16, changed in 0..32_u32,
        ) {
            let key = SipKey::new([9; 16]);
            let local = Ipv6Addr::UNSPECIFIED;
            let then = Instant::ZERO + Duration::from_secs(seconds);
            let now = then + Duration::from_secs(age);
            let cookie = encode(key, &FLOW, local, then, Seq(iss), mss);
            let decoded = decode(key, &FLOW, local, now, Seq(iss), cookie);
            if age <= 64 {
                prop_assert!(decoded.is_some_and(|size| size <= mss.max(536)));
            }
            if age >= 128 {
                prop_assert_eq!(decoded, None);
            }
            let forged = Seq(cookie.0 ^ 1 << changed);
            prop_assert_eq!(decode(key, &FLOW, local, then, Seq(iss), forged), None);
            prop_assert_eq!(decode(key, &FLOW, local, then, Seq(iss) + 1, cookie), None);
        }

        #[test]
        fn options_come_back_in_a_timestamp_that_is_not_in_the_future(
            now: u32, scale in prop::option::of(0..=14_u8), sack: bool,
        ) {
            let offered = Options { window_scale: scale, sack_permitted: sack, ..Options::default() };
            let timestamp = encode_timestamp(now, &offered);
            prop_assert!(now.wrapping_sub(timestamp) <= 2 * TIMESTAMP_BITS);
            prop_assert_eq!(decode_timestamp(timestamp), offered);
        }
    }
}
