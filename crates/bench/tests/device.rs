//! Runs the program with clients past the kernel: a memif between it and a server on the same stack. No figure that
//! depends on time is looked at.

#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tengate_base::Door;
use tengate_io::Clock;
use tengate_io::dpdk::{Burst, Eal, EalConfig, Pages, Port, PortConfig, Queue};
use tengate_netstack::{Address, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack};

#[test]
fn clients_past_the_kernel_echo_hold_and_come_and_go() {
    // DPDK starts once a process, so one server sees all of it.
    let server = Server::start();
    let url = "text://10.1.0.1:7";
    let load = ["--clients", "200", "--seconds", "0.3"];

    let report = server.run(&[&["echo", url, "--warmup", "0"], &load[..]].concat());
    assert!(report["messages"].as_u64().unwrap() >= 200, "{report}");
    let paced = ["echo", url, "--warmup", "0", "--rate", "1000", "--addresses", "3"];
    let report = server.run(&[&paced[..], &load[..]].concat());
    assert_eq!((&report["messages"], &report["unanswered"]), (&300.into(), &0.into()));
    assert_eq!(server.opened.load(Ordering::Relaxed), 400);

    let hold = ["hold", url, "--settle", "0", "--rate", "500", "--opening", "7"];
    let listed = ["--addresses", "10.1.9.9-10.1.9.10/16"];
    let report = server.run(&[&hold[..], &load[..], &listed[..]].concat());
    assert_eq!((&report["messages"], &report["lost"]), (&150.into(), &0.into()));
    assert_eq!(report["kernel_bytes_per_client"], Value::Null);

    for close in ["reset", "clean"] {
        let churn = ["churn", url, "--close", close, "--warmup", "0"];
        let report = server.run(&[&churn[..], &load[..]].concat());
        assert!(report["handshakes"].as_u64().unwrap() >= 200, "{report}");
        assert_eq!(report["failed"], 0, "{close}");
    }
}

#[test]
fn a_device_that_cannot_be_is_refused_with_a_reason() {
    let cases = [
        (&["--device", "net_nonsense0"][..], "net_nonsense0"),
        (&["--device", "net_null0", "--processes", "2"], "one process"),
        (&["--device", "net_null0", "--addresses", "10.2.0.1"], "prefix"),
        (&["--addresses", "1"], "--device"),
    ];
    for (options, reason) in cases {
        let load = [&["echo", "text://10.1.0.1:7", "--clients", "2"], options].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_tengate-bench")).args(&load).output();
        let output = output.unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaint.contains(reason), "{load:?}: {complaint}");
    }
}

/// Sends back what it gets, until it is dropped.
struct Server {
    socket: String,
    opened: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let name = format!("tengate-bench-device-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name).to_str().unwrap().to_owned();
        let (opened, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = mpsc::channel();
        let device = format!("net_memif0,role=server,socket={socket}");
        let (counter, stopper) = (Arc::clone(&opened), Arc::clone(&stop));
        let thread = thread::spawn(move || serve(device, &counter, &stopper, &ready));
        is_ready.recv().unwrap();
        Self { socket, opened, stop, thread: Some(thread) }
    }

    fn run(&self, arguments: &[&str]) -> Value {
        let device = format!("net_memif0,role=client,socket={}", self.socket);
        let output = Command::new(env!("CARGO_BIN_EXE_tengate-bench"))
            .args(arguments)
            .args(["--json", "--device", &device])
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }
}

struct Frames(Queue);

impl Device for Frames {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.0.append(parts).map_err(|_counted| DeviceFull)
    }
}

fn serve(device: String, opened: &AtomicU64, stop: &AtomicBool, ready: &mpsc::Sender<()>) {
    let port_config = PortConfig::for_connections(0, 1);
    let pools_mib = u32::try_from(port_config.memory_bytes(Pages::Ordinary) >> 20).unwrap();
    let eal = Eal::init(&EalConfig {
        cores: Vec::new(),
        pages: Pages::Ordinary,
        memory_mib: pools_mib + 4,
        file_prefix: None,
        devices: vec![device],
    });
    let mut port = Port::open(&eal.unwrap(), "net_memif0", &port_config).unwrap();
    let mut frames = Frames(port.take_queues().pop().unwrap().claim().unwrap());
    let address = Address { addr: Ipv4Addr::new(10, 1, 0, 1).into(), prefix_len: 16 };
    let config = Config::new(MacAddr(port.mac().unwrap()), vec![address], Secret([1; 32]));
    let clock = Clock::start();
    let mut stack = Stack::new(config, clock.now()).unwrap();
    stack.listen(7, Door(0));
    ready.send(()).unwrap();
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        if frames.0.receive(&mut burst) == 0 {
            thread::yield_now();
        }
        for frame in burst.frames_mut() {
            stack.handle_frame(now, frame, &mut frames);
            while let Some(event) = stack.poll_event() {
                match event {
                    Event::Opened { .. } => _ = opened.fetch_add(1, Ordering::Relaxed),
                    Event::Received { conn, bytes } => _ = stack.send(conn, &frame[bytes]),
                    Event::PeerClosed { conn } => stack.close(now, conn),
                    Event::Connected { .. }
                    | Event::Readable { .. }
                    | Event::Drained { .. }
                    | Event::Closed { .. } => {}
                }
            }
        }
        if stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
            stack.handle_timeout(now, &mut frames);
            while stack.poll_event().is_some() {}
        }
        let _full = stack.flush(now, &mut frames);
        frames.0.flush();
    }
}
