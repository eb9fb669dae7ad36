//! Round trip times and the retransmission time-out (RFC 6298).

use core::time::Duration;

use crate::limits::{RTO_INITIAL, RTO_MAX, RTO_MIN};

/// What is known of a path's round trip time, in microseconds; zero before the first measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    srtt: u32,
    rttvar: u32,
    min: u32,
}

impl Rtt {
    /// Takes a measurement of a segment that was sent once (Karn's rule).
    pub(crate) fn measure(&mut self, sample: Duration) {
        self.measure_micros(u64::try_from(sample.as_micros()).unwrap_or(u64::MAX));
    }

    /// As [`Rtt::measure`], in microseconds.
    pub(crate) fn measure_micros(&mut self, sample: u64) {
        let sample = u32::try_from(sample).unwrap_or(SAMPLE_MAX).clamp(1, SAMPLE_MAX);
        if self.srtt == 0 {
            *self = Self { srtt: sample, rttvar: sample / 2, min: sample };
            return;
        }
        self.min = self.min.min(sample);
        self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(sample) / 4;
        self.srtt = (self.srtt - self.srtt / 8 + sample / 8).max(1);
    }

    /// The smoothed round trip time, once there was a measurement.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_micros(u64::from(self.srtt)))
    }

    /// The least measurement, zero before the first.
    pub(crate) const fn min(&self) -> Duration {
        Duration::from_micros(self.min as u64)
    }

    /// The retransmission time-out in nanoseconds after `retries` of them (RFC 6298 2 and 5.5). The least time-out is the least that is
    /// added to the round trip, as in Linux: on a path without variance it would expire with every delayed acknowledgement.
    pub(crate) const fn rto_nanos(&self, retries: u8) -> u64 {
        let base = if self.srtt == 0 {
            nanos(RTO_INITIAL)
        } else {
            let (variance, least) = (self.rttvar as u64 * 4_000, nanos(RTO_MIN));
            self.srtt as u64 * 1_000 + if variance > least { variance } else { least }
        };
        let shift = if retries < RETRIES_SHIFT_MAX { retries } else { RETRIES_SHIFT_MAX };
        let backed_off = base << shift;
        if backed_off < nanos(RTO_MAX) { backed_off } else { nanos(RTO_MAX) }
    }

    /// The smoothed round trip time in nanoseconds, zero before the first measurement.
    pub(crate) const fn srtt_nanos(&self) -> u64 {
        self.srtt as u64 * 1_000
    }
}

#[expect(clippy::cast_possible_truncation, reason = "limits are far below 584 years")]
const fn nanos(limit: Duration) -> u64 {
    limit.as_nanos() as u64
}

/// The greatest shift does not push the greatest estimate out of 64 bits.
const _: () = assert!((SAMPLE_MAX as u64 * 5_000).leading_zeros() > RETRIES_SHIFT_MAX as u32);

/// No path takes longer: two minutes, the maximum segment lifetime of RFC 9293.
const SAMPLE_MAX: u32 = 120_000_000;
/// Beyond it the greatest time-out is reached anyway.
const RETRIES_SHIFT_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    impl Rtt {
        const fn rto(&self, retries: u8) -> Duration {
            Duration::from_nanos(self.rto_nanos(retries))
        }
    }

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_first_measurement_sets_the_estimate() {
        // RFC 6298 2.2: RTO = R + 4 × R/2.
        let mut rtt = Rtt::default();
        assert_eq!(rtt.rto(0), RTO_INITIAL);
        rtt.measure(millis(100));
        assert_eq!(
            (rtt.srtt(), rtt.min(), rtt.rto(0)),
            (Some(millis(100)), millis(100), millis(300))
        );
    }

    #[test]
    fn the_time_out_doubles_up_to_its_maximum_and_never_falls_below_its_minimum() {
        // RFC 6298 2.4, 2.5, 5.5.
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.measure(Duration::from_micros(50));
        }
        let least = RTO_MIN + Duration::from_micros(50);
        assert_eq!((rtt.rto(0), rtt.rto(1), rtt.rto(3)), (least, 2 * least, 8 * least));
        assert_eq!((rtt.rto(10), rtt.rto(255)), (RTO_MAX, RTO_MAX));
    }
}
