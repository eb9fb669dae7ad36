//! The 28-byte header of inner frames, between gateway and worker (docs/protocol.md#inner-frames).

use alloc::vec::Vec;

/// A command of the inner wire. Numbers are GatewayWorker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Command {
    /// Gateway: a client connected (before any websocket handshake).
    OnConnect = 1,
    /// Gateway: a whole message of a client.
    OnMessage = 3,
    /// Gateway: a client is gone.
    OnClose = 4,
    /// Worker: a message for one client.
    SendToOne = 5,
    /// Worker: a message for every client, some, or all but some.
    SendToAll = 6,
    /// Worker: send a last message, then close.
    Kick = 7,
    /// Worker: close at once.
    Destroy = 8,
    /// Worker: merge into the client's session.
    UpdateSession = 9,
    /// Query: every client's session.
    GetAllClientSessions = 10,
    /// Query: is the client connected.
    IsOnline = 11,
    /// Worker: bind a uid to a client.
    BindUid = 12,
    /// Worker: unbind a client's uid.
    UnbindUid = 13,
    /// Worker: a message for every client of some uids.
    SendToUid = 14,
    /// Query: clients of a uid.
    GetClientIdByUid = 15,
    /// Query: clients of several uids.
    BatchGetClientIdByUid = 16,
    /// Worker: a client joins a group.
    JoinGroup = 20,
    /// Worker: a client leaves a group.
    LeaveGroup = 21,
    /// Worker: a message for every member of some groups.
    SendToGroup = 22,
    /// Query: sessions of a group's members.
    GetClientSessionsByGroup = 23,
    /// Query: how many members a group has.
    GetClientCountByGroup = 24,
    /// Query: chosen fields of chosen clients.
    Select = 25,
    /// Query: which groups exist.
    GetGroupIdList = 26,
    /// Worker: every member leaves a group.
    Ungroup = 27,
    /// Query: how many members several groups have.
    BatchGetClientCountByGroup = 28,
    /// Worker: opens the link as a worker.
    WorkerConnect = 200,
    /// Gateway: keeps an idle link alive.
    Ping = 201,
    /// Outside client: opens the connection as GatewayClient.
    GatewayClientConnect = 202,
    /// Query: one client's session.
    GetSessionByClientId = 203,
    /// Worker: replace a client's session.
    SetSession = 204,
    /// Gateway: a client's websocket handshake request was read.
    OnWebsocketConnect = 205,
}

impl Command {
    /// Every command, in number order.
    pub const ALL: [Self; 30] = [
        Self::OnConnect,
        Self::OnMessage,
        Self::OnClose,
        Self::SendToOne,
        Self::SendToAll,
        Self::Kick,
        Self::Destroy,
        Self::UpdateSession,
        Self::GetAllClientSessions,
        Self::IsOnline,
        Self::BindUid,
        Self::UnbindUid,
        Self::SendToUid,
        Self::GetClientIdByUid,
        Self::BatchGetClientIdByUid,
        Self::JoinGroup,
        Self::LeaveGroup,
        Self::SendToGroup,
        Self::GetClientSessionsByGroup,
        Self::GetClientCountByGroup,
        Self::Select,
        Self::GetGroupIdList,
        Self::Ungroup,
        Self::BatchGetClientCountByGroup,
        Self::WorkerConnect,
        Self::Ping,
        Self::GatewayClientConnect,
        Self::GetSessionByClientId,
        Self::SetSession,
        Self::OnWebsocketConnect,
    ];

    /// The command of this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|command| *command as u8 == number)
    }

    /// Whether the sender waits for a reply.
    #[inline]
    pub fn is_query(self) -> bool {
        matches!(
            self,
            Self::GetAllClientSessions
                | Self::IsOnline
                | Self::GetClientIdByUid
                | Self::BatchGetClientIdByUid
                | Self::GetClientSessionsByGroup
                | Self::GetClientCountByGroup
                | Self::Select
                | Self::GetGroupIdList
                | Self::BatchGetClientCountByGroup
                | Self::GetSessionByClientId
        )
    }

    /// Whether a gateway tells a worker of a client with it.
    #[inline]
    pub fn is_event(self) -> bool {
        matches!(self, Self::OnConnect | Self::OnMessage | Self::OnClose | Self::OnWebsocketConnect)
    }

    /// Whether it concerns only the client its header names.
    #[inline]
    pub fn is_for_one_client(self) -> bool {
        matches!(
            self,
            Self::SendToOne
                | Self::Kick
                | Self::Destroy
                | Self::UpdateSession
                | Self::IsOnline
                | Self::BindUid
                | Self::UnbindUid
                | Self::JoinGroup
                | Self::LeaveGroup
                | Self::GetSessionByClientId
                | Self::SetSession
        )
    }
}

/// The header of an inner frame, all but its two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// Command number; see [`Command`].
    pub command: u8,
    /// The gateway's lan address, 0 from a worker that does not name one.
    pub local_ip: u32,
    /// The gateway's inner port.
    pub local_port: u16,
    /// The client's IPv4 address, 0 when it has none.
    pub client_ip: u32,
    /// The client's port.
    pub client_port: u16,
    /// The client on its gateway.
    pub connection_id: u32,
    /// [`FLAG_SCALAR`] and [`FLAG_RAW`].
    pub flag: u8,
    /// The port the client connected to.
    pub gateway_port: u16,
}

/// Flag: the body is a plain string; without it the body is PHP `serialize` output.
pub const FLAG_SCALAR: u8 = 1;
/// Flag: send the body to the client as it is, without the client protocol's encoding.
pub const FLAG_RAW: u8 = 2;

/// One inner frame, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerFrame<'a> {
    /// The fixed part.
    pub header: Header,
    /// Extra data: the session on events, JSON or a name on commands.
    pub ext: &'a [u8],
    /// The payload.
    pub body: &'a [u8],
}

/// What is wrong with an inner frame; always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The frame says it is shorter than a header, or longer than the limit.
    Length {
        /// What the frame says of its own length.
        pack_len: u32,
    },
    /// The extra data would end behind the frame.
    ExtLength {
        /// What the frame says of its extra data's length.
        ext_len: u32,
    },
}

impl Header {
    /// Bytes of the header.
    pub const LEN: usize = 28;

    /// Appends one frame. `ext` and `body` must fit `u32` together with the header, which every configured limit
    /// guarantees; larger input is cut off by no one and yields a frame whose length is wrong, so it is asserted.
    pub fn encode(&self, ext: &[u8], body: &[u8], out: &mut Vec<u8>) {
        self.encode_behind(&[], ext, body, out);
    }

    /// Appends one frame as [`Header::encode`] does, whose extra data is `prefix` and then `ext`.
    #[inline]
    pub(crate) fn encode_behind<const N: usize>(
        &self,
        prefix: &[u8; N],
        ext: &[u8],
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        let ext_len = N + ext.len();
        let pack_len = Self::LEN + ext_len + body.len();
        let pack_len = u32::try_from(pack_len).expect("limits keep an inner frame under 4 GiB");
        let ext_len = u32::try_from(ext_len).expect("shorter than the frame");
        out.reserve(pack_len as usize);
        out.extend_from_slice(&self.to_bytes(pack_len, ext_len));
        out.extend_from_slice(prefix);
        out.extend_from_slice(ext);
        out.extend_from_slice(body);
    }

    /// The header as it goes over the wire.
    fn to_bytes(self, pack_len: u32, ext_len: u32) -> [u8; Self::LEN] {
        let mut head = [0; Self::LEN];
        head[0..4].copy_from_slice(&pack_len.to_be_bytes());
        head[4] = self.command;
        head[5..9].copy_from_slice(&self.local_ip.to_be_bytes());
        head[9..11].copy_from_slice(&self.local_port.to_be_bytes());
        head[11..15].copy_from_slice(&self.client_ip.to_be_bytes());
        head[15..17].copy_from_slice(&self.client_port.to_be_bytes());
        head[17..21].copy_from_slice(&self.connection_id.to_be_bytes());
        head[21] = self.flag;
        head[22..24].copy_from_slice(&self.gateway_port.to_be_bytes());
        head[24..28].copy_from_slice(&ext_len.to_be_bytes());
        head
    }
}

impl<'a> InnerFrame<'a> {
    /// Decodes the first frame of `bytes`: the frame and its length, or `None` while it is incomplete.
    ///
    /// # Errors
    /// The frame's lengths contradict each other or exceed `frame_bytes_max`; the link cannot go on.
    pub fn decode(
        bytes: &'a [u8],
        frame_bytes_max: usize,
    ) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(pack_len) = bytes.first_chunk::<4>().map(|len| u32::from_be_bytes(*len)) else {
            return Ok(None);
        };
        let frame_len = pack_len as usize;
        if frame_len < Header::LEN || frame_len > frame_bytes_max {
            return Err(FrameError::Length { pack_len });
        }
        let Some(head) = bytes.first_chunk::<{ Header::LEN }>() else { return Ok(None) };
        let ext_len = u32_at(head, 24);
        if ext_len as usize > frame_len - Header::LEN {
            return Err(FrameError::ExtLength { ext_len });
        }
        let Some(frame) = bytes.get(..frame_len) else { return Ok(None) };
        let (ext, body) = frame[Header::LEN..].split_at(ext_len as usize);
        Ok(Some((Self { header: Header::from_bytes(head), ext, body }, frame_len)))
    }

    /// Whether the body is a plain string.
    pub fn is_scalar(&self) -> bool {
        self.header.flag & FLAG_SCALAR != 0
    }

    /// Whether the body goes to the client without the client protocol's encoding.
    pub fn is_raw(&self) -> bool {
        self.header.flag & FLAG_RAW != 0
    }
}

impl Header {
    fn from_bytes(head: &[u8; Self::LEN]) -> Self {
        Self {
            command: head[4],
            local_ip: u32_at(head, 5),
            local_port: u16_at(head, 9),
            client_ip: u32_at(head, 11),
            client_port: u16_at(head, 15),
            connection_id: u32_at(head, 17),
            flag: head[21],
            gateway_port: u16_at(head, 22),
        }
    }
}

fn u32_at(head: &[u8; Header::LEN], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

fn u16_at(head: &[u8; Header::LEN], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}
