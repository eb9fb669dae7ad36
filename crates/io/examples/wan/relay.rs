//! Carries frames between two TAP devices and our stack, over the link.

use core::error::Error;
use core::time::Duration;
use std::io::{BufRead as _, Write as _};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use tengate_base::Instant;
use tengate_io::Clock;

use crate::link::{End, Faults, Link};
use crate::ours::{self, Ours};
use crate::sys::{self, Tap};

/// Runs until its input ends.
#[expect(clippy::print_stdout, reason = "answers who drives it")]
pub(crate) fn run(client: &str, server: &str) -> Result<(), Box<dyn Error>> {
    let clock = Clock::start();
    let mut client = Tap::open(client)?;
    let mut server = Tap::open(server)?;
    let mut link = Link::new();
    let mut ours = Ours::new(clock.now())?;
    let lines = read_lines();
    let mut block = vec![0; FRAME_LEN_MAX];
    println!("ready");
    loop {
        let now = clock.now();
        let mut is_busy = false;
        for (end, tap) in [(End::Client, &mut client), (End::Linux, &mut server)] {
            for _ in 0..BURST {
                let Some(len) = tap.receive(&mut block)? else { break };
                is_busy = true;
                forward(now, end, &block[..len], &mut link);
            }
        }
        while let Some((end, frame)) = link.receive(now) {
            match end {
                End::Client => client.send(&frame),
                End::Linux => server.send(&frame),
                End::Ours => ours.handle_frame(now, &frame, &mut link),
            }
        }
        ours.turn(now, &mut link);
        match lines.try_recv() {
            Ok(line) => {
                let counts = link.counts;
                if !line.is_empty() {
                    link.set(Faults::decode(&line).ok_or("a fault nobody knows")?);
                }
                let stats = ours.stack.stats();
                println!("{} {} {}", counts.carried, counts.lost, counts.overflowed);
                eprint_stats(&format!("{stats:?}"));
                std::io::stdout().flush()?;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if !is_busy {
            let due = [link.next_arrival(), ours.poll_timeout(now)];
            rest(now, due, [&client, &server])?;
        }
    }
}

/// Waits for the next frame or the next moment at which something is due.
fn rest(now: Instant, due: [Option<Instant>; 2], taps: [&Tap; 2]) -> Result<(), Box<dyn Error>> {
    let next = due.into_iter().flatten().min();
    let longest = next.map_or(WAIT_MAX, |next| (next - now).min(WAIT_MAX));
    Ok(sys::wait(taps, longest)?)
}

/// Puts a frame of the kernel's on the link, to whom it is for.
fn forward(now: Instant, from: End, frame: &[u8], link: &mut Link) {
    if from != End::Client {
        link.send(now, End::Client, frame.to_vec());
        return;
    }
    let is_group = frame.first().is_some_and(|first| first & 1 == 1);
    let is_ours = frame.starts_with(&ours::MAC);
    if is_group || is_ours {
        link.send(now, End::Ours, frame.to_vec());
    }
    if is_group || !is_ours {
        link.send(now, End::Linux, frame.to_vec());
    }
}

/// Lines of the input, as they come.
fn read_lines() -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Says what our stack did, to who asked for it by an environment variable.
#[expect(clippy::print_stderr, reason = "this is a command-line tool")]
fn eprint_stats(stats: &str) {
    if std::env::var_os("TENGATE_WAN_STATS").is_some() {
        eprintln!("{stats}");
    }
}

/// Frames taken from a device at a time.
const BURST: usize = 64;
const FRAME_LEN_MAX: usize = 2048;
/// Commands wait no longer.
const WAIT_MAX: Duration = Duration::from_millis(20);
