//! The business code without the SDK: blocking sockets, a thread for each gateway, one read and one write for everything that
//! waited. It costs a fraction of the SDK's worker, so that two cores have room for a gateway and its load.

use core::time::Duration;
use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::ext::{ConnectionIds, Name, SendToGroup, encode_names};
use tengate_proto::wire::header::{Command, InnerFrame};
use tengate_proto::wire::register::{FromRegister, ToRegister};
use tengate_proto::worker::{Body, Call, Event, EventKind, encode_worker_connect};

use crate::report;
use crate::worker::Verb;

/// Serves every gateway that the register names, until it is killed or the register goes. It sends no keep-alives: a
/// register on loopback wants none.
pub(crate) fn run(register: &str, secret_key: &str, id: u32) -> Result<()> {
    let secret_key = SecretKey::new(secret_key);
    let mut stream = connect(register).with_context(|| format!("register {register}"))?;
    let mut hello = Vec::new();
    ToRegister::WorkerConnect { secret_key: secret_key.show() }.encode(&mut hello);
    stream.write_all(&hello)?;
    let mut linked = BTreeSet::new();
    for line in BufReader::new(stream).lines() {
        let line = FromRegister::decode(line?.as_bytes());
        let Ok(FromRegister::BroadcastAddresses(addresses)) = line else { continue };
        for address in addresses {
            if linked.insert(address.clone()) {
                let secret_key = secret_key.clone();
                thread::spawn(move || {
                    let ended = serve(&address, &secret_key, id);
                    let ended = ended.with_context(|| format!("gateway {address}"));
                    report::complain(&ended.expect_err("a link only ends by a fault"));
                });
            }
        }
    }
    bail!("the register closed the connection")
}

/// Connects; a register that was started a moment ago may not be there yet.
fn connect(register: &str) -> io::Result<TcpStream> {
    let mut tries = CONNECT_TRIES_MAX;
    loop {
        match TcpStream::connect(register) {
            Err(_) if tries > 0 => tries -= 1,
            connected => return connected,
        }
        thread::park_timeout(CONNECT_PAUSE);
    }
}

/// Answers one gateway's events.
fn serve(address: &str, secret_key: &SecretKey, id: u32) -> Result<core::convert::Infallible> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut out = Vec::new();
    encode_worker_connect(&format!("Bench:{id}"), secret_key, &mut out);
    let mut input = vec![0; INPUT_BYTES];
    let (mut start, mut end) = (0, 0);
    loop {
        if !out.is_empty() {
            stream.write_all(&out)?;
            out.clear();
        }
        if end == input.len() {
            input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            ensure!(end < input.len(), "an event is longer than {INPUT_BYTES} bytes");
        }
        let len = stream.read(&mut input[end..])?;
        ensure!(len > 0, "it closed the link");
        end += len;
        start += answer(&input[start..end], &mut out)?;
        if start == end {
            (start, end) = (0, 0);
        }
    }
}

/// Appends what all whole events ask for; how many bytes they were.
fn answer(input: &[u8], out: &mut Vec<u8>) -> Result<usize> {
    let mut at = 0;
    let decode = |at: usize| InnerFrame::decode(&input[at..], INPUT_BYTES);
    while let Some((frame, len)) = decode(at).map_err(|error| anyhow::anyhow!("{error:?}"))? {
        at += len;
        let Some(event) = Event::from_frame(&frame) else { continue };
        match event.kind {
            EventKind::Connect => {
                let uid = event.client.to_string();
                Call::new(Command::BindUid).to(event.client).ext(uid.as_bytes()).encode(out);
            }
            EventKind::Message => handle_message(&event, out),
            EventKind::WebsocketConnect | EventKind::Close => {}
        }
    }
    Ok(at)
}

fn handle_message(event: &Event<'_>, out: &mut Vec<u8>) {
    let message = event.body;
    let mut send = |command, ext: &[u8], payload| {
        Call::new(command).ext(ext).body(Body::Plain(payload)).encode(out);
    };
    match Verb::decode(message) {
        Verb::Broadcast => return send(Command::SendToAll, b"", message),
        Verb::SendToGroup(group, payload) => {
            let mut ext = Vec::new();
            let groups = vec![Name::from(group)];
            SendToGroup { groups, exclude: ConnectionIds::default() }.encode(&mut ext);
            return send(Command::SendToGroup, &ext, payload);
        }
        Verb::SendToUid(uid, payload) => {
            let mut ext = Vec::new();
            encode_names(&[Name::from(uid)], &mut ext);
            return send(Command::SendToUid, &ext, payload);
        }
        Verb::Join(group) => {
            Call::new(Command::JoinGroup).to(event.client).ext(group.as_bytes()).encode(out);
        }
        Verb::Bind(uid) => {
            Call::new(Command::BindUid).to(event.client).ext(uid.as_bytes()).encode(out);
        }
        Verb::Echo => {}
    }
    Call::new(Command::SendToOne).to(event.client).body(Body::Plain(message)).encode(out);
}

/// More than the longest event of any mode, and a batch of many.
const INPUT_BYTES: usize = 4 << 20;
const CONNECT_TRIES_MAX: u32 = 100;
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
