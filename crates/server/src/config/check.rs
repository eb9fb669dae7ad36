//! Findings about a configuration that is understood but cannot, or should not, run.

mod data_path;
mod dispatcher;
mod secrets;

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeMap;

use toml::Spanned;

use super::source::Finding;
use super::{
    Client, Config, Gateway, Inner, LengthField, Listen, Mode, OneOrMany, PROC_ID_MAX, PeerAddress,
    PinCores, Protocol, Register,
};

pub(crate) use data_path::pci_address;
pub(crate) use secrets::{secret_of, secrets_agree};

/// Longest heartbeat limit, in intervals.
const PING_LIMIT_MAX: u16 = 10_000;
/// Smallest useful limit of a queue or a message, in bytes.
const BYTES_MIN: u64 = 128;
/// Largest limit of a queue or a message, in bytes: what a u32 length can say.
const BYTES_MAX: u64 = u32::MAX as u64;

/// Adds what is wrong with `config`, given the cores this process may use. A structural error may leave keys out, so
/// missing ones are only reported when there was none.
pub(crate) fn check(config: &Config, cores: &[usize], findings: &mut Vec<Finding>) {
    let complete = findings.is_empty();
    check_addresses(config, findings);
    secrets::check(config, findings);
    check_register(&config.register, findings);
    check_shards(&config.gateway, cores, findings);
    check_pin_cores(&config.gateway, cores, findings);
    check_inner(&config.gateway.inner, findings);
    check_positive("close_linger", &config.gateway.close_linger, findings);
    check_positive("detach_timeout", &config.gateway.detach_timeout, findings);
    data_path::check(&config.gateway, complete, findings);
    dispatcher::check(config, complete, findings);
    let clients = &config.gateway.client;
    if clients.get_ref().is_empty() && complete {
        let advice = "add [[gateway.client]] with a listen address, or leave the list out for websocket 127.0.0.1:8282";
        findings.push(Finding::error(clients.span(), "the gateway has no client listener", advice));
    }
    for client in clients.get_ref() {
        check_client(client, complete, findings);
    }
    findings.sort_by_key(|finding| finding.span.start);
}

fn check_addresses(config: &Config, findings: &mut Vec<Finding>) {
    let (gateway, dispatcher) = (&config.gateway, &config.dispatcher);
    let mut listens = vec![
        (config.register.listen.clone(), "[register] listen"),
        (gateway.inner.listen.clone(), "[gateway.inner] listen"),
        (config.demo.page_listen.clone(), "[demo] page_listen"),
    ];
    // A gateway that workers connect to has no dispatcher beside it, whose default would only be in the way.
    if gateway.mode == Mode::Dispatched || !dispatcher.listen.span().is_empty() {
        listens.push((dispatcher.listen.clone(), "[dispatcher] listen"));
    }
    let clients =
        gateway.client.get_ref().iter().filter_map(|client| client.get_ref().listen.clone());
    listens.extend(clients.map(|listen| (listen, "[[gateway.client]] listen")));
    // Named where it was written last, because the earlier one was probably meant.
    listens.sort_by_key(|(listen, _)| listen.span().start);

    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    for (listen, name) in &listens {
        let address = listen.get_ref().0;
        if address.port() == 0 {
            let problem = format!("{name} has port 0");
            findings.push(Finding::error(
                listen.span(),
                problem,
                "choose a port from 1 to 65535; others must know it",
            ));
        } else if let Some((_, other)) = taken.iter().find(|(other, _)| collide(*other, address)) {
            let problem = format!("{address} is already taken by {other}");
            findings.push(Finding::error(
                listen.span(),
                problem,
                "give each listener an address of its own",
            ));
        } else {
            taken.push((address, name));
        }
    }
    check_registers("gateway", &gateway.register_address, &taken, findings);
    if let Some(registers) = &dispatcher.register_address {
        check_registers("dispatcher", registers, &taken, findings);
    }
}

/// Registers a role announces itself to, given the addresses that listeners have.
fn check_registers(
    role: &str,
    registers: &Spanned<OneOrMany<PeerAddress>>,
    taken: &[(SocketAddr, &str)],
    findings: &mut Vec<Finding>,
) {
    if registers.get_ref().0.is_empty() {
        let advice = "name at least one register, such as \"127.0.0.1:1236\"";
        findings.push(Finding::error(registers.span(), "register_address is empty", advice));
    }
    let mut seen = Vec::new();
    for peer in &registers.get_ref().0 {
        if seen.contains(&peer) {
            findings.push(Finding::error(
                registers.span(),
                format!("{peer} is listed twice"),
                "name each register once",
            ));
        }
        seen.push(peer);
        let Ok(ip) = peer.host.parse() else { continue };
        let own = taken.iter().find(|(own, name)| {
            !name.starts_with("[register]") && collide(*own, SocketAddr::new(ip, peer.port))
        });
        if let Some((_, name)) = own {
            let problem = format!("the register's address {peer} is this {role}'s own {name}");
            findings.push(Finding::error(
                registers.span(),
                problem,
                "the register listens on 1236 unless told otherwise",
            ));
        }
    }
}

/// Whether both cannot be bound at once on one box.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn check_register(register: &Register, findings: &mut Vec<Finding>) {
    let ids = &register.proc_ids;
    if ids.get_ref().last > PROC_ID_MAX {
        let problem = format!("proc_ids {} do not fit into a connection_id", ids.get_ref());
        findings.push(Finding::error(
            ids.span(),
            problem,
            format!("from 0 to {PROC_ID_MAX}; with number_bits = 24 in [gateway], to 255"),
        ));
    }
}

fn check_shards(gateway: &Gateway, cores: &[usize], findings: &mut Vec<Finding>) {
    let number_bits = *gateway.number_bits.get_ref();
    let shards_max = if number_bits == 24 { 256 } else { 1024 };
    if !matches!(number_bits, 22 | 24) {
        let problem = format!("number_bits {number_bits} does not work");
        let advice = "22 for 1024 shards in the cluster, or 24 for 256 shards with four times the clients each";
        findings.push(Finding::error(gateway.number_bits.span(), problem, advice));
    }
    if let Some(shards) = &gateway.shards {
        let count = *shards.get_ref();
        if !(1..=shards_max).contains(&count) {
            let advice = format!("from 1 to {shards_max}; leave it out for one a core");
            findings.push(Finding::error(
                shards.span(),
                format!("{count} shards do not work"),
                advice,
            ));
        } else if usize::from(count) > cores.len()
            && !matches!(gateway.pin_cores.get_ref(), PinCores::List(_))
        {
            let problem = format!("{count} shards share {} cores", cores.len());
            findings.push(Finding::warning(
                shards.span(),
                problem,
                "one shard a core is the fastest",
            ));
        }
    }
    if let Some(limit) = gateway.max_connections.as_ref().filter(|limit| *limit.get_ref() == 0) {
        let advice = "leave it out for no limit but the file descriptors";
        findings.push(Finding::error(limit.span(), "max_connections 0 admits nobody", advice));
    }
}

fn check_pin_cores(gateway: &Gateway, cores: &[usize], findings: &mut Vec<Finding>) {
    let PinCores::List(list) = gateway.pin_cores.get_ref() else { return };
    let span = gateway.pin_cores.span();
    if let Some(shards) = &gateway.shards
        && usize::from(*shards.get_ref()) != list.len()
    {
        let problem =
            format!("pin_cores names {} cores for {} shards", list.len(), shards.get_ref());
        findings.push(Finding::error(
            span.clone(),
            problem,
            "name one core for each shard, or leave shards out",
        ));
    }
    if list.is_empty() {
        findings.push(Finding::error(
            span.clone(),
            "pin_cores is an empty list",
            "name cores, or write true or false",
        ));
    }
    let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
    for core in list {
        *uses.entry(*core).or_default() += 1;
    }
    for (core, count) in uses {
        if !cores.contains(&core) {
            let problem = format!("core {core} does not exist or may not be used by this process");
            findings.push(Finding::error(
                span.clone(),
                problem,
                format!("usable cores are {cores:?}"),
            ));
        } else if count > 1 {
            let problem = format!("core {core} is given to {count} shards");
            findings.push(Finding::warning(
                span.clone(),
                problem,
                "one shard a core is the fastest",
            ));
        }
    }
}

fn check_inner(inner: &Inner, findings: &mut Vec<Finding>) {
    check_announced("the inner address", &inner.listen, inner.lan_ip.as_ref(), findings);
    check_bytes("frame_bytes_max", &inner.frame_bytes_max, findings);
    check_bytes("send_to_worker_buffer_bytes", &inner.send_to_worker_buffer_bytes, findings);
    check_positive("auth_timeout", &inner.auth_timeout, findings);
    if *inner.pending_queries_max.get_ref() == 0 {
        let problem = "pending_queries_max 0 would never answer a query";
        findings.push(Finding::error(
            inner.pending_queries_max.span(),
            problem,
            "from 1; GatewayClient needs 1",
        ));
    }
}

/// The address workers find a role by, which every client_id carries.
fn check_announced(
    what: &str,
    listen: &Spanned<Listen>,
    lan_ip: Option<&Spanned<IpAddr>>,
    findings: &mut Vec<Finding>,
) {
    let (place, listen) = (listen.span(), listen.get_ref().0);
    match (lan_ip, lan_ip.map_or_else(|| listen.ip(), |lan_ip| *lan_ip.get_ref())) {
        (None, IpAddr::V4(ip)) if ip.is_unspecified() => {
            let problem = format!("lan_ip is needed, because workers cannot connect to {listen}");
            findings.push(Finding::error(
                place,
                problem,
                "set lan_ip to this box's address as workers see it",
            ));
        }
        (None, IpAddr::V6(_)) => {
            let problem =
                format!("{what} {listen} is not IPv4, and a client_id carries an IPv4 address");
            findings.push(Finding::error(
                place,
                problem,
                "listen on an IPv4 address, or set lan_ip to one",
            ));
        }
        (Some(lan_ip), IpAddr::V6(_)) => {
            let advice =
                "a client_id carries an IPv4 address; name the one workers reach this box by";
            findings.push(Finding::error(lan_ip.span(), "lan_ip is not IPv4", advice));
        }
        (Some(lan_ip), IpAddr::V4(ip))
            if ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() =>
        {
            let advice = "name the address workers reach this box by";
            findings.push(Finding::error(
                lan_ip.span(),
                format!("workers cannot connect to lan_ip {ip}"),
                advice,
            ));
        }
        (Some(lan_ip), ip) if ip.is_loopback() && !listen.ip().is_loopback() => {
            let problem =
                format!("lan_ip {ip} is announced, so only workers on this box can use {listen}");
            findings.push(Finding::warning(
                lan_ip.span(),
                problem,
                "name the address other boxes reach this one by",
            ));
        }
        _ => {}
    }
}

fn check_client(client: &Spanned<Client>, complete: bool, findings: &mut Vec<Finding>) {
    let (span, client) = (client.span(), client.get_ref());
    if client.listen.is_none() && complete {
        let advice = "add listen = \"0.0.0.0:8282\" or another address";
        findings.push(Finding::error(
            span.clone(),
            "this [[gateway.client]] has no listen address",
            advice,
        ));
    }
    check_bytes("message_bytes_max", &client.message_bytes_max, findings);
    check_bytes("send_to_client_buffer_bytes", &client.send_to_client_buffer_bytes, findings);
    check_foreign_keys(client, findings);
    check_heartbeat(client, findings);
    if let Some(timeout) = &client.handshake_timeout {
        check_positive("handshake_timeout", timeout, findings);
    }
    if let Some(bytes) = &client.handshake_bytes_max {
        check_bytes("handshake_bytes_max", bytes, findings);
    }
    match (&client.length_field, client.protocol) {
        (Some(field), Protocol::LengthField) => check_length_field(field, client, findings),
        (None, Protocol::LengthField) if complete => {
            let advice = "add [gateway.client.length_field] with header_bytes, length_offset and length_bytes";
            findings.push(Finding::error(
                span,
                "protocol length_field needs its header described",
                advice,
            ));
        }
        _ => {}
    }
}

/// Keys that mean nothing for the listener's protocol: a setting without effect is a mistake nobody would notice.
fn check_foreign_keys(client: &Client, findings: &mut Vec<Finding>) {
    let websocket = [
        ("frames", client.frames.as_ref().map(Spanned::span)),
        ("check_utf8", client.check_utf8.as_ref().map(Spanned::span)),
        ("handshake_timeout", client.handshake_timeout.as_ref().map(Spanned::span)),
        ("handshake_bytes_max", client.handshake_bytes_max.as_ref().map(Spanned::span)),
        ("ping_websocket", client.ping_websocket.as_ref().map(Spanned::span)),
    ];
    let length_field = [("length_field", client.length_field.as_ref().map(Spanned::span))];
    let keys = websocket.map(|key| (key, Protocol::Websocket)).into_iter();
    for ((name, span), owner) in keys.chain(length_field.map(|key| (key, Protocol::LengthField))) {
        if let Some(span) = span.filter(|_| client.protocol != owner) {
            let problem = format!("`{name}` has no meaning for protocol {}", client.protocol);
            findings.push(Finding::error(
                span,
                problem,
                format!("remove it, or use protocol = \"{owner}\""),
            ));
        }
    }
}

fn check_heartbeat(client: &Client, findings: &mut Vec<Finding>) {
    let (limit, data, websocket) =
        (&client.ping_not_response_limit, &client.ping_data, &client.ping_websocket);
    if client.ping_interval.get_ref().0.is_zero() {
        let idle = [
            ("ping_not_response_limit", limit.span()).into(),
            data.as_ref().map(|data| ("ping_data", data.span())),
            websocket.as_ref().map(|websocket| ("ping_websocket", websocket.span())),
        ];
        for (name, span) in
            idle.into_iter().flatten().filter(|(_, span): &(&str, Range<usize>)| !span.is_empty())
        {
            let advice = "set ping_interval, for example to \"55s\"";
            findings.push(Finding::error(
                span,
                format!("`{name}` has no effect without ping_interval"),
                advice,
            ));
        }
        return;
    }
    if client.ping_interval.get_ref().0 < Duration::from_millis(100) {
        let problem = "ping_interval is shorter than 100 ms";
        findings.push(Finding::error(
            client.ping_interval.span(),
            problem,
            "usual are 20 to 60 seconds",
        ));
    }
    if *limit.get_ref() > PING_LIMIT_MAX {
        let problem = format!("ping_not_response_limit is over {PING_LIMIT_MAX}");
        findings.push(Finding::error(limit.span(), problem, "0 never closes a silent client"));
    }
    match (data, websocket) {
        (Some(data), Some(websocket)) if *websocket.get_ref() && !data.get_ref().is_empty() => {
            let problem = "ping_data and ping_websocket are both set";
            findings.push(Finding::error(data.span(), problem, "send one of the two"));
        }
        (None, None) if *limit.get_ref() == 0 => {
            let problem = "ping_interval alone neither sends nor closes anything";
            let advice = "add ping_data, ping_websocket or ping_not_response_limit";
            findings.push(Finding::warning(client.ping_interval.span(), problem, advice));
        }
        _ => {}
    }
}

fn check_length_field(field: &Spanned<LengthField>, client: &Client, findings: &mut Vec<Finding>) {
    let field = field.get_ref();
    let header = u32::from(*field.header_bytes.get_ref());
    let (offset, width) =
        (u32::from(*field.length_offset.get_ref()), u32::from(*field.length_bytes.get_ref()));
    if !matches!(width, 1..=4 | 8) {
        let problem = format!("a length of {width} bytes does not work");
        findings.push(Finding::error(field.length_bytes.span(), problem, "write 1, 2, 3, 4 or 8"));
    } else if offset + width > header {
        let problem = format!(
            "the length ends at byte {}, behind the header of {header} bytes",
            offset + width
        );
        let place = if field.length_offset.span().is_empty() {
            &field.length_bytes
        } else {
            &field.length_offset
        };
        findings.push(Finding::error(
            place.span(),
            problem,
            "enlarge header_bytes, or move the length",
        ));
    }
    let magic = field.magic.get_ref().0.len();
    if magic > usize::from(*field.length_offset.get_ref()) {
        let problem = format!("magic has {magic} bytes and the length begins at byte {offset}");
        findings.push(Finding::error(
            field.magic.span(),
            problem,
            "the length must come after the magic",
        ));
    }
    if client.message_bytes_max.get_ref().0 < u64::from(header) {
        let problem = format!("message_bytes_max is smaller than the header of {header} bytes");
        findings.push(Finding::error(
            client.message_bytes_max.span(),
            problem,
            "it counts the header too",
        ));
    }
}

fn check_bytes(name: &str, size: &Spanned<super::Size>, findings: &mut Vec<Finding>) {
    let bytes = size.get_ref().0;
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
        let advice = format!("from {BYTES_MIN} to {BYTES_MAX} bytes");
        findings.push(Finding::error(
            size.span(),
            format!("{name} of {bytes} bytes does not work"),
            advice,
        ));
    }
}

fn check_positive(name: &str, period: &Spanned<super::Period>, findings: &mut Vec<Finding>) {
    if period.get_ref().0.is_zero() {
        findings.push(Finding::error(
            period.span(),
            format!("{name} is zero"),
            "give it some time, for example \"10s\"",
        ));
    }
}
