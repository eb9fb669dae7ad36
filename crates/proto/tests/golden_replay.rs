//! Whole recorded conversations, replayed against our register and gateway: what real PHP clients and workers sent goes
//! in, at the time it was sent, and every byte that comes out must be the one the real PHP programs gave.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module as a whole"
)]

mod golden;

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::sync::Arc;

use golden::{CLIENTS, INNER, NAMES, REGISTER, Recording, Side, What};
use tengate_base::{App, CloseCause, Door, Instant, ShardId};
use tengate_proto::gateway::{Config, Gateway, Listener, Protocol};
use tengate_proto::register::{AUTH_TIMEOUT, Register, RegisterConfig, RegisterLimits};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::header::{Command, InnerFrame};
use tengate_sim::shell::{Place, Shell};

#[test]
fn a_recorded_cluster_gets_from_our_gateway_what_it_got_from_phps() {
    for name in NAMES {
        let recording = without_repetition(Recording::load(name));
        let mut ports = client_ports(&recording).into_iter();
        let ours = replay(&recording, Shell::new([gateway(name)]), |event_port| match event_port {
            CLIENTS => Some((Door(0), ports.next().expect("an ON_CONNECT for every client"))),
            INNER => Some((Door(1), 50_000)),
            _ => None,
        });
        compare(name, &recording, &ours);
    }
}

#[test]
fn a_recorded_cluster_gets_from_our_register_what_it_got_from_phps() {
    for name in NAMES {
        let recording = until_the_cluster_stops(Recording::load(name));
        let register = Register::new(
            RegisterConfig {
                secret_key: SecretKey::new(secret(name)),
                auth_timeout: AUTH_TIMEOUT,
                limits: RegisterLimits::default(),
                ..RegisterConfig::default()
            },
            Instant::ZERO,
        );
        let ours = replay(&recording, Shell::new([register]), |event_port| {
            (event_port == REGISTER).then_some((Door(0), 50_000))
        });
        compare(name, &recording, &ours);
    }
}

/// Without the write that nothing caused: in `text` and `frame` the recorded gateway sent `two` to its client a second
/// time, six milliseconds later, though its worker had sent it once.
fn without_repetition(mut recording: Recording) -> Recording {
    let two = [b"two\n".as_slice(), b"\0\0\0\x07two"].map(|bytes| What::Bytes(bytes.to_vec()));
    let mut seen = 0;
    recording.events.retain(|event| {
        let repeats = event.from == Side::Server && two.contains(&event.what);
        seen += usize::from(repeats);
        !repeats || seen == 1
    });
    recording
}

/// Up to the moment the recorded processes were stopped, all at once: what the register still told whom was chance.
fn until_the_cluster_stops(mut recording: Recording) -> Recording {
    let peers = recording.connections(REGISTER);
    let stop = recording.events.iter().position(|event| {
        peers.contains(&event.conn)
            && matches!(event.what, What::Fin | What::Reset)
            && recording
                .sent(event.conn, Side::Client)
                .starts_with(b"{\"event\":\"gateway_connect\"")
    });
    recording.events.truncate(stop.unwrap_or(recording.events.len()));
    recording
}

fn secret(name: &str) -> &'static str {
    if name == "secret" { "s3cret" } else { "" }
}

fn gateway(name: &str) -> Gateway {
    let mut config = Config::with_defaults(Ipv4Addr::LOCALHOST, INNER);
    config.secret_key = SecretKey::new(secret(name));
    let protocol = match name {
        "text" => Protocol::Text,
        "frame" => Protocol::Frame,
        _ => Protocol::Websocket { binary: false, check_utf8: true },
    };
    config.listeners.push(Listener::with_defaults(protocol, CLIENTS));
    Gateway::new(Arc::new(config), ShardId(0), Instant::ZERO)
}

/// The clients' own ports, which the recorded gateway saw and told its worker, in the order they connected.
fn client_ports(recording: &Recording) -> Vec<u16> {
    let mut ports = Vec::new();
    for link in recording.connections(INNER) {
        let sent = recording.sent(link, Side::Server);
        let mut rest = sent.as_slice();
        // Replies to queries have no header; only a worker's link, which begins with events, is read.
        while let Ok(Some((frame, len))) = InnerFrame::decode(rest, 1 << 20) {
            if frame.header.command == Command::OnConnect as u8 {
                ports.push(frame.header.client_port);
            }
            rest = &rest[len..];
        }
    }
    ports
}

/// Replays what clients did on the ports that `door` opens; returns what came out, by connection.
fn replay<A: App>(
    recording: &Recording,
    mut shell: Shell<A>,
    mut door: impl FnMut(u16) -> Option<(Door, u16)>,
) -> BTreeMap<u32, Vec<u8>> {
    let mut places: BTreeMap<u32, Place> = BTreeMap::new();
    let mut received: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for event in recording.events.iter().filter(|event| event.from == Side::Client) {
        shell.advance(event.at.saturating_sub(shell.now().saturating_since(Instant::ZERO)));
        if event.what == What::Connect {
            if let Some((door, peer)) = door(event.port) {
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, peer));
                places.insert(event.conn, shell.open(ShardId(0), door, peer, event.port));
            }
        } else if let Some(place) = places.get(&event.conn) {
            match &event.what {
                What::Bytes(bytes) => shell.send(*place, bytes),
                What::Fin => shell.close(*place, CloseCause::Peer),
                What::Reset => shell.close(*place, CloseCause::Reset),
                What::Connect => {}
            }
        }
        for (conn, place) in &places {
            received.entry(*conn).or_default().extend(shell.receive(*place));
        }
    }
    received
}

fn compare(name: &str, recording: &Recording, ours: &BTreeMap<u32, Vec<u8>>) {
    assert!(!ours.is_empty(), "{name} has connections");
    for (conn, ours) in ours {
        let php = recording.sent(*conn, Side::Server);
        let same = ours.iter().zip(&php).take_while(|(ours, php)| ours == php).count();
        let near = |bytes: &[u8]| {
            String::from_utf8_lossy(
                &bytes[same.saturating_sub(60).min(bytes.len())..bytes.len().min(same + 60)],
            )
            .into_owned()
        };
        assert!(
            *ours == php,
            "{name}, connection {conn}: {} bytes, PHP sent {}; they differ at {same}\nours: {}\nPHP:  {}",
            ours.len(),
            php.len(),
            near(ours),
            near(&php)
        );
    }
}
