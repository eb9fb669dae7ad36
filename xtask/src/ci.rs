//! What CI runs, one step after another, each with its own line.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{root, say, tidy};

/// Debian packages the tests need beside Rust and a C compiler.
const PACKAGES: [&str; 10] = [
    "php-cli",
    "chromium",
    "chromium-driver",
    "valgrind",
    "libdpdk-dev",
    "pkg-config",
    "iproute2",
    "iputils-ping",
    "ethtool",
    "util-linux",
];

/// Everything that can use DPDK does.
const DPDK: &str = "tengate/dpdk,tengate-bench/dpdk";

/// What it is, program and arguments, environment.
type Step = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

// Steps with DPDK follow each other and all are about the whole workspace: a feature or a choice of packages that changes from step
// to step would build most of it again.
const STEPS: &[Step] = &[
    ("format", &["cargo", "fmt", "--all", "--check"], &[]),
    (
        "lints",
        &["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        &[],
    ),
    (
        "lints with DPDK",
        &[
            "cargo",
            "clippy",
            "--workspace",
            "--features",
            DPDK,
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    ),
    (
        "documentation",
        &[
            "cargo",
            "doc",
            "--workspace",
            "--features",
            DPDK,
            "--no-deps",
            "--document-private-items",
            "--locked",
        ],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links")],
    ),
    ("tests with DPDK", &["cargo", "test", "--workspace", "--features", DPDK, "--locked"], &[]),
    // All other tests would do the same again.
    (
        "tests without DPDK",
        &["cargo", "test", "--workspace", "--locked", "--test", "cli", "--test", "data_paths"],
        &[],
    ),
    ("fuzz corpora", &["cargo", "test", "--locked", "--manifest-path", "fuzz/Cargo.toml"], &[]),
    (
        "simulation",
        &[
            "cargo",
            "run",
            "--release",
            "--locked",
            "--bin",
            "tengate-sim",
            "--",
            "--seeds",
            "1..2000",
        ],
        &[],
    ),
    (
        "simulation with dispatchers",
        &[
            "cargo",
            "run",
            "--release",
            "--locked",
            "--bin",
            "tengate-sim",
            "--",
            "--cluster",
            "dispatched",
            "--seeds",
            "1..2000",
        ],
        &[],
    ),
    (
        "simulation past the kernel",
        &[
            "cargo",
            "run",
            "--release",
            "--locked",
            "--bin",
            "tengate-sim",
            "--",
            "--path",
            "netstack",
            "--jobs",
            "2",
            "--seeds",
            "1..5000",
        ],
        &[],
    ),
    (
        "simulation past the kernel with dispatchers",
        &[
            "cargo",
            "run",
            "--release",
            "--locked",
            "--bin",
            "tengate-sim",
            "--",
            "--path",
            "netstack",
            "--cluster",
            "dispatched",
            "--jobs",
            "2",
            "--seeds",
            "1..3000",
        ],
        &[],
    ),
    (
        "TCP beside smoltcp's",
        &[
            "cargo",
            "run",
            "--release",
            "--locked",
            "-p",
            "tengate-netstack",
            "--example",
            "seeds",
            "--",
            "0..300",
        ],
        &[],
    ),
    ("instructions", &["cargo", "xtask", "instructions"], &[]),
];

/// Runs everything.
///
/// # Errors
/// The first step that fails.
#[expect(clippy::disallowed_methods, reason = "tells how long a step took")]
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => {}
        ["--install"] => install()?,
        _ => bail!("ci takes no argument but --install"),
    }
    tidy::run()?;
    for (what, line, environment) in STEPS {
        say(&format!("ci: {what}"));
        let start = Instant::now();
        step(line, environment)?;
        say(&format!("ci: {what} took {:.0} s", start.elapsed().as_secs_f64()));
    }
    Ok(())
}

fn step(line: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let (program, arguments) = line.split_first().context("an empty step")?;
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root())
        .status()
        .with_context(|| format!("{program} cannot be started"))?;
    if !status.success() {
        bail!("{} failed: {status}", line.join(" "));
    }
    Ok(())
}

/// Installs the Debian packages that are missing.
fn install() -> Result<()> {
    let installed = |package: &&str| {
        Command::new("dpkg")
            .args(["-s", package])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("ci: installing {}", missing.join(" ")));
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let sudo: &[&str] = if is_root { &[] } else { &["sudo"] };
    let apt = |rest: &[&str]| {
        step(&[sudo, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], rest].concat(), &[])
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], missing.as_slice()].concat())
}
