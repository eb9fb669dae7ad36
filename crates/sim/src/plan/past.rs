//! What a seed decides of a run in which clients come past the kernel: the link, and the stacks at both of its ends.

use core::time::Duration;

use tengate_netstack::CongestionControl;

use super::{Fault, Plan};
use crate::rng::Rng;

/// How clients' connections are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As the kernel carries them: streams of bytes.
    Kernel,
    /// In Ethernet frames, with our own stack at both ends.
    Netstack,
}

/// A simulated Ethernet and its stacks.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Of a thousand frames, so many are lost while things may fail.
    pub(crate) loss_permille: usize,
    /// Of a thousand frames, so many come twice.
    pub(crate) duplicate_permille: usize,
    /// Frames that may be overtaken, in percent.
    pub(crate) reorder_percent: usize,
    /// Turns of a shard in which it has no room for what bytes cause, in percent.
    pub(crate) congested_percent: usize,
    /// What becomes of frames to a gateway that is dead.
    pub(crate) of_dead: OfDead,
    /// Who chooses the queue that a frame comes to.
    pub(crate) spread: Spread,
    /// Greatest packet.
    pub(crate) mtu: u16,
    /// Frames that a queue holds.
    pub(crate) queue_room: usize,
    /// Receive window of a connection, at both ends.
    pub(crate) window_bytes: u32,
    /// Send buffer of a connection, at both ends.
    pub(crate) send_buffer_bytes: u32,
    /// Connections being opened above which gateways send SYN cookies.
    pub(crate) syn_backlog_max: u32,
    /// How senders find their rate.
    pub(crate) congestion: CongestionControl,
}

/// What becomes of frames to a gateway whose process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfDead {
    /// The device was the process's own: nobody gets them.
    Vanish,
    /// The device is the kernel's again, which knows none of the connections and resets them.
    Reset,
}

/// Who chooses the queue of a shard that a frame comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// A device that hashes as we do, so that every frame comes to its owner.
    Device,
    /// A device with one queue.
    One,
    /// Chance.
    Any,
}

impl Plan {
    /// The link of a seed whose clients come past the kernel. What is drawn before is what the kernel's path has.
    pub(crate) fn past_kernel(&mut self, rng: &mut Rng) -> Link {
        if !self.faults.is_empty() && rng.percent(30) {
            let weight = *rng.pick(&[1, 3]);
            self.faults.extend(core::iter::repeat_n(Fault::PartGateway, weight));
        }
        // Lost frames are sent again after a while, and after a longer one when that was in vain.
        self.rest += Duration::from_secs(6);
        let mut syn_backlog_max = *rng.pick(&[0, 2, SYN_BACKLOG_MAX, SYN_BACKLOG_MAX]);
        if !self.dispatchers.is_empty() {
            // A cookie may bring a client twice, and behind dispatchers only its port tells who it is.
            syn_backlog_max = SYN_BACKLOG_MAX;
        }
        let window = u32::try_from(self.window_bytes).expect("small").max(BUFFER_BYTES_MIN);
        Link {
            loss_permille: *rng.pick(&[0, 0, 5, 20, 50]),
            duplicate_permille: *rng.pick(&[0, 0, 10, 50]),
            reorder_percent: *rng.pick(&[0, 0, 2, 20, 100]),
            congested_percent: *rng.pick(&[0, 0, 5, 50]),
            of_dead: *rng.pick(&[OfDead::Vanish, OfDead::Reset]),
            spread: *rng.pick(&[Spread::Device, Spread::One, Spread::Any, Spread::Any]),
            mtu: *rng.pick(&[1280, 1500, 1500, 9000]),
            queue_room: *rng.pick(&[2, 32, 1024, 1024]),
            window_bytes: window,
            send_buffer_bytes: *rng.pick(&[BUFFER_BYTES_MIN, window, 1 << 20]),
            syn_backlog_max,
            congestion: *rng.pick(&[
                CongestionControl::Cubic,
                CongestionControl::Cubic,
                CongestionControl::NewReno,
            ]),
        }
    }
}

/// Connections being opened that never make a gateway send cookies.
pub(crate) const SYN_BACKLOG_MAX: u32 = 4096;
/// The least that a stack takes.
const BUFFER_BYTES_MIN: u32 = 2048;
