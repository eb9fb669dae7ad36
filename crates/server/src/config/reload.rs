//! What a changed configuration can change in a running process.

use toml::{Table, Value};

use super::{Client, Config, Dispatcher, Inner};

/// One key that differs between the running configuration and a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The key's path: `gateway.client.ping_interval`.
    pub(crate) key: String,
    /// Whether it takes effect without a restart.
    pub(crate) live: bool,
}

/// Keys that take effect without a restart. The documentation marks the same ones; a test compares.
pub(super) const LIVE: [&str; 37] = [
    "log.level",
    "gateway.close_linger",
    "gateway.detach_timeout",
    "gateway.client.message_bytes_max",
    "gateway.client.send_to_client_buffer_bytes",
    "gateway.client.slow_client",
    "gateway.client.handshake_timeout",
    "gateway.client.handshake_bytes_max",
    "gateway.client.ping_interval",
    "gateway.client.ping_not_response_limit",
    "gateway.client.ping_data",
    "gateway.client.ping_websocket",
    "gateway.inner.frame_bytes_max",
    "gateway.inner.send_to_worker_buffer_bytes",
    "gateway.inner.slow_worker",
    "gateway.inner.no_worker_grace",
    "gateway.inner.no_worker_bytes_max",
    "gateway.inner.auth_timeout",
    "gateway.inner.pending_queries_max",
    "dispatcher.balance",
    "dispatcher.weights",
    "dispatcher.group",
    "dispatcher.group.ports",
    "dispatcher.group.workers",
    "dispatcher.group.balance",
    "dispatcher.group.weights",
    "dispatcher.frame_bytes_max",
    "dispatcher.reply_bytes_max",
    "dispatcher.send_to_worker_buffer_bytes",
    "dispatcher.send_to_gateway_buffer_bytes",
    "dispatcher.slow_worker",
    "dispatcher.no_worker_grace",
    "dispatcher.no_worker_bytes_max",
    "dispatcher.auth_timeout",
    "dispatcher.query_timeout",
    "dispatcher.pending_queries_max",
    "dispatcher.detach_limit",
];

/// `old` with the keys of `new` that take effect without a restart. Listeners are matched by their place; when some were
/// added or removed, those that run stay as they are.
pub(crate) fn with_live_keys(old: &Config, new: &Config) -> Config {
    let mut merged = old.clone();
    merged.log.level = new.log.level;
    merged.gateway.close_linger = new.gateway.close_linger.clone();
    merged.gateway.detach_timeout = new.gateway.detach_timeout.clone();
    merged.gateway.inner = Inner {
        listen: old.gateway.inner.listen.clone(),
        lan_ip: old.gateway.inner.lan_ip.clone(),
        routing: old.gateway.inner.routing,
        ..new.gateway.inner.clone()
    };
    merged.dispatcher = Dispatcher {
        listen: old.dispatcher.listen.clone(),
        lan_ip: old.dispatcher.lan_ip.clone(),
        register_address: old.dispatcher.register_address.clone(),
        secret_key: old.dispatcher.secret_key.clone(),
        secret_key_file: old.dispatcher.secret_key_file.clone(),
        ..new.dispatcher.clone()
    };
    let (clients, new) = (merged.gateway.client.get_mut(), new.gateway.client.get_ref());
    if clients.len() == new.len() {
        for (client, new) in clients.iter_mut().zip(new) {
            let old = client.get_ref().clone();
            *client.get_mut() = Client {
                protocol: old.protocol,
                listen: old.listen,
                frames: old.frames,
                check_utf8: old.check_utf8,
                length_field: old.length_field,
                ..new.get_ref().clone()
            };
        }
    }
    merged
}

/// The keys that differ, in the order of the file's sections.
pub(crate) fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut keys = Vec::new();
    let tables = [old, new].map(|config| Table::try_from(config).unwrap_or_default());
    compare("", &tables[0], &tables[1], &mut keys);
    keys.into_iter().map(|key| Change { live: LIVE.contains(&key.as_str()), key }).collect()
}

fn compare(path: &str, old: &Table, new: &Table, keys: &mut Vec<String>) {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (old.get(name), new.get(name)) {
            // In a table of weights the keys are names of workers.
            (Some(Value::Table(old)), Some(Value::Table(new))) if name != "weights" => {
                compare(&below, old, new, keys)
            }
            (Some(Value::Array(old)), Some(Value::Array(new)))
                if old.len() == new.len() && old.iter().chain(new).all(Value::is_table) =>
            {
                for (old, new) in old.iter().zip(new) {
                    let (Value::Table(old), Value::Table(new)) = (old, new) else { continue };
                    compare(&below, old, new, keys);
                }
            }
            (old, new) if old != new && !keys.contains(&below) => keys.push(below),
            _ => {}
        }
    }
}
