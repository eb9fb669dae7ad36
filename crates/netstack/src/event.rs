//! What goes out of a stack: events for the application, frames for the device.

use core::net::SocketAddr;
use core::ops::Range;

use tengate_base::{ConnId, Door};

/// What the application must be told, in order, by [`Stack::poll_event`](crate::Stack::poll_event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer opened a connection.
    Opened {
        /// Its index from now on.
        conn: ConnId,
        /// The listener it came through.
        door: Door,
        /// The other side.
        peer: SocketAddr,
        /// The address and port it came to.
        local: SocketAddr,
    },
    /// A connection of [`Stack::connect`](crate::Stack::connect) is open.
    Connected {
        /// Its index.
        conn: ConnId,
    },
    /// The next bytes of a stream, which lie in the frame just handled: see it before the next input.
    Received {
        /// The connection.
        conn: ConnId,
        /// Where they lie in the frame.
        bytes: Range<usize>,
    },
    /// A gap was filled: more bytes of the stream wait for [`Stack::read`](crate::Stack::read), and not for long: read them
    /// before the next event.
    Readable {
        /// The connection.
        conn: ConnId,
    },
    /// The peer has finished its stream; nothing more will be received. The connection stays open for sending.
    PeerClosed {
        /// The connection.
        conn: ConnId,
    },
    /// The bytes queued fell to the mark of [`Stack::notify_below`](crate::Stack::notify_below).
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is gone; its index is free at the end of the turn.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        cause: Cause,
    },
}

impl Event {
    /// The connection it is about.
    pub const fn conn(&self) -> ConnId {
        match *self {
            Self::Opened { conn, .. }
            | Self::Connected { conn }
            | Self::Received { conn, .. }
            | Self::Readable { conn }
            | Self::PeerClosed { conn }
            | Self::Drained { conn }
            | Self::Closed { conn, .. } => conn,
        }
    }
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides finished their streams, and all of it was acknowledged.
    Finished,
    /// The peer reset it.
    Reset,
    /// The peer refused it: nobody listens there.
    Refused,
    /// A router or the peer's host says that it cannot be reached, while it was being opened.
    Unreachable,
    /// The peer answered neither data nor probes.
    TimedOut,
}

/// Where a stack puts frames. Shells put them into rings and send them in bursts.
pub trait Device {
    /// Takes one frame, given in parts. Refuses it when there is no room now; the stack then tries again at the next
    /// [`Stack::flush`](crate::Stack::flush), or drops and counts what need not arrive.
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull>;
}

/// A device has no room for a frame now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFull;
