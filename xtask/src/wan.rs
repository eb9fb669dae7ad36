//! Our TCP stack with Linux at the other end of a bad link (docs/data-paths.md#over-a-bad-link).
//!
//! Everything happens in a network namespace of its own: the stack on a TAP device, nftables that lose packets in both
//! directions, and this program as the client. Every byte is compared with what was sent.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{root, say};

/// Where the stack answers, and the client's own end of the link.
const SERVER: &str = "10.1.0.1:7";
const CLIENT_NET: &str = "10.9.9.9/8";
const DEVICE: &str = "tengatewan";
/// Without an answer for so long a transfer is stalled.
const STALL: Duration = Duration::from_secs(15);
const MIB: usize = 1 << 20;

/// What is sent and what is lost.
struct Case {
    name: &'static str,
    /// Packets lost of a thousand, in each direction.
    loss: u32,
    work: Work,
}

enum Work {
    /// So many MiB to the stack and back, on one connection.
    Bulk(usize),
    /// The same, and the client does not read for so long in between.
    Pause(usize, Duration),
    /// So many requests of 1 to 64 KiB and their answers, fifty at a time, a connection each.
    Requests(usize),
}

/// What came of it.
struct Outcome {
    bytes: usize,
    took: Duration,
    /// The longest time without a byte, pauses of the client apart.
    longest_gap: Duration,
}

/// Runs every case; `--quick` with less to send.
///
/// # Errors
/// A tool or a right is missing, a transfer stalled, or a byte was wrong.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["inside", quick] => inside(*quick == "quick"),
        [] => outside("full"),
        ["--quick"] => outside("quick"),
        _ => bail!("wan takes no argument but --quick"),
    }
}

/// Builds the server, and goes on in a namespace that is gone afterwards.
fn outside(how_much: &str) -> Result<()> {
    let build = ["build", "--release", "--locked", "-p", "tengate-io", "--features", "dpdk"];
    let status = Command::new("cargo")
        .args(build)
        .args(["--example", "tcp_echo"])
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the server cannot be built; see docs/data-paths.md#building");
    let namespace = format!("tengate-wan-{}", std::process::id());
    run_tool("ip", &["netns", "add", &namespace])?;
    let status = Command::new("ip")
        .args(["netns", "exec", &namespace])
        .arg(std::env::current_exe()?)
        .args(["wan", "inside", how_much])
        .status();
    run_tool("ip", &["netns", "delete", &namespace])?;
    ensure!(status?.success(), "a transfer over the link failed");
    Ok(())
}

fn inside(is_quick: bool) -> Result<()> {
    let mut server = Server::start()?;
    say("\n| link | work | MiB each way | s | Mbit/s each way | longest gap, ms | packets lost |");
    say("|---|---|---|---|---|---|---|");
    for case in cases(is_quick) {
        lose(case.loss)?;
        let outcome = case.work.carry_out().with_context(|| case.name)?;
        let seconds = outcome.took.as_secs_f64();
        let rate = outcome.bytes as f64 * 8.0 / 1e6 / seconds;
        let (mib, gap) = (outcome.bytes as f64 / MIB as f64, outcome.longest_gap.as_millis());
        let link = format!("{:.1} % lost", f64::from(case.loss) / 10.0);
        say(&format!(
            "| {link} | {} | {mib:.0} | {seconds:.2} | {rate:.0} | {gap} | {} |",
            case.name,
            lost()?
        ));
        ensure!(server.child.try_wait()?.is_none(), "the server has ended");
    }
    Ok(())
}

fn cases(is_quick: bool) -> Vec<Case> {
    let (bulk, pause, requests) = if is_quick {
        (32, Duration::from_secs(3), 500)
    } else {
        (1024, Duration::from_secs(10), 10_000)
    };
    let mut cases = Vec::new();
    for (loss, share) in [(0, 1), (1, 1), (10, 2), (50, 16)] {
        cases.push(Case { name: "bulk, one connection", loss, work: Work::Bulk(bulk / share) });
    }
    for loss in [0, 10] {
        let name = "a client that stops reading, then goes on";
        cases.push(Case { name, loss, work: Work::Pause(16, pause) });
        let name = "requests of 1 to 64 KiB, 50 at a time";
        cases.push(Case { name, loss, work: Work::Requests(requests) });
    }
    cases
}

impl Work {
    fn carry_out(&self) -> Result<Outcome> {
        let began = now();
        let (bytes, longest_gap) = match *self {
            Self::Bulk(mib) => (mib * MIB, transfer(mib * MIB, 1, Duration::ZERO)?),
            Self::Pause(mib, pause) => (mib * MIB, transfer(mib * MIB, 1, pause)?),
            Self::Requests(count) => many(count)?,
        };
        Ok(Outcome { bytes, took: began.elapsed(), longest_gap })
    }
}

/// Fifty threads that ask one request after the other. Bytes in all, and the longest gap of any.
fn many(count: usize) -> Result<(usize, Duration)> {
    let threads: Vec<_> = (0..50)
        .map(|first| {
            thread::spawn(move || -> Result<(usize, Duration)> {
                let (mut bytes, mut longest) = (0, Duration::ZERO);
                for request in (first..count).step_by(50) {
                    let len = 1024 + request * 7919 % (63 * 1024);
                    longest = longest.max(transfer(len, request as u64 + 2, Duration::ZERO)?);
                    bytes += len;
                }
                Ok((bytes, longest))
            })
        })
        .collect();
    let mut all = (0, Duration::ZERO);
    for thread in threads {
        let Ok(outcome) = thread.join() else { bail!("a client has panicked") };
        let (bytes, longest) = outcome?;
        all = (all.0 + bytes, all.1.max(longest));
    }
    Ok(all)
}

/// Sends `len` bytes, compares what comes back, and closes. Returns the longest time without a byte.
fn transfer(len: usize, seed: u64, pause: Duration) -> Result<Duration> {
    let server: SocketAddr = SERVER.parse()?;
    let stream = TcpStream::connect_timeout(&server, STALL).context("no connection")?;
    stream.set_read_timeout(Some(STALL + pause))?;
    stream.set_write_timeout(Some(STALL + pause))?;
    let mut writing = stream.try_clone()?;
    let writer = thread::spawn(move || -> io::Result<()> {
        let mut pattern = Pattern(seed);
        let mut block = vec![0; 64 << 10];
        let mut left = len;
        while left > 0 {
            let part = left.min(block.len());
            pattern.fill(&mut block[..part]);
            writing.write_all(&block[..part])?;
            left -= part;
        }
        writing.shutdown(Shutdown::Write)
    });
    let longest = compare(stream, len, seed, pause);
    let Ok(written) = writer.join() else { bail!("the writer has panicked") };
    let longest = longest?;
    written.context("writing stalled")?;
    Ok(longest)
}

fn compare(mut stream: TcpStream, len: usize, seed: u64, pause: Duration) -> Result<Duration> {
    let mut expected = Pattern(seed);
    let (mut block, mut wanted) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let (mut got, mut gaps) = (0, Gaps { longest: Duration::ZERO, last: now() });
    let mut is_paused = !pause.is_zero();
    loop {
        // Multiples of eight, as the pattern is made, but for the end.
        let room = block.len().min((len - got).max(1));
        let count = gaps.read_whole(&mut stream, &mut block[..room])?;
        if count == 0 {
            break;
        }
        expected.fill(&mut wanted[..count]);
        ensure!(block[..count] == wanted[..count], "wrong bytes after {got}");
        got += count;
        if is_paused && got > len / 4 {
            is_paused = false;
            thread::park_timeout(pause);
            gaps.last = now();
        }
    }
    ensure!(got == len, "{got} of {len} bytes came back");
    Ok(gaps.longest)
}

/// The longest time between two reads that brought something.
struct Gaps {
    longest: Duration,
    last: Instant,
}

impl Gaps {
    /// Fills `block`, or less at the end of the stream.
    fn read_whole(&mut self, stream: &mut TcpStream, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            let count = stream.read(&mut block[filled..]).context("reading stalled")?;
            self.longest = self.longest.max(self.last.elapsed());
            self.last = now();
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }
}

/// Bytes that both ends of a transfer can make (Marsaglia's xorshift).
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, block: &mut [u8]) {
        for part in block.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

/// The stack on its TAP device. Dropping it ends both.
struct Server {
    child: Child,
}

impl Server {
    fn start() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root().join("target"), PathBuf::from);
        let child = Command::new(target.join("release/examples/tcp_echo"))
            .args(["on", &format!("net_tap0,iface={DEVICE}")])
            .stdout(Stdio::null())
            .spawn()
            .context("the server cannot be started")?;
        let server = Self { child };
        let deadline = now() + STALL;
        while run_tool("ip", &["link", "show", DEVICE]).is_err() {
            ensure!(now() < deadline, "no TAP device; may this user make one (CAP_NET_ADMIN)?");
            thread::park_timeout(Duration::from_millis(50));
        }
        run_tool("ip", &["address", "add", CLIENT_NET, "dev", DEVICE])?;
        run_tool("ip", &["link", "set", DEVICE, "up"])?;
        run_tool("ethtool", &["-K", DEVICE, "tx", "off"])?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It serves until it is killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Loses packets of a thousand in each direction from here on.
fn lose(of_a_thousand: u32) -> Result<()> {
    let mut rules = String::from("add table ip wan\ndelete table ip wan\nadd table ip wan\n");
    for (hook, address) in [("input", "saddr"), ("output", "daddr")] {
        rules += &format!("add chain ip wan {hook} {{ type filter hook {hook} priority 0; }}\n");
        rules += &format!(
            "add rule ip wan {hook} ip {address} 10.1.0.0/16 numgen random mod 1000 < {of_a_thousand} counter drop\n"
        );
    }
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft cannot be started; is the package nftables installed?")?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    ensure!(nft.wait()?.success(), "nftables refused the rules");
    Ok(())
}

/// Packets lost since [`lose`].
fn lost() -> Result<u64> {
    let output = Command::new("nft").args(["list", "table", "ip", "wan"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts = text.split("counter packets ").skip(1);
    Ok(counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum())
}

fn run_tool(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| {
        format!("{program} cannot be started; are iproute2 and ethtool installed?")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "measures how long transfers take")]
fn now() -> Instant {
    Instant::now()
}
