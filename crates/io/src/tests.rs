//! Behaviour on real loopback sockets.
