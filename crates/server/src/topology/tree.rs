//! The graph as text: gateways in a table, dispatchers as trees of their links.

use core::fmt::Write as _;

use tengate_proto::wire::register::topology::{AbsentLease, Dispatcher, Gateway, Mode, Topology};

/// The whole page.
pub(super) fn tree(register: &str, topology: &Topology, colours: bool) -> String {
    let paint = Paint { colours };
    let mut out = String::new();
    let (first, last) = topology.proc_ids;
    let bits =
        topology.number_bits.map_or_else(String::new, |bits| format!(", number_bits {bits}"));
    let _ = writeln!(
        out,
        "{} {register}   up {}   leases proc_ids {first}-{last}{bits}",
        paint.title("register"),
        duration(topology.uptime_secs)
    );
    gateways(&topology.gateways, paint, &mut out);
    dispatchers(&topology.dispatchers, paint, &mut out);
    absent(&topology.absent_leases, paint, &mut out);
    let _ = writeln!(
        out,
        "\n{} {} workers and outside clients, {} connections that have said nothing",
        paint.title("at the register"),
        topology.workers.len(),
        // Who asks is one of them.
        topology.others.len().saturating_sub(1)
    );
    out
}

fn gateways(gateways: &[Gateway], paint: Paint, out: &mut String) {
    let _ = writeln!(out, "\n{} {}", paint.title("gateways"), gateways.len());
    if gateways.is_empty() {
        return;
    }
    let head = ["address", "mode", "proc_ids", "clients", "connected", "home"].map(str::to_owned);
    let mut rows = vec![head];
    for gateway in gateways {
        let dash = || "-".to_owned();
        rows.push([
            gateway.address.to_string(),
            match gateway.mode {
                Mode::Direct => "direct".to_owned(),
                Mode::Dispatched => "dispatched".to_owned(),
            },
            gateway
                .first_proc_id
                .map_or_else(dash, |first| range(first, gateway.shards.unwrap_or(1))),
            gateway.clients.map_or_else(dash, |clients| clients.to_string()),
            duration(gateway.peer.connected_secs),
            String::new(),
        ]);
    }
    let widths: [usize; 6] =
        core::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for (index, row) in rows.iter().enumerate() {
        let _ = write!(out, " ");
        for (cell, width) in row.iter().zip(widths).take(5) {
            let _ = write!(out, " {cell:<width$} ");
        }
        let last = match index.checked_sub(1).map(|index| &gateways[index]) {
            None => " home".to_owned(),
            Some(gateway) => format!(" {}", home(gateway, paint)),
        };
        let _ = writeln!(out, "{}", last.trim_end());
    }
}

/// Where a gateway is at home, and what is not as it should be.
fn home(gateway: &Gateway, paint: Paint) -> String {
    if let Some(reason) = &gateway.refused {
        return paint.bad(&format!("refused: {reason}"));
    }
    match (gateway.mode, gateway.home.as_deref(), gateway.home_wish.as_deref()) {
        (Mode::Direct, ..) => "-".to_owned(),
        (Mode::Dispatched, None, None) => paint.bad("no dispatcher"),
        (Mode::Dispatched, None, Some(wish)) => paint.odd(&format!("none yet, wished {wish}")),
        (Mode::Dispatched, Some(home), Some(wish)) if home != wish => {
            format!("{home} {}", paint.odd(&format!("(wished {wish})")))
        }
        (Mode::Dispatched, Some(home), _) => home.to_owned(),
    }
}

fn dispatchers(dispatchers: &[Dispatcher], paint: Paint, out: &mut String) {
    let _ = writeln!(out, "\n{} {}", paint.title("dispatchers"), dispatchers.len());
    for dispatcher in dispatchers {
        let homes = dispatcher.gateways.iter().filter(|gateway| gateway.home).count();
        let clients: u64 = dispatcher.workers.iter().map(|worker| worker.clients).sum();
        let workers = dispatcher.workers.len() as u64 + dispatcher.workers_left_out;
        let _ = writeln!(
            out,
            "  {}   connected {}   {} gateways, home of {homes}   {workers} workers with {clients} clients",
            dispatcher.address,
            duration(dispatcher.peer.connected_secs),
            dispatcher.gateways.len()
        );
        let mut links: Vec<String> = Vec::new();
        for gateway in &dispatcher.gateways {
            links.push(match gateway.home {
                true => format!("gateway {}   home   {} clients", gateway.address, gateway.clients),
                false => format!("gateway {}   {}", gateway.address, paint.dim("linked")),
            });
        }
        for worker in &dispatcher.workers {
            links.push(format!("worker {}   {} clients", worker.key, worker.clients));
        }
        if dispatcher.workers_left_out > 0 {
            links.push(format!("{} more workers", dispatcher.workers_left_out));
        }
        for (index, link) in links.iter().enumerate() {
            let branch = if index + 1 < links.len() { "├─" } else { "└─" };
            let _ = writeln!(out, "  {} {link}", paint.dim(branch));
        }
    }
}

fn absent(leases: &[AbsentLease], paint: Paint, out: &mut String) {
    if leases.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{} {}", paint.title("absent gateways"), leases.len());
    for lease in leases {
        let kept = match lease.kept_secs {
            Some(secs) => format!("kept for {} more", duration(secs)),
            None => "still linked to a dispatcher".to_owned(),
        };
        let _ = writeln!(
            out,
            "  {}   proc_ids {}   {kept}",
            lease.address,
            range(lease.first_proc_id, lease.shards)
        );
    }
}

fn range(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    }
}

/// The two largest units that are not zero.
fn duration(secs: u64) -> String {
    let units =
        [(secs / 86_400, "d"), (secs / 3_600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown: Vec<String> = units[first..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0 || first == 3)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

/// Colours, on a terminal only.
#[derive(Clone, Copy, Debug)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn title(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// Somebody should look at it.
    fn odd(self, text: &str) -> String {
        self.with("33", text)
    }

    /// It does not work so.
    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use tengate_proto::wire::register::topology::{DispatcherGateway, DispatcherWorker, Peer};

    use super::*;

    fn peer() -> Peer {
        Peer { remote: "127.0.0.1:40000".parse().unwrap(), connected_secs: 75 }
    }

    fn gateway(address: &str, home: Option<&str>, wish: Option<&str>) -> Gateway {
        Gateway {
            address: address.into(),
            mode: Mode::Dispatched,
            peer: peer(),
            shards: Some(2),
            first_proc_id: Some(4),
            refused: None,
            home_wish: wish.map(Into::into),
            home: home.map(Into::into),
            clients: home.map(|_| 12),
        }
    }

    fn topology() -> Topology {
        let direct = Gateway {
            mode: Mode::Direct,
            shards: None,
            first_proc_id: None,
            ..gateway("127.0.0.1:2800", None, None)
        };
        let refused = Gateway {
            first_proc_id: None,
            refused: Some("no block of 2 is free".into()),
            ..gateway("127.0.0.1:2902", None, None)
        };
        let link = |address: &str, home| DispatcherGateway {
            address: address.into(),
            home,
            clients: if home { 12 } else { 0 },
        };
        let worker = DispatcherWorker { key: "127.0.0.1:chat:0".into(), clients: 12 };
        Topology {
            uptime_secs: 3_700,
            proc_ids: (0, 1023),
            number_bits: Some(22),
            gateways: vec![
                direct,
                gateway("127.0.0.1:2900", Some("127.0.0.1:3900"), Some("127.0.0.1:3901")),
                refused,
            ],
            dispatchers: vec![Dispatcher {
                address: "127.0.0.1:3900".into(),
                peer: peer(),
                gateways: vec![link("127.0.0.1:2900", true), link("127.0.0.1:2901", false)],
                workers: vec![worker],
                workers_left_out: 2,
            }],
            workers: vec![peer(), peer(), peer()],
            others: vec![peer()],
            absent_leases: vec![AbsentLease {
                address: "127.0.0.1:2903".into(),
                first_proc_id: 8,
                shards: 1,
                kept_secs: Some(240),
            }],
        }
    }

    #[test]
    fn the_page_shows_who_depends_on_whom() {
        let expected = "\
register 127.0.0.1:1236   up 1h 1m   leases proc_ids 0-1023, number_bits 22

gateways 3
  address         mode        proc_ids  clients  connected  home
  127.0.0.1:2800  direct      -         -        1m 15s     -
  127.0.0.1:2900  dispatched  4-5       12       1m 15s     127.0.0.1:3900 (wished 127.0.0.1:3901)
  127.0.0.1:2902  dispatched  -         -        1m 15s     refused: no block of 2 is free

dispatchers 1
  127.0.0.1:3900   connected 1m 15s   2 gateways, home of 1   3 workers with 12 clients
  ├─ gateway 127.0.0.1:2900   home   12 clients
  ├─ gateway 127.0.0.1:2901   linked
  ├─ worker 127.0.0.1:chat:0   12 clients
  └─ 2 more workers

absent gateways 1
  127.0.0.1:2903   proc_ids 8   kept for 4m more

at the register 3 workers and outside clients, 0 connections that have said nothing
";
        assert_eq!(tree("127.0.0.1:1236", &topology(), false), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let plain = tree("r:1", &topology(), false);
        let painted = tree("r:1", &topology(), true);
        assert!(painted.contains("\x1b[1;31mrefused") && !plain.contains('\x1b'), "{painted}");
        let mut stripped = painted.replace("\x1b[0m", "");
        for code in ["1", "2", "33", "1;31"] {
            stripped = stripped.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(stripped, plain);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (secs, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_661, "1h 1m"),
            (90_000, "1d 1h"),
            (86_401, "1d"),
        ] {
            assert_eq!(duration(secs), shown);
        }
    }
}
