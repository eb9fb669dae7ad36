//! What an echo and a delivery of a broadcast cost the stack of a server, without a device: two stacks joined by memory.
//!
//! `cargo run --release -p tengate-netstack --example echo_cost -- CASE [CONNECTIONS] [ROUNDS] [BYTES] [DEPTH]`
//! prints the time each took the server. Instructions, which do not depend on what else the machine does:
//! `valgrind --tool=callgrind --toggle-collect='echo_cost::server_turn*' target/release/examples/echo_cost echo 100 100`,
//! divided by the number of echoes that it prints.
//!
//! - `echo`: every connection has one message on its way, which comes back with the acknowledgement on it.
//! - `fanout`: DEPTH messages for all connections, queued by reference, one a turn; each peer acknowledges once.
//! - `copies`: the same, queued as a copy for each connection.

use core::error::Error;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use tengate_base::{ConnId, Door, Instant};
use tengate_netstack::{Address, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        arguments.get(at).map_or(Ok(default), |argument| argument.parse())
    };
    let case = arguments.first().map_or("echo", String::as_str);
    let case = match case {
        "echo" => Case::Echo,
        "fanout" => Case::Fanout,
        "copies" => Case::Copies,
        _ => return Err("takes a case: echo, fanout or copies".into()),
    };
    let (count, rounds, bytes) = (number(1, 1000)?, number(2, 200)?, number(3, 64)?);
    let mut bed = Bed::new(count, bytes, number(4, 1)?)?;
    bed.rounds(case, rounds / 10 + 1);
    let (before, done) = (bed.server.spent, bed.server.done);
    bed.rounds(case, rounds);
    let (spent, done) = (bed.server.spent - before, bed.server.done - done);
    say(&format!(
        "{case:?}, {count} connections, {bytes} B: {} ns each; {} in all with those to warm up\n{:?}",
        spent.as_nanos() / u128::from(done.max(1)),
        bed.server.done,
        bed.server.stack.stats(),
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "tells what was measured")]
fn say(line: &str) {
    println!("{line}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Echo,
    Fanout,
    Copies,
}

/// Frames on their way, in buffers that are used again.
#[derive(Default)]
struct Wire {
    frames: Vec<Vec<u8>>,
    len: usize,
}

impl Device for Wire {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        if self.len == ROOM {
            return Err(DeviceFull);
        }
        if self.frames.len() == self.len {
            self.frames.push(Vec::with_capacity(2048));
        }
        let frame = &mut self.frames[self.len];
        frame.clear();
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        self.len += 1;
        Ok(())
    }
}

struct Server {
    stack: Stack,
    conns: Vec<ConnId>,
    spent: Duration,
    /// Echoes, or deliveries.
    done: u64,
}

struct Bed {
    now: Instant,
    server: Server,
    client: Stack,
    to_server: Wire,
    to_client: Wire,
    conns: Vec<ConnId>,
    message: Vec<u8>,
    /// Messages of a broadcast round.
    depth: usize,
}

impl Bed {
    /// All connections open.
    fn new(count: usize, bytes: usize, depth: usize) -> Result<Self, Box<dyn Error>> {
        let now = Instant::ZERO + Duration::from_secs(1);
        let mut bed = Self {
            now,
            server: Server {
                stack: Stack::new(config(SERVER), now)?,
                conns: Vec::new(),
                spent: Duration::ZERO,
                done: 0,
            },
            client: Stack::new(config(CLIENT), now)?,
            to_server: Wire::default(),
            to_client: Wire::default(),
            conns: Vec::new(),
            message: vec![b'm'; bytes],
            depth,
        };
        bed.server.stack.listen(PORT, Door(0));
        for index in 0..count {
            let local = SocketAddr::new(address(CLIENT, index / PORTS_EACH), 0);
            let remote = SocketAddr::new(address(SERVER, 0), PORT);
            bed.conns.push(bed.client.connect(now, remote, Some(local))?);
            if index % 500 == 499 {
                bed.settle();
            }
        }
        bed.settle();
        if bed.server.conns.len() != count {
            return Err("not all connections opened".into());
        }
        Ok(bed)
    }

    fn rounds(&mut self, case: Case, rounds: usize) {
        for _ in 0..rounds {
            match case {
                Case::Echo => {
                    for conn in &self.conns {
                        self.client.send(*conn, &self.message);
                    }
                    self.now = self.now + Duration::from_millis(1);
                    self.settle();
                }
                Case::Fanout | Case::Copies => {
                    for _ in 0..self.depth {
                        broadcast_turn(&mut self.server, case, &self.message);
                        self.settle();
                    }
                    // Peers delay their acknowledgements.
                    self.now = self.now + Duration::from_millis(50);
                    self.client.handle_timeout(self.now, &mut self.to_server);
                    self.settle();
                }
            }
        }
    }

    /// Delivers frames until there are none, and nothing waits for room.
    fn settle(&mut self) {
        loop {
            let all_sent = self.client_turn();
            let frames = core::mem::take(&mut self.to_server.len);
            let mut flushed = true;
            for burst in self.to_server.frames[..frames].chunks(BURST) {
                flushed &= server_turn(&mut self.server, self.now, burst, &mut self.to_client);
            }
            if frames == 0 {
                flushed &= server_turn(&mut self.server, self.now, &[], &mut self.to_client);
            }
            if all_sent && flushed && self.to_client.len == 0 {
                return;
            }
        }
    }

    /// Returns whether everything was sent.
    fn client_turn(&mut self) -> bool {
        let frames = core::mem::take(&mut self.to_client.len);
        for frame in &self.to_client.frames[..frames] {
            self.client.handle_frame(self.now, frame, &mut self.to_server);
            while self.client.poll_event().is_some() {}
        }
        self.client.flush(self.now, &mut self.to_server).is_ok()
    }
}

/// A turn with a burst of frames that came. Returns whether everything was sent.
#[inline(never)]
fn server_turn(server: &mut Server, now: Instant, burst: &[Vec<u8>], out: &mut Wire) -> bool {
    let began = clock();
    for frame in burst {
        server.stack.handle_frame(now, frame, out);
        while let Some(event) = server.stack.poll_event() {
            match event {
                Event::Received { conn, bytes } => {
                    server.stack.send(conn, &frame[bytes]);
                    server.done += 1;
                }
                Event::Opened { conn, .. } => server.conns.push(conn),
                Event::Connected { .. }
                | Event::Readable { .. }
                | Event::PeerClosed { .. }
                | Event::Drained { .. }
                | Event::Closed { .. } => {}
            }
        }
    }
    if server.stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
        server.stack.handle_timeout(now, out);
    }
    let flushed = server.stack.flush(now, out).is_ok();
    server.spent += clock() - began;
    flushed
}

/// A message for everybody.
#[inline(never)]
fn broadcast_turn(server: &mut Server, case: Case, message: &[u8]) {
    let began = clock();
    if case == Case::Copies {
        for conn in &server.conns {
            server.stack.send(*conn, message);
        }
    }
    if case == Case::Fanout {
        let shared = server.stack.share(message).expect("the pool has room");
        for conn in &server.conns {
            server.stack.send_shared(*conn, shared);
        }
    }
    server.done += server.conns.len() as u64;
    server.spent += clock() - began;
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

fn config(side: u8) -> Config {
    let addresses =
        (0..ADDRESSES).map(|index| Address { addr: address(side, index), prefix_len: 8 });
    let mac = |side| MacAddr([2, 0, 0, 0, 0, side]);
    let mut config = Config::new(mac(side), addresses.collect(), Secret([side; 32]));
    let other = if side == SERVER { CLIENT } else { SERVER };
    config.neighbors.push((address(other, 0), mac(other)));
    config
}

/// The address of a side with this number.
fn address(side: u8, index: usize) -> IpAddr {
    let [.., high, low] = (index + 1).to_be_bytes();
    Ipv4Addr::new(10, side, high, low).into()
}

const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const PORT: u16 = 7;
/// Addresses of each side.
const ADDRESSES: usize = 64;
/// Connections from one address.
const PORTS_EACH: usize = 20_000;
/// Frames a turn.
const BURST: usize = 32;
/// Frames on their way in one direction: a device's ring, whose buffers stay in cache.
const ROOM: usize = 1024;
