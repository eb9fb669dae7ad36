//! `tengate topology`: asks a register for the whole graph, and shows it.

mod ask;
mod tree;

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use serde_json::Value;
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::register::topology::Topology;

use crate::config::{Config, secret_of};
use crate::{Failure, complain, say};

/// Prints what the first register that answers knows: as a tree, or as JSON as it came.
pub(crate) fn print(config: &Config, json: bool) -> Result<(), Failure> {
    let registers = registers(config);
    let key = secret_key(config)?;
    let mut refusals = Vec::new();
    for register in &registers {
        match ask::ask(register, &key) {
            Ok(line) => {
                refusals.iter().for_each(|refusal| complain(&format!("warning: {refusal}\n")));
                return show(register, &line, json);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let all: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    Err(anyhow!(all.join("\nerror: ")).into())
}

fn show(register: &str, line: &[u8], json: bool) -> Result<(), Failure> {
    let text = if json {
        let value: Value = serde_json::from_slice(line)
            .with_context(|| format!("the answer of {register} is not JSON"))?;
        format!("{value:#}\n")
    } else {
        let topology = Topology::decode(line)
            .map_err(|error| anyhow!("the answer of {register} is not understood: {error}"))?;
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        tree::tree(register, &topology, colours)
    };
    say(&text);
    Ok(())
}

/// The registers gateways use; without any that are written, the one that is described here.
fn registers(config: &Config) -> Vec<String> {
    let (listen, peers) = (&config.register.listen, &config.gateway.register_address);
    let sections = [peers, config.dispatcher_registers()];
    if let Some(peers) = sections.into_iter().find(|peers| !peers.span().is_empty()) {
        return peers.get_ref().0.iter().map(ToString::to_string).collect();
    }
    let mut listen = listen.get_ref().0;
    if listen.ip().is_unspecified() {
        // Listens everywhere, also here.
        listen.set_ip(core::net::Ipv4Addr::LOCALHOST.into());
    }
    vec![listen.to_string()]
}

/// The key of the first section that has one.
fn secret_key(config: &Config) -> Result<SecretKey, Failure> {
    let (register, gateway, dispatcher) = (&config.register, &config.gateway, &config.dispatcher);
    let sections = [
        (gateway.secret_key.as_ref(), gateway.secret_key_file.as_ref()),
        (dispatcher.secret_key.as_ref(), dispatcher.secret_key_file.as_ref()),
        (register.secret_key.as_ref(), register.secret_key_file.as_ref()),
    ];
    for (key, file) in sections {
        if let Some(key) = secret_of(key, file).context("cannot read the secret key's file")? {
            return Ok(SecretKey::new(key.0));
        }
    }
    Ok(SecretKey::default())
}
