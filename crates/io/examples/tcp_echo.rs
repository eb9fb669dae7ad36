//! Echoes over our own TCP stack on both sides, between two processes over DPDK's memif: no kernel, no NIC, no privileges.
//!
//! `cargo run --release -p tengate-io --features dpdk --example tcp_echo -- [CLIENTS] [SECONDS]` starts a second copy of
//! itself as the server, on the second core it may use. Every client has one message of 64 bytes on its way.
//!
//! `… tcp_echo -- fanout [CLIENTS] [SECONDS]`: the server sends every message to all clients, and they only acknowledge.
//!
//! `… tcp_echo -- on net_tap0,iface=tap7` is the server alone, as 10.1.0.1 to 10.1.0.64 on any device of DPDK's, until it is
//! killed: for peers that are not ours.

use core::error::Error;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use tengate_base::{ConnId, Door, Instant};
use tengate_io::dpdk::{Burst, Eal, EalConfig, Link, Pages, Port, PortConfig, Queue};
use tengate_io::{Clock, Idle, IdleConfig, Rest, allowed_cores};
use tengate_netstack::{
    Address, Checksums, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cores = allowed_cores()?;
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", socket, audience] => {
            serve(&memif("server", Path::new(socket)), last, audience.parse()?)
        }
        ["on", device] => serve(device, last, 0),
        [] => measure(Case::Echo, 1000, SECONDS, first),
        ["fanout"] => measure(Case::Fanout, 1000, SECONDS, first),
        ["fanout", clients] => measure(Case::Fanout, clients.parse()?, SECONDS, first),
        ["fanout", clients, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            measure(Case::Fanout, clients.parse()?, seconds, first)
        }
        [clients] => measure(Case::Echo, clients.parse()?, SECONDS, first),
        [clients, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            measure(Case::Echo, clients.parse()?, seconds, first)
        }
        _ => Err("takes how many clients (1000) and for how many seconds (5)".into()),
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Echo,
    Fanout,
}

/// A stack on a queue, and the turn of both.
struct Host {
    stack: Stack,
    queue: Queue,
    port: Port,
    burst: Burst,
    clock: Clock,
    idle: Idle,
}

/// The queue as the stack sees it.
struct Wire<'a>(&'a mut Queue);

impl Device for Wire<'_> {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.0.append(parts).map_err(|_counted| DeviceFull)
    }
}

impl Host {
    fn open(device: &str, core: usize, side: u8) -> Result<Self, Box<dyn Error>> {
        let port_config = PortConfig::for_connections(0, 1);
        let pools_mib = u32::try_from(port_config.memory_bytes(Pages::Ordinary) >> 20)?;
        let eal = Eal::init(&EalConfig {
            cores: vec![core],
            pages: Pages::Ordinary,
            memory_mib: pools_mib + 4,
            file_prefix: None,
            devices: vec![device.to_owned()],
        })?;
        let mut port = Port::open(&eal, &eal.ports()[0], &port_config)?;
        let queue = port.take_queues().pop().ok_or("a port without queues")?.claim()?;
        let addresses = (0..ADDRESSES).map(|index| address(side, index));
        let addresses = addresses.map(|addr| Address { addr, prefix_len: 8 }).collect();
        let mut config = Config::new(MacAddr(port.mac()?), addresses, Secret([side; 32]));
        config.checksums = Checksums::Software;
        let clock = Clock::start();
        let stack = Stack::new(config, clock.now())?;
        let idle = Idle::new(IdleConfig::default());
        Ok(Self { stack, queue, port, burst: Burst::new(), clock, idle })
    }

    /// One turn: `handle` sees every event, with the frame it may point into. Returns how many frames came.
    fn turn(
        &mut self,
        now: Instant,
        mut handle: impl FnMut(&mut Stack, Event, &[u8]),
    ) -> Result<usize, Box<dyn Error>> {
        let found = self.queue.receive(&mut self.burst);
        for frame in self.burst.frames_mut() {
            self.stack.handle_frame(now, frame, &mut Wire(&mut self.queue));
            while let Some(event) = self.stack.poll_event() {
                handle(&mut self.stack, event, frame);
            }
        }
        if self.stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.stack.handle_timeout(now, &mut Wire(&mut self.queue));
            while let Some(event) = self.stack.poll_event() {
                handle(&mut self.stack, event, &[]);
            }
        }
        // What finds no room stays with the stack until the next turn.
        let _full = self.stack.flush(now, &mut Wire(&mut self.queue));
        self.queue.flush();
        Ok(found)
    }

    fn rest(&mut self, found: usize) {
        match self.idle.handle_turn(found) {
            Rest::None => {}
            Rest::Pause => core::hint::spin_loop(),
            Rest::Sleep(sleep) => thread::park_timeout(sleep),
        }
    }
}

/// Sends back what it gets until the other process has gone, and says what that cost. With an audience, of so many
/// clients, it sends messages to all of them instead.
#[expect(
    clippy::print_stdout,
    reason = "tells its parent that the socket is there, and what it did"
)]
fn serve(device: &str, core: usize, audience: usize) -> Result<(), Box<dyn Error>> {
    let mut host = Host::open(device, core, SERVER)?;
    host.stack.listen(PORT, Door(0));
    println!("ready");
    host.port.wait_link(PATIENCE)?;
    let mut echo = Echo::default();
    let mut turns = 0_u32;
    loop {
        let now = host.clock.now();
        let found = host.turn(now, |stack, event, frame| echo.handle(now, stack, event, frame))?;
        if audience > 0 && echo.conns.len() == audience {
            broadcast(&mut host.stack, &echo.conns);
        }
        turns = turns.wrapping_add(1);
        if found == 0 && turns.is_multiple_of(1024) && host.port.link()? == Link::Down {
            // Whoever would read it may be gone.
            let mut out = std::io::stdout();
            _ = writeln!(out, "server: {} bytes echoed; {:?}", echo.bytes, host.stack.stats());
            return Ok(());
        }
        host.rest(found);
    }
}

/// A message for everybody, when the last one of all has left and not too many wait for acknowledgements.
fn broadcast(stack: &mut Stack, conns: &[ConnId]) {
    let last = conns[conns.len() - 1];
    if stack.unsent(last) > 0 || stack.queued(last) > UNACKNOWLEDGED_MAX {
        return;
    }
    if let Some(shared) = stack.share(&MESSAGE) {
        for conn in conns {
            stack.send_shared(*conn, shared);
        }
    }
}

/// Sends back what comes. What a peer does not read yet waits here, and its window shrinks by that.
#[derive(Default)]
struct Echo {
    waiting: BTreeMap<u32, Waiting>,
    bytes: u64,
    conns: Vec<ConnId>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    is_last: bool,
}

impl Echo {
    fn handle(&mut self, now: Instant, stack: &mut Stack, event: Event, frame: &[u8]) {
        match event {
            Event::Received { conn, bytes } => self.send(stack, conn, &frame[bytes]),
            Event::Readable { conn } => {
                let mut bytes = Vec::new();
                stack.read(conn, &mut bytes);
                self.send(stack, conn, &bytes);
            }
            Event::Drained { conn } => self.go_on(now, stack, conn),
            Event::PeerClosed { conn } => match self.waiting.get_mut(&conn.0) {
                Some(waiting) => waiting.is_last = true,
                None => stack.close(now, conn),
            },
            Event::Closed { conn, .. } => _ = self.waiting.remove(&conn.0),
            Event::Opened { conn, .. } => self.conns.push(conn),
            Event::Connected { .. } => {}
        }
    }

    fn send(&mut self, stack: &mut Stack, conn: ConnId, bytes: &[u8]) {
        let sent = if self.waiting.contains_key(&conn.0) { 0 } else { stack.send(conn, bytes) };
        self.bytes += sent as u64;
        let rest = &bytes[sent..];
        if !rest.is_empty() {
            stack.hold(conn, u32::try_from(rest.len()).expect("shorter than a window"));
            stack.notify_below(conn, 64 << 10);
            self.waiting.entry(conn.0).or_default().bytes.extend_from_slice(rest);
        }
    }

    fn go_on(&mut self, now: Instant, stack: &mut Stack, conn: ConnId) {
        let Some(waiting) = self.waiting.get_mut(&conn.0) else { return };
        let sent = stack.send(conn, &waiting.bytes);
        self.bytes += sent as u64;
        waiting.bytes.drain(..sent);
        stack.release(conn, u32::try_from(sent).expect("shorter than a window"));
        if !waiting.bytes.is_empty() {
            stack.notify_below(conn, 64 << 10);
        } else if self.waiting.remove(&conn.0).is_some_and(|waiting| waiting.is_last) {
            stack.close(now, conn);
        }
    }
}

/// What the client side knows.
#[derive(Default)]
struct Clients {
    /// Bytes of the present answer, by connection index.
    answered: Vec<usize>,
    connected: Vec<ConnId>,
    lost: usize,
    answers: u64,
    is_silent: bool,
}

impl Clients {
    fn handle(&mut self, stack: &mut Stack, event: Event) {
        match event {
            // Nobody speaks before all are there.
            Event::Connected { conn } => self.connected.push(conn),
            Event::Received { conn, bytes } => self.receive(stack, conn, bytes.len()),
            Event::Readable { conn } => {
                let len = stack.read(conn, &mut Vec::new());
                self.receive(stack, conn, len);
            }
            Event::Closed { .. } | Event::PeerClosed { .. } => self.lost += 1,
            Event::Opened { .. } | Event::Drained { .. } => {}
        }
    }

    fn receive(&mut self, stack: &mut Stack, conn: ConnId, len: usize) {
        let index = conn.0 as usize;
        if self.answered.len() <= index {
            self.answered.resize(index + 1, 0);
        }
        self.answered[index] += len;
        while self.answered[index] >= MESSAGE.len() {
            self.answered[index] -= MESSAGE.len();
            self.answers += 1;
            if !self.is_silent {
                stack.send(conn, &MESSAGE);
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "tells what was measured")]
fn measure(
    case: Case,
    count: usize,
    duration: Duration,
    core: usize,
) -> Result<(), Box<dyn Error>> {
    let socket = std::env::temp_dir().join(format!("tengate-tcp-echo-{}.sock", std::process::id()));
    let audience = if case == Case::Fanout { count } else { 0 };
    let mut server = start_server(&socket, audience)?;
    let mut host = Host::open(&memif("client", &socket), core, CLIENT)?;
    if host.port.wait_link(PATIENCE)? == Link::Down {
        return Err("the server did not come up".into());
    }
    let remote = |index: usize| SocketAddr::new(address(SERVER, index % ADDRESSES), PORT);
    let mut clients = Clients { is_silent: case == Case::Fanout, ..Clients::default() };
    let (mut asked, began) = (0, host.clock.now());
    let mut connected_at = None;
    let (mut before, mut cpu_before) = (0, Duration::ZERO);
    loop {
        let now = host.clock.now();
        while connected_at.is_none()
            && asked < count
            && asked - clients.connected.len() < OPENING_MAX
        {
            let local = SocketAddr::new(address(CLIENT, asked / PORTS_EACH), 0);
            host.stack.connect(now, remote(asked), Some(local))?;
            asked += 1;
        }
        host.turn(now, |stack, event, _| clients.handle(stack, event))?;
        if clients.connected.len() == count && connected_at.is_none() {
            let took = now.saturating_since(began).as_secs_f64();
            println!("{count} connections in {took:.2} s: {:.0}/s", count as f64 / took);
            if case == Case::Echo {
                clients.connected.iter().for_each(|conn| _ = host.stack.send(*conn, &MESSAGE));
            }
            // Warm first: a second of echoes that do not count.
            connected_at = Some(host.clock.now() + WARM_UP);
        }
        if connected_at.is_some_and(|at| at <= now) && cpu_before.is_zero() {
            (before, cpu_before) = (clients.answers, cpu(server.id()));
        }
        let waits = connected_at.map_or_else(|| now.saturating_since(began), |_| Duration::ZERO);
        if clients.lost > 0 || waits > Duration::from_secs(60) {
            let (connected, lost) = (clients.connected.len(), clients.lost);
            let stats = host.stack.stats();
            return Err(format!("{connected} connected, {lost} lost: {stats:?}").into());
        }
        if connected_at.is_some_and(|at| now.saturating_since(at) >= duration) {
            break;
        }
    }
    let answers = clients.answers - before;
    let rate = answers as f64 / duration.as_secs_f64();
    let cost = (cpu(server.id()) - cpu_before).as_secs_f64() / answers as f64 * 1e9;
    println!("{case:?}, {count} clients, 64 B: {rate:.0}/s, {cost:.0} ns of the server each");
    println!("client: {:?}", host.stack.stats());
    drop(host);
    server.wait()?;
    Ok(())
}

fn start_server(socket: &Path, audience: usize) -> Result<Child, Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("server")
        .arg(socket)
        .arg(audience.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the server has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    if lines.next().transpose()?.as_deref() != Some("ready") {
        return Err("the server did not start".into());
    }
    thread::spawn(move || lines.map_while(Result::ok).for_each(|line| show(&line)));
    Ok(child)
}

#[expect(clippy::print_stdout, reason = "tells what the server did")]
fn show(line: &str) {
    println!("{line}");
}

/// Processor time a process has used, in steps of 10 ms.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// A device of memory that two processes share.
fn memif(role: &str, socket: &Path) -> String {
    format!("net_memif0,role={role},socket={}", socket.display())
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
/// Connections being opened at a time.
const OPENING_MAX: usize = 200;
const MESSAGE: [u8; 64] = [b'm'; 64];
/// How long to measure.
const SECONDS: Duration = Duration::from_secs(5);
/// Bytes for a client that a broadcast does not add to.
const UNACKNOWLEDGED_MAX: usize = 4096;
/// Echoes before those that count.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the other process may take.
const PATIENCE: Duration = Duration::from_secs(10);
