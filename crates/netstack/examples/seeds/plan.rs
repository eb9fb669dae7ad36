//! What a seed means: the link, both sides' set-up, what they send, when they do not read.

use core::time::Duration;

use smoltcp::socket::tcp;
use tengate_netstack::CongestionControl;

use crate::Config;
use crate::host;
use crate::link::Faults;
use crate::scene::Opener;

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) faults: Faults,
    pub(crate) opener: Opener,
    /// Bytes we send, and smoltcp.
    pub(crate) lens: [usize; 2],
    /// When our application does not read, and smoltcp's.
    pub(crate) pauses: [[Pause; 2]; 2],
    pub(crate) peer_buffer_bytes: usize,
    recv_window_bytes: u32,
    send_buffer_bytes: u32,
    congestion: CongestionControl,
    peer_congestion: tcp::CongestionControl,
    peer_delays_acks: bool,
    peer_has_timestamps: bool,
}

/// A time in which nothing is read, from the beginning of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    begins: Duration,
    ends: Duration,
}

impl Pause {
    pub(crate) fn covers(&self, since: Duration) -> bool {
        (self.begins..self.ends).contains(&since)
    }

    pub(crate) fn is_over(&self, since: Duration) -> bool {
        self.ends <= since
    }
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        // A third of the links loses nothing, a third repeats nothing, a third keeps the order.
        let mut portion = |most: u64| {
            let drawn = random.below(most);
            if random.below(3) == 0 { 0 } else { drawn }
        };
        let (loss, duplicate, jitter) = (portion(150), portion(100), portion(100));
        let delay = 1 << random.below(18_u64);
        let faults = Faults {
            seed,
            loss_permille: u16::try_from(loss).expect("small"),
            duplicate_permille: u16::try_from(duplicate).expect("small"),
            delay: Duration::from_micros(delay),
            jitter: Duration::from_micros(delay * jitter / 50),
        };
        let mut len = || {
            let most = 1 << (8 + random.below(12));
            usize::try_from(random.below(most)).expect("small")
        };
        let lens = [len(), len()];
        let mut pause = || {
            let begins = Duration::from_millis(random.below(2_000));
            let lasts = if random.below(2) == 0 { 0 } else { random.below(30_000) };
            Pause { begins, ends: begins + Duration::from_millis(lasts) }
        };
        let pauses = [[pause(), pause()], [pause(), pause()]];
        Self {
            faults,
            lens,
            pauses,
            opener: if random.flips() { Opener::Ours } else { Opener::Peer },
            peer_buffer_bytes: 1 << (11 + random.below(9)),
            recv_window_bytes: 1 << (11 + random.below(12)),
            send_buffer_bytes: 1 << (11 + random.below(12)),
            congestion: if random.flips() {
                CongestionControl::Cubic
            } else {
                CongestionControl::NewReno
            },
            peer_congestion: if random.flips() {
                tcp::CongestionControl::Cubic
            } else {
                tcp::CongestionControl::None
            },
            peer_delays_acks: random.flips(),
            peer_has_timestamps: random.flips(),
        }
    }

    /// Our stack's.
    pub(crate) fn config(&self) -> Config {
        Config {
            recv_window_bytes: self.recv_window_bytes,
            send_buffer_bytes: self.send_buffer_bytes,
            congestion: self.congestion,
            // Longer than any time-out, so that a FIN repeated late is still answered.
            time_wait: Duration::from_secs(600),
            ..host::config(0)
        }
    }

    /// smoltcp's.
    pub(crate) fn set_up(&self, socket: &mut tcp::Socket<'_>) {
        socket.set_congestion_control(self.peer_congestion);
        if !self.peer_delays_acks {
            socket.set_ack_delay(None);
        }
        if self.peer_has_timestamps {
            // It stands still: then the order of arrival means nothing to the checks on it.
            socket.set_tsval_generator(Some(|| 7));
        }
    }
}

/// Bytes that differ from place to place.
pub(crate) fn bytes(count: usize, salt: u64) -> Vec<u8> {
    let mut random = Random(salt);
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn flips(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
