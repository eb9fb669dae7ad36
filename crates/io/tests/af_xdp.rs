//! AF_XDP on a veth between two network namespaces: our stack at one end, Linux at the other. Needs root and `ip` and `ethtool`;
//! without them each test says that it is skipped.
//!
//! A process has one network namespace, so each test runs its roles in processes of their own: copies of this program,
//! started with `ip netns exec`, that run the same test with a role in their environment, and speak with the test by lines.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

#[path = "af_xdp_net/echo.rs"]
mod echo;
#[path = "af_xdp_net/roles.rs"]
mod roles;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tengate_io::af_xdp::{AfXdpError, Attached, Config, Interface, Mode, ZeroCopy};

use echo::{Report, Shards};
use roles::{Network, hear, role, say};

#[test]
fn clients_of_linux_are_echoed_in_native_mode() {
    echo("clients_of_linux_are_echoed_in_native_mode", Mode::Native, 1);
}

#[test]
fn clients_of_linux_are_echoed_in_generic_mode() {
    echo("clients_of_linux_are_echoed_in_generic_mode", Mode::Generic, 1);
}

#[test]
fn clients_of_linux_are_echoed_over_two_queues_in_native_mode() {
    echo("clients_of_linux_are_echoed_over_two_queues_in_native_mode", Mode::Native, 2);
}

#[test]
fn clients_of_linux_are_echoed_over_two_queues_in_generic_mode() {
    echo("clients_of_linux_are_echoed_over_two_queues_in_generic_mode", Mode::Generic, 2);
}

/// Serves one port by our stack and another by the kernel, and has clients at both.
fn echo(test: &str, mode: Mode, queues: u16) {
    match role().as_deref() {
        Some("gateway") => {
            let kernel = TcpListener::bind((GATEWAY_V4, KERNEL_PORT)).unwrap();
            let datagrams = UdpSocket::bind((GATEWAY_V4, PORT)).unwrap();
            std::thread::spawn(move || serve_kernel(&kernel));
            std::thread::spawn(move || serve_datagrams(&datagrams));
            let mut interface = Interface::open(&config(mode, queues)).unwrap();
            let native = mode == Mode::Native;
            assert_eq!(interface.attached(), Attached { native, zero_copy: false });
            assert_eq!((interface.mtu(), interface.queue_count()), (1500, queues));
            let shards = Shards::start(&mut interface);
            say("ready");
            assert_eq!(hear(), "stop");
            let reports = shards.stop();
            let stats = interface.stats().unwrap();
            check_gateway(&reports, &format!("{stats:?}"));
            assert_eq!((stats.dropped_without_socket, stats.invalid_descriptors), (0, 0));
            let conns: u64 = reports.iter().map(|report| report.stack.conns_accepted).sum();
            assert_eq!(conns, CLIENTS as u64 * 2 + 1);
            say("stopped");
        }
        Some("clients") => {
            let ours = |address: &str| SocketAddr::new(address.parse().unwrap(), PORT);
            for address in [GATEWAY_V4, GATEWAY_V6] {
                many_clients(ours(address));
            }
            bulk(ours(GATEWAY_V4));
            kernel_is_untouched();
        }
        _ => {
            let Some(network) = Network::new(test, queues, Offloads::of(mode)) else { return };
            let mut gateway = network.start_gateway("gateway");
            gateway.expect("ready");
            network.start_peer("clients").succeed();
            gateway.tell("stop");
            gateway.expect("stopped");
            gateway.succeed();
        }
    }
}

/// Every frame came back, and nothing happened that healthy clients do not cause.
fn check_gateway(reports: &[Report], stats: &str) {
    for report in reports {
        let Report { frames, queue, stack, .. } = report;
        let all = format!("{report:?} {stats}");
        assert_eq!((frames.lent(), frames.sending), (0, 0), "{all}");
        assert_eq!(frames.free + frames.receiving, frames.total, "{all}");
        assert_eq!((queue.kicks_failed, queue.refused_length), (0, 0), "{all}");
        assert_eq!((stack.resets_sent, stack.conns_reset_by_peer), (0, 0), "{all}");
        assert_eq!((stack.drop_tcp_checksum, stack.drop_tcp_no_connection), (0, 0), "{all}");
    }
}

/// Clients that all have a message on its way, and get each back as it was.
fn many_clients(server: SocketAddr) {
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(server)).collect();
    for round in 0..ROUNDS {
        for (index, client) in clients.iter_mut().enumerate() {
            client.write_all(&message(index, round)).unwrap();
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let expected = message(index, round);
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).unwrap();
            assert!(got == expected, "client {index}, message {round}");
        }
    }
    for client in &mut clients {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

/// A stream of some length, written and read at once.
fn bulk(server: SocketAddr) {
    let mut client = connect(server);
    let mut writing = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for round in 0..BULK_ROUNDS {
            writing.write_all(&bulk_part(round)).unwrap();
        }
        writing.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = vec![0; BULK_PART_BYTES];
    for round in 0..BULK_ROUNDS {
        client.read_exact(&mut got).unwrap();
        assert!(got == bulk_part(round), "part {round}");
    }
    assert_eq!(client.read(&mut got).unwrap(), 0);
    writer.join().unwrap();
}

/// What is not for our stack is served by the kernel's.
fn kernel_is_untouched() {
    let mut client = connect(SocketAddr::new(GATEWAY_V4.parse().unwrap(), KERNEL_PORT));
    client.write_all(b"kernel?").unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"kernel?");

    let datagrams = UdpSocket::bind((PEER_V4, 0)).unwrap();
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    // Longer than the MTU: its fragments pass too.
    for len in [1, 4000] {
        datagrams.send_to(&vec![7; len], (GATEWAY_V4, PORT)).unwrap();
        let mut got = vec![0; 5000];
        assert_eq!(datagrams.recv(&mut got).unwrap(), len);
    }

    let refused = TcpStream::connect((GATEWAY_V4, CLOSED_PORT)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    match Command::new("ping").args(["-c", "1", "-W", "5", GATEWAY_V4]).output() {
        Ok(ping) => assert!(ping.status.success(), "{ping:?}"),
        Err(error) => eprintln!("skipped: no ping ({error})"),
    }
}

fn serve_kernel(listener: &TcpListener) {
    for client in listener.incoming() {
        let mut client = client.unwrap();
        let mut got = [0; 7];
        client.read_exact(&mut got).unwrap();
        client.write_all(&got).unwrap();
    }
}

fn serve_datagrams(socket: &UdpSocket) {
    let mut bytes = vec![0; 5000];
    loop {
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        socket.send_to(&bytes[..len], from).unwrap();
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&server, PATIENCE).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// 1 to 3000 bytes, different for each client and round.
fn message(index: usize, round: usize) -> Vec<u8> {
    let len = 1 + (index * 7919 + round * 104_729) % 3000;
    (0..len).map(|at| (at + index * 31 + round * 17).to_le_bytes()[0]).collect()
}

fn bulk_part(round: usize) -> Vec<u8> {
    (0..BULK_PART_BYTES).map(|at| (at / 251 + at + round).to_le_bytes()[0]).collect()
}

fn config(mode: Mode, queues: u16) -> Config {
    let addresses = vec![GATEWAY_V4.parse().unwrap(), GATEWAY_V6.parse().unwrap()];
    let config = Config::new(INTERFACE, addresses, vec![PORT], queues);
    Config { mode, ..config }
}

use roles::{GATEWAY_V4, GATEWAY_V6, INTERFACE, Offloads, PEER_V4};

const PORT: u16 = 7272;
const KERNEL_PORT: u16 = 7373;
const CLOSED_PORT: u16 = 7474;
const CLIENTS: usize = 50;
const ROUNDS: usize = 20;
const BULK_PART_BYTES: usize = 64 << 10;
const BULK_ROUNDS: usize = 128;
/// A test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);
