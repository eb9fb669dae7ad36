//! An independent peer: unmodified smoltcp at the other end of the link. Tests and `examples/seeds` use it.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use smoltcp::iface::{Config as PeerConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as PeerInstant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use tengate_base::{ConnId, Door, Instant};

use super::host::{Host, PORT, Stream, address, mac};
use super::link::{Faults, Link};
use crate::Config;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    Ours,
    Peer,
}

/// smoltcp's side of the link.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl phy::Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }

    fn receive(&mut self, _: PeerInstant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: PeerInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }
}

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}

/// Our stack on one end, smoltcp on the other, each with something to say.
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) host: Host,
    link: Link,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) peer_to_send: Vec<u8>,
    pub(super) peer_received: Vec<u8>,
    /// smoltcp's application takes nothing.
    pub(super) peer_paused: bool,
    /// It closes once it has sent everything.
    pub(super) peer_may_close: bool,
    /// The window in the last segment we sent, as it was sent.
    pub(super) window_offered: u16,
}

impl Scene {
    pub(super) fn new(config: Config, faults: Faults, buffer_bytes: usize) -> Self {
        let now = Instant::ZERO + Duration::from_secs(1);
        let mut wire = Wire::default();
        let peer_config = PeerConfig::new(EthernetAddress(mac(1).0).into());
        let mut iface = Interface::new(peer_config, &mut wire, at(now));
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address(1)), 24)).expect("room for one");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        let host = Host::new(config, now);
        Self {
            now,
            host,
            link: Link::new(faults),
            wire,
            iface,
            sockets,
            handle,
            peer_to_send: Vec::new(),
            peer_received: Vec::new(),
            peer_paused: false,
            peer_may_close: true,
            window_offered: 0,
        }
    }

    /// Ours connects to smoltcp, or the other way round.
    pub(super) fn begin(&mut self, opener: Opener) {
        if opener == Opener::Peer {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
            self.host.stack.listen(PORT, Door(0));
            let remote = (IpAddress::Ipv4(address(0)), PORT);
            socket.connect(self.iface.context(), remote, 50_000).expect("it is closed");
        } else {
            self.socket().listen(PORT).expect("it is closed");
            let remote = SocketAddr::new(IpAddr::V4(address(1)), PORT);
            let conn = self.host.stack.connect(self.now, remote, None).expect("there is room");
            self.host.streams.insert(conn, Stream::default());
        }
    }

    /// The connection on our side, once there is one.
    pub(super) fn conn(&self) -> Option<ConnId> {
        self.host.streams.keys().next().copied()
    }

    /// smoltcp's socket, to set it up.
    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// To the next moment at which something happens, and that.
    pub(super) fn step(&mut self) {
        let now = self.now;
        while let Some((to, frame)) = self.link.receive(now) {
            if to == 0 {
                self.host.handle_frame(now, &frame);
            } else {
                self.wire.received.push_back(frame);
            }
        }
        self.host.turn(now);
        self.iface.poll(at(now), &mut self.wire, &mut self.sockets);
        self.act();
        self.iface.poll(at(now), &mut self.wire, &mut self.sockets);
        for frame in self.host.outbox.frames.drain(..) {
            if let Some(&[high, low]) = frame.get(WINDOW_AT) {
                self.window_offered = u16::from_be_bytes([high, low]);
            }
            self.link.send(now, 1, &frame);
        }
        for frame in self.wire.sent.drain(..) {
            self.link.send(now, 0, &frame);
        }
        let peer_next = self.iface.poll_at(at(now), &self.sockets);
        let peer_next =
            peer_next.map(|at| Instant::from_nanos(at.total_micros().unsigned_abs() * 1_000));
        let next = [peer_next, self.link.next_arrival(), self.host.stack.poll_timeout()];
        let next = next.into_iter().flatten().min().unwrap_or(now + IDLE);
        // smoltcp counts microseconds.
        self.now = next.max(now + Duration::from_micros(1));
    }

    /// smoltcp's application: takes what there is, says what it has to say, then closes.
    fn act(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while !self.peer_paused && socket.can_recv() {
            let received = &mut self.peer_received;
            let taken = socket.recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            taken.expect("it can receive");
        }
        if socket.can_send() && !self.peer_to_send.is_empty() {
            let sent = socket.send_slice(&self.peer_to_send).expect("it can send");
            self.peer_to_send.drain(..sent);
        }
        if self.peer_may_close && self.peer_to_send.is_empty() && socket.may_send() {
            socket.close();
        }
    }
}

fn at(now: Instant) -> PeerInstant {
    PeerInstant::from_micros(i64::try_from(now.as_nanos() / 1_000).expect("a short test"))
}

/// Where a segment's window lies in a frame.
const WINDOW_AT: core::ops::Range<usize> = 48..50;
/// How long a step is when nothing is due.
const IDLE: Duration = Duration::from_millis(10);
