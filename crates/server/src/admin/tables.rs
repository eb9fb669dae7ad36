//! Workerman's tables, column by column, so that eyes and scripts that know them find their way; then what tengate adds.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use super::snapshot::{Connection, Connections, Process, Shard};

/// A rule of Workerman's width with a title in its middle.
fn rule(title: &str, out: &mut String) {
    let _ = writeln!(out, "{title:-^119}");
}

/// What identifies a shard between two answers of its process.
type Key = (u32, String, u16);

/// The counters that turn into rates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    total_request: u64,
    busy_nanos: u64,
    wall_nanos: u64,
}

/// What was counted when the processes were asked before.
pub(crate) type Samples = BTreeMap<Key, Sample>;

/// The counters of every shard, to compare the next answers with.
pub(crate) fn samples(processes: &[Process]) -> Samples {
    let shards = processes
        .iter()
        .flat_map(|process| process.shards.iter().map(|shard| (key(process, shard), shard)));
    let sample = |shard: &Shard| Sample {
        total_request: shard.total_request,
        busy_nanos: shard.busy_nanos,
        wall_nanos: shard.wall_nanos,
    };
    shards.map(|(key, shard)| (key, sample(shard))).collect()
}

/// The `status` page. `now_unix_secs` is the time of the answers; `load` is /proc/loadavg's first three numbers.
pub(crate) fn status(
    processes: &[Process],
    before: &Samples,
    now_unix_secs: i64,
    load: &str,
) -> String {
    let mut out = String::new();
    global_status(processes, now_unix_secs, load, &mut out);
    process_status(processes, before, &mut out);
    tengate_status(processes, before, &mut out);
    out
}

fn global_status(processes: &[Process], now_unix_secs: i64, load: &str, out: &mut String) {
    rule("GLOBAL STATUS", out);
    let version = format!("tengate/{}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(out, "{version:<24}{:<30}{}", "Rust", kernel());
    let started =
        processes.iter().map(|process| process.started_unix_secs).min().unwrap_or(now_unix_secs);
    let run = (now_unix_secs - started).max(0);
    let _ = writeln!(
        out,
        "start time:{}   run {} days {} hours   load average: {load}",
        local_time(started),
        run / 86_400,
        run % 86_400 / 3_600
    );
    let services = services(processes);
    let shard_count: usize = processes.iter().map(|process| process.shards.len()).sum();
    let _ = writeln!(out, "{} workers    {shard_count} processes", services.len());
    let width = services.iter().map(|(_, name)| name.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(out, "{:<width$}     event-loop     exit_status     exit_count", "name");
    for (_, name) in &services {
        let _ = writeln!(out, "{name:<width$}     {:<14} {:<16}{:<16}", "epoll", 0, 0);
    }
}

fn process_status(processes: &[Process], before: &Samples, out: &mut String) {
    let shards = || processes.iter().flat_map(|process| &process.shards);
    let listening = shards().map(|shard| shard.listening.len()).max().unwrap_or(0).max(9);
    let name = shards().map(|shard| shard.service.len()).max().unwrap_or(0).max(8);
    rule("PROCESS STATUS", out);
    let _ = writeln!(
        out,
        "pid\tmemory  {:<listening$} {:<name$} connections {:<9} {:<8}{:<13} qps    status",
        "listening", "name", "send_fail", "timers", "total_request"
    );
    let mut total_qps = 0;
    for process in processes {
        for (index, shard) in process.shards.iter().enumerate() {
            let rate = before.get(&key(process, shard)).map_or(0, |sample| qps(shard, *sample));
            total_qps += rate;
            // Shards of one process share its memory; it is shown once, so that the column adds up.
            let memory = if index == 0 { megabytes(process.memory_bytes) } else { "-".to_owned() };
            let state = if shard.answered { "[idle]" } else { "[busy]" };
            let _ = writeln!(
                out,
                "{}\t{memory:<7} {:<listening$} {:<name$} {:<11} {:<9} {:<7} {:<13} {rate:<6} {state}",
                process.pid,
                shard.listening,
                shard.service,
                shard.connections,
                shard.send_fail,
                shard.timers,
                shard.total_request
            );
        }
    }
    rule("PROCESS STATUS", out);
    let sum = |count: fn(&Shard) -> u64| shards().map(count).sum::<u64>();
    let memory = megabytes(processes.iter().map(|process| process.memory_bytes).sum());
    let _ = writeln!(
        out,
        "Summary\t{memory:<7} {:<listening$} {:<name$} {:<11} {:<9} {:<7} {:<13} {total_qps:<6} [Summary] ",
        "-",
        "-",
        sum(|shard| shard.connections),
        sum(|shard| shard.send_fail),
        sum(|shard| shard.timers),
        sum(|shard| shard.total_request)
    );
}

fn tengate_status(processes: &[Process], before: &Samples, out: &mut String) {
    rule("TENGATE", out);
    let _ = writeln!(
        out,
        "pid\tservice    shard core clients   workers busy   bytes/conn  read         written      dropped"
    );
    for process in processes {
        let connections: u64 = process.shards.iter().map(|shard| shard.connections).sum();
        let grown = process.memory_bytes.saturating_sub(process.memory_at_start_bytes);
        let each = grown
            .checked_div(connections)
            .map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        for shard in &process.shards {
            let core = shard.core.map_or_else(|| "-".to_owned(), |core| core.to_string());
            let busy = busy_percent(shard, before.get(&key(process, shard)).copied());
            let drops: Vec<String> = shard
                .drops
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(cause, count)| format!("{cause}={count}"))
                .collect();
            let _ = writeln!(
                out,
                "{}\t{:<10} {:<5} {core:<4} {:<9} {:<7} {busy:>4}%  {each:<11} {:<12} {:<12} {}",
                process.pid,
                shard.service,
                shard.shard,
                shard.clients,
                shard.workers.len(),
                bytes(shard.bytes_read),
                bytes(shard.bytes_written),
                if drops.is_empty() { "-".to_owned() } else { drops.join(" ") }
            );
        }
    }
    for process in processes {
        stacks(process, out);
        for link in &process.registers {
            let state = if link.connected { "connected" } else { "not connected" };
            let _ = writeln!(out, "{}\tregister {} {state}", process.pid, link.address);
        }
        for shard in &process.shards {
            links(process.pid, shard, out);
        }
    }
}

/// The pools of shards past the kernel, and what was dropped there.
fn stacks(process: &Process, out: &mut String) {
    let mut shards = process.shards.iter().filter(|shard| !shard.stack.is_empty()).peekable();
    if shards.peek().is_none() {
        return;
    }
    let _ = writeln!(
        out,
        "pid\tstack connections        opening         time-wait          pool              frames in    frames out   lost below TCP"
    );
    for shard in shards {
        let count = |name: &str| shard.stack.get(name).copied().unwrap_or(0);
        let of = |name: &str| format!("{}/{}", count(name), count(&format!("{name}_max")));
        let pool = [count("pool_used_bytes"), count("pool_bytes_max")].map(bytes).join("/");
        let lost = shard.stack.iter().filter(|(name, count)| is_loss(name) && **count > 0);
        let lost: Vec<String> = lost.map(|(name, count)| format!("{name}={count}")).collect();
        let _ = writeln!(
            out,
            "{}\t{:<5} {:<18} {:<15} {:<18} {pool:<17} {:<12} {:<12} {}",
            process.pid,
            shard.shard,
            of("conns"),
            of("syn_backlog"),
            of("time_wait"),
            count("queue_received"),
            count("queue_sent"),
            if lost.is_empty() { "-".to_owned() } else { lost.join(" ") }
        );
    }
    let device: Vec<String> = process
        .device
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    let _ = writeln!(out, "{}\tdevice {}", process.pid, device.join(" "));
}

/// Whether a counter is of frames that were lost for want of room or because they were damaged; the others are what any
/// network brings.
fn is_loss(name: &str) -> bool {
    name.starts_with("queue_dropped")
        || name.starts_with("drop_syn")
        || ["drop_steered", "drop_device_full", "drop_tcp_checksum", "send_refused_pool_full"]
            .contains(&name)
}

/// Whom a shard of dispatched mode is linked to.
fn links(pid: u32, shard: &Shard, out: &mut String) {
    if let Some(home) = &shard.home {
        let _ = writeln!(out, "{pid}\thome dispatcher {home}");
    }
    for gateway in &shard.gateways {
        let last = u32::from(gateway.first_proc_id) + u32::from(gateway.shards).max(1) - 1;
        let _ = writeln!(
            out,
            "{pid}\tgateway {} {} proc_ids {}-{last} clients {}",
            gateway.address,
            if gateway.home { "home" } else { "linked" },
            gateway.first_proc_id,
            gateway.clients
        );
    }
}

/// The `connections` page.
pub(crate) fn connections(processes: &[Connections]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:-^178}", " TENGATE CONNECTION STATUS ");
    out += "PID      Worker          CID       Trans   Protocol        ipv4   ipv6   Recv-Q       Send-Q       Bytes-R      Bytes-W       Status         Local Address          Foreign Address\n";
    for process in processes {
        for connection in &process.connections {
            connection_row(process.pid, connection, &mut out);
        }
        if process.left_out > 0 {
            let _ = writeln!(
                out,
                "{:<9}{} more connections are not listed",
                process.pid, process.left_out
            );
        }
    }
    out
}

fn connection_row(pid: u32, connection: &Connection, out: &mut String) {
    let worker = shortened(connection.worker_key.as_deref().unwrap_or(&connection.service), 14);
    let protocol = shortened(&connection.protocol, 15);
    let (ipv4, ipv6) = if connection.ipv6 { (" 0", " 1") } else { (" 1", " 0") };
    let _ = writeln!(
        out,
        "{pid:<9}{worker:<16}{:<10}{:<8}{protocol:<16}{ipv4:<7}{ipv6:<7}{:<13}{:<13}{:<13}{:<13} {:<14} {:<22} {:<22}",
        connection.id,
        "tcp",
        bytes(connection.recv_queue_bytes),
        bytes(connection.send_queue_bytes),
        bytes(connection.bytes_read),
        bytes(connection.bytes_written),
        connection.status,
        connection.local,
        connection.foreign
    );
}

fn key(process: &Process, shard: &Shard) -> Key {
    (process.pid, shard.service.clone(), shard.shard)
}

/// Services of all processes, in order, each once.
fn services(processes: &[Process]) -> Vec<(u32, String)> {
    let mut services: Vec<(u32, String)> = Vec::new();
    for process in processes {
        for shard in &process.shards {
            let service = (process.pid, shard.service.clone());
            if !services.contains(&service) {
                services.push(service);
            }
        }
    }
    services
}

/// Requests a second since the sample.
fn qps(shard: &Shard, sample: Sample) -> u64 {
    let nanos = u128::from(shard.wall_nanos.saturating_sub(sample.wall_nanos));
    let requests = u128::from(shard.total_request.saturating_sub(sample.total_request));
    (requests * 1_000_000_000)
        .checked_div(nanos)
        .and_then(|rate| u64::try_from(rate).ok())
        .unwrap_or(0)
}

/// Share of time spent working since the sample, or since the start.
fn busy_percent(shard: &Shard, sample: Option<Sample>) -> u64 {
    let (busy, wall) = sample.map_or((0, 0), |sample| (sample.busy_nanos, sample.wall_nanos));
    let (busy, wall) =
        (shard.busy_nanos.saturating_sub(busy), shard.wall_nanos.saturating_sub(wall));
    (busy.saturating_mul(100)).checked_div(wall).unwrap_or(0).min(100)
}

fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max - 2).chain("..".chars()).collect()
}

fn megabytes(bytes: u64) -> String {
    let hundredths = bytes.saturating_mul(100) >> 20;
    format!("{}.{:02}M", hundredths / 100, hundredths % 100)
}

/// As Workerman shortens bytes: one digit after the point, from the first unit that is exceeded.
fn bytes(count: u64) -> String {
    let units = [("TB", 1u64 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    let Some((unit, size)) = units.into_iter().find(|(_, size)| count > *size) else {
        return format!("{count}B");
    };
    let tenths = (u128::from(count) * 10 + u128::from(size) / 2) / u128::from(size);
    match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        digit => format!("{}.{digit}{unit}", tenths / 10),
    }
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{}/{}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

fn local_time(unix_secs: i64) -> String {
    let zoned =
        jiff::Timestamp::from_second(unix_secs).map(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|_| unix_secs.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        let shard = Shard {
            service: "gateway".into(),
            listening: "websocket://127.0.0.1:8282".into(),
            answered: true,
            core: Some(1),
            connections: 4,
            clients: 3,
            total_request: 600,
            busy_nanos: 50,
            wall_nanos: 1_000_000_000,
            drops: BTreeMap::from([("slow_client".into(), 2), ("no_worker".into(), 0)]),
            ..Shard::default()
        };
        Process {
            pid: 42,
            role: "gateway".into(),
            version: "0.1.0".into(),
            started_unix_secs: 1_000,
            memory_bytes: 3 << 20,
            memory_at_start_bytes: 2 << 20,
            registers: Vec::new(),
            shards: vec![shard],
            device: BTreeMap::new(),
        }
    }

    #[test]
    fn status_has_the_blocks_and_columns_of_workerman() {
        let page = status(&[process()], &Samples::new(), 1_000 + 90_000, "0.5, 0.25, 0");
        let words: Vec<Vec<&str>> =
            page.lines().map(|line| line.split_whitespace().collect()).collect();
        let columns = [
            "pid",
            "memory",
            "listening",
            "name",
            "connections",
            "send_fail",
            "timers",
            "total_request",
            "qps",
            "status",
        ];
        assert!(words.contains(&columns.to_vec()), "{page}");
        let row = [
            "42",
            "3.00M",
            "websocket://127.0.0.1:8282",
            "gateway",
            "4",
            "0",
            "0",
            "600",
            "0",
            "[idle]",
        ];
        assert!(words.contains(&row.to_vec()), "{page}");
        assert!(page.contains("run 1 days 1 hours   load average: 0.5, 0.25, 0"), "{page}");
        assert!(page.contains("slow_client=2") && !page.contains("no_worker"), "{page}");
    }

    #[test]
    fn the_rate_is_what_came_since_the_sample() {
        let mut before = process();
        before.shards[0].total_request = 100;
        before.shards[0].wall_nanos = 500_000_000;
        let page = status(&[process()], &samples(&[before]), 1_000, "");
        assert!(page.contains(" 1000   [idle]"), "{page}");
    }

    #[test]
    fn bytes_are_shortened_as_workerman_does() {
        for (count, shown) in [
            (0, "0B"),
            (1024, "1024B"),
            (1025, "1KB"),
            (1536, "1.5KB"),
            (3 << 20, "3MB"),
            (5 << 40, "5TB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn long_names_are_cut_to_their_column() {
        assert_eq!(shortened("127.0.0.1:Chat:0", 14), "127.0.0.1:Ch..");
        assert_eq!(shortened("websocket", 15), "websocket");
    }
}
