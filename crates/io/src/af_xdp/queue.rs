//! One shard's way in and out: an AF_XDP socket.

use core::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::interface::Attachment;
use super::limits::BURST_FRAMES;
use super::sys::{Frames, Seat, StageError, Xsk};

/// A queue on its way to the thread that will own it. Frames for it wait in its ring already.
#[derive(Debug)]
pub struct QueueSeat {
    // First, so that the last to go detaches the program before its socket closes.
    attachment: Arc<Attachment>,
    seat: Seat,
    index: u16,
    frame_bytes_max: usize,
}

/// A queue, owned by one thread. Its descriptor ([`AsFd`]) is readable while frames wait.
#[derive(Debug)]
pub struct Queue {
    // As in the seat.
    _attachment: Arc<Attachment>,
    xsk: Xsk,
    index: u16,
    frame_bytes_max: usize,
    /// Frames staged since the last flush.
    staged: u32,
    /// An append found no room even after a flush: the others of the turn need not call the kernel for that again.
    is_stalled: bool,
    stats: QueueStats,
}

/// Frames received, until the next receive into it or its end gives them back. Reuse one.
#[derive(Debug)]
pub struct Burst(Frames);

/// What a queue counted since it was claimed. What the kernel dropped is in
/// [`InterfaceStats`](super::InterfaceStats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Frames received.
    pub received: u64,
    /// Frames handed to the kernel.
    pub sent: u64,
    /// System calls that made the kernel send or receive.
    pub kicks: u64,
    /// Such calls that failed: the interface is down or gone.
    pub kicks_failed: u64,
    /// Flushes that left frames, because the device had no room or is down.
    pub flushes_partial: u64,
    /// Appends refused because as many frames were on their way as may be.
    pub refused_full: u64,
    /// Appends refused because no frame was free.
    pub refused_no_buffer: u64,
    /// Appends refused because the frame was longer than the MTU allows, or empty.
    pub refused_length: u64,
}

/// Where a queue's frames are. What is in none of these is in bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameGauges {
    /// All there are.
    pub total: u32,
    /// With nobody.
    pub free: u32,
    /// With the kernel for what arrives, and what arrived and waits.
    pub receiving: u32,
    /// Staged, and with the kernel for sending.
    pub sending: u32,
}

impl FrameGauges {
    /// In bursts.
    pub fn lent(&self) -> u32 {
        self.total - self.free - self.receiving - self.sending
    }
}

/// Why a frame was not staged. It is counted, and nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The device does not keep up, or is down. Try again in a later turn.
    Full,
    /// No frame is free. Try again in a later turn.
    NoBuffer,
    /// The frame is empty, or longer than the MTU allows.
    Length {
        /// Bytes of the frame.
        len: usize,
        /// The most.
        max: usize,
    },
}

impl QueueSeat {
    pub(crate) fn new(
        attachment: Arc<Attachment>,
        seat: Seat,
        index: u16,
        frame_bytes_max: usize,
    ) -> Self {
        Self { attachment, seat, index, frame_bytes_max }
    }

    /// Takes the seat: the calling thread owns the queue from now on.
    pub fn claim(self) -> Queue {
        Queue {
            _attachment: self.attachment,
            xsk: self.seat.claim(),
            index: self.index,
            frame_bytes_max: self.frame_bytes_max,
            staged: 0,
            is_stalled: false,
            stats: QueueStats::default(),
        }
    }
}

impl Queue {
    /// Which queue of its interface, from 0.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Gives back the frames of `burst` and fills it with what arrived, at most [`BURST_FRAMES`]; returns how many.
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let received = self.xsk.receive(&mut burst.0);
        self.stats.received += received as u64;
        self.wake_receiving();
        received
    }

    /// Stages a frame made of `parts`, from the Ethernet header on and without a checksum of it. It goes at the next
    /// [`flush`](Self::flush), or before when the tx ring is full.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<(), AppendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.append_with(len, |mut frame| {
            for part in parts {
                let (front, rest) = frame.split_at_mut(part.len());
                front.copy_from_slice(part);
                frame = rest;
            }
        })
    }

    /// Stages a frame of `len` bytes that `fill` writes in place; all of them, because they hold an older frame's before.
    ///
    /// # Errors
    /// See [`AppendError`]; then `fill` is not called.
    pub fn append_with(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), AppendError> {
        let max = self.frame_bytes_max;
        let bytes = u32::try_from(len).ok().filter(|_| (1..=max).contains(&len));
        let Some(bytes) = bytes else {
            self.stats.refused_length += 1;
            return Err(AppendError::Length { len, max });
        };
        if !self.xsk.can_stage() && !self.is_stalled {
            self.flush();
            self.is_stalled = !self.xsk.can_stage();
        }
        match self.xsk.stage(bytes) {
            Ok(frame) => {
                fill(frame);
                self.staged += 1;
                Ok(())
            }
            Err(StageError::Full) => {
                self.stats.refused_full += 1;
                Err(AppendError::Full)
            }
            Err(StageError::NoChunk) => {
                self.stats.refused_no_buffer += 1;
                Err(AppendError::NoBuffer)
            }
        }
    }

    /// Hands the staged frames to the kernel, in order, and makes it send them. Returns how many it did not take and would
    /// not without another flush.
    pub fn flush(&mut self) -> usize {
        self.stats.sent += u64::from(self.staged);
        self.staged = 0;
        self.is_stalled = false;
        let mut left = self.xsk.publish();
        // A call sends no more than some, or as much as the device has room for: as long as it gets on, there is room.
        while left > 0 && self.xsk.send_needs_wakeup() {
            let kicked = self.xsk.kick_send();
            self.count_kick(kicked);
            let before = left;
            left = self.xsk.untaken();
            if left == before {
                break;
            }
        }
        self.xsk.reap();
        // A driver that is at work takes the rest by itself.
        let waiting = if self.xsk.send_needs_wakeup() { left } else { 0 };
        self.stats.flushes_partial += u64::from(waiting > 0);
        waiting as usize
    }

    /// Whether the thread may wait for the queue's descriptor. If not, frames wait to be received, or to be sent as soon as the
    /// device has room, which nothing tells: take another turn, after a short rest in the second case.
    pub fn prepare_sleep(&mut self) -> bool {
        let waiting = self.flush();
        let may_wait = self.xsk.prepare_wait();
        self.wake_receiving();
        waiting == 0 && may_wait
    }

    /// The counters.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Where the frames are.
    pub fn frames(&self) -> FrameGauges {
        let gauges = self.xsk.gauges();
        FrameGauges {
            total: gauges.total,
            free: gauges.free,
            receiving: gauges.receiving,
            sending: gauges.sending,
        }
    }

    /// Tells a driver that asks for it that there is something to receive into.
    fn wake_receiving(&mut self) {
        if self.xsk.receive_needs_wakeup() {
            let kicked = self.xsk.kick_receive();
            self.count_kick(kicked);
        }
    }

    fn count_kick(&mut self, kicked: io::Result<()>) {
        self.stats.kicks += 1;
        let Err(error) = kicked else { return };
        // Of these the kernel wants another call, now or later: it sent what one call may, the device has no room, a frame was
        // dropped on the way.
        let goes_on = matches!(
            error.raw_os_error(),
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)
        );
        self.stats.kicks_failed += u64::from(!goes_on);
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.xsk.socket().as_fd()
    }
}

impl Burst {
    /// An empty one. Any queue of the thread may fill it.
    pub fn new() -> Self {
        Self(Frames::with_capacity(BURST_FRAMES))
    }

    /// The frames, in the order they arrived, where the kernel put them.
    pub fn frames_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.0.iter_mut()
    }

    /// Gives the frames back before the next receive, so that a thread about to rest holds none.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the interface takes no more frames now"),
            Self::NoBuffer => write!(f, "the queue has no frame left"),
            Self::Length { len, max } => {
                write!(f, "a frame of {len} bytes was to be sent; 1 to {max} can be")
            }
        }
    }
}

impl core::error::Error for AppendError {}
