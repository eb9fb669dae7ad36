//! The target that drives our TCP/IP stack: two of them, and a wire that loses, repeats, reorders and changes frames.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;

use tengate_base::{ConnId, Door, Instant};
use tengate_netstack::{
    Address, Checksums, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack, flow_hash,
};

use crate::script::Script;

/// Nothing panics, pools keep to their limit, and when everybody has given up nothing is left.
pub fn netstack(data: &[u8]) {
    let mut script = Script(data);
    let mut bed = Bed { now: Instant::ZERO, hosts: [host(0), host(1)] };
    bed.hosts[0].stack.listen(PORT, Door(0));
    while bed.act(&mut script).is_some() {
        for host in &bed.hosts {
            assert!(host.stack.pool_used_bytes() <= POOL_BYTES + FRAME_BYTES_MAX);
            assert!(host.stack.conn_count() <= CONNS_MAX);
        }
    }
    bed.give_up();
}

/// A frame's hash is found without a panic, and what links append to frames does not change it.
pub fn flow(data: &[u8]) {
    if let Some(hash) = flow_hash(data) {
        let padded = [data, &[0xff; 4]].concat();
        assert_eq!(flow_hash(&padded), Some(hash));
    }
}

/// Two stacks and what is on its way to each.
struct Bed {
    now: Instant,
    hosts: [Host; 2],
}

struct Host {
    stack: Stack,
    /// Frames on their way to it.
    arriving: VecDeque<Vec<u8>>,
    conns: Vec<ConnId>,
}

/// The way to the other host.
struct Wire<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire<'_> {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        if self.0.len() == ON_THEIR_WAY_MAX {
            return Err(DeviceFull);
        }
        self.0.push_back(parts.concat());
        Ok(())
    }
}

impl Bed {
    /// One line of the script; `None` at its end.
    fn act(&mut self, script: &mut Script<'_>) -> Option<()> {
        let op = script.byte()?;
        let at = usize::from(script.byte()? % 2);
        match op % 11 {
            0 => {
                let server = SocketAddr::new(address(0), PORT);
                if let Ok(conn) = self.hosts[1].stack.connect(self.now, server, None) {
                    self.hosts[1].conns.push(conn);
                }
            }
            1 => {
                let len = 16 * usize::from(script.byte()?);
                if let Some(conn) = self.conn(script, at) {
                    self.hosts[at].stack.send(conn, &vec![7; len]);
                }
            }
            2 => {
                if let Some(conn) = self.conn(script, at) {
                    self.hosts[at].stack.shutdown(self.now, conn);
                }
            }
            3 => {
                if let Some(conn) = self.conn(script, at) {
                    self.hosts[at].stack.close(self.now, conn);
                }
            }
            4 => {
                if let Some(conn) = self.conn(script, at) {
                    let [one, other] = &mut self.hosts;
                    let (host, wire) = if at == 0 { (one, other) } else { (other, one) };
                    host.stack.abort(self.now, conn, &mut Wire(&mut wire.arriving));
                }
            }
            5 => self.spoil(script, at)?,
            6 => {
                // Anything at all arrives.
                let frame = script.bytes()?.to_vec();
                self.deliver(at, &frame);
            }
            7 => {
                self.now = self.now + Duration::from_millis(u64::from(script.byte()?).pow(2));
                self.turn();
            }
            8 => {
                let frame = self.hosts[at].arriving.pop_front();
                frame.iter().for_each(|frame| self.deliver(at, frame));
            }
            9 => self.settle(),
            _ => self.broadcast(script, at)?,
        }
        Some(())
    }

    /// One message for every connection of a host.
    fn broadcast(&mut self, script: &mut Script<'_>, at: usize) -> Option<()> {
        let len = 33 * usize::from(script.byte()?);
        let Host { stack, conns, .. } = &mut self.hosts[at];
        if let Some(shared) = stack.share(&vec![8; len]) {
            for conn in conns {
                assert!(stack.send_shared(*conn, shared) <= len);
            }
        }
        Some(())
    }

    fn conn(&self, script: &mut Script<'_>, at: usize) -> Option<ConnId> {
        let index = usize::from(script.byte()?);
        let conns = &self.hosts[at].conns;
        conns.get(index % conns.len().max(1)).copied()
    }

    /// Loses, repeats, delays or changes the next frame to a host.
    fn spoil(&mut self, script: &mut Script<'_>, at: usize) -> Option<()> {
        let how = script.byte()?;
        let (offset, value) = (usize::from(script.byte()?), script.byte()?);
        let arriving = &mut self.hosts[at].arriving;
        let frame = arriving.pop_front().filter(|frame| !frame.is_empty());
        let Some(mut frame) = frame else { return Some(()) };
        match how % 4 {
            0 => {}
            1 => {
                arriving.push_front(frame.clone());
                arriving.push_front(frame);
            }
            2 => arriving.push_back(frame),
            _ => {
                let len = frame.len();
                frame[offset % len] = value;
                frame.truncate(len - usize::from(how >> 2).min(len));
                arriving.push_front(frame);
            }
        }
        Some(())
    }

    fn deliver(&mut self, at: usize, frame: &[u8]) {
        let [one, other] = &mut self.hosts;
        let (host, peer) = if at == 0 { (one, other) } else { (other, one) };
        host.stack.handle_frame(self.now, frame, &mut Wire(&mut peer.arriving));
        host.take_events(frame);
    }

    /// What a shell does in a turn, for both.
    fn turn(&mut self) {
        for at in 0..2 {
            let [one, other] = &mut self.hosts;
            let (host, peer) = if at == 0 { (one, other) } else { (other, one) };
            let mut wire = Wire(&mut peer.arriving);
            if host.stack.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
                host.stack.handle_timeout(self.now, &mut wire);
                host.take_events(&[]);
            }
            // A full wire keeps the rest for the next turn.
            let _full = host.stack.flush(self.now, &mut wire);
        }
    }

    /// Delivers what is on its way, and what comes of it, for a while.
    fn settle(&mut self) {
        for _ in 0..64 {
            self.turn();
            for at in 0..2 {
                let frames = core::mem::take(&mut self.hosts[at].arriving);
                frames.iter().for_each(|frame| self.deliver(at, frame));
            }
        }
        self.turn();
    }

    /// Everybody closes, the wire is cut, and time passes.
    fn give_up(&mut self) {
        for host in &mut self.hosts {
            for conn in core::mem::take(&mut host.conns) {
                host.stack.close(self.now, conn);
            }
        }
        for _ in 0..4000 {
            self.turn();
            self.hosts.iter_mut().for_each(|host| host.arriving.clear());
            let next = self.hosts.iter().filter_map(|host| host.stack.poll_timeout()).min();
            let Some(next) = next else { break };
            self.now = self.now.max(next) + Duration::from_millis(1);
        }
        for host in &self.hosts {
            assert_eq!((host.stack.conn_count(), host.stack.pool_used_bytes()), (0, 0));
        }
    }
}

impl Host {
    fn take_events(&mut self, frame: &[u8]) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Opened { conn, .. } => self.conns.push(conn),
                Event::Received { bytes, .. } => assert!(bytes.end <= frame.len()),
                Event::Readable { conn } => _ = self.stack.read(conn, &mut Vec::new()),
                Event::Closed { conn, .. } => self.conns.retain(|other| *other != conn),
                Event::Connected { .. } | Event::PeerClosed { .. } | Event::Drained { .. } => {}
            }
        }
    }
}

/// Checksums are left out, so that changed frames are not dropped for them.
fn host(side: u8) -> Host {
    let addresses = vec![Address { addr: address(side), prefix_len: 24 }];
    let mut config = Config::new(MacAddr([2, 0, 0, 0, 0, side]), addresses, Secret([side; 32]));
    config.checksums = Checksums::Offloaded;
    config.pool_bytes = POOL_BYTES;
    config.conns_max = CONNS_MAX as u32;
    config.syn_backlog_max = 2;
    config.time_wait_max = 2;
    config.recv_window_bytes = 4096;
    config.send_buffer_bytes = 4096;
    let stack = Stack::new(config, Instant::ZERO).expect("the configuration is good");
    Host { stack, arriving: VecDeque::new(), conns: Vec::new() }
}

fn address(side: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, side + 1).into()
}

const PORT: u16 = 7;
const CONNS_MAX: usize = 8;
const POOL_BYTES: usize = 64 << 10;
/// A frame being taken in may carry the pool beyond its limit by as much.
const FRAME_BYTES_MAX: usize = 4096;
const ON_THEIR_WAY_MAX: usize = 256;
