//! What a shard keeps of one connection: 32 bytes, so that millions of idle ones are cheap.

use core::ops::{BitOr, BitOrAssign};

use tengate_base::{CloseCause, Door};

use crate::buffers::{BufferId, Keep};

/// A place in the table of connections; its index is the [`ConnId`](tengate_base::ConnId).
///
/// `S` is what carries its bytes: a socket, or a stream of the shard's own stack, which its index names.
#[derive(Debug)]
pub(crate) struct Conn<S> {
    /// `None` when the place is free or waits to be.
    pub(crate) stream: Option<S>,
    pub(crate) flags: Flags,
    pub(crate) door: Door,
    /// Output that is not written.
    pub(crate) out: Option<BufferId>,
    /// Input that is not consumed.
    pub(crate) stash: Option<BufferId>,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

const _: () = assert!(size_of::<Conn<std::net::TcpStream>>() == 32);
const _: () = assert!(size_of::<Conn<()>>() == 32);

impl<S> Conn<S> {
    pub(crate) fn new(stream: S, door: Door) -> Self {
        Self { stream: Some(stream), door, ..Self::free() }
    }

    /// A place without a connection.
    pub(crate) fn free() -> Self {
        Self {
            stream: None,
            flags: Flags::default(),
            door: Door(0),
            out: None,
            stash: None,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// Whether its input goes to the app now.
    pub(crate) fn is_reading(&self) -> bool {
        self.stream.is_some() && !self.flags.any(Flags::PAUSED | Flags::CLOSING | Flags::BROKEN)
    }

    /// How it ends, if its output is all written and that is the end, or can never be written.
    pub(crate) fn end_of_output(&self) -> Option<CloseCause> {
        if self.flags.any(Flags::FINISHED) {
            let is_retired = self.flags.any(Flags::RETIRED);
            Some(if is_retired { CloseCause::Shell } else { CloseCause::Flushed })
        } else {
            self.flags.any(Flags::BROKEN).then_some(CloseCause::Reset)
        }
    }

    pub(crate) fn keep(&self) -> Keep {
        if self.flags.any(Flags::FRAMES) { Keep::Frames } else { Keep::Rest }
    }
}

/// Facts of a connection, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// The app does not want input.
    pub(crate) const PAUSED: Self = Self(1);
    /// The socket may have input.
    pub(crate) const READABLE: Self = Self(1 << 1);
    /// The peer ended its stream or the connection failed: a short read does not mean there is no more to learn.
    pub(crate) const HANGUP: Self = Self(1 << 2);
    /// The kernel, or the stack, takes no more output until it says so.
    pub(crate) const BLOCKED: Self = Self(1 << 3);
    /// In the list of connections to write at the end of the turn.
    pub(crate) const DIRTY: Self = Self(1 << 4);
    /// In the list of connections to read.
    pub(crate) const READY: Self = Self(1 << 5);
    /// Kept input is to be shown again before more is read.
    pub(crate) const RESHOW: Self = Self(1 << 6);
    /// Closes when its output is written.
    pub(crate) const CLOSING: Self = Self(1 << 7);
    /// It is the shell that closes it, at a stop.
    pub(crate) const RETIRED: Self = Self(1 << 8);
    /// A write failed; the app is to be told.
    pub(crate) const BROKEN: Self = Self(1 << 9);
    /// The output of a closing connection is written; the app is to be told.
    pub(crate) const FINISHED: Self = Self(1 << 10);
    /// The queue fell to its mark; the app is to be told.
    pub(crate) const DRAINED: Self = Self(1 << 11);
    /// Output is frames that begin with their length.
    pub(crate) const FRAMES: Self = Self(1 << 12);

    /// Whether one of `these` is set.
    pub(crate) fn any(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    pub(crate) fn clear(&mut self, these: Self) {
        self.0 &= !these.0;
    }

    /// Sets `this`; whether it was not set before.
    pub(crate) fn set_new(&mut self, this: Self) -> bool {
        let new = !self.any(this);
        *self |= this;
        new
    }

    /// Clears `this`; whether it was set before.
    pub(crate) fn take(&mut self, this: Self) -> bool {
        let was = self.any(this);
        self.clear(this);
        was
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, rhs: Self) {
        self.0 |= rhs.0;
    }
}
