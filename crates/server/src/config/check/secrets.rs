//! Findings about secret keys.

use core::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use toml::Spanned;

use super::super::source::Finding;
use super::super::{Config, Listen, Mode, PeerAddress, Secret};
use super::collide;

/// Adds what is wrong with keys, and with what is open without one.
pub(super) fn check(config: &Config, findings: &mut Vec<Finding>) {
    for keyed in [Keyed::register(config), Keyed::gateway(config), Keyed::dispatcher(config)] {
        keyed.check(findings);
    }
    check_same_secret(config, findings);
    if !config.demo.page_listen.get_ref().0.ip().is_loopback() {
        let problem = "the demo page is open to the network";
        findings.push(Finding::warning(
            config.demo.page_listen.span(),
            problem,
            "listen on 127.0.0.1",
        ));
    }
}

/// The secret key a section asks for, read from its file when it names one.
pub(crate) fn secret_of(
    key: Option<&Spanned<Secret>>,
    file: Option<&Spanned<PathBuf>>,
) -> Result<Option<Secret>, std::io::Error> {
    if let Some(key) = key {
        return Ok(Some(key.get_ref().clone()));
    }
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file.get_ref())?;
    Ok(Some(Secret(text.trim_end_matches(['\n', '\r']).to_owned())))
}

/// Whether the roles of `tengate start` with this configuration accept each other.
pub(crate) fn secrets_agree(config: &Config) -> bool {
    let register = Keyed::register(config);
    let has_dispatcher = config.gateway.mode == Mode::Dispatched;
    register.agrees(&Keyed::gateway(config))
        && (!has_dispatcher || register.agrees(&Keyed::dispatcher(config)))
}

/// A section with a secret key, and where its peers connect.
struct Keyed<'a> {
    section: &'static str,
    key: Option<&'a Spanned<Secret>>,
    file: Option<&'a Spanned<PathBuf>>,
    listen: &'a Spanned<Listen>,
}

impl<'a> Keyed<'a> {
    fn register(config: &'a Config) -> Self {
        let section = &config.register;
        let (key, file) = (section.secret_key.as_ref(), section.secret_key_file.as_ref());
        Self { section: "register", key, file, listen: &section.listen }
    }

    fn gateway(config: &'a Config) -> Self {
        let section = &config.gateway;
        let (key, file) = (section.secret_key.as_ref(), section.secret_key_file.as_ref());
        Self { section: "gateway", key, file, listen: &section.inner.listen }
    }

    fn dispatcher(config: &'a Config) -> Self {
        let section = &config.dispatcher;
        let (key, file) = (section.secret_key.as_ref(), section.secret_key_file.as_ref());
        Self { section: "dispatcher", key, file, listen: &section.listen }
    }

    /// Whether both have the same key. A file that cannot be read is a finding of its own.
    fn agrees(&self, other: &Self) -> bool {
        match (secret_of(self.key, self.file), secret_of(other.key, other.file)) {
            (Ok(own), Ok(others)) => own == others,
            (Err(_), _) | (_, Err(_)) => true,
        }
    }

    fn check(&self, findings: &mut Vec<Finding>) {
        let Self { section, key, file, listen } = self;
        let address = listen.get_ref().0;
        match (key, file) {
            (Some(_), Some(file)) => {
                let problem = format!("[{section}] has both secret_key and secret_key_file");
                findings.push(Finding::error(file.span(), problem, "keep one of them"));
            }
            (Some(key), None) if key.get_ref().0.is_empty() => {
                let advice = "remove it, or give it a value";
                findings.push(Finding::error(
                    key.span(),
                    format!("[{section}] secret_key is empty"),
                    advice,
                ));
            }
            (None, Some(file)) => check_secret_file(file, findings),
            (None, None) if !address.ip().is_loopback() => {
                let problem =
                    format!("{address} is open to the network and [{section}] has no secret key");
                let advice = "set secret_key_file, or listen on 127.0.0.1; whoever connects may command the clients";
                findings.push(Finding::warning(listen.span(), problem, advice));
            }
            _ => {}
        }
    }
}

/// Whoever shows its register another key is turned away. Only where both are described: what a file, or the flags of one
/// role, do not mention runs elsewhere.
fn check_same_secret(config: &Config, findings: &mut Vec<Finding>) {
    let register = Keyed::register(config);
    let listen = register.listen;
    if listen.span().is_empty() && register.key.is_none() && register.file.is_none() {
        return;
    }
    let same_register = |peer: &PeerAddress| {
        peer.host
            .parse()
            .is_ok_and(|ip| collide(listen.get_ref().0, SocketAddr::new(ip, peer.port)))
    };
    let peers = &config.gateway.register_address;
    let roles = [
        (Keyed::gateway(config), peers, !peers.span().is_empty()),
        (
            Keyed::dispatcher(config),
            config.dispatcher_registers(),
            config.dispatcher.register_address.is_some(),
        ),
    ];
    for (role, peers, names_register) in roles {
        let is_described = names_register || role.key.is_some() || role.file.is_some();
        if is_described && !register.agrees(&role) && peers.get_ref().0.iter().any(same_register) {
            let section = role.section;
            let problem = format!(
                "[register] and [{section}] have different secret keys, but the {section} uses this register"
            );
            let advice = "give both sections the same key";
            findings.push(Finding::warning(listen.span(), problem, advice));
        }
    }
}

fn check_secret_file(file: &Spanned<PathBuf>, findings: &mut Vec<Finding>) {
    let name = file.get_ref().display();
    match std::fs::read_to_string(file.get_ref()) {
        Err(error) => {
            let problem = format!("{name} cannot be read: {error}");
            findings.push(Finding::error(
                file.span(),
                problem,
                "name a file this user can read, with the key as its text",
            ));
        }
        Ok(text) if text.trim().is_empty() => {
            findings.push(Finding::error(
                file.span(),
                format!("{name} is empty"),
                "write the key into it",
            ));
        }
        Ok(_) => {
            let mode =
                std::fs::metadata(file.get_ref()).map_or(0, |meta| meta.permissions().mode());
            if mode & 0o004 != 0 {
                let problem = format!(
                    "{name} can be read by everyone on this box (mode {:04o})",
                    mode & 0o7777
                );
                findings.push(Finding::warning(file.span(), problem, format!("chmod 600 {name}")));
            }
        }
    }
}
