//! A worker's decisions: which event a frame is, whether the session it carries is current, and how a call becomes a
//! frame, which events are to be acknowledged (docs/protocol.md#worker). The SDK's sockets and the simulator both stand on
//! this.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::secret::SecretKey;
use crate::wire::client_id::ClientId;
use crate::wire::ext::{GatewayClientConnect, WorkerConnect};
use crate::wire::extension::{FLAG_IPV6, Offer, split_ipv6};
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
    /// The client's address as the gateway sees it; 0.0.0.0 when it has no IPv4 address and the peer cannot tell others.
    pub client_addr: SocketAddr,
    /// The port the client connected to.
    pub gateway_port: u16,
    /// The session as it was when the gateway sent the event: `serialize` output, or empty.
    pub session: &'a [u8],
    /// The payload.
    pub body: &'a [u8],
}

impl<'a> Event<'a> {
    /// The event a gateway's frame means. Keep-alives and numbers no worker knows are `None`, as PHP ignores them; so is an
    /// event that lacks the IPv6 address its flag promises.
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
            flag,
            ..
        } = frame.header;
        let (client_ip, session) = if flag & FLAG_IPV6 == 0 {
            (IpAddr::V4(Ipv4Addr::from_bits(client_ip)), frame.ext)
        } else {
            let (address, session) = split_ipv6(frame.ext)?;
            (IpAddr::V6(address), session)
        };
        Some(Self {
            kind,
            client: ClientId { local_ip, local_port, connection_id },
            client_addr: SocketAddr::new(client_ip, client_port),
            gateway_port,
            session,
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
    versions: HashMap<ClientId, Version, FixedState>,
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

    /// As [`handle_event`](Self::handle_event), for an event that is to be acknowledged. Another worker may have had it before
    /// and stored a session since, so of a client seen for the first time only a connect carries the current one.
    pub fn handle_acknowledged_event(&mut self, event: &Event<'_>) -> SessionSource {
        match event.kind {
            EventKind::Connect | EventKind::Close => self.handle_event(event),
            EventKind::WebsocketConnect | EventKind::Message => {
                if self.versions.contains_key(&event.client) {
                    self.handle_event(event)
                } else {
                    SessionSource::Fetch
                }
            }
        }
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

/// Which events of a link are to be acknowledged: those before the oldest that is not finished, in whatever order handlers
/// finish (docs/protocol.md#extension). One byte for each event from that one on.
#[derive(Debug, Default)]
pub struct AckTracker {
    /// Events from the oldest unfinished one on, in the order they came: whether they are finished.
    finished: VecDeque<bool>,
    /// The number of the first of them on this link.
    oldest: u64,
    /// Events before it that no acknowledgement counted yet.
    due: u32,
}

/// An event that was received, to be handed back when it is finished.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt(u64);

impl AckTracker {
    /// An event came.
    pub fn handle_received(&mut self) -> Receipt {
        self.finished.push_back(false);
        Receipt(self.oldest + self.finished.len() as u64 - 1)
    }

    /// The event of this receipt is finished: what it wanted said on the link is queued.
    ///
    /// # Panics
    /// The receipt is another tracker's.
    pub fn handle_finished(&mut self, receipt: Receipt) {
        let index = usize::try_from(receipt.0 - self.oldest).expect("it is an index of the queue");
        self.finished[index] = true;
        while self.finished.front() == Some(&true) {
            self.finished.pop_front();
            self.oldest += 1;
            self.due += 1;
        }
    }

    /// How many more events are to be acknowledged now; they count as acknowledged from here on.
    pub fn take_due(&mut self) -> u32 {
        core::mem::take(&mut self.due)
    }

    /// Whether anything is to be acknowledged.
    pub fn is_due(&self) -> bool {
        self.due > 0
    }

    /// Whether [`UNACKNOWLEDGED_EVENTS_MAX`] is reached: the link is not to be read until something was acknowledged.
    pub fn is_full(&self) -> bool {
        self.finished.len() + self.due as usize >= UNACKNOWLEDGED_EVENTS_MAX
    }
}

/// Which of these linked dispatchers takes the calls for a client whose own dispatcher is gone. Each client keeps its choice
/// while that dispatcher is among them, so that its calls stay in order.
pub fn stand_in(
    connection_id: u32,
    dispatchers: impl Iterator<Item = SocketAddrV4>,
) -> Option<SocketAddrV4> {
    let hasher = FixedState::default();
    dispatchers.max_by_key(|dispatcher| hasher.hash_one((connection_id, dispatcher)))
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

/// Appends the frame that opens a link as PHP's worker does. `worker_key` is `name:id`.
pub fn encode_worker_connect(worker_key: &str, secret_key: &SecretKey, out: &mut Vec<u8>) {
    encode_hello(worker_key, secret_key, None, out);
}

/// Appends the frame that opens a link as a worker that can do more. PHP's gateways pass over the offer.
pub fn encode_worker_connect_with_offer(
    worker_key: &str,
    secret_key: &SecretKey,
    offer: Offer<'_>,
    out: &mut Vec<u8>,
) {
    encode_hello(worker_key, secret_key, Some(offer), out);
}

fn encode_hello(
    worker_key: &str,
    secret_key: &SecretKey,
    tengate: Option<Offer<'_>>,
    out: &mut Vec<u8>,
) {
    let mut body = Vec::new();
    WorkerConnect { worker_key: worker_key.into(), secret_key: secret_key.show(), tengate }
        .encode(&mut body);
    Call::new(Command::WorkerConnect).body(Body::Plain(&body)).encode(out);
}

/// Appends the frame that authorises a connection for calls and queries without events.
pub fn encode_gateway_client_connect(secret_key: &SecretKey, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    GatewayClientConnect { secret_key: secret_key.show() }.encode(&mut body);
    Call::new(Command::GatewayClientConnect).body(Body::Plain(&body)).encode(out);
}

/// Events of a link that may be received and not acknowledged. A dispatcher's limit on what it keeps is reached earlier when
/// events are long.
pub const UNACKNOWLEDGED_EVENTS_MAX: usize = 1 << 16;

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
    use proptest::prelude::*;

    const ONE: &[u8] = b"a:1:{i:0;i:1;}";
    const CLIENT: ClientId = ClientId { local_ip: 0x7f00_0001, local_port: 2900, connection_id: 1 };

    #[test]
    fn frames_of_a_real_gateway_become_events() {
        let frame = hex("00000021037f0000010b547f0000018ea00000000101205a0000000068656c6c6f");
        let (frame, _) = InnerFrame::decode(&frame, 100).unwrap().unwrap();
        let expected = Event {
            kind: EventKind::Message,
            client: CLIENT,
            client_addr: "127.0.0.1:36512".parse().unwrap(),
            gateway_port: 8282,
            session: b"",
            body: b"hello",
        };
        assert_eq!(Event::from_frame(&frame), Some(expected));
    }

    #[test]
    fn an_ipv6_address_comes_before_the_session() {
        let address = "2001:db8::7".parse::<core::net::Ipv6Addr>().unwrap();
        let header = Header {
            command: Command::OnMessage as u8,
            flag: FLAG_SCALAR | FLAG_IPV6,
            client_port: 9,
            ..Header::default()
        };
        let ext = [&address.octets()[..], ONE].concat();
        let frame = |ext| InnerFrame { header, ext, body: b"hello" };
        let event = Event::from_frame(&frame(&ext)).unwrap();
        assert_eq!(event.client_addr, "[2001:db8::7]:9".parse().unwrap());
        assert_eq!((event.session, event.body), (ONE, &b"hello"[..]));
        assert_eq!(Event::from_frame(&frame(&ext[..15])), None, "cut short");
        assert_eq!(Event::from_frame(&frame(&ext[..16])).unwrap().session, b"");
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
    fn an_offer_follows_what_php_sends() {
        let (mut plain, mut offering) = (Vec::new(), Vec::new());
        let offer = Offer { version: 1, ack: true, ipv6: true, dispatcher: None };
        encode_worker_connect("Bw:0", &SecretKey::default(), &mut plain);
        encode_worker_connect_with_offer("Bw:0", &SecretKey::default(), offer, &mut offering);
        let (plain, _) = InnerFrame::decode(&plain, 1000).unwrap().unwrap();
        let (offering, _) = InnerFrame::decode(&offering, 1000).unwrap().unwrap();
        let common = plain.body.strip_suffix(b"}").unwrap();
        let added = br#","tengate":{"version":1,"ack":true,"ipv6":true}}"#;
        assert_eq!(offering.body, [common, added].concat());
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
    fn a_client_taken_over_from_another_worker_has_its_session_fetched_once() {
        let mut versions = SessionVersions::default();
        let message = event(EventKind::Message, b"old");
        assert_eq!(versions.handle_acknowledged_event(&message), SessionSource::Fetch);
        assert_eq!(versions.handle_fetched(CLIENT, ONE), Fetched::Current);
        let message = event(EventKind::Message, ONE);
        assert_eq!(versions.handle_acknowledged_event(&message), SessionSource::Carried);

        let mut versions = SessionVersions::default();
        for kind in [EventKind::Connect, EventKind::Message, EventKind::Close] {
            let carried = versions.handle_acknowledged_event(&event(kind, b""));
            assert_eq!(carried, SessionSource::Carried, "{kind:?}");
        }
    }

    #[test]
    fn a_full_tracker_has_room_again_after_an_acknowledgement() {
        let mut acks = AckTracker::default();
        let first = acks.handle_received();
        let rest: Vec<Receipt> =
            (1..UNACKNOWLEDGED_EVENTS_MAX).map(|_| acks.handle_received()).collect();
        rest.into_iter().for_each(|receipt| acks.handle_finished(receipt));
        assert!(acks.is_full() && !acks.is_due());
        acks.handle_finished(first);
        assert!(acks.is_full());
        assert_eq!(acks.take_due() as usize, UNACKNOWLEDGED_EVENTS_MAX);
        assert!(!acks.is_full());
    }

    proptest! {
        /// Each step receives an event, finishes one of those under way, or takes what is due.
        #[test]
        fn acknowledgements_never_run_ahead_of_the_oldest_unfinished_event(
            steps in prop::collection::vec((0..3_u8, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut acks = AckTracker::default();
            let (mut finished, mut under_way, mut acknowledged) = (Vec::new(), Vec::new(), 0);
            for (step, which) in steps {
                match step {
                    0 => {
                        under_way.push((finished.len(), acks.handle_received()));
                        finished.push(false);
                    }
                    1 if !under_way.is_empty() => {
                        let (index, receipt) = under_way.swap_remove(which.index(under_way.len()));
                        finished[index] = true;
                        acks.handle_finished(receipt);
                    }
                    _ => acknowledged += acks.take_due() as usize,
                }
                let oldest = finished.iter().position(|done| !done).unwrap_or(finished.len());
                prop_assert!(acknowledged <= oldest);
                prop_assert_eq!(acks.is_due(), acknowledged < oldest);
            }
            under_way.into_iter().for_each(|(_, receipt)| acks.handle_finished(receipt));
            prop_assert_eq!(acknowledged + acks.take_due() as usize, finished.len());
        }

        #[test]
        fn a_client_keeps_its_stand_in_until_that_is_gone(
            connection_id: u32,
            ports in prop::collection::btree_set(any::<u16>(), 1..9),
            gone: prop::sample::Index,
        ) {
            let dispatchers: Vec<_> =
                ports.iter().map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port)).collect();
            let chosen = stand_in(connection_id, dispatchers.iter().copied());
            let gone = dispatchers[gone.index(dispatchers.len())];
            let left = dispatchers.iter().copied().filter(|dispatcher| *dispatcher != gone);
            let then = stand_in(connection_id, left);
            prop_assert!(chosen.is_some());
            prop_assert!(then == chosen || chosen == Some(gone));
        }
    }

    #[test]
    fn checksums_are_those_of_php() {
        for (text, sum) in [("", 0), ("123456789", 0xCBF4_3926)] {
            assert_eq!(crc32(text.as_bytes()), sum, "{text}");
        }
    }

    fn event(kind: EventKind, session: &[u8]) -> Event<'_> {
        let client_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Event { kind, client: CLIENT, client_addr, gateway_port: 8282, session, body: b"" }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }
}
