//! Findings about `[dispatcher]` and its groups.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::super::source::Finding;
use super::super::{Config, Group};
use super::{check_announced, check_bytes, check_positive};

/// Largest share of a worker.
const WEIGHT_MAX: u16 = 1000;
/// What the kernel shell keeps of one connection at most, less room for the frame after it.
const REPLY_BYTES_MAX: u64 = 60 << 20;

/// Adds what is wrong with the dispatcher. Missing keys are only reported when the configuration is `complete`.
pub(super) fn check(config: &Config, complete: bool, findings: &mut Vec<Finding>) {
    let dispatcher = &config.dispatcher;
    let (listen, lan_ip) = (&dispatcher.listen, dispatcher.lan_ip.as_ref());
    check_announced("the dispatcher's address", listen, lan_ip, findings);
    let sizes = [
        ("frame_bytes_max", &dispatcher.frame_bytes_max),
        ("reply_bytes_max", &dispatcher.reply_bytes_max),
        ("send_to_worker_buffer_bytes", &dispatcher.send_to_worker_buffer_bytes),
        ("send_to_gateway_buffer_bytes", &dispatcher.send_to_gateway_buffer_bytes),
    ];
    for (name, size) in sizes {
        check_bytes(name, size, findings);
    }
    let replies = &dispatcher.reply_bytes_max;
    if replies.get_ref().0 > REPLY_BYTES_MAX {
        let problem = "reply_bytes_max is over 60 MiB";
        let advice = "from 128 bytes to 60 MiB, what is kept of one connection";
        findings.push(Finding::error(replies.span(), problem, advice));
    }
    let periods = [
        ("auth_timeout", &dispatcher.auth_timeout),
        ("query_timeout", &dispatcher.query_timeout),
        ("detach_limit", &dispatcher.detach_limit),
    ];
    for (name, period) in periods {
        check_positive(name, period, findings);
    }
    let queries = &dispatcher.pending_queries_max;
    if *queries.get_ref() == 0 {
        let problem = "pending_queries_max 0 would never answer a query";
        findings.push(Finding::error(queries.span(), problem, "from 1; GatewayClient needs 1"));
    }
    check_detaching(config, findings);
    check_weights(&dispatcher.weights, None, findings);
    check_groups(&dispatcher.group, complete, findings);
}

/// A gateway that waits no longer than the dispatcher takes to settle cuts it off before it has.
fn check_detaching(config: &Config, findings: &mut Vec<Finding>) {
    let (limit, timeout) = (&config.dispatcher.detach_limit, &config.gateway.detach_timeout);
    if limit.get_ref() >= timeout.get_ref() {
        let place = if limit.span().is_empty() { timeout } else { limit };
        let problem =
            "detach_limit of [dispatcher] is not shorter than detach_timeout of [gateway]";
        let advice = "give gateways a second more than dispatchers, or what a dispatcher gives back comes too late";
        findings.push(Finding::warning(place.span(), problem, advice));
    }
}

fn check_groups(groups: &[Spanned<Group>], complete: bool, findings: &mut Vec<Finding>) {
    let mut taken = BTreeSet::new();
    for group in groups {
        let (span, group) = (group.span(), group.get_ref());
        if group.ports.is_empty() && complete {
            let advice = "add ports = [8282], the ports of the clients it serves";
            findings.push(Finding::error(span, "this [[dispatcher.group]] has no ports", advice));
        }
        for port in &group.ports {
            let number = *port.get_ref();
            if number == 0 {
                let advice = "name ports of [[gateway.client]], from 1 to 65535";
                findings.push(Finding::error(port.span(), "there is no port 0", advice));
            } else if !taken.insert(number) {
                let problem = format!("port {number} is in a group already");
                let advice =
                    "name each port once: its clients are served by the workers of one group";
                findings.push(Finding::error(port.span(), problem, advice));
            }
        }
        let mut names = BTreeSet::new();
        for worker in &group.workers {
            let name = worker.get_ref().as_str();
            if let Some(problem) = wrong_name(name) {
                findings.push(Finding::error(worker.span(), problem, NAME_ADVICE));
            } else if !names.insert(name) {
                let problem = format!("worker `{name}` is listed twice");
                findings.push(Finding::error(worker.span(), problem, "name each worker once"));
            }
        }
        let members = (!names.is_empty()).then_some(&names);
        check_weights(&group.weights, members, findings);
    }
}

/// Weights of workers; `members` are the only ones that can be chosen, if not all can.
fn check_weights(
    weights: &BTreeMap<String, Spanned<u16>>,
    members: Option<&BTreeSet<&str>>,
    findings: &mut Vec<Finding>,
) {
    for (name, weight) in weights {
        if let Some(problem) = wrong_name(name) {
            findings.push(Finding::error(weight.span(), problem, NAME_ADVICE));
        } else if !(1..=WEIGHT_MAX).contains(weight.get_ref()) {
            let problem = format!("a weight of {} does not work", weight.get_ref());
            let advice = "from 1 to 1000, and 1 where nothing is said; to give a worker no clients, list the others in workers";
            findings.push(Finding::error(weight.span(), problem, advice));
        } else if members.is_some_and(|members| !members.contains(name.as_str())) {
            let problem = format!(
                "the weight of `{name}` has no effect: it is not one of the group's workers"
            );
            let advice = "add it to workers, or remove its weight";
            findings.push(Finding::error(weight.span(), problem, advice));
        }
    }
}

/// What is wrong with the name of a worker.
fn wrong_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a worker's name is empty".to_owned());
    }
    name.contains(':').then(|| format!("`{name}` is a worker's key or address, not its name"))
}

const NAME_ADVICE: &str =
    "write the name that the BusinessWorker is given, the same for all its processes";
