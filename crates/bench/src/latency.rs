//! Time: the clock that stamps messages, and the histograms that latencies are counted in.

use core::ops::AddAssign;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds, exact to three digits.
///
/// Travels from a part's process to its parent as pairs of a latency and its count, of which there are a few thousand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
pub(crate) struct Latencies(Histogram<u64>);

/// The figures of a histogram that reports name, in microseconds; all 0 when nothing was counted.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the report's")]
pub(crate) struct Percentiles {
    pub(crate) latency_us_p50: f64,
    pub(crate) latency_us_p90: f64,
    pub(crate) latency_us_p99: f64,
    pub(crate) latency_us_p99_9: f64,
    pub(crate) latency_us_max: f64,
}

/// Nanoseconds of the monotonic clock: one time for all processes of a machine, so that a message sent by one and received
/// by another has a latency.
pub(crate) fn now_nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The clock counts from the machine's start, so both parts are positive.
    time.tv_sec.unsigned_abs() * NANOS_PER_SECOND + time.tv_nsec.unsigned_abs()
}

/// Seconds as nanoseconds; options that are out of bounds have been refused before.
pub(crate) fn nanos(seconds: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and nobody measures for 500 years"
    )]
    let nanos = (seconds * 1e9) as u64;
    nanos
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

/// A count or a size as a number to divide.
pub(crate) fn float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "what is counted here is far below 2^52")]
    let count = count as f64;
    count
}

impl Latencies {
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency, in microseconds, that this share (0 to 1) of all did not exceed.
    pub(crate) fn micros_at(&self, quantile: f64) -> f64 {
        float(self.0.value_at_quantile(quantile)) / 1e3
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles {
            latency_us_p50: self.micros_at(0.5),
            latency_us_p90: self.micros_at(0.9),
            latency_us_p99: self.micros_at(0.99),
            latency_us_p99_9: self.micros_at(0.999),
            latency_us_max: self.micros_at(1.0),
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LATENCY_NANOS_MAX, 3).expect("the bounds are constant"))
    }
}

impl AddAssign for Latencies {
    fn add_assign(&mut self, other: Self) {
        self.0.add(other.0).expect("all histograms have the same bounds");
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Self {
        let recorded = latencies.0.iter_recorded();
        recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut latencies = Self::default();
        for (nanos, count) in pairs {
            latencies.0.saturating_record_n(nanos, count);
        }
        latencies
    }
}

/// Ten minutes; what takes longer is counted as that.
const LATENCY_NANOS_MAX: u64 = 600 * NANOS_PER_SECOND;
pub(crate) const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_parts_have_the_percentiles_of_one_histogram() {
        let (mut whole, mut parts) = (Latencies::default(), [const { None }; 3]);
        for number in 1..=30_000_u64 {
            let latency = number * number % 7_919_000 + 1;
            whole.record(latency);
            let part = &mut parts[usize::try_from(number % 3).unwrap()];
            part.get_or_insert_with(Latencies::default).record(latency);
        }
        let mut merged = Latencies::default();
        for part in parts.into_iter().flatten() {
            let line = serde_json::to_string(&part).unwrap();
            merged += serde_json::from_str(&line).unwrap();
        }
        assert_eq!(merged.count(), 30_000);
        assert_eq!(Vec::from(merged), Vec::from(whole));
    }

    #[test]
    fn nothing_counted_is_zero_and_too_much_is_the_most() {
        let mut latencies = Latencies::default();
        assert!(latencies.percentiles().latency_us_max < 0.001);
        latencies.record(u64::MAX);
        assert!(latencies.percentiles().latency_us_p50 >= 600e6);
    }
}
