//! What a worker or outside client asks of a gateway, as values: the model carries these out, the gateway their bytes.

use core::fmt::Write as _;

use tengate_proto::wire::header::{Command, FLAG_SCALAR, Header};

/// One command or query. Clients are named by connection_id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// SEND_TO_ONE.
    SendOne { id: u32, token: String },
    /// SEND_TO_ALL, to `only` these or to all but `except`.
    SendAll { only: Option<Vec<u32>>, except: Vec<u32>, token: String },
    /// SEND_TO_UID.
    SendUid { uids: Vec<&'static str>, token: String },
    /// SEND_TO_GROUP.
    SendGroup { groups: Vec<&'static str>, except: Vec<u32>, token: String },
    /// KICK, with a last message or none.
    Kick { id: u32, token: Option<String> },
    /// DESTROY.
    Destroy { id: u32 },
    /// SET_SESSION; an empty session is no bytes at all.
    SetSession { id: u32, session: Session },
    /// UPDATE_SESSION.
    UpdateSession { id: u32, session: Session },
    /// BIND_UID.
    Bind { id: u32, uid: &'static str },
    /// UNBIND_UID.
    Unbind { id: u32, uid: &'static str },
    /// JOIN_GROUP.
    Join { id: u32, group: &'static str },
    /// LEAVE_GROUP.
    Leave { id: u32, group: &'static str },
    /// UNGROUP.
    Ungroup { group: &'static str },
    /// Anything with an answer.
    Ask(Query),
    /// WORKER_CONNECT or GATEWAY_CLIENT_CONNECT, whose bytes are the core's own.
    Hello,
}

/// A session: keys and values in PHP's order; `None` for one that was never set.
pub(crate) type Session = Option<Vec<(&'static str, u64)>>;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// IS_ONLINE.
    IsOnline(u32),
    /// GET_SESSION_BY_CLIENT_ID.
    SessionOf(u32),
    /// GET_ALL_CLIENT_SESSIONS.
    Sessions,
    /// GET_CLIENT_SESSIONS_BY_GROUP.
    SessionsOfGroup(&'static str),
    /// GET_CLIENT_COUNT_BY_GROUP; an empty group is everybody.
    Count(&'static str),
    /// BATCH_GET_CLIENT_COUNT_BY_GROUP.
    Counts(Vec<&'static str>),
    /// GET_CLIENT_ID_BY_UID.
    ClientsOf(&'static str),
    /// BATCH_GET_CLIENT_ID_BY_UID.
    ClientsOfEach(Vec<&'static str>),
    /// GET_GROUP_ID_LIST.
    Groups,
    /// SELECT of session, uid and groups, of the members of these groups or of all.
    Select(Vec<&'static str>),
}

impl Op {
    /// Appends the frame. Its number goes where the header names a client's address, which gateways do not read.
    pub(crate) fn encode(&self, number: u32, out: &mut Vec<u8>) {
        let (command, id, ext, body) = self.parts();
        let scalar = !(command == Command::Kick && body == b"N;");
        let header = Header {
            command: command as u8,
            client_ip: number,
            connection_id: id,
            flag: if scalar { FLAG_SCALAR } else { 0 },
            ..Header::default()
        };
        header.encode(ext.as_bytes(), body, out);
    }

    /// The one client it concerns.
    pub(crate) fn client(&self) -> Option<u32> {
        match self {
            Self::SendOne { id, .. }
            | Self::Kick { id, .. }
            | Self::Destroy { id }
            | Self::SetSession { id, .. }
            | Self::UpdateSession { id, .. }
            | Self::Bind { id, .. }
            | Self::Unbind { id, .. }
            | Self::Join { id, .. }
            | Self::Leave { id, .. } => Some(*id),
            Self::SendAll { .. }
            | Self::SendUid { .. }
            | Self::SendGroup { .. }
            | Self::Ungroup { .. }
            | Self::Ask(_)
            | Self::Hello => None,
        }
    }

    fn parts(&self) -> (Command, u32, String, &[u8]) {
        let none = String::new;
        match self {
            Self::SendOne { id, token } => (Command::SendToOne, *id, none(), token.as_bytes()),
            Self::SendAll { only, except, token } => {
                let ext = match only {
                    Some(ids) => format!("{{\"connections\":{}}}", ids_json(ids)),
                    None if except.is_empty() => none(),
                    None => format!("{{\"exclude\":{}}}", ids_json(except)),
                };
                (Command::SendToAll, 0, ext, token.as_bytes())
            }
            Self::SendUid { uids, token } => {
                (Command::SendToUid, 0, names_json(uids), token.as_bytes())
            }
            Self::SendGroup { groups, except, token } => {
                let exclude = if except.is_empty() { "null".into() } else { ids_json(except) };
                let ext = format!("{{\"group\":{},\"exclude\":{exclude}}}", names_json(groups));
                (Command::SendToGroup, 0, ext, token.as_bytes())
            }
            Self::Kick { id, token } => {
                (Command::Kick, *id, none(), token.as_ref().map_or(b"N;", |token| token.as_bytes()))
            }
            Self::Destroy { id } => (Command::Destroy, *id, none(), b""),
            Self::SetSession { id, session } => {
                (Command::SetSession, *id, serialized(session), b"")
            }
            Self::UpdateSession { id, session } => {
                (Command::UpdateSession, *id, serialized(session), b"")
            }
            Self::Bind { id, uid } => (Command::BindUid, *id, (*uid).into(), b""),
            Self::Unbind { id, uid } => (Command::UnbindUid, *id, (*uid).into(), b""),
            Self::Join { id, group } => (Command::JoinGroup, *id, (*group).into(), b""),
            Self::Leave { id, group } => (Command::LeaveGroup, *id, (*group).into(), b""),
            Self::Ungroup { group } => (Command::Ungroup, 0, (*group).into(), b""),
            Self::Ask(query) => query.parts(),
            Self::Hello => (Command::Ping, 0, none(), b""),
        }
    }
}

impl Query {
    fn parts(&self) -> (Command, u32, String, &'static [u8]) {
        let (command, id, ext) = match self {
            Self::IsOnline(id) => (Command::IsOnline, *id, String::new()),
            Self::SessionOf(id) => (Command::GetSessionByClientId, *id, String::new()),
            Self::Sessions => (Command::GetAllClientSessions, 0, String::new()),
            Self::SessionsOfGroup(group) => (Command::GetClientSessionsByGroup, 0, (*group).into()),
            Self::Count(group) => (Command::GetClientCountByGroup, 0, (*group).into()),
            Self::Counts(groups) => (Command::BatchGetClientCountByGroup, 0, names_json(groups)),
            Self::ClientsOf(uid) => (Command::GetClientIdByUid, 0, (*uid).into()),
            Self::ClientsOfEach(uids) => (Command::BatchGetClientIdByUid, 0, names_json(uids)),
            Self::Groups => (Command::GetGroupIdList, 0, String::new()),
            Self::Select(groups) => {
                let wanted = match groups.as_slice() {
                    [] => "[]".into(),
                    groups => format!("{{\"groups\":{}}}", names_json(groups)),
                };
                let ext =
                    format!("{{\"fields\":[\"session\",\"uid\",\"groups\"],\"where\":{wanted}}}");
                (Command::Select, 0, ext)
            }
        };
        (command, id, ext, b"")
    }
}

/// PHP's `serialize` of a session; nothing for one that was never set.
pub(crate) fn serialized(session: &Session) -> String {
    let Some(pairs) = session else { return String::new() };
    let mut text = format!("a:{}:{{", pairs.len());
    for (key, value) in pairs {
        let _ = write!(text, "s:{}:\"{key}\";i:{value};", key.len());
    }
    text.push('}');
    text
}

fn ids_json(ids: &[u32]) -> String {
    let pairs: Vec<String> = ids.iter().map(|id| format!("\"{id}\":{id}")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn names_json(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(","))
}
