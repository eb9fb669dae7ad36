//! When the first slow start ends before anything is lost: round trips that grow tell of a queue that fills (HyStart++,
//! RFC 9406).

use core::time::Duration;

use crate::seq::Seq;

/// What the first slow start knows of its rounds. Times are microseconds, 0 while there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlowStart {
    /// The round ends when this is acknowledged; `None` before the first.
    round_end: Option<Seq>,
    /// Least round trips of this round and of the one before (`currentRoundMinRTT`, `lastRoundMinRTT`).
    min_rtt: u32,
    last_min_rtt: u32,
    /// Measurements in this round.
    samples: u8,
    /// The least round trip when growth became careful (`cssBaselineMinRtt`), 0 while it is not.
    careful_from: u32,
    /// Rounds since then.
    careful_rounds: u8,
}

/// What an acknowledgement lets the window do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It grows by so many bytes.
    By(u32),
    /// It has grown enough: slow start is over.
    Over,
}

impl SlowStart {
    /// `acked` bytes arrived, up to `una`, and the last of them took `rtt` if that could be measured (RFC 9406 4.2).
    pub(crate) fn handle_ack(
        &mut self,
        acked: u32,
        rtt: Option<Duration>,
        una: Seq,
        nxt: Seq,
    ) -> Growth {
        if self.round_end.is_none_or(|end| una.ge(end)) {
            self.begin_round(nxt);
            if self.careful_rounds > CAREFUL_ROUNDS {
                return Growth::Over;
            }
        }
        if let Some(rtt) = rtt {
            let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
            self.min_rtt = if self.min_rtt == 0 { rtt } else { self.min_rtt.min(rtt) };
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples >= SAMPLES_MIN {
            self.compare();
        }
        // The limit of eight segments for senders that do not pace is left out: a receiver may merge many into one
        // acknowledgement.
        Growth::By(if self.careful_from == 0 { acked } else { acked / CAREFUL_DIVISOR })
    }

    fn begin_round(&mut self, nxt: Seq) {
        self.round_end = Some(nxt);
        (self.last_min_rtt, self.min_rtt, self.samples) = (self.min_rtt, 0, 0);
        self.careful_rounds += u8::from(self.careful_from > 0);
    }

    /// Has the round trip grown, or fallen again?
    fn compare(&mut self) {
        if self.careful_from > 0 {
            if self.min_rtt < self.careful_from {
                (self.careful_from, self.careful_rounds) = (0, 0);
            }
        } else if self.last_min_rtt > 0 {
            let step = (self.last_min_rtt / STEP_DIVISOR).clamp(STEP_MIN, STEP_MAX);
            if self.min_rtt >= self.last_min_rtt + step {
                (self.careful_from, self.careful_rounds) = (self.min_rtt, 1);
            }
        }
    }
}

/// RFC 9406 4.3: `N_RTT_SAMPLE`, `MIN_RTT_DIVISOR`, `MIN_RTT_THRESH`, `MAX_RTT_THRESH`, `CSS_GROWTH_DIVISOR`, `CSS_ROUNDS`.
const SAMPLES_MIN: u8 = 8;
const STEP_DIVISOR: u32 = 8;
const STEP_MIN: u32 = 4_000;
const STEP_MAX: u32 = 16_000;
const CAREFUL_DIVISOR: u32 = 4;
const CAREFUL_ROUNDS: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of ten acknowledgements of 1000 bytes; returns how the window may grow in all, `None` when it is over.
    fn round(slow_start: &mut SlowStart, number: u32, millis: u64) -> Option<u32> {
        let (mut una, nxt) = (Seq(number * 10_000), Seq((number + 1) * 10_000));
        let mut grown = 0;
        for _ in 0..10 {
            let rtt = Some(Duration::from_millis(millis));
            match slow_start.handle_ack(1_000, rtt, una, nxt) {
                Growth::By(bytes) => grown += bytes,
                Growth::Over => return None,
            }
            una += 1_000;
        }
        Some(grown)
    }

    #[test]
    fn slow_start_becomes_careful_when_round_trips_grow_and_ends_after_five_rounds() {
        // RFC 9406 4.2.
        let mut slow_start = SlowStart::default();
        assert_eq!(round(&mut slow_start, 0, 40), Some(10_000));
        assert_eq!(round(&mut slow_start, 1, 44), Some(10_000), "less than an eighth, 5 ms");
        assert_eq!(round(&mut slow_start, 2, 50), Some(7 * 1_000 + 3 * 250), "with the eighth");
        for number in 3..=7 {
            let grown = round(&mut slow_start, number, 50);
            assert_eq!(grown, if number < 7 { Some(2_500) } else { None }, "{number}");
        }
    }

    #[test]
    fn a_round_trip_that_falls_again_was_no_queue() {
        // RFC 9406 4.2: jitter is not congestion.
        let mut slow_start = SlowStart::default();
        round(&mut slow_start, 0, 40);
        round(&mut slow_start, 1, 60);
        assert_eq!(round(&mut slow_start, 2, 60), Some(2_500));
        assert_eq!(round(&mut slow_start, 3, 41), Some(7 * 250 + 3 * 1_000));
        assert_eq!(round(&mut slow_start, 4, 41), Some(10_000));
    }
}
