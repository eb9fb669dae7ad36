//! How many 64-byte frames go to another process and come back, over DPDK's memif without huge pages or privileges.
//!
//! `cargo run --release -p tengate-io --features dpdk --example bounce -- [SECONDS]` starts a second copy of itself, which
//! sends back what it gets, on the second core it may use, and counts for as long on the first.

use core::error::Error;
use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use tengate_io::dpdk::{Burst, Eal, EalConfig, Link, Pages, Port, PortConfig, Queue};
use tengate_io::{Idle, IdleConfig, Rest, allowed_cores};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cores = allowed_cores()?;
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bouncer", socket] => bounce(Path::new(socket), last),
        [] => measure(Duration::from_secs(5), first),
        [seconds] => measure(Duration::from_secs(seconds.parse()?), first),
        _ => Err("takes how many seconds to measure, 5 if not said".into()),
    }
}

/// Sends back every frame with its addresses swapped, until the peer has gone.
#[expect(clippy::print_stdout, reason = "tells its parent that the socket is there")]
fn bounce(socket: &Path, core: usize) -> Result<(), Box<dyn Error>> {
    let (port, mut queue) = open("server", socket, core)?;
    println!("ready");
    port.wait_link(PATIENCE)?;
    let mut burst = Burst::new();
    let mut idle = Idle::new(IdleConfig::default());
    loop {
        let found = queue.receive(&mut burst);
        for frame in burst.frames_mut() {
            swap_addresses(frame);
            queue.append(&[frame])?;
        }
        // What the device did not take waits for the next turn, and is no reason to hurry.
        queue.flush();
        match idle.handle_turn(found) {
            Rest::None => {}
            Rest::Pause => core::hint::spin_loop(),
            Rest::Sleep(_) if port.link()? == Link::Down => return Ok(()),
            Rest::Sleep(sleep) => thread::park_timeout(sleep),
        }
    }
}

/// Keeps a window of frames on their way, and counts those that are back.
#[expect(clippy::print_stdout, reason = "tells what was measured")]
fn measure(duration: Duration, core: usize) -> Result<(), Box<dyn Error>> {
    let socket = std::env::temp_dir().join(format!("tengate-bounce-{}.sock", std::process::id()));
    let mut bouncer = start_bouncer(&socket)?;
    let (port, mut queue) = open("client", &socket, core)?;
    if port.wait_link(PATIENCE)? == Link::Down {
        return Err("the bouncer did not come up".into());
    }
    let mut burst = Burst::new();
    let mut frame = [0_u8; 64];
    let (mut sent, mut back) = (0_u64, 0_u64);
    let start = Instant::now();
    let mut elapsed = Duration::ZERO;
    let mut turns = 0_u64;
    while elapsed < duration || back < sent {
        if elapsed < duration && sent - back < WINDOW {
            for _ in 0..BATCH {
                frame[14..22].copy_from_slice(&sent.to_be_bytes());
                queue.append(&[&frame])?;
                sent += 1;
            }
        }
        queue.flush();
        queue.receive(&mut burst);
        for frame in burst.frames_mut() {
            assert_eq!(frame[14..22], back.to_be_bytes(), "frames come back in order");
            back += 1;
        }
        turns += 1;
        // Reading the clock in every turn would be a good part of the cost.
        if turns.is_multiple_of(64) {
            elapsed = start.elapsed();
        }
        if elapsed > duration + PATIENCE {
            return Err(format!("{} frames did not come back", sent - back).into());
        }
    }
    elapsed = start.elapsed();
    let rate = back as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{back} frames of 64 B there and back in {elapsed:.1?}: {rate:.1} M/s");
    println!("{:?}\n{:?}", queue.stats(), port.stats()?);
    drop((queue, burst, port));
    bouncer.wait()?;
    Ok(())
}

fn start_bouncer(socket: &Path) -> Result<Child, Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("bouncer")
        .arg(socket)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the bouncer has no output")?;
    let ready = BufReader::new(stdout).lines().next().transpose()?;
    if ready.as_deref() != Some("ready") {
        return Err("the bouncer did not start".into());
    }
    Ok(child)
}

fn open(role: &str, socket: &Path, core: usize) -> Result<(Port, Queue), Box<dyn Error>> {
    let config = PortConfig::for_connections(0, 1);
    let pools_mib = u32::try_from(config.memory_bytes(Pages::Ordinary) >> 20)?;
    let eal = Eal::init(&EalConfig {
        cores: vec![core],
        pages: Pages::Ordinary,
        memory_mib: pools_mib + 4,
        file_prefix: None,
        devices: vec![format!("net_memif0,role={role},socket={}", socket.display())],
    })?;
    let mut port = Port::open(&eal, "net_memif0", &config)?;
    let seat = port.take_queues().pop().ok_or("a port without queues")?;
    Ok((port, seat.claim()?))
}

fn swap_addresses(frame: &mut [u8]) {
    if let Some((to, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some(from) = rest.first_chunk_mut::<6>()
    {
        core::mem::swap(to, from);
    }
}

/// How long the other process may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Frames on their way; below the ring's 1024, so that none is refused.
const WINDOW: u64 = 512;
/// Frames sent at a time.
const BATCH: u64 = 64;
