//! A worker's decisions: which event a frame is, whether the session it carries is current, and how a call becomes a
//! frame (docs/protocol.md#worker). The SDK's sockets and the simulator both stand on this.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::HashMap;

use crate::secret::SecretKey;
use crate::wire::client_id::ClientId;
use crate::wire::ext::{GatewayClientConnect, WorkerConnect};
use crate::wire::header::{Command, FLAG_RAW, FLAG_SCALAR, Header, InnerFrame};

/// What happened to a client, as a gateway tells its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The client connected; for websocket clients before the handshake.
    Connect,
    /// The client's websocket handshake request was read; the body is PHP `serialize` output.
    WebsocketConnect,
    /// A whole message; the body is its payload.
    Message,
    /// The client is gone.
    Close,
}

/// One event of one client, borrowed from the frame that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// Whom it happened to.
    pub client: ClientId,
    /// The client's address as the gateway sees it; 0.0.0.0 when it has no IPv4 address.
    pub client_addr: SocketAddrV4,
    /// The port the client connected to.
    pub gateway_port: u16,
    /// The session as it was when the gateway sent the event: `serialize` output, or empty.
    pub session: &'a [u8],
    /// The payload.
    pub body: &'a [u8],
}

impl<'a> Event<'a> {
    /// The event a gateway's frame means. Keep-alives and numbers no worker knows are `None`, as PHP ignores them.
    pub fn from_frame(frame: &InnerFrame<'a>) -> Option<Self> {
        let kind = match Command::from_number(frame.header.command)? {
            Command::OnConnect => EventKind::Connect,
            Command::OnWebsocketConnect => EventKind::WebsocketConnect,
            Command::OnMessage => EventKind::Message,
            Command::OnClose => EventKind::Close,
            Command::Ping
            | Command::SendToOne
            | Command::SendToAll
            | Command::Kick
            | Command::Destroy
            | Command::UpdateSession
            | Command::GetAllClientSessions
            | Command::IsOnline
            | Command::BindUid
            | Command::UnbindUid
            | Command::SendToUid
            | Command::GetClientIdByUid
            | Command::BatchGetClientIdByUid
            | Command::JoinGroup
            | Command::LeaveGroup
            | Command::SendToGroup
            | Command::GetClientSessionsByGroup
            | Command::GetClientCountByGroup
            | Command::Select
            | Command::GetGroupIdList
            | Command::Ungroup
            | Command::BatchGetClientCountByGroup
            | Command::WorkerConnect
            | Command::GatewayClientConnect
            | Command::GetSessionByClientId
            | Command::SetSession => return None,
        };
        let Header {
            local_ip,
            local_port,
            connection_id,
            client_ip,
            client_port,
            gateway_port,
            ..
        } = frame.header;
        Some(Self {
            kind,
            client: ClientId { local_ip, local_port, connection_id },
            client_addr: SocketAddrV4::new(Ipv4Addr::from_bits(client_ip), client_port),
            gateway_port,
            session: frame.ext,
            body: frame.body,
        })
    }
}

/// Where the session of an event must be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// The bytes the event carries are current.
    Carried,
    /// The event was sent before this worker's last change, or someone else changed the session: ask the gateway.
    Fetch,
}

/// Whether the answer to a fetch can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It is the session as it is now.
    Current,
    /// It is what this worker's last store replaced: the question, on its own connection, overtook the store. Ask again.
    Outdated,
}

/// Checksums of the last session seen or stored, for each client with events on a link
/// (docs/protocol.md#session-versions). About 32 bytes a client.
#[derive(Debug, Default)]
pub struct SessionVersions {
    versions: HashMap<ClientId, Version, foldhash::fast::FixedState>,
}

#[derive(Debug)]
struct Version {
    /// Events that carry this one are current.
    current: u32,
    /// What this worker's last store replaced, until an event or an answer shows that the gateway has the store. One is
    /// enough: before the next store, the worker has seen this one.
    replaced: Option<u32>,
}

impl SessionVersions {
    /// Decides where the session of `event` comes from. A close always takes the carried one, and forgets the client.
    pub fn handle_event(&mut self, event: &Event<'_>) -> SessionSource {
        if event.kind == EventKind::Close {
            self.versions.remove(&event.client);
            return SessionSource::Carried;
        }
        let carried = checksum(event.session);
        let version = self
            .versions
            .entry(event.client)
            .or_insert(Version { current: carried, replaced: None });
        if version.current != carried {
            return SessionSource::Fetch;
        }
        version.replaced = None;
        SessionSource::Carried
    }

    /// The gateway answered a fetch with `session`. The checksum of the answer is kept, not that of the stale event as
    /// in BusinessWorker.php: a second stale event must not pass for current.
    pub fn handle_fetched(&mut self, client: ClientId, session: &[u8]) -> Fetched {
        let current = checksum(session);
        let before = self.versions.get(&client).and_then(|version| version.replaced);
        if before == Some(current) {
            return Fetched::Outdated;
        }
        self.handle_settled(client, session);
        Fetched::Current
    }

    /// `session` is taken for current, whatever was stored before: somebody may have put back what a store replaced.
    pub fn handle_settled(&mut self, client: ClientId, session: &[u8]) {
        self.versions.insert(client, Version { current: checksum(session), replaced: None });
    }

    /// This worker stored `session` in place of `before`; events that carry another one are stale until the gateway has it.
    pub fn handle_stored(&mut self, client: ClientId, before: &[u8], session: &[u8]) {
        let version = Version { current: checksum(session), replaced: Some(checksum(before)) };
        self.versions.insert(client, version);
    }
}

/// The checksum of a session's bytes. A gateway answers an empty array for a session that was never set, and sends nothing
/// of it with events: both are the same.
fn checksum(session: &[u8]) -> u32 {
    crc32(if session == b"a:0:{}" { b"" } else { session })
}

/// The payload of a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Goes to clients through their protocol's encoding, or means nothing.
    Plain(&'a [u8]),
    /// Goes to clients as it is.
    Raw(&'a [u8]),
    /// PHP's null: a close without a last message.
    Null,
}

/// A command for a gateway, before it is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// What to do.
    pub command: Command,
    /// The client on that gateway; 0 when the command names none.
    pub connection_id: u32,
    /// A name, JSON or a session, as the command wants it.
    pub ext: &'a [u8],
    /// The payload.
    pub body: Body<'a>,
}

impl<'a> Call<'a> {
    /// A command without extra data and payload.
    pub fn new(command: Command) -> Self {
        Self { command, connection_id: 0, ext: b"", body: Body::Plain(b"") }
    }

    /// The command for one client.
    pub fn to(self, client: ClientId) -> Self {
        Self { connection_id: client.connection_id, ..self }
    }

    /// The command with extra data.
    pub fn ext(self, ext: &'a [u8]) -> Self {
        Self { ext, ..self }
    }

    /// The command with a payload.
    pub fn body(self, body: Body<'a>) -> Self {
        Self { body, ..self }
    }

    /// Bytes of the frame.
    pub fn frame_len(&self) -> usize {
        Header::LEN + self.ext.len() + self.body.bytes().len()
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = match self.body {
            Body::Plain(_) => FLAG_SCALAR,
            Body::Raw(_) => FLAG_SCALAR | FLAG_RAW,
            Body::Null => 0,
        };
        let header = Header {
            command: self.command as u8,
            connection_id: self.connection_id,
            flag,
            ..Header::default()
        };
        header.encode(self.ext, self.body.bytes(), out);
    }
}

impl<'a> Body<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Plain(bytes) | Self::Raw(bytes) => bytes,
            Self::Null => b"N;",
        }
    }
}

/// Appends the frame that opens a link as a worker. `worker_key` is `name:id`.
pub fn encode_worker_connect(worker_key: &str, secret_key: &SecretKey, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    WorkerConnect { worker_key: worker_key.into(), secret_key: secret_key.show(), tengate: None }
        .encode(&mut body);
    Call::new(Command::WorkerConnect).body(Body::Plain(&body)).encode(out);
}

/// Appends the frame that authorises a connection for calls and queries without events.
pub fn encode_gateway_client_connect(secret_key: &SecretKey, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    GatewayClientConnect { secret_key: secret_key.show() }.encode(&mut body);
    Call::new(Command::GatewayClientConnect).body(Body::Plain(&body)).encode(out);
}

/// The CRC-32 of PHP's `crc32` (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc: u32, byte| CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"a:1:{i:0;i:1;}";
    const CLIENT: ClientId = ClientId { local_ip: 0x7f00_0001, local_port: 2900, connection_id: 1 };

    #[test]
    fn frames_of_a_real_gateway_become_events() {
        let frame = hex("00000021037f0000010b547f0000018ea00000000101205a0000000068656c6c6f");
        let (frame, _) = InnerFrame::decode(&frame, 100).unwrap().unwrap();
        let expected = Event {
            kind: EventKind::Message,
            client: CLIENT,
            client_addr: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 36512),
            gateway_port: 8282,
            session: b"",
            body: b"hello",
        };
        assert_eq!(Event::from_frame(&frame), Some(expected));
    }

    #[test]
    fn keep_alives_and_unknown_numbers_are_no_events() {
        for command in [Command::Ping as u8, Command::SendToOne as u8, 0, 99] {
            let frame =
                InnerFrame { header: Header { command, ..Header::default() }, ext: b"", body: b"" };
            assert_eq!(Event::from_frame(&frame), None, "command {command}");
        }
    }

    #[test]
    fn calls_have_the_bytes_of_a_real_worker() {
        let mut out = Vec::new();
        Call::new(Command::SendToOne).to(CLIENT).body(Body::Plain(b"hello")).encode(&mut out);
        assert_eq!(out, hex("0000002105000000000000000000000000000000010100000000000068656c6c6f"));
        out.clear();
        encode_worker_connect("Bw:0", &SecretKey::default(), &mut out);
        let golden = "00000041c800000000000000000000000000000000010000000000007b22776f726b65725f6b6579223a2242773a30222c227365637265745f6b6579223a22227d";
        assert_eq!(out, hex(golden));
    }

    #[test]
    fn a_close_without_message_carries_a_serialized_null() {
        let mut out = Vec::new();
        let call = Call::new(Command::Kick).to(CLIENT).body(Body::Null);
        call.encode(&mut out);
        assert_eq!(out.len(), call.frame_len());
        let (frame, _) = InnerFrame::decode(&out, 100).unwrap().unwrap();
        assert_eq!((frame.header.flag, frame.body), (0, &b"N;"[..]));
    }

    #[test]
    fn an_event_sent_before_the_last_store_is_stale() {
        let mut versions = SessionVersions::default();
        let event = |session| event(EventKind::Message, session);
        assert_eq!(versions.handle_event(&event(b"")), SessionSource::Carried);
        versions.handle_stored(CLIENT, b"", ONE);
        assert_eq!(versions.handle_event(&event(b"")), SessionSource::Fetch);
        assert_eq!(versions.handle_fetched(CLIENT, ONE), Fetched::Current);
        assert_eq!(versions.handle_event(&event(b"")), SessionSource::Fetch, "still stale");
        assert_eq!(versions.handle_event(&event(ONE)), SessionSource::Carried);
    }

    #[test]
    fn an_answer_that_overtook_the_last_store_is_outdated() {
        let mut versions = SessionVersions::default();
        versions.handle_stored(CLIENT, b"", ONE);
        assert_eq!(versions.handle_event(&event(EventKind::Message, b"")), SessionSource::Fetch);
        assert_eq!(versions.handle_fetched(CLIENT, b"a:0:{}"), Fetched::Outdated);
        assert_eq!(versions.handle_fetched(CLIENT, b"somebody else's"), Fetched::Current);

        versions.handle_stored(CLIENT, b"", ONE);
        versions.handle_settled(CLIENT, b"");
        assert_eq!(versions.handle_event(&event(EventKind::Message, b"")), SessionSource::Carried);
    }

    #[test]
    fn an_answer_like_before_is_current_once_the_store_was_seen() {
        let mut versions = SessionVersions::default();
        versions.handle_stored(CLIENT, b"", ONE);
        assert_eq!(versions.handle_event(&event(EventKind::Message, ONE)), SessionSource::Carried);
        assert_eq!(versions.handle_event(&event(EventKind::Message, b"")), SessionSource::Fetch);
        assert_eq!(versions.handle_fetched(CLIENT, b"a:0:{}"), Fetched::Current);
        assert_eq!(versions.handle_event(&event(EventKind::Message, b"")), SessionSource::Carried);
    }

    #[test]
    fn a_close_takes_what_it_carries_and_forgets_the_client() {
        let mut versions = SessionVersions::default();
        versions.handle_stored(CLIENT, b"", ONE);
        assert_eq!(versions.handle_event(&event(EventKind::Close, b"old")), SessionSource::Carried);
        assert_eq!(
            versions.handle_event(&event(EventKind::Connect, b"new")),
            SessionSource::Carried
        );
    }

    #[test]
    fn checksums_are_those_of_php() {
        for (text, sum) in [("", 0), ("123456789", 0xCBF4_3926)] {
            assert_eq!(crc32(text.as_bytes()), sum, "{text}");
        }
    }

    fn event(kind: EventKind, session: &[u8]) -> Event<'_> {
        let client_addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        Event { kind, client: CLIENT, client_addr, gateway_port: 8282, session, body: b"" }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }
}
