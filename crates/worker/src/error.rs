//! What can go wrong with a call, and whose fault it is.

use core::error::Error;
use core::fmt;
use core::net::SocketAddrV4;
use std::io;

use tengate_proto::wire::php::UnserializeError;

/// Why a call did not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No register said which gateways there are; this is what the last one did.
    Register {
        /// The register, as it was configured.
        register: String,
        /// What went wrong with it.
        fault: RegisterFault,
    },
    /// The registers announce no gateway.
    NoGateway,
    /// The caller named no group, or an empty one.
    NoGroup,
    /// A gateway failed. A call that goes to several was still made to the others.
    Gateway {
        /// The gateway's inner address.
        gateway: SocketAddrV4,
        /// What went wrong with it.
        fault: GatewayFault,
    },
}

/// What went wrong with a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayFault {
    /// This worker has no link to it: the client is gone with it, or the link is being made.
    NotLinked,
    /// The link's send queue is full, because the gateway reads too slowly. The call was dropped.
    QueueFull {
        /// Bytes that wait.
        queued_bytes: usize,
    },
    /// The caller's frame is longer than a gateway takes.
    TooLong {
        /// Bytes of the frame.
        frame_bytes: usize,
    },
    /// It cannot be connected to.
    Connect(io::ErrorKind),
    /// It did not take the connection in time.
    ConnectTimedOut,
    /// It did not answer in time.
    ReplyTimedOut,
    /// The connection ended before the call was done: the gateway stopped, or did not accept the secret key.
    Closed,
    /// Its answer is longer than [`REPLY_BYTES_MAX`](crate::REPLY_BYTES_MAX).
    ReplyTooLong {
        /// Bytes of the answer.
        reply_bytes: usize,
    },
    /// Its answer is no value.
    Reply(UnserializeError),
    /// Its answer is a value of another shape than the question asks for.
    UnexpectedReply,
}

/// What went wrong with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterFault {
    /// None is configured.
    NoneConfigured,
    /// It cannot be connected to, or the connection broke.
    Connect(io::ErrorKind),
    /// It did not take the connection, or did not answer, in time.
    TimedOut,
    /// It closed the connection without an answer: the secret key is wrong.
    Closed,
    /// Its answer is not the list of gateways.
    BadAnswer,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { register, fault } => write!(f, "register {register}: {fault}"),
            Self::NoGateway => f.write_str("the register announces no gateway"),
            Self::NoGroup => f.write_str("the call names no group"),
            Self::Gateway { gateway, fault } => write!(f, "gateway {gateway}: {fault}"),
        }
    }
}

impl fmt::Display for GatewayFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinked => f.write_str("not linked"),
            Self::QueueFull { queued_bytes } => {
                write!(f, "send queue full with {queued_bytes} bytes")
            }
            Self::TooLong { frame_bytes } => {
                write!(f, "a frame of {frame_bytes} bytes is too long")
            }
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::ConnectTimedOut => f.write_str("connecting timed out"),
            Self::ReplyTimedOut => f.write_str("no answer in time"),
            Self::Closed => f.write_str("connection closed"),
            Self::ReplyTooLong { reply_bytes } => {
                write!(f, "an answer of {reply_bytes} bytes is too long")
            }
            Self::Reply(error) => write!(f, "unreadable answer: {error}"),
            Self::UnexpectedReply => f.write_str("an answer of another shape than expected"),
        }
    }
}

impl fmt::Display for RegisterFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneConfigured => f.write_str("none is configured"),
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Closed => f.write_str("closed the connection; is the secret key right?"),
            Self::BadAnswer => f.write_str("unreadable answer"),
        }
    }
}

impl Error for CallError {}
