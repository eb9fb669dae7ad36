//! Why an interface was not opened.

use core::fmt;
use std::io;

use super::limits::MTU_MAX;

/// Why an interface was not opened. All are for the operator to mend, except [`Program`](Self::Program).
#[derive(Debug)]
pub enum AfXdpError {
    /// A value of the configuration is out of range.
    Range {
        /// Which.
        what: &'static str,
        /// As configured.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A ring's size is not a power of two.
    PowerOfTwo {
        /// Which.
        what: &'static str,
        /// As configured.
        value: u32,
    },
    /// No interface has that name.
    Missing {
        /// As configured.
        interface: String,
    },
    /// The interface is down.
    Down {
        /// Its name.
        interface: String,
    },
    /// The interface's MTU does not fit into a frame.
    Mtu {
        /// Its name.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// The interface has more receive queues than there are sockets, and what comes to the others would be lost.
    QueuesMore {
        /// Its name.
        interface: String,
        /// Queues it has.
        queues: u32,
        /// Sockets asked for.
        sockets: u16,
    },
    /// The interface has fewer queues than there are sockets.
    QueuesFewer {
        /// Its name.
        interface: String,
        /// Queues it has, of the direction of which it has fewer.
        queues: u32,
        /// Sockets asked for.
        sockets: u16,
    },
    /// The process may not do this.
    Privilege {
        /// What was tried.
        what: &'static str,
        /// What it takes.
        needs: &'static str,
    },
    /// The kernel was built without this, or is too old.
    Unsupported {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The frames could not be had, or may not be locked in memory.
    Memory {
        /// What the frames of one queue need.
        bytes: u64,
        /// What the kernel said.
        error: io::Error,
    },
    /// Somebody else has an AF_XDP socket on the queue.
    QueueTaken {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u16,
    },
    /// The driver cannot do without copies, which the configuration requires.
    ZeroCopy {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// An XDP program is on the interface already.
    Occupied {
        /// Its name.
        interface: String,
    },
    /// The driver refuses native mode, which the configuration requires.
    Native {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refuses the steering program.
    Program {
        /// What the kernel returned.
        error: io::Error,
        /// What its verifier says.
        log: String,
    },
    /// Anything else.
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl AfXdpError {
    /// The error of a step that is not peculiar to AF_XDP's own rules.
    pub(crate) fn of_step(what: &'static str, needs: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { what, needs },
            Some(libc::EAFNOSUPPORT | libc::ENOSYS) => Self::Unsupported { what, error },
            _ => Self::System { what, error },
        }
    }
}

impl fmt::Display for AfXdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { what, value, min, max } => {
                write!(f, "the {what} are {value}; {min} to {max} can be")
            }
            Self::PowerOfTwo { what, value } => {
                write!(f, "the {what} are {value}, which is no power of two")
            }
            Self::Missing { interface } => {
                write!(f, "there is no interface {interface:?}; `ip link` shows those there are")
            }
            Self::Down { interface } => {
                write!(f, "{interface} is down; `ip link set {interface} up`")
            }
            Self::Mtu { interface, mtu } => write!(
                f,
                "{interface} has an MTU of {mtu} bytes and AF_XDP takes {MTU_MAX} at most; `ip link set {interface} mtu \
                 {MTU_MAX}` or less"
            ),
            Self::QueuesMore { interface, queues, sockets } => write!(
                f,
                "{interface} has {queues} receive queues for {sockets} shards, and what comes to the others would be lost; \
                 start {queues} shards, or `ethtool -L {interface} combined {sockets}` (`rx {sockets} tx {sockets}` with \
                 some drivers)"
            ),
            Self::QueuesFewer { interface, queues, sockets } => write!(
                f,
                "{interface} has {queues} queues for {sockets} shards; start {queues}, or give it more queues with \
                 `ethtool -L` if it can have them"
            ),
            Self::Privilege { what, needs } => {
                write!(f, "the process may not {what}; it needs {needs}")
            }
            Self::Unsupported { what, error } => {
                write!(
                    f,
                    "the kernel cannot {what} ({error}); Linux 5.9 or newer can, with CONFIG_XDP_SOCKETS and \
                     CONFIG_BPF_SYSCALL"
                )
            }
            Self::Memory { bytes, error } => write!(
                f,
                "the frames of a queue need {bytes} bytes of locked memory, which are not to be had ({error}); raise \
                 `ulimit -l` (LimitMEMLOCK=), or take fewer frames"
            ),
            Self::QueueTaken { interface, queue } => {
                write!(f, "queue {queue} of {interface} has an AF_XDP socket of another program")
            }
            Self::ZeroCopy { interface, error } => write!(
                f,
                "{interface} cannot do without copies ({error}); let zero copy be automatic or off"
            ),
            Self::Occupied { interface } => write!(
                f,
                "{interface} has an XDP program already, see `ip link show {interface}`; stop what put it there, or \
                 `ip link set {interface} xdp off`"
            ),
            Self::Native { interface, error } => {
                write!(f, "{interface} refuses XDP in native mode: {}", NativeRefusal(error))
            }
            Self::Program { error, log } => {
                write!(f, "the kernel refuses the steering program ({error}): {log}")
            }
            Self::System { what, error } => write!(f, "the kernel did not {what}: {error}"),
        }
    }
}

impl core::error::Error for AfXdpError {}

/// What a driver means.
struct NativeRefusal<'a>(&'a io::Error);

impl fmt::Display for NativeRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "its driver has none; take generic mode",
            Some(libc::ERANGE | libc::EINVAL | libc::EMSGSIZE) => {
                "its MTU, or that of the other end of a veth, may be too large; 3498 bytes or less are safe"
            }
            Some(libc::ENOSPC | libc::ENOMEM) => {
                "it has too few receive queues for its peer or its processors; see `ethtool -l`"
            }
            _ => "take generic mode, or see the kernel's log",
        };
        write!(f, "{} ({advice})", self.0)
    }
}
