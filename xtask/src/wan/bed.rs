//! Two network namespaces, the link between them, and Linux's server behind it. All of it goes when this is dropped.

use core::time::Duration;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::Outcome;
use super::cases::Case;
use crate::root;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Ours,
    Linux,
}

impl Server {
    const fn address(self) -> &'static str {
        match self {
            Self::Ours => "10.9.0.2:7",
            Self::Linux => "10.9.0.3:7",
        }
    }
}

/// Packets of one transfer, both directions together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    lost: u64,
    /// Found the link's queue full.
    overflowed: u64,
}

impl Counts {
    pub(super) const fn all_lost(self) -> u64 {
        self.lost + self.overflowed
    }
}

pub(super) struct Bed {
    program: PathBuf,
    client: Namespace,
    link: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    server: Child,
    /// Gone after what runs in it.
    _server: Namespace,
}

impl Bed {
    /// Builds the program and lays the link.
    pub(super) fn start() -> Result<Self> {
        let build = ["build", "--release", "--locked", "-p", "tengate-io", "--example", "wan"];
        let status = Command::new("cargo").args(build).current_dir(root()).status()?;
        ensure!(status.success(), "the link cannot be built");
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root().join("target"), PathBuf::from);
        let program = target.join("release/examples/wan");
        let pid = std::process::id();
        let client = Namespace::add(format!("tengate-wan-{pid}-client"))?;
        let server_side = Namespace::add(format!("tengate-wan-{pid}-server"))?;
        let mut link = client
            .command(&program)
            .args(["relay", CLIENT_DEVICE, SERVER_DEVICE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = link.stdin.take().context("the link has no input")?;
        let mut answers = BufReader::new(link.stdout.take().context("the link has no output")?);
        ensure!(
            read_line(&mut answers)? == "ready",
            "no TAP device; may this user make one (CAP_NET_ADMIN, /dev/net/tun)?"
        );
        client.run("ip", &["link", "set", SERVER_DEVICE, "netns", &server_side.0])?;
        client.bring_up(CLIENT_DEVICE, "10.9.0.1/24")?;
        server_side.bring_up(SERVER_DEVICE, "10.9.0.3/24")?;
        let mut server = server_side
            .command(&program)
            .args(["serve", Server::Linux.address()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = BufReader::new(server.stdout.take().context("the server has no output")?);
        let bed = Self { program, client, link, asks, answers, server, _server: server_side };
        ensure!(read_line(&mut ready)? == "ready", "Linux's server did not start");
        Ok(bed)
    }

    /// One transfer.
    pub(super) fn carry_out(&mut self, case: &Case, server: Server) -> Result<Outcome> {
        self.tell(case.faults)?;
        let plan = case.work.plan().map(|number| number.to_string());
        let output = self
            .client
            .command(&self.program)
            .args(["ask", server.address()])
            .args(plan)
            .arg(case.work.patience().as_millis().to_string())
            .output()?;
        let counts = self.tell("")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let numbers: Result<Vec<u64>, _> =
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::parse).collect();
        let &[bytes, took, gap, median, most, all] = &numbers?[..] else {
            bail!("the client says what nobody knows");
        };
        let [took, longest_gap] = [took, gap].map(Duration::from_micros);
        let portions = [median, most, all].map(Duration::from_micros);
        Ok(Outcome { bytes: bytes as f64, took, longest_gap, portions, counts })
    }

    /// Whether link and server are still there.
    pub(super) fn check(&mut self) -> Result<()> {
        ensure!(self.link.try_wait()?.is_none(), "the link has ended");
        ensure!(self.server.try_wait()?.is_none(), "Linux's server has ended");
        Ok(())
    }

    /// Gives the link a line, empty if it is to go on as it does; returns what it counted until then.
    fn tell(&mut self, line: &str) -> Result<Counts> {
        writeln!(self.asks, "{line}").context("the link has ended")?;
        let answer = read_line(&mut self.answers)?;
        let numbers: Result<Vec<u64>, _> = answer.split_whitespace().map(str::parse).collect();
        let &[_carried, lost, overflowed] = &numbers?[..] else {
            bail!("the link says what nobody knows: {answer}");
        };
        Ok(Counts { lost, overflowed })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Both run until they are killed.
        for child in [&mut self.link, &mut self.server] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A network namespace, deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn add(name: String) -> Result<Self> {
        run_tool(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }

    /// A command inside it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        run_tool(self.command(program).args(arguments))
    }

    /// Gives a device its address, and both ends what 10 000 connections at once need.
    fn bring_up(&self, device: &str, address: &str) -> Result<()> {
        let settings = [
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv4.ip_local_port_range=2000 65000",
            "net.ipv4.tcp_max_syn_backlog=16384",
            "net.core.somaxconn=16384",
        ];
        for setting in settings {
            self.run("sysctl", &["-qw", setting])?;
        }
        self.run("ip", &["address", "add", address, "dev", device])?;
        self.run("ip", &["link", "set", device, "txqueuelen", "20000", "up"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(run_tool(Command::new("ip").args(["netns", "delete", &self.0])));
    }
}

fn run_tool(command: &mut Command) -> Result<()> {
    let output = command.output().context("ip cannot be started; is iproute2 installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

fn read_line(reader: &mut impl std::io::BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Names inside the namespaces.
const CLIENT_DEVICE: &str = "client";
const SERVER_DEVICE: &str = "server";
