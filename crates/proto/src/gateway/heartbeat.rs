//! The heartbeat's decision for one client at one tick (docs/protocol.md#heartbeat).

/// What to do with a client at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// Nothing.
    Quiet,
    /// Send the ping.
    Ping,
    /// The client has been silent for too long.
    Close,
}

/// Where a count starts, and returns to with every whole message of the client.
pub(super) const HEARD: i16 = -1;

/// Counts one tick of silence. `limit` is `pingNotResponseLimit`, at most 10 000.
///
/// As in Gateway.php `ping`: the limit is tested before the count grows, the first tick after a message sends nothing,
/// and with a limit only every other tick pings, because ticks then come twice an interval.
pub(super) fn tick(count: &mut i16, limit: u16) -> Tick {
    let limit = i32::from(limit);
    if limit > 0 && i32::from(*count) >= limit * 2 {
        return Tick::Close;
    }
    *count = count.saturating_add(1);
    if *count == 0 || (limit > 0 && *count % 2 == 1) { Tick::Quiet } else { Tick::Ping }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn silence(limit: u16, ticks: usize) -> Vec<Tick> {
        let mut count = HEARD;
        (0..ticks).map(|_| tick(&mut count, limit)).collect()
    }

    #[test]
    fn without_a_limit_every_tick_but_the_first_pings_and_none_closes() {
        assert_eq!(silence(0, 4), [Tick::Quiet, Tick::Ping, Tick::Ping, Tick::Ping]);
        assert!(!silence(0, 40_000).contains(&Tick::Close));
    }

    #[test]
    fn with_a_limit_even_counts_ping_and_twice_the_limit_closes() {
        assert_eq!(silence(1, 4), [Tick::Quiet, Tick::Quiet, Tick::Ping, Tick::Close]);
        assert_eq!(
            silence(2, 6),
            [Tick::Quiet, Tick::Quiet, Tick::Ping, Tick::Quiet, Tick::Ping, Tick::Close]
        );
    }
}
