//! What server processes have used, from `/proc`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::param::clock_ticks_per_second;
use serde::Serialize;

use crate::admin::{self, Busy};
use crate::latency::{NANOS_PER_SECOND, float, now_nanos, seconds};

/// Whose costs are measured.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Server {
    /// Process of the server, to measure what it spends; may be repeated.
    #[arg(long = "pid", value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// Admin socket of such a process, as in /run/tengate/gateway-4711.sock; may be repeated. Its shards are then charged for
    /// the time they were busy and not for processor time, of which a shard that polls takes all there is.
    #[arg(long = "admin", value_name = "SOCKET")]
    admin: Vec<PathBuf>,
}

/// Processor time and memory of a few processes together, until now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    threads: Vec<Thread>,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
}

#[derive(Clone, Debug)]
struct Thread {
    pid: u32,
    tid: u32,
    name: String,
    /// User and system time.
    run_nanos: u64,
    /// Time spent working, of a shard that said so.
    busy_nanos: Option<u64>,
}

/// Processor time of one thread over a measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ThreadCost {
    pid: u32,
    name: String,
    cpu_seconds: f64,
    /// Of the time that the measurement took, 0 to 1.
    busy_share: f64,
}

/// Processor time over a measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    #[serde(rename = "server_cpu_seconds")]
    pub(crate) cpu_seconds: f64,
    /// Those that ran at all, the busiest first.
    #[serde(rename = "server_threads")]
    threads: Vec<ThreadCost>,
}

/// What server and generator use from now on.
#[derive(Debug)]
pub(crate) struct Meter {
    server: Server,
    generators: Vec<u32>,
    before: Usage,
    generators_before: Usage,
    start_nanos: u64,
}

/// What they used until now.
#[derive(Debug, Serialize)]
pub(crate) struct Spent {
    /// `None` when no server process was named.
    #[serde(flatten)]
    pub(crate) cost: Option<Cost>,
    /// Of the generator's processes together, 0 to 1: near 1 it is the generator that limits a rate.
    pub(crate) generator_busy_share: f64,
    #[serde(skip)]
    pub(crate) nanos: u64,
}

impl Meter {
    pub(crate) fn start(server: &Server, generators: Vec<u32>) -> Result<Self> {
        Ok(Self {
            before: server.usage()?,
            generators_before: Usage::of(&generators)?,
            server: server.clone(),
            generators,
            start_nanos: now_nanos(),
        })
    }

    pub(crate) fn stop(self) -> Result<Spent> {
        let nanos = now_nanos() - self.start_nanos;
        let cost = self.server.usage()?.since(&self.before, nanos);
        let own = Usage::of(&self.generators)?.since(&self.generators_before, nanos);
        let whole = seconds(nanos) * float(self.generators.len() as u64);
        let generator_busy_share = own.map_or(0.0, |own| own.cpu_seconds / whole);
        Ok(Spent { cost, generator_busy_share, nanos })
    }
}

impl Server {
    /// What it has used until now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut busy = Vec::new();
        for socket in &self.admin {
            busy.extend(admin::ask(socket)?);
        }
        let mut usage = Usage::of(&self.pids)?;
        usage.threads.iter_mut().for_each(|thread| thread.charge(&busy));
        Ok(usage)
    }
}

impl Thread {
    /// Notes the time a shard was busy, if it is one that said so.
    fn charge(&mut self, busy: &[Busy]) {
        let is_this = |busy: &&Busy| busy.pid == self.pid && busy.name == self.name;
        self.busy_nanos = busy.iter().find(is_this).map(|busy| busy.nanos);
    }

    /// What it cost since then. A shard's busy time goes on while another program has its core, processor time does not;
    /// so the smaller counts.
    fn cost_since(&self, before: Option<&Self>) -> u64 {
        let run = self.run_nanos.saturating_sub(before.map_or(0, |before| before.run_nanos));
        let busy_before = before.and_then(|before| before.busy_nanos).unwrap_or(0);
        self.busy_nanos.map_or(run, |busy| run.min(busy.saturating_sub(busy_before)))
    }
}

impl Spent {
    /// Microseconds of the server for each of `count` things.
    pub(crate) fn micros_per(&self, count: u64) -> Option<f64> {
        self.cost.as_ref()?.micros_per(count)
    }
}

impl Usage {
    /// Of all threads of the processes with these ids.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut usage = Self::default();
        for &pid in pids {
            usage.add(pid).with_context(|| format!("process {pid}, given by --pid"))?;
        }
        Ok(usage)
    }

    /// What was used since `before`, in `nanos`; `None` when no process was named.
    pub(crate) fn since(&self, before: &Self, nanos: u64) -> Option<Cost> {
        let used = |thread: &Thread| {
            thread.cost_since(before.threads.iter().find(|earlier| earlier.tid == thread.tid))
        };
        let cost = |thread: &Thread| ThreadCost {
            pid: thread.pid,
            name: thread.name.clone(),
            cpu_seconds: seconds(used(thread)),
            busy_share: float(used(thread)) / float(nanos.max(1)),
        };
        let mut threads: Vec<ThreadCost> =
            self.threads.iter().filter(|thread| used(thread) > 0).map(cost).collect();
        threads.sort_by(|one, other| other.cpu_seconds.total_cmp(&one.cpu_seconds));
        let cpu_seconds = seconds(self.threads.iter().map(used).sum());
        (!self.threads.is_empty()).then_some(Cost { cpu_seconds, threads })
    }

    fn add(&mut self, pid: u32) -> Result<()> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let folder = task?.path();
            let tid = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            let tid = tid.context("an odd name in /proc")?;
            // A thread may end between being listed and being read.
            let Ok(stat) = fs::read_to_string(folder.join("stat")) else { continue };
            let schedstat = fs::read_to_string(folder.join("schedstat"));
            let run_nanos = match schedstat {
                Ok(line) => decode_schedstat(&line),
                Err(_) => decode_stat(&stat),
            };
            let run_nanos = run_nanos.context("an odd /proc/<pid>/task/<tid>")?;
            let name = stat.find('(').zip(stat.rfind(')'));
            let name = name.map_or("", |(first, last)| &stat[first + 1..last]).to_owned();
            self.threads.push(Thread { pid, tid, name, run_nanos, busy_nanos: None });
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        self.resident_bytes += decode_kib(resident)?;
        Ok(())
    }
}

impl Cost {
    /// Microseconds for each of `count` things.
    pub(crate) fn micros_per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.cpu_seconds * 1e6 / float(count))
    }

    /// For people: how busy the busiest threads were.
    pub(crate) fn words(&self) -> String {
        let word =
            |thread: &ThreadCost| format!("{} {:.0} %", thread.name, thread.busy_share * 100.0);
        self.threads.iter().take(THREADS_SHOWN).map(word).collect::<Vec<_>>().join(", ")
    }
}

/// Memory of this machine's kernel for connections and everything else: its slab, and the pages of TCP buffers.
pub(crate) fn kernel_bytes() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let slab = meminfo.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab")?;
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    let pages = decode_tcp_pages(&sockstat).context("no TCP mem in /proc/net/sockstat")?;
    Ok(decode_kib(slab)? + pages * rustix::param::page_size() as u64)
}

/// Nanoseconds on a processor, the first of three numbers.
fn decode_schedstat(line: &str) -> Option<u64> {
    line.split(' ').next()?.parse().ok()
}

/// Nanoseconds in user and system mode, from ticks.
fn decode_stat(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, blanks too.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
    let ticks = times.next()?? + times.next()??;
    Some(ticks * (NANOS_PER_SECOND / clock_ticks_per_second()))
}

fn decode_kib(words: &str) -> Result<u64> {
    let kib: u64 = words.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

fn decode_tcp_pages(sockstat: &str) -> Option<u64> {
    let words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    words.rsplit_once(" mem ")?.1.trim().parse().ok()
}

const THREADS_SHOWN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_from_both_of_the_kernels_files() {
        assert_eq!(decode_schedstat("123456789 42 7\n"), Some(123_456_789));
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 0 0 0";
        assert_eq!(decode_stat(stat), Some(2 * NANOS_PER_SECOND));
        assert_eq!(decode_stat("7 (x) S 1"), None);
    }

    #[test]
    fn kernel_memory_is_read_in_kib_and_in_pages() {
        assert_eq!(decode_kib("   1024 kB").unwrap(), 1 << 20);
        let sockstat =
            "sockets: used 9\nTCP: inuse 3 orphan 0 tw 0 alloc 4 mem 17\nUDP: inuse 1 mem 2\n";
        assert_eq!(decode_tcp_pages(sockstat), Some(17));
    }

    #[test]
    fn a_thread_costs_what_it_ran_since_the_measurement_began() {
        let thread = |tid, run_nanos| Thread {
            pid: 1,
            tid,
            name: format!("t{tid}"),
            run_nanos,
            busy_nanos: None,
        };
        let usage = |threads| Usage { threads, resident_bytes: 0 };
        let before = usage(vec![thread(1, 500), thread(2, 900)]);
        let after = usage(vec![thread(1, 1500), thread(2, 900), thread(3, 3000)]);
        let cost = after.since(&before, 4000).unwrap();
        let names: Vec<&str> = cost.threads.iter().map(|thread| &*thread.name).collect();
        assert_eq!(names, ["t3", "t1"]);
        assert!((cost.micros_per(2).unwrap() - 2.0).abs() < 1e-9);
        assert!((cost.threads[0].busy_share - 0.75).abs() < 1e-9);
        assert!(Usage::default().since(&Usage::default(), 1).is_none());
    }

    #[test]
    fn a_thread_that_says_how_busy_it_was_costs_that_and_no_more_than_it_ran() {
        let thread = |run_nanos, busy_nanos| {
            let name = "tengate-0".to_owned();
            let mut thread = Thread { pid: 1, tid: 2, name, run_nanos, busy_nanos: None };
            let busy = |pid, nanos| Busy { pid, name: "tengate-0".to_owned(), nanos };
            thread.charge(&[busy(7, 1), busy(1, busy_nanos)]);
            thread
        };
        let before = thread(500, 20);
        assert_eq!(thread(900, 50).cost_since(Some(&before)), 30);
        assert_eq!(thread(510, 50).cost_since(Some(&before)), 10);
    }
}
