//! Rare things an operator wants to read in a log.

use alloc::string::String;
use core::fmt;
use core::net::SocketAddr;

/// Something that happened to a dispatcher and is worth a line in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker identified itself.
    WorkerUp {
        /// `remote ip:name:id`.
        key: String,
    },
    /// A worker's link is gone.
    WorkerDown {
        /// `remote ip:name:id`.
        key: String,
        /// Events that were given to other workers.
        rerouted: u64,
    },
    /// A second worker showed the worker_key of one that is still linked.
    WorkerReplaced {
        /// `remote ip:name:id`.
        key: String,
        /// Where the older link came from.
        older: SocketAddr,
        /// Where the newer one comes from.
        newer: SocketAddr,
    },
    /// A gateway is linked.
    GatewayUp {
        /// Its inner address.
        address: SocketAddr,
        /// Its `proc_id`s.
        first_proc_id: u16,
        /// How many.
        shards: u16,
    },
    /// A gateway's link is gone.
    GatewayDown {
        /// Its inner address.
        address: SocketAddr,
    },
    /// A gateway has chosen this dispatcher as its home.
    HomeTaken {
        /// Its inner address.
        address: SocketAddr,
    },
    /// A gateway has moved to another home.
    HomeLeft {
        /// Its inner address.
        address: SocketAddr,
        /// Events that were given back to it.
        returned: u64,
    },
    /// What was connected to is no gateway that has dispatchers.
    NoGateway {
        /// Its address.
        address: SocketAddr,
    },
    /// Two gateways claim the same `proc_id`.
    ProcIdTaken {
        /// The newer one's inner address.
        address: SocketAddr,
        /// The gateway that had it.
        older: SocketAddr,
    },
}

impl Notice {
    /// Whether somebody should do something about it.
    pub fn is_warning(&self) -> bool {
        match self {
            Self::WorkerReplaced { .. } | Self::NoGateway { .. } | Self::ProcIdTaken { .. } => true,
            Self::WorkerUp { .. }
            | Self::WorkerDown { .. }
            | Self::GatewayUp { .. }
            | Self::GatewayDown { .. }
            | Self::HomeTaken { .. }
            | Self::HomeLeft { .. } => false,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkerUp { key } => write!(f, "worker {key} is linked"),
            Self::WorkerDown { key, rerouted: 0 } => write!(f, "worker {key} is gone"),
            Self::WorkerDown { key, rerouted } => {
                write!(f, "worker {key} is gone; {rerouted} of its events go to other workers")
            }
            Self::WorkerReplaced { key, older, newer } => write!(
                f,
                "worker {key} is linked a second time, from {newer}; the link from {older} is closed. If both processes run, give them different names or numbers"
            ),
            Self::GatewayUp { address, first_proc_id, shards } => {
                let last = u32::from(*first_proc_id) + u32::from(*shards) - 1;
                write!(f, "gateway {address} is linked, with proc_id {first_proc_id} to {last}")
            }
            Self::GatewayDown { address } => write!(f, "gateway {address} is gone"),
            Self::HomeTaken { address } => write!(f, "this is the home of gateway {address} now"),
            Self::HomeLeft { address, returned } => {
                write!(f, "gateway {address} has another home now; {returned} events went with it")
            }
            Self::NoGateway { address } => write!(
                f,
                "{address} did not answer as a gateway in dispatched mode; is its mode \"direct\", its secret key another, or is it PHP's?"
            ),
            Self::ProcIdTaken { address, older } => write!(
                f,
                "gateway {address} has a proc_id of gateway {older}, whose link is closed; their registers lease from overlapping ranges, see proc_ids in [register]"
            ),
        }
    }
}

/// Notices kept for whoever asks; more are forgotten.
pub(super) const NOTICES_MAX: usize = 256;
