//! A plan as tables for people.

use core::fmt::Write as _;

use super::{Kind, Load, Plan, Resource};
use crate::sizing::{grouped, mib};

/// The page that `tengate plan` prints.
pub(crate) fn table(plan: &Plan) -> String {
    let mut out = String::new();
    rule("PLAN", &mut out);
    question(plan, &mut out);
    resources(plan, &mut out);
    rule("MEMORY", &mut out);
    for part in &plan.memory {
        let _ = writeln!(out, "{:<26}{:>14} MiB", part.name, grouped(mib(part.bytes)));
    }
    let _ = writeln!(out, "{:<26}{:>14} B", "all, for each client", grouped(plan.bytes_a_client));
    rule("BUSY CORES", &mut out);
    for share in plan.busy.iter().filter(|share| share.cores > 0.0) {
        let _ = writeln!(out, "{:<26}{:>14.3}", share.name, share.cores);
    }
    rule("COMPUTED FROM", &mut out);
    for figure in &plan.figures {
        let basis = if figure.measured { "measured" } else { "estimated" };
        let value = if figure.value < 10.0 {
            format!("{:.1}", figure.value)
        } else {
            grouped(format!("{:.0}", figure.value))
        };
        let (name, unit, source) = (figure.name, figure.unit, figure.source);
        let _ = writeln!(out, "{name:<26}{value:>14} {unit:<4}{basis}: {source}");
    }
    rule("", &mut out);
    verdict(plan, &mut out);
    out
}

/// A rule of the width of `tengate status`, with a title in its middle.
fn rule(title: &str, out: &mut String) {
    let _ = writeln!(out, "{title:-^119}");
}

fn question(plan: &Plan, out: &mut String) {
    let Load { clients, message_rate, bytes, fan_out, session_secs } = plan.load;
    let plural = if plan.shards == 1 { "" } else { "s" };
    let _ = writeln!(
        out,
        "{} clients on {}, {} shard{plural}; each sends {message_rate} messages of {bytes} B a second, and each answer goes to {fan_out}",
        grouped(clients),
        plan.data_path,
        plan.shards
    );
    if let Some(secs) = session_secs {
        let _ = writeln!(out, "each stays {secs} s, then another one comes");
    }
}

fn resources(plan: &Plan, out: &mut String) {
    let _ = writeln!(
        out,
        "{:<26}{:>18}{:>18}{:>8}{:>24}",
        "resource", "needed", "there is", "used", "enough for clients"
    );
    for resource in &plan.resources {
        let Resource { name, needed, there_is, clients_max } = resource;
        let used = there_is.filter(|there_is| *there_is > 0.0).map_or_else(
            || "-".to_owned(),
            |there_is| format!("{:.0}%", needed / there_is * 100.0),
        );
        let there_is = there_is.map_or_else(|| "-".to_owned(), |there_is| name.shown(there_is));
        let enough = clients_max.map_or_else(|| "-".to_owned(), grouped);
        let needed = name.shown(*needed);
        let _ =
            writeln!(out, "{:<26}{needed:>18}{there_is:>18}{used:>8}{enough:>24}", name.title());
    }
}

fn verdict(plan: &Plan, out: &mut String) {
    if let Some(Resource { name, clients_max: Some(clients), .. }) = plan.resources.first() {
        let clients = grouped(clients);
        let _ = writeln!(out, "What runs out first: {}, beyond {clients} clients.", name.title());
    }
    for resource in plan.resources.iter().filter(|resource| !resource.fits()) {
        let _ = writeln!(out, "Not enough {}: {}.", resource.name.title(), advice(plan, resource));
    }
    if plan.huge_pages > 0 {
        let pages = grouped(plan.huge_pages);
        let _ = match plan.supply.huge_pages_free {
            Some(free) if free >= plan.huge_pages => {
                writeln!(out, "{pages} of {} free huge pages of 2 MiB are used.", grouped(free))
            }
            _ => writeln!(
                out,
                "Reserve {pages} huge pages of 2 MiB: sysctl vm.nr_hugepages={}",
                plan.huge_pages
            ),
        };
    }
    let _ =
        writeln!(out, "Workers, dispatchers and what slow clients leave unread are not counted.");
    let _ = writeln!(out, "{}", if plan.fits { "It fits." } else { "It does not fit." });
}

/// What to do about a resource of which there is too little.
fn advice(plan: &Plan, resource: &Resource) -> String {
    match resource.name {
        Kind::MemoryBytes => {
            "add memory, more machines, or lower pool_bytes where clients say little".to_owned()
        }
        Kind::Cores if resource.needed <= f64::from(plan.supply.cores) => {
            format!("start {:.0} shards", resource.needed.ceil())
        }
        Kind::Cores => {
            format!("take {:.0} cores and as many shards, or more machines", resource.needed.ceil())
        }
        Kind::Descriptors => {
            "raise `ulimit -Hn`, or take a data path past the kernel, which needs none".to_owned()
        }
        Kind::ClientNumbers => "start more shards, or set number_bits = 24".to_owned(),
        Kind::LinkGbits => "take a faster link, or more machines".to_owned(),
    }
}

impl Resource {
    /// Whether there is enough of it, as far as is known.
    fn fits(&self) -> bool {
        self.there_is.is_none_or(|there_is| self.needed <= there_is)
    }
}

impl Kind {
    const fn title(self) -> &'static str {
        match self {
            Self::MemoryBytes => "memory",
            Self::Cores => "cores",
            Self::Descriptors => "file descriptors",
            Self::ClientNumbers => "client numbers",
            Self::LinkGbits => "link, each way",
        }
    }

    fn shown(self, amount: f64) -> String {
        match self {
            Self::MemoryBytes => format!("{} MiB", grouped(format!("{:.0}", amount / MIB))),
            Self::Cores => format!("{amount:.2}"),
            Self::Descriptors | Self::ClientNumbers => grouped(format!("{amount:.0}")),
            Self::LinkGbits => format!("{amount:.2} Gbit/s"),
        }
    }
}

/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;
