//! An independent peer: unmodified smoltcp at the other end of the link, as server and as client, with losses.

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

use super::link::{Faults, Link};
use super::pair::{Host, PORT, Stream, address, config, mac};
use super::stream::bytes;

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
struct Scene {
    now: Instant,
    host: Host,
    link: Link,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    peer_to_send: Vec<u8>,
    peer_received: Vec<u8>,
}

impl Scene {
    fn new(faults: Faults, buffer_bytes: usize) -> Self {
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
        let host = Host::new(config(0), now);
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
        }
    }

    fn step(&mut self) {
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
            self.link.send(now, 1, &frame);
        }
        for frame in self.wire.sent.drain(..) {
            self.link.send(now, 0, &frame);
        }
        let peer_next = self.iface.poll_at(at(now), &self.sockets);
        let peer_next =
            peer_next.map(|at| Instant::from_nanos(at.total_micros().unsigned_abs() * 1_000));
        let next = [peer_next, self.link.next_arrival(), self.host.stack.poll_timeout()];
        let next = next.into_iter().flatten().min().unwrap_or(now);
        // smoltcp counts microseconds.
        self.now = next.max(now + Duration::from_micros(1));
    }

    /// smoltcp's application: takes what there is, says what it has to say, then closes.
    fn act(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while socket.can_recv() {
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
        if self.peer_to_send.is_empty() && socket.may_send() {
            socket.close();
        }
    }
}

fn at(now: Instant) -> PeerInstant {
    PeerInstant::from_micros(i64::try_from(now.as_nanos() / 1_000).expect("a short test"))
}

/// Both sides talk and finish; `passive`: smoltcp connects to us.
fn check(faults: Faults, passive: bool, lens: [usize; 2], buffer_bytes: usize) {
    let mut scene = Scene::new(faults, buffer_bytes);
    scene.peer_to_send = bytes(lens[1], 1);
    let ours = Stream { to_send: bytes(lens[0], 0), then_shutdown: true, ..Stream::default() };
    let mut conn = ConnId(0);
    if passive {
        scene.host.stack.listen(PORT, Door(0));
        let socket = scene.sockets.get_mut::<tcp::Socket<'_>>(scene.handle);
        let remote = (IpAddress::Ipv4(address(0)), PORT);
        socket.connect(scene.iface.context(), remote, 50_000).expect("it is closed");
    } else {
        let socket = scene.sockets.get_mut::<tcp::Socket<'_>>(scene.handle);
        socket.listen(PORT).expect("it is closed");
        let remote = SocketAddr::new(IpAddr::V4(address(1)), PORT);
        conn = scene.host.stack.connect(scene.now, remote, None).expect("there is room");
        scene.host.streams.insert(conn, Stream::default());
    }
    let mut ours = Some(ours);
    for _ in 0..2_000_000 {
        scene.step();
        if passive && let Some(accepted) = scene.host.accepted.pop() {
            conn = accepted;
        }
        if scene.host.streams.get(&conn).is_some_and(|stream| stream.is_open)
            && let Some(ours) = ours.take()
        {
            let stream = scene.host.stream(conn);
            (stream.to_send, stream.then_shutdown) = (ours.to_send, true);
        }
        if scene.host.streams.get(&conn).is_some_and(|stream| stream.closed.is_some()) {
            break;
        }
    }
    let context = (faults, passive, scene.host.stack.stats().clone());
    let stream = scene.host.stream(conn);
    assert_eq!(stream.closed, Some(crate::Cause::Finished), "{context:?}");
    assert!(stream.received == bytes(lens[1], 1), "{context:?}");
    assert!(scene.peer_received == bytes(lens[0], 0), "{context:?}");
}

#[test]
fn smoltcp_understands_us_over_a_clean_link() {
    for passive in [false, true] {
        check(Faults::NONE, passive, [300_000, 300_000], 65_535);
    }
}

#[test]
fn smoltcp_and_we_get_everything_over_links_that_lose_repeat_and_reorder() {
    for seed in 0..40 {
        let faults = Faults {
            seed,
            loss_permille: 30,
            duplicate_permille: 20,
            delay: Duration::from_millis(seed),
            jitter: Duration::from_micros(seed * 100),
        };
        check(faults, seed % 2 == 0, [100_000, 60_000], 1 << (12 + seed % 6));
    }
}
