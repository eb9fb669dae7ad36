//! Frames between two processes over memif, without huge pages, devices or privileges.
//!
//! DPDK starts once a process, so each test runs its roles in processes of their own: copies of this program that run the
//! same test with a role in their environment, and speak with the test by lines.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

use core::time::Duration;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use tengate_io::dpdk::{
    AppendError, Burst, Eal, EalConfig, EalError, Link, Pages, Port, PortConfig, PortError, Queue,
};

#[test]
fn frames_come_back_from_another_process_byte_for_byte() {
    const FRAMES: u32 = 50_000;
    match role().as_deref() {
        Some("bouncer") => {
            let (port, mut queue) = open("server", "");
            say("ready");
            wait_for(|| port.link().unwrap() != Link::Down);
            let mut burst = Burst::new();
            wait_for(|| {
                queue.receive(&mut burst);
                for frame in burst.frames_mut() {
                    wait_for(|| queue.append(&[frame]).is_ok());
                }
                queue.flush();
                port.link().unwrap() == Link::Down
            });
        }
        Some("generator") => {
            let (port, mut queue) = open("client", "");
            wait_for(|| port.link().unwrap() != Link::Down);
            let mut burst = Burst::new();
            let (mut sent, mut back) = (0, 0);
            wait_for(|| {
                while sent < FRAMES && sent - back < 300 {
                    let frame = frame(sent);
                    let (head, body) = frame.split_at(14);
                    queue.append(&[head, body]).unwrap();
                    sent += 1;
                }
                queue.flush();
                queue.receive(&mut burst);
                for bytes in burst.frames_mut() {
                    assert!(bytes == frame(back), "frame {back} differs");
                    back += 1;
                }
                back == FRAMES
            });
            let (stats, port) = (queue.stats(), port.stats().unwrap());
            assert_eq!((stats.sent, stats.received), (FRAMES.into(), FRAMES.into()));
            assert_eq!((port.sent, port.received), (FRAMES.into(), FRAMES.into()));
        }
        _ => {
            let roles = Roles::of("frames_come_back_from_another_process_byte_for_byte");
            let mut bouncer = roles.start("bouncer");
            bouncer.expect("ready");
            roles.start("generator").succeed();
            bouncer.succeed();
        }
    }
}

#[test]
fn a_full_queue_is_counted_and_what_was_taken_is_not_lost() {
    match role().as_deref() {
        Some("reader") => {
            let (_port, mut queue) = open("server", ",rsize=8");
            say("ready");
            let sent: u32 = hear().parse().unwrap();
            let mut burst = Burst::new();
            let mut received = 0;
            wait_for(|| {
                queue.receive(&mut burst);
                for bytes in burst.frames_mut() {
                    assert!(bytes == frame(received), "frame {received} differs");
                    received += 1;
                }
                received == sent
            });
        }
        Some("sender") => {
            let (port, mut queue) = open("client", ",rsize=8");
            wait_for(|| port.link().unwrap() != Link::Down);
            let mut taken = 0;
            let refused = loop {
                match queue.append(&[&frame(taken)]) {
                    Ok(()) => taken += 1,
                    Err(refused) => break refused,
                }
            };
            assert_eq!(refused, AppendError::Full);
            assert_eq!(queue.append(&[b"one more"]), Err(AppendError::Full));
            let stats = queue.stats();
            assert_eq!((stats.refused_full, stats.sent), (2, 256), "the ring has 256 places");
            assert!(stats.flushes_partial > 0);
            say(&taken.to_string());
            wait_for(|| queue.flush() == 0);
            assert_eq!(queue.stats().sent, u64::from(taken));
            wait_for(|| port.link().unwrap() == Link::Down);
        }
        _ => {
            let roles = Roles::of("a_full_queue_is_counted_and_what_was_taken_is_not_lost");
            let mut reader = roles.start("reader");
            reader.expect("ready");
            let mut sender = roles.start("sender");
            let taken = sender.hear();
            reader.tell(&taken);
            reader.succeed();
            sender.succeed();
        }
    }
}

#[test]
fn an_exhausted_pool_is_counted_and_recovers() {
    const FRAMES: u32 = 4000;
    match role().as_deref() {
        Some("hoarder") => {
            let small = PortConfig { rx_descriptors: 64, tx_descriptors: 64, ..default_config() };
            let small = PortConfig { buffers: small.buffers_min(), ..small };
            let (port, mut queue) = open_as("server", ",rsize=12", &small);
            say("ready");
            assert_eq!(hear(), "sent");
            let mut hoard = Vec::new();
            wait_for(|| {
                let mut burst = Burst::new();
                queue.receive(&mut burst);
                hoard.push(burst);
                queue.stats().receives_without_buffer > 0
            });
            assert_eq!(queue.append(&[b"no room for me"]), Err(AppendError::NoBuffer));
            assert_eq!((queue.stats().refused_no_buffer, queue.buffers_available()), (1, 0));
            let stats = port.stats().unwrap();
            assert_eq!(stats.buffers_used, stats.buffers);

            let mut received = 0;
            for bytes in hoard.iter_mut().flat_map(Burst::frames_mut) {
                assert!(bytes == frame(received), "frame {received} differs");
                received += 1;
            }
            assert_eq!(received, stats.buffers, "the whole pool was of use");
            hoard.truncate(1);
            wait_for(|| {
                let burst = &mut hoard[0];
                queue.receive(burst);
                for bytes in burst.frames_mut() {
                    assert!(bytes == frame(received), "frame {received} differs");
                    received += 1;
                }
                received == FRAMES
            });
            drop(hoard);
            assert_eq!(queue.buffers_available(), stats.buffers);
            assert_eq!(queue.append(&[b"there is room again"]), Ok(()));
        }
        Some("sender") => {
            let (port, mut queue) = open("client", ",rsize=12");
            wait_for(|| port.link().unwrap() != Link::Down);
            for number in 0..FRAMES {
                queue.append(&[&frame(number)]).unwrap();
            }
            assert_eq!(queue.flush(), 0);
            say("sent");
            wait_for(|| port.link().unwrap() == Link::Down);
        }
        _ => {
            let roles = Roles::of("an_exhausted_pool_is_counted_and_recovers");
            let mut hoarder = roles.start("hoarder");
            hoarder.expect("ready");
            let mut sender = roles.start("sender");
            sender.expect("sent");
            hoarder.tell("sent");
            hoarder.succeed();
            sender.succeed();
        }
    }
}

#[test]
fn frames_longer_than_the_mtu_are_refused() {
    if role().is_none() {
        return Roles::of("frames_longer_than_the_mtu_are_refused").start("only").succeed();
    }
    let eal = Eal::init(&eal_config(&["net_null0"])).unwrap();
    let mut port = Port::open(&eal, "net_null0", &default_config()).unwrap();
    let mut queue = port.take_queues().pop().unwrap().claim().unwrap();
    // 1500 bytes behind an Ethernet header with two VLAN tags.
    let max = 1522;
    for len in [0, max + 1] {
        assert_eq!(queue.append(&[&vec![0; len]]), Err(AppendError::Length { len, max }));
    }
    assert_eq!(queue.append(&[&vec![0; max]]), Ok(()));
    assert_eq!(queue.flush(), 0);
    assert_eq!((queue.stats().refused_length, queue.stats().sent), (2, 1));
}

#[test]
fn faults_of_ports_are_told_apart() {
    if role().is_none() {
        return Roles::of("faults_of_ports_are_told_apart").start("only").succeed();
    }
    let eal = Eal::init(&eal_config(&["net_null0", "net_ring0"])).unwrap();
    assert_eq!(eal.ports(), ["net_null0", "net_ring0"]);
    assert!(matches!(Eal::init(&eal_config(&[])), Err(EalError::AlreadyInitialised)));

    let config = default_config();
    let fault = |name, config| Port::open(&eal, name, &config).unwrap_err();
    assert!(matches!(fault("net_null1", config), PortError::Missing { .. }));
    let queues = PortConfig { queue_pairs: 64, ..config };
    assert!(matches!(fault("net_ring0", queues), PortError::Queues { max: 16, .. }));
    let greedy = PortConfig { buffers: 1 << 20, ..config };
    let error = fault("net_ring0", greedy);
    assert!(matches!(error, PortError::Memory { .. }), "{error}");

    let mut port = Port::open(&eal, "net_null0", &config).unwrap();
    assert!(matches!(fault("net_null0", config), PortError::Taken { .. }));
    let mut queue = port.take_queues().pop().unwrap().claim().unwrap();
    assert!(port.take_queues().is_empty());
    // The queue keeps the device open, whatever becomes of the port.
    drop(port);
    queue.append(&[&frame(0)]).unwrap();
    assert_eq!(queue.flush(), 0);
    drop(queue);
    assert_eq!(eal.ports(), ["net_ring0"]);
}

#[test]
fn a_device_that_cannot_be_is_named_with_its_cause() {
    if role().is_none() {
        let roles = Roles::of("a_device_that_cannot_be_is_named_with_its_cause");
        for device in ["net_nonsense0", "net_memif0,role=king", "0000:ff:1f.7"] {
            roles.start(device).succeed();
        }
        return;
    }
    let device = role().unwrap();
    let error = Eal::init(&eal_config(&[&device])).unwrap_err();
    assert!(matches!(error, EalError::Device { .. }), "{error:?}");
    assert!(error.to_string().contains(&device), "{error}");
}

#[test]
fn more_memory_than_the_machine_has_is_refused_at_start() {
    if role().is_none() {
        return Roles::of("more_memory_than_the_machine_has_is_refused_at_start")
            .start("only")
            .succeed();
    }
    let config = EalConfig { memory_mib: 400_000_000, ..eal_config(&[]) };
    let error = Eal::init(&config).unwrap_err();
    assert!(matches!(error, EalError::Memory { .. }), "{error:?}");
}

/// The processes of one test.
struct Roles {
    test: &'static str,
    folder: PathBuf,
}

impl Roles {
    fn of(test: &'static str) -> Self {
        let folder = env::temp_dir().join(format!("tengate-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { test, folder }
    }

    fn start(&self, role: &str) -> Role {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", self.test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FOLDER, &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        Role { child, stdin, stdout, name: role.to_owned() }
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// One process, seen from the test.
struct Role {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    name: String,
}

impl Role {
    /// The next line the role says.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.strip_prefix(SAYS) {
                return said.trim().to_owned();
            }
            line.clear();
        }
        panic!("{} ended without a word", self.name);
    }

    fn expect(&mut self, word: &str) {
        assert_eq!(self.hear(), word, "{}", self.name);
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn succeed(mut self) {
        assert!(self.child.wait().unwrap().success(), "{} failed", self.name);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // What is left of a failed test.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The role of this process; none for the test itself.
fn role() -> Option<String> {
    env::var(ROLE).ok()
}

#[expect(clippy::print_stdout, reason = "how a role speaks with its test")]
fn say(line: &str) {
    // The test runner has begun a line of its own.
    println!("\n{SAYS}{line}");
}

fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn open(memif_role: &str, arguments: &str) -> (Port, Queue) {
    open_as(memif_role, arguments, &default_config())
}

fn open_as(memif_role: &str, arguments: &str, config: &PortConfig) -> (Port, Queue) {
    let socket = PathBuf::from(env::var_os(FOLDER).unwrap()).join("memif");
    let device = format!("net_memif0,role={memif_role},socket={}{arguments}", socket.display());
    let pools_mib = u32::try_from(config.memory_bytes(Pages::Ordinary) >> 20).unwrap();
    let eal_config = EalConfig { memory_mib: pools_mib + 4, ..eal_config(&[&device]) };
    let eal = Eal::init(&eal_config).unwrap();
    let mut port = Port::open(&eal, "net_memif0", config).unwrap();
    let queue = port.take_queues().pop().unwrap().claim().unwrap();
    assert_eq!((port.mtu().unwrap(), queue.index()), (config.mtu, 0));
    (port, queue)
}

fn default_config() -> PortConfig {
    PortConfig::for_connections(0, 1)
}

fn eal_config(devices: &[&str]) -> EalConfig {
    EalConfig {
        cores: Vec::new(),
        pages: Pages::Ordinary,
        memory_mib: 64,
        file_prefix: None,
        devices: devices.iter().map(|&device| device.to_owned()).collect(),
    }
}

/// The bytes of a numbered frame, 14 to 1514 of them.
fn frame(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9) | 1;
    let len = 14 + state as usize % 1501;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// Polls until something holds; a test that hangs fails.
fn wait_for(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "nothing more happens");
        std::thread::yield_now();
    }
}

const ROLE: &str = "TENGATE_TEST_ROLE";
const FOLDER: &str = "TENGATE_TEST_FOLDER";
const SAYS: &str = "says: ";
const PATIENCE: Duration = Duration::from_secs(60);
