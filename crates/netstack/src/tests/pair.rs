//! Two hosts on a link.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use tengate_base::{ConnId, Door, Instant};

pub(super) use super::host::{Host, PORT, Stream, address, config, mac};
use super::link::{Faults, Link};
use crate::Config;

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    pub(super) link: Link,
}

impl Pair {
    pub(super) fn new(faults: Faults) -> Self {
        Self::with_configs(faults, config(0), config(1))
    }

    pub(super) fn with_configs(faults: Faults, first: Config, second: Config) -> Self {
        let now = Instant::ZERO + Duration::from_secs(1);
        let mut hosts = [Host::new(first, now), Host::new(second, now)];
        hosts[1].stack.listen(PORT, Door(3));
        Self { now, hosts, link: Link::new(faults) }
    }

    /// The first host connects to the second.
    pub(super) fn connect(&mut self) -> ConnId {
        let remote = SocketAddr::new(IpAddr::V4(address(1)), PORT);
        let conn = self.hosts[0].stack.connect(self.now, remote, None).expect("there is room");
        self.hosts[0].streams.insert(conn, Stream::default());
        conn
    }

    /// Connects and waits until both sides are open.
    pub(super) fn open(&mut self) -> (ConnId, ConnId) {
        self.try_open().expect("it opens")
    }

    /// As [`Pair::open`], over a link on which that may not succeed.
    pub(super) fn try_open(&mut self) -> Option<(ConnId, ConnId)> {
        let conn = self.connect();
        // When every acknowledgement of its SYN is lost, the second host gives up what the first takes to be open.
        self.run_until(|pair| !pair.hosts[1].accepted.is_empty());
        let other = self.hosts[1].accepted.pop()?;
        assert!(self.run_until(|pair| pair.hosts[0].streams[&conn].is_open));
        Some((conn, other))
    }

    /// What the applications want now, then on to the next moment at which something happens, and that. Returns whether
    /// there was one.
    pub(super) fn step(&mut self) -> bool {
        self.turn();
        let timeouts = self.hosts.iter().filter_map(|host| host.stack.poll_timeout());
        let Some(next) = timeouts.chain(self.link.next_arrival()).min() else { return false };
        self.now = next.max(self.now);
        while let Some((to, frame)) = self.link.receive(self.now) {
            self.hosts[to].handle_frame(self.now, &frame);
        }
        self.turn();
        true
    }

    fn turn(&mut self) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.turn(self.now);
            for frame in host.outbox.frames.drain(..) {
                self.link.send(self.now, 1 - index, &frame);
            }
        }
    }

    /// Runs until something holds; false when nothing more happens, or for too long.
    pub(super) fn run_until(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            if holds(self) {
                return true;
            }
            if !self.step() {
                return holds(self);
            }
        }
        false
    }

    /// Runs for a while.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end && self.step() {}
        self.now = self.now.max(end);
    }
}

/// Far more than any test needs.
const STEPS_MAX: usize = 3_000_000;
