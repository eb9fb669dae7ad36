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

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Instant;

use tengate_io::af_xdp::{
    AfXdpError, AppendError, Attached, Burst, Config, Interface, Mode, ZeroCopy,
};

use echo::{Report, Shards};
use roles::{GATEWAY_V4, GATEWAY_V6, INTERFACE, Network, Offloads, PEER_V4, hear, role, say, skip};

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

#[test]
fn frames_come_back_after_the_rings_were_full() {
    match role().as_deref() {
        Some("gateway") => {
            let small =
                Config { rx_descriptors: 64, tx_descriptors: 64, ..config(Mode::Native, 1) };
            let small = Config { frames: small.frames_min(), ..small };
            let mut interface = Interface::open(&small).unwrap();
            let mut queue = interface.take_queues().pop().unwrap().claim();
            say("ready");
            assert_eq!(hear(), "sent");
            let mut hoard = Vec::new();
            for _ in 0..3 {
                let mut burst = Burst::new();
                queue.receive(&mut burst);
                hoard.push(burst);
            }
            // The second receive found nothing: what came meanwhile had no place.
            let counts: Vec<usize> =
                hoard.iter_mut().map(|burst| burst.frames_mut().len()).collect();
            assert_eq!(counts, [64, 0, 0]);
            let stats = interface.stats().unwrap();
            assert!(stats.dropped_ring_full + stats.fill_ring_empty >= SYNS - 64, "{stats:?}");
            let frames = queue.frames();
            assert_eq!((frames.total, frames.lent(), frames.receiving), (128, 64, 64));
            assert_eq!(queue.append(&[b"no room for me"]), Err(AppendError::NoBuffer));
            for len in [0, 1519] {
                assert_eq!(
                    queue.append(&[&vec![0; len]]),
                    Err(AppendError::Length { len, max: 1518 })
                );
            }
            hoard.clear();
            assert_eq!(queue.frames().lent(), 0);
            // Frames that nobody answers: to nobody's address.
            for number in 0..64 {
                assert_eq!(queue.append(&[&[2; 14], &[number; 46]]), Ok(()));
            }
            assert_eq!(queue.frames().sending, 64);
            wait_for(|| queue.flush() == 0 && queue.frames().sending == 0);
            let frames = queue.frames();
            assert_eq!((frames.lent(), frames.sending, queue.stats().sent), (0, 0, 64));
            assert_eq!(frames.free + frames.receiving, 128);
            say("stopped");
        }
        Some("clients") => {
            let _connecting = send_syns();
            say("sent");
        }
        _ => {
            let test = "frames_come_back_after_the_rings_were_full";
            let Some(network) = Network::new(test, 1, Offloads::NoChecksums) else { return };
            let mut gateway = network.start_gateway("gateway");
            gateway.expect("ready");
            let mut clients = network.start_peer("clients");
            clients.expect("sent");
            clients.succeed();
            gateway.tell("sent");
            gateway.expect("stopped");
            gateway.succeed();
        }
    }
}

#[test]
fn the_kernel_answers_again_when_the_gateway_is_gone_and_not_before() {
    match role().as_deref() {
        Some("gateway") => {
            let open = || Interface::open(&config(Mode::Auto, 1)).unwrap();
            let interface = open();
            say("held");
            assert_eq!(hear(), "drop");
            drop(interface);
            say("dropped");
            assert_eq!(hear(), "open");
            let _interface = open();
            say("held");
            hear();
        }
        Some("silence") => assert_eq!(connect_for_a_moment().unwrap_err(), ErrorKind::TimedOut),
        Some("refusal") => {
            assert_eq!(connect_for_a_moment().unwrap_err(), ErrorKind::ConnectionRefused);
        }
        _ => {
            let test = "the_kernel_answers_again_when_the_gateway_is_gone_and_not_before";
            let Some(network) = Network::new(test, 1, Offloads::NoChecksums) else { return };
            network.start_peer("refusal").succeed();
            let mut gateway = network.start_gateway("gateway");
            gateway.expect("held");
            network.start_peer("silence").succeed();
            gateway.tell("drop");
            gateway.expect("dropped");
            network.start_peer("refusal").succeed();
            gateway.tell("open");
            gateway.expect("held");
            network.start_peer("silence").succeed();
            gateway.kill();
            network.start_peer("refusal").succeed();
        }
    }
}

#[test]
fn an_interface_that_was_down_serves_again() {
    match role().as_deref() {
        Some("gateway") => {
            let mut interface = Interface::open(&config(Mode::Native, 1)).unwrap();
            let shards = Shards::start(&mut interface);
            say("ready");
            assert_eq!(hear(), "stop");
            let reports = shards.stop();
            let Report { frames, stack, .. } = &reports[0];
            assert_eq!((frames.lent(), frames.sending), (0, 0), "{frames:?}");
            assert_eq!(stack.conns_accepted, 2);
        }
        Some("client") => bulk(SocketAddr::new(GATEWAY_V4.parse().unwrap(), PORT)),
        _ => {
            let test = "an_interface_that_was_down_serves_again";
            let Some(network) = Network::new(test, 1, Offloads::NoChecksums) else { return };
            let mut gateway = network.start_gateway("gateway");
            gateway.expect("ready");
            network.start_peer("client").succeed();
            for state in ["down", "up"] {
                network.gateway_runs(&["ip", "link", "set", INTERFACE, state]);
            }
            network.start_peer("client").succeed();
            gateway.tell("stop");
            gateway.succeed();
        }
    }
}

#[test]
fn frames_for_a_queue_without_a_socket_are_dropped_and_counted() {
    match role().as_deref() {
        Some("gateway") => {
            let interface = Interface::open(&config(Mode::Generic, 1)).unwrap();
            say("held");
            assert_eq!(hear(), "tried");
            let stats = interface.stats().unwrap();
            assert!(stats.dropped_without_socket > 0, "{stats:?}");
            say("stopped");
        }
        Some("clients") => {
            let connecting = send_syns();
            // Whoever was refused knows by the time that this gives up.
            assert_eq!(connect_for_a_moment().unwrap_err(), ErrorKind::TimedOut);
            let refused = connecting.iter().filter_map(|client| client.take_error().unwrap());
            assert_eq!(refused.map(|error| error.to_string()).collect::<Vec<_>>(), [""; 0]);
        }
        _ => {
            let test = "frames_for_a_queue_without_a_socket_are_dropped_and_counted";
            // The generic code knows a veth's queues by one less than their number.
            let Some(network) = Network::new(test, 3, Offloads::None) else { return };
            network.gateway_runs(&["ethtool", "-L", INTERFACE, "rx", "1"]);
            let mut gateway = network.start_gateway("gateway");
            gateway.expect("held");
            network.gateway_runs(&["ethtool", "-L", INTERFACE, "rx", "3"]);
            network.start_peer("clients").succeed();
            gateway.tell("tried");
            gateway.expect("stopped");
            gateway.succeed();
        }
    }
}

#[test]
fn faults_of_the_configuration_are_named() {
    match role().as_deref() {
        Some("one queue") => {
            let one = config(Mode::Auto, 1);
            let missing = Config { interface: "nowhere0".to_owned(), ..one.clone() };
            refused(&missing, "there is no interface \"nowhere0\"");
            let long_name = Config { interface: "x".repeat(99), ..one.clone() };
            refused(&long_name, "there is no interface");
            refused(&config(Mode::Auto, 2), "has 1 queues for 2 shards");
            let zero_copy = Config { zero_copy: ZeroCopy::Required, ..one.clone() };
            refused(&zero_copy, "cannot do without copies");
            let _open = Interface::open(&one).unwrap();
            refused(&one, "queue 0 of gate has an AF_XDP socket of another program");
        }
        Some("two queues") => refused(&config(Mode::Auto, 1), "ethtool -L gate combined 1"),
        Some("down") => refused(&config(Mode::Auto, 2), "`ip link set gate up`"),
        Some("large") => {
            refused(&config(Mode::Auto, 2), "an MTU of 9000 bytes and AF_XDP takes 3822")
        }
        Some("peer is large") => {
            refused(&config(Mode::Native, 2), "refuses XDP in native mode");
            let interface = Interface::open(&config(Mode::Auto, 2)).unwrap();
            assert!(!interface.attached().native);
            let refusal = interface.native_refusal().unwrap();
            assert!(matches!(refusal, AfXdpError::Native { .. }), "{refusal}");
        }
        _ => {
            let test = "faults_of_the_configuration_are_named";
            if let Some(network) = Network::new(test, 1, Offloads::None) {
                network.start_gateway("one queue").succeed();
            }
            let Some(network) = Network::new(test, 2, Offloads::None) else { return };
            network.start_gateway("two queues").succeed();
            network.peer_runs(&["ip", "link", "set", "peer", "mtu", "9000"]);
            network.start_gateway("peer is large").succeed();
            network.gateway_runs(&["ip", "link", "set", INTERFACE, "mtu", "9000"]);
            network.start_gateway("large").succeed();
            network.gateway_runs(&["ip", "link", "set", INTERFACE, "mtu", "1500", "down"]);
            network.start_gateway("down").succeed();
        }
    }
}

#[test]
fn missing_privileges_are_named() {
    match role().as_deref() {
        Some("no bpf") => {
            refused(&config(Mode::Auto, 1), "it needs CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON")
        }
        Some("no raw") => {
            refused(&config(Mode::Auto, 1), "may not make an AF_XDP socket; it needs CAP_NET_RAW");
        }
        Some("enough") => {
            let config = config(Mode::Auto, 1);
            let small = Config { rx_descriptors: 512, tx_descriptors: 512, ..config };
            drop(Interface::open(&Config { frames: small.frames_min(), ..small }).unwrap());
        }
        Some("no memory") => refused(&config(Mode::Auto, 1), "raise `ulimit -l`"),
        _ => {
            let test = "missing_privileges_are_named";
            let Some(network) = Network::new(test, 1, Offloads::NoChecksums) else { return };
            let with = |role, capabilities, memory| {
                let command = ["setpriv", "--bounding-set", capabilities, "prlimit", memory];
                network.start_gateway_under(role, &command).succeed();
            };
            with("enough", "-all,+net_raw,+net_admin,+bpf,+perfmon", "--memlock=8388608");
            with("no bpf", "-bpf,-sys_admin", "--memlock=8388608");
            with("no bpf", "-net_admin,-sys_admin", "--memlock=8388608");
            with("no bpf", "-perfmon,-sys_admin", "--memlock=8388608");
            with("no raw", "-net_raw", "--memlock=8388608");
            with("no memory", "-ipc_lock", "--memlock=8000000");
        }
    }
}

/// Opens an interface, which must fail and say `message`.
fn refused(config: &Config, message: &str) {
    let error = Interface::open(config).expect_err("a fault was made").to_string();
    assert!(error.contains(message), "{error}");
}

/// Connects, and gives up soon.
fn connect_for_a_moment() -> Result<TcpStream, ErrorKind> {
    let server = SocketAddr::new(GATEWAY_V4.parse().unwrap(), PORT);
    TcpStream::connect_timeout(&server, MOMENT).map_err(|error| error.kind())
}

/// As many clients that connect and wait for nothing.
fn send_syns() -> Vec<mio::net::TcpStream> {
    let server = SocketAddr::new(GATEWAY_V4.parse().unwrap(), PORT);
    (0..SYNS).map(|_| mio::net::TcpStream::connect(server).unwrap()).collect()
}

/// Polls until something holds; a test that hangs fails.
fn wait_for(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "nothing more happens");
        std::thread::yield_now();
    }
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
        let Report { frames, queue, stack, sleeps } = report;
        let all = format!("{report:?} {stats}");
        assert!(*sleeps > 0, "{all}");
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
        Err(error) => skip(&format!("no ping ({error})")),
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

const PORT: u16 = 7272;
const KERNEL_PORT: u16 = 7373;
const CLOSED_PORT: u16 = 7474;
const CLIENTS: usize = 50;
const ROUNDS: usize = 20;
const BULK_PART_BYTES: usize = 64 << 10;
const BULK_ROUNDS: usize = 128;
const SYNS: u64 = 200;
/// Long enough for an answer on this machine, and shorter than the time to the next SYN.
const MOMENT: Duration = Duration::from_millis(150);
/// A test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);
