//! Runs the real binary with ports, directories and an environment of its own.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, where a failure should stop the test")]

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod netns;
pub(crate) mod patience;
pub(crate) mod webdriver;
pub(crate) mod worker;

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

/// A directory for one test, with a run directory and files inside; removed at the end.
pub(crate) struct Place {
    dir: PathBuf,
    /// A process in the network namespace that programs are started in, when that is not the test's own.
    namespace: Option<u32>,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tengate-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, namespace: None }
    }

    /// Has programs started in the network namespace of this process.
    pub(crate) fn move_to(&mut self, pid: u32) {
        self.namespace = Some(pid);
    }

    /// A name inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The binary, with nothing of the surrounding environment that could change what it does.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_tengate"));
        command
            .env_clear()
            .env("TENGATE_RUN_DIR", self.run_dir())
            .current_dir(&self.dir)
            .args(args);
        command
    }

    /// Any program, where programs are started.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(pid) = self.namespace else { return Command::new(program) };
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(netns::entering(pid)).arg(program);
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::spawn(self.command(args))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A running tengate, killed when the test ends.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Running {
    /// Starts any command whose standard error is a log.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        // Ends with the process, whose end of the pipe closes then.
        std::thread::spawn(move || {
            for line in stderr.lines() {
                if tell.send(line.unwrap() + "\n").is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: String::new() }
    }

    /// Reads the log until a line holds `text`; fails with the log when it ends before, or none comes for long.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(QUIET_MAX) {
                Ok(line) => {
                    self.seen += &line;
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no {text:?} in the log ({error}):\n{}", self.seen),
            }
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status and the whole log.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        let rest: String = self.lines.iter().collect();
        let code = self.child.wait().unwrap().code();
        (code, core::mem::take(&mut self.seen) + &rest)
    }
}

/// Longest silence of a log that a test waits through.
const QUIET_MAX: Duration = Duration::from_secs(30);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Addresses nobody listens on, all different.
pub(crate) fn free_addresses<const N: usize>() -> [String; N] {
    let held: [TcpListener; N] =
        core::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().to_string())
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}
