//! The congestion window: slow start (RFC 5681), NewReno's and CUBIC's (RFC 9438) way to grow, and what a loss takes.
//!
//! CUBIC's constants are C = 0.4 and β = 0.7. Windows are bytes, the cubic's time is milliseconds, and all of it is integer
//! arithmetic, since `no_std` has no cube root.

use core::time::Duration;

use tengate_base::Instant;

use crate::config::CongestionControl;
use crate::limits::INITIAL_WINDOW_SEGMENTS;
use crate::shared::millis;

/// A connection's congestion state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    /// Bytes that may be in the network.
    pub(crate) cwnd: u32,
    /// Below it the window doubles every round trip.
    pub(crate) ssthresh: u32,
    /// Window before the last reduction (`W_max`).
    w_max: u32,
    /// Window that Reno would have reached (`W_est`).
    w_est: u32,
    /// Milliseconds the cubic takes back to `w_max` (K).
    k_millis: u32,
    /// What acknowledged bytes have earned of the next byte of window, in units of 1/cwnd.
    credit: u32,
    /// When the cubic began, in milliseconds that wrap after 49 days; 0 while it has not.
    epoch: u32,
}

impl Congestion {
    /// The initial window (RFC 6928) for segments of `mss` bytes.
    pub(crate) const fn new(mss: u16) -> Self {
        Self {
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            w_max: 0,
            w_est: 0,
            k_millis: 0,
            credit: 0,
            epoch: 0,
        }
    }

    /// Whether no loss has ended slow start yet.
    pub(crate) const fn is_in_first_slow_start(&self) -> bool {
        self.ssthresh == u32::MAX
    }

    /// `acked` bytes were delivered while the window was the limit, outside of recovery.
    pub(crate) fn handle_ack(
        &mut self,
        control: CongestionControl,
        now: Instant,
        acked: u32,
        mss: u16,
        srtt: Duration,
    ) {
        if self.cwnd < self.ssthresh {
            // Appropriate byte counting (RFC 3465) without its limit of two segments, since receivers that merge segments
            // acknowledge many at once; what passes ssthresh is not used.
            self.cwnd = self.cwnd.saturating_add(acked).min(self.ssthresh).min(WINDOW_MAX);
            return;
        }
        let growth = match control {
            CongestionControl::NewReno => u64::from(mss),
            CongestionControl::Cubic => self.cubic_growth(now, acked, mss, srtt),
        };
        let earned = growth * u64::from(acked) + u64::from(self.credit);
        let cwnd = u64::from(self.cwnd);
        self.credit = narrow(earned % cwnd);
        self.cwnd = narrow(cwnd + earned / cwnd).min(WINDOW_MAX);
    }

    /// Losses were found: the threshold that recovery brings the window down to (RFC 9438 4.6, RFC 5681 3.1).
    pub(crate) fn reduce(&mut self, control: CongestionControl, flight_bytes: u32, mss: u16) {
        // What is in flight behind a hole may be more than the window; what an idle sender has in flight is less.
        let flight_bytes = flight_bytes.min(self.cwnd);
        let reduced = match control {
            CongestionControl::NewReno => flight_bytes / 2,
            CongestionControl::Cubic => {
                // Fast convergence (RFC 9438 4.7).
                self.w_max =
                    if self.cwnd < self.w_max { portion(self.cwnd, 850) } else { self.cwnd };
                portion(flight_bytes, BETA_PERMILLE)
            }
        };
        self.ssthresh = reduced.max(2 * u32::from(mss));
        self.epoch = 0;
        self.credit = 0;
    }

    /// A retransmission timer expired: one segment (RFC 5681 3.1, equation 4).
    pub(crate) const fn collapse(&mut self, mss: u16) {
        self.cwnd = mss as u32;
        self.credit = 0;
    }

    /// The connection was silent for longer than its time-out: what was known is stale (RFC 5681 4.1), but it tells where slow
    /// start may end (RFC 2861 3).
    pub(crate) fn restart(&mut self, mss: u16) {
        self.ssthresh = self.ssthresh.max(self.cwnd - self.cwnd / 4);
        self.cwnd = self.cwnd.min(initial_window(mss));
        self.epoch = 0;
    }

    /// How many bytes the window should grow while a whole window is acknowledged (RFC 9438 4.2 to 4.5).
    fn cubic_growth(&mut self, now: Instant, acked: u32, mss: u16, srtt: Duration) -> u64 {
        if self.epoch == 0 {
            self.begin_epoch(now, mss);
        }
        let alpha = if self.w_est < self.w_max { ALPHA_PERMILLE } else { 1000 };
        let reno = u64::from(mss) * alpha * u64::from(acked) / (1000 * u64::from(self.cwnd));
        self.w_est = self.w_est.saturating_add(narrow(reno)).min(WINDOW_MAX);
        let age = millis(now).wrapping_sub(self.epoch).cast_signed();
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        if self.cubic_at(age, mss) < u64::from(self.w_est) {
            return u64::from(self.w_est.saturating_sub(self.cwnd)).max(u64::from(mss) / 2);
        }
        let cwnd = u64::from(self.cwnd);
        self.cubic_at(age + srtt, mss).clamp(cwnd, cwnd + cwnd / 2) - cwnd
    }

    fn begin_epoch(&mut self, now: Instant, mss: u16) {
        self.epoch = millis(now).max(1);
        self.w_est = self.cwnd;
        self.w_max = self.w_max.max(self.cwnd);
        // K = ∛((W_max − cwnd) / C) seconds, windows in segments.
        let deficit = u64::from(self.w_max - self.cwnd);
        self.k_millis = cube_root(deficit * 10 * CUBIC_MILLIS / (4 * u64::from(mss.max(1))));
    }

    /// `W_cubic` after `age`.
    fn cubic_at(&self, age: Duration, mss: u16) -> u64 {
        let millis = age.as_millis().min(u128::from(AGE_MILLIS_MAX));
        let distance = i128::try_from(millis).unwrap_or_default() - i128::from(self.k_millis);
        let change = distance.pow(3) * 4 * i128::from(mss) / (10 * i128::from(CUBIC_MILLIS));
        u64::try_from(i128::from(self.w_max) + change).unwrap_or(0).min(u64::from(WINDOW_MAX))
    }
}

/// RFC 6928 2: ten segments, at most 14 600 bytes unless two segments are more.
const fn initial_window(mss: u16) -> u32 {
    let (mss, cap) = (mss as u32, 14_600);
    let two = 2 * mss;
    let cap = if two > cap { two } else { cap };
    let ten = INITIAL_WINDOW_SEGMENTS * mss;
    if ten < cap { ten } else { cap }
}

fn portion(bytes: u32, permille: u64) -> u32 {
    narrow(u64::from(bytes) * permille / 1000)
}

fn narrow(wide: u64) -> u32 {
    u32::try_from(wide).unwrap_or(u32::MAX)
}

/// The greatest integer whose cube is not above `value`.
fn cube_root(value: u64) -> u32 {
    let mut root = 0_u64;
    for bit in (0..=21).rev() {
        let tried = root | 1 << bit;
        if tried.pow(3) <= value {
            root = tried;
        }
    }
    narrow(root)
}

/// Windows stay far from half the sequence space.
const WINDOW_MAX: u32 = 1 << 30;
const BETA_PERMILLE: u64 = 700;
/// 3 (1 − β) / (1 + β) of RFC 9438 4.3.
const ALPHA_PERMILLE: u64 = 529;
/// Milliseconds in a second, cubed.
const CUBIC_MILLIS: u64 = 1_000_000_000;
/// Later the cubic is above any window.
const AGE_MILLIS_MAX: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MSS: u16 = 1460;
    const RTT: Duration = Duration::from_millis(100);

    fn after_loss(control: CongestionControl, segments: u32) -> Congestion {
        let mut congestion = Congestion::new(MSS);
        congestion.cwnd = segments * u32::from(MSS);
        congestion.reduce(control, congestion.cwnd, MSS);
        congestion.cwnd = congestion.ssthresh;
        congestion
    }

    #[test]
    fn the_initial_window_is_that_of_rfc_6928() {
        for (mss, expected) in [(1460, 14_600), (536, 5_360), (8_960, 17_920)] {
            assert_eq!(Congestion::new(mss).cwnd, expected, "{mss}");
        }
    }

    #[test]
    fn reno_grows_by_one_segment_each_window() {
        // RFC 5681 3.1.
        let mut congestion = after_loss(CongestionControl::NewReno, 100);
        assert_eq!(congestion.cwnd, 50 * u32::from(MSS));
        for _ in 0..50 {
            let control = CongestionControl::NewReno;
            congestion.handle_ack(control, Instant::ZERO, u32::from(MSS), MSS, RTT);
        }
        assert!(congestion.cwnd.abs_diff(51 * u32::from(MSS)) < 50, "{}", congestion.cwnd);
    }

    #[test]
    fn an_idle_sender_begins_anew_and_remembers_three_quarters_of_its_window() {
        // RFC 2861 3, RFC 5681 4.1.
        let mut congestion = after_loss(CongestionControl::Cubic, 100);
        congestion.cwnd = 400 * u32::from(MSS);
        congestion.restart(MSS);
        assert_eq!(congestion.cwnd, 14_600);
        assert_eq!(congestion.ssthresh, 300 * u32::from(MSS));
    }

    #[test]
    fn cubic_is_back_at_its_window_after_k() {
        // RFC 9438 4.2: from 0.7 × 1000 segments, K = ∛(300 / 0.4) = 9.086 s.
        let mut congestion = after_loss(CongestionControl::Cubic, 1_000);
        assert_eq!(congestion.cwnd, 700 * u32::from(MSS));
        let mut now = Instant::from_nanos(1);
        for _ in 0..91 {
            let control = CongestionControl::Cubic;
            congestion.handle_ack(control, now, congestion.cwnd, MSS, RTT);
            now = now + RTT;
        }
        assert_eq!(congestion.k_millis, 9_085);
        let segments = congestion.cwnd / u32::from(MSS);
        assert!((990..=1_001).contains(&segments), "{segments}");
    }

    proptest! {
        #[test]
        fn a_cube_root_is_the_greatest_that_fits(value in 0..u64::MAX >> 2) {
            let root = u64::from(cube_root(value));
            prop_assert!(root.pow(3) <= value);
            prop_assert!(root >= (1 << 22) - 1 || (root + 1).pow(3) > value);
        }

        #[test]
        fn windows_stay_between_one_segment_and_their_maximum(
            cubic: bool,
            steps in prop::collection::vec((0..4_u8, 1..1_u32 << 20, 0..10_000_u64), 1..60),
        ) {
            let control = if cubic { CongestionControl::Cubic } else { CongestionControl::NewReno };
            let mut congestion = Congestion::new(MSS);
            let mut now = Instant::from_nanos(1);
            for (step, bytes, millis) in steps {
                now = now + Duration::from_millis(millis);
                match step {
                    0 => { congestion.reduce(control, bytes, MSS); congestion.cwnd = congestion.ssthresh; }
                    1 => congestion.collapse(MSS),
                    2 => congestion.restart(MSS),
                    _ => congestion.handle_ack(control, now, bytes, MSS, RTT),
                }
                prop_assert!((u32::from(MSS)..=WINDOW_MAX).contains(&congestion.cwnd));
            }
        }
    }
}
