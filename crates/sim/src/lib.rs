//! A whole cluster in one deterministic process: the very cores that serve users, in a shell without sockets or clocks.

pub mod shell;
