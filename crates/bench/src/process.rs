//! What a server process has used, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// Processor time and memory of a few processes together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Adds up the processes with these ids.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut total = Self::default();
        for pid in pids {
            let one = Self::of_one(*pid).with_context(|| format!("process {pid}"))?;
            total.cpu_seconds += one.cpu_seconds;
            total.resident_bytes += one.resident_bytes;
        }
        Ok(total)
    }

    fn of_one(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything, blanks too.
        let (_, fields) = stat.rsplit_once(") ").context("an odd /proc/stat")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |at: usize| {
            fields.get(at).and_then(|field| field.parse::<u32>().ok()).context("an odd /proc/stat")
        };
        let cpu_seconds = f64::from(ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu_seconds, resident_bytes: kib * 1024 })
    }
}

/// `_SC_CLK_TCK`, which Linux fixes for user space.
const TICKS_PER_SECOND: f64 = 100.0;
