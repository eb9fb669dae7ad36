//! Our stack and unmodified smoltcp on simulated links that lose, repeat, reorder and delay, one for each seed.
//!
//! `cargo run --release -p tengate-netstack --example seeds -- 0..5000` runs these seeds, the same every time. In each, both
//! sides send at once, stop reading now and then, and finish; every byte is compared. A seed fails when a byte is wrong,
//! when nothing arrives for ten minutes of simulated time beyond its pauses, or when one side gives up. It is printed, and
//! given alone it shows what it does.

extern crate alloc;

#[expect(dead_code, reason = "tests use more of it")]
#[path = "../../src/tests/link.rs"]
mod link;
#[expect(dead_code, reason = "tests use more of it")]
#[path = "../../src/tests/host.rs"]
mod host;
#[path = "../../src/tests/scene.rs"]
mod scene;
mod plan;

use core::ops::Range;
use core::time::Duration;
use std::process::ExitCode;

use tengate_netstack::{
    Address, Cause, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack, Stats,
};

use plan::{Plan, bytes};
use scene::Scene;

/// What a seed came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Both have everything.
    Whole,
    /// So much was lost of the handshake that one side gave it up; the least a link of this kind can do.
    NeverOpened,
    /// smoltcp's fault: we have everything acknowledged and an open window, and it does not send what is missing. It forgets
    /// to repeat what was lost in front of a window that closed.
    PeerStalled,
    /// Nothing came for too long.
    Stalled,
    /// A connection ended early.
    Broken(Cause),
    /// Bytes are wrong.
    Wrong,
}

#[expect(clippy::print_stdout, reason = "this is a command-line tool")]
fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "0..1000".to_owned());
    let Some(seeds) = range(&argument) else {
        println!("takes one seed, or a range of them: 0..1000");
        return ExitCode::from(2);
    };
    let (mut whole, mut unopened, mut peer_stalled, mut failed) = (0, 0, 0, Vec::new());
    let (mut slowest, mut bytes_all) = ((Duration::ZERO, 0), 0);
    let is_one = seeds.end - seeds.start == 1;
    for seed in seeds {
        let plan = Plan::new(seed);
        let (verdict, took, stats) = run(&plan);
        if is_one {
            println!("{plan:#?}\n{stats:?}\n{verdict:?} after {took:?}");
        }
        match verdict {
            Verdict::Whole => {
                whole += 1;
                bytes_all += plan.lens.iter().sum::<usize>();
                slowest = slowest.max((took, seed));
            }
            Verdict::NeverOpened => unopened += 1,
            Verdict::PeerStalled => peer_stalled += 1,
            Verdict::Stalled | Verdict::Broken(_) | Verdict::Wrong => {
                println!("seed {seed}: {verdict:?} after {took:?}");
                failed.push(seed);
            }
        }
    }
    println!(
        "{whole} whole, {} MiB; {unopened} never opened; {peer_stalled} where smoltcp stalls; {} failed {failed:?}; the slowest took {:?}, seed {}",
        bytes_all >> 20,
        failed.len(),
        slowest.0,
        slowest.1,
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn range(argument: &str) -> Option<Range<u64>> {
    let Some((first, end)) = argument.split_once("..") else {
        let seed: u64 = argument.parse().ok()?;
        return Some(seed..seed + 1);
    };
    Some(first.parse().ok()?..end.parse().ok()?)
}

/// Runs a plan. Returns what came of it, after how much simulated time, and our stack's counters.
fn run(plan: &Plan) -> (Verdict, Duration, Stats) {
    let mut scene = Scene::new(plan.config(), plan.faults, plan.peer_buffer_bytes);
    plan.set_up(scene.socket());
    scene.peer_to_send = bytes(plan.lens[1], 1);
    scene.peer_may_close = false;
    scene.begin(plan.opener);
    let began = scene.now;
    let (mut progress, mut progressed) = (0, began);
    let mut is_told = false;
    let verdict = loop {
        scene.step();
        let now = scene.now;
        let is_paused =
            plan.pauses.map(|pauses| pauses.iter().any(|pause| pause.covers(now - began)));
        scene.peer_paused = is_paused[1];
        // smoltcp forgets what was not read ten seconds after both have closed.
        scene.peer_may_close = plan.pauses[1].iter().all(|pause| pause.is_over(now - began));
        let Some(conn) = scene.conn() else {
            if now - began > PATIENCE {
                break Verdict::NeverOpened;
            }
            continue;
        };
        let peer_received = scene.peer_received.len();
        let stream = scene.host.stream(conn);
        stream.paused = is_paused[0];
        if stream.is_open && !is_told {
            is_told = true;
            (stream.to_send, stream.then_shutdown) = (bytes(plan.lens[0], 0), true);
        }
        let reached = stream.received.len() + peer_received + usize::from(stream.peer_closed);
        if reached != progress || is_paused.contains(&true) {
            (progress, progressed) = (reached, now);
        }
        if let Some(cause) = stream.closed {
            break judge(&mut scene, plan, cause);
        }
        if now - progressed > PATIENCE {
            let is_waiting = scene.host.stack.queued(conn) == 0 && scene.window_offered > 0;
            let is_peers = is_waiting && scene.host.stream(conn).received.len() < plan.lens[1];
            break if is_peers { Verdict::PeerStalled } else { Verdict::Stalled };
        }
    };
    (verdict, scene.now - began, scene.host.stack.stats().clone())
}

/// What both sides have, now that ours has ended.
fn judge(scene: &mut Scene, plan: &Plan, cause: Cause) -> Verdict {
    // What smoltcp's application has not read yet is in its buffer.
    scene.peer_paused = false;
    scene.step();
    let conn = scene.conn().expect("it has ended");
    let stream = scene.host.stream(conn);
    if !stream.is_open {
        return Verdict::NeverOpened;
    }
    let are_sent = [bytes(plan.lens[0], 0), bytes(plan.lens[1], 1)];
    let is_wrong = !are_sent[1].starts_with(&stream.received)
        || !are_sent[0].starts_with(&scene.peer_received);
    let is_whole = stream.peer_closed
        && stream.received.len() == plan.lens[1]
        && scene.peer_received.len() == plan.lens[0];
    // smoltcp forgets a connection after ten seconds; a FIN repeated later finds nobody.
    let is_over = cause == Cause::Finished || (cause == Cause::Reset && is_whole);
    match (is_wrong, is_whole && is_over) {
        (true, _) => Verdict::Wrong,
        (false, true) => Verdict::Whole,
        (false, false) => Verdict::Broken(cause),
    }
}

/// Simulated time without progress that is a stall: longer than the longest time-outs of both.
const PATIENCE: Duration = Duration::from_secs(600);
