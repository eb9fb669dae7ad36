//! What workers' commands do to the clients of this shard, and this shard's part of their questions
//! (docs/protocol.md#commands).

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use tengate_base::{ConnId, How, Instant, Sink};

use super::Gateway;
use super::deliver::client_body;
use crate::query::{Partial, batch_keys};
use crate::wire::ext::{self, Condition, ExtError, Field, Name, Select, SendToAll, SendToGroup};
use crate::wire::header::{Command, InnerFrame};
use crate::wire::php::{self, Value, write};

impl Gateway {
    /// Carries out a command that has no reply.
    #[inline]
    pub(super) fn execute(
        &mut self,
        now: Instant,
        command: Command,
        frame: &InnerFrame<'_>,
        sink: &mut impl Sink,
    ) {
        let done = if command.is_for_one_client() {
            match self.find(frame.header.connection_id) {
                Some(conn) => self.execute_for_one(now, conn, command, frame, sink),
                None => Some(()),
            }
        } else {
            self.execute_for_many(now, command, frame, sink)
        };
        if done.is_none() {
            self.stats.command_ignored += 1;
        }
        if self.hints.any() {
            self.send_hints(sink);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only commands for one client come here")]
    fn execute_for_one(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        frame: &InnerFrame<'_>,
        sink: &mut impl Sink,
    ) -> Option<()> {
        match command {
            Command::SendToOne => {
                self.deliver(now, conn, &client_body(frame)?, frame.is_raw(), sink)
            }
            Command::Kick => {
                if let Some(last) = client_body(frame) {
                    self.deliver(now, conn, &last, false, sink);
                }
                self.stats.close_by_worker += 1;
                self.close_client(now, conn, How::AfterFlush, sink);
            }
            Command::Destroy => {
                self.stats.close_by_worker += 1;
                self.close_client(now, conn, How::AtOnce, sink);
            }
            Command::SetSession => self.client_mut(conn)?.session = frame.ext.into(),
            Command::UpdateSession => {
                let client = self.client_mut(conn)?;
                client.session = merge_sessions(&client.session, frame.ext)?;
            }
            Command::BindUid => self.uids.bind(conn.0, non_empty(frame.ext)?, &mut self.hints),
            Command::UnbindUid => self.uids.unbind(conn.0, &mut self.hints),
            Command::JoinGroup => {
                self.groups.join(conn.0, non_empty(frame.ext)?, &mut self.hints);
                self.client_mut(conn)?.had_group = true;
            }
            Command::LeaveGroup => {
                self.groups.leave(conn.0, non_empty(frame.ext)?, &mut self.hints);
            }
            _ => return None,
        }
        Some(())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only commands for many clients come here")]
    fn execute_for_many(
        &mut self,
        now: Instant,
        command: Command,
        frame: &InnerFrame<'_>,
        sink: &mut impl Sink,
    ) -> Option<()> {
        let mut receivers = core::mem::take(&mut self.receivers);
        receivers.clear();
        let found = self.receivers(command, frame.ext, &mut receivers);
        if let Ok(true) = found
            && let Some(body) = client_body(frame)
        {
            self.deliver_each(now, &receivers, &body, frame.is_raw(), sink);
        }
        self.receivers = receivers;
        if found == Ok(true) {
            return Some(());
        }
        match command {
            Command::Ungroup => self.groups.dissolve(non_empty(frame.ext)?, &mut self.hints),
            // A worker's own keep-alive.
            Command::Ping => {}
            _ => return None,
        }
        Some(())
    }

    /// Collects who gets a message; false when the command sends none.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands send nothing")]
    fn receivers(
        &self,
        command: Command,
        ext: &[u8],
        receivers: &mut Vec<u32>,
    ) -> Result<bool, ExtError> {
        match command {
            Command::SendToAll => match SendToAll::decode(ext)? {
                SendToAll::All => receivers.extend(self.clients()),
                SendToAll::Only(ids) => receivers
                    .extend(ids.into_iter().filter_map(|id| self.find(id)).map(|conn| conn.0)),
                SendToAll::Except(ids) => {
                    receivers
                        .extend(self.clients().filter(|index| !ids.contains(self.number(*index))));
                }
            },
            Command::SendToUid => {
                for uid in ext::decode_names(ext)? {
                    receivers.extend(self.uids.clients(uid.as_bytes()));
                }
            }
            Command::SendToGroup => {
                let to = SendToGroup::decode(ext)?;
                for group in &to.groups {
                    let members = self.groups.members(group.as_bytes());
                    receivers
                        .extend(members.filter(|index| !to.exclude.contains(self.number(*index))));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// This shard's part of the answer to a query.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only queries come here")]
    pub(super) fn answer_query(&self, command: Command, frame: &InnerFrame<'_>) -> Partial {
        match command {
            Command::IsOnline => whole(|out| {
                write::int(i64::from(self.find(frame.header.connection_id).is_some()), out)
            }),
            Command::GetSessionByClientId => self.session_answer(frame.header.connection_id),
            Command::GetAllClientSessions => self.sessions(self.by_age()),
            Command::GetClientSessionsByGroup => {
                self.sessions(self.groups.members(frame.ext).collect())
            }
            Command::GetClientCountByGroup if frame.ext.is_empty() => {
                Partial::Counts([u32::try_from(self.by_id.len()).unwrap_or(u32::MAX)].into())
            }
            Command::GetClientCountByGroup => {
                Partial::Counts([self.groups.count(frame.ext)].into())
            }
            Command::BatchGetClientCountByGroup => {
                let groups = batch_keys(command, frame.ext).unwrap_or_default();
                Partial::Counts(groups.iter().map(|group| self.groups.count(group)).collect())
            }
            Command::GetClientIdByUid => Partial::Ids([self.ids_of(frame.ext)].into()),
            Command::BatchGetClientIdByUid => {
                let uids = batch_keys(command, frame.ext).unwrap_or_default();
                Partial::Ids(uids.iter().map(|uid| self.ids_of(uid)).collect())
            }
            Command::GetGroupIdList => {
                Partial::Names(self.groups.iter().map(<[u8]>::to_vec).collect())
            }
            Command::Select => self.select(frame.ext),
            _ => Partial::Elements { count: 0, bytes: Vec::new() },
        }
    }

    fn session_answer(&self, connection_id: u32) -> Partial {
        let client = self.find(connection_id).and_then(|conn| self.client(conn));
        whole(|out| match client {
            None => write::null(out),
            Some(client) if is_empty(&client.session) => {
                write::array_open(0, out);
                write::array_close(out);
            }
            Some(client) => out.extend_from_slice(&client.session),
        })
    }

    fn sessions(&self, clients: Vec<u32>) -> Partial {
        self.elements(clients, |index, out| {
            write::string(self.client(ConnId(index)).map_or(b"", |client| &client.session), out);
        })
    }

    fn select(&self, ext: &[u8]) -> Partial {
        let Ok(select) = Select::decode(ext) else {
            return Partial::Elements { count: 0, bytes: Vec::new() };
        };
        let clients = match &select.conditions {
            // PHP creates an element by assigning its first field, so without fields there are no elements.
            None if select.fields.is_empty() => Vec::new(),
            None => self.by_age(),
            Some(conditions) => self.matching(conditions),
        };
        self.elements(clients, |index, out| {
            write::array_open(select.fields.len(), out);
            for field in &select.fields {
                write::key_bytes(field.name().as_bytes(), out);
                self.field(index, field, out);
            }
            write::array_close(out);
        })
    }

    /// Clients that meet any of the conditions, each once, in the order of the conditions.
    fn matching(&self, conditions: &[Condition<'_>]) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        let mut clients = Vec::new();
        let mut add = |index: u32| {
            if seen.insert(index) {
                clients.push(index);
            }
        };
        let bytes = |names: &[Name<'_>]| -> Vec<Vec<u8>> {
            names.iter().map(|name| name.as_bytes().to_vec()).collect()
        };
        for condition in conditions {
            match condition {
                Condition::ConnectionId(ids) => {
                    ids.iter().filter_map(|id| self.find(*id)).for_each(|conn| add(conn.0));
                }
                Condition::Uid(uids) => {
                    bytes(uids).iter().flat_map(|uid| self.uids.clients(uid)).for_each(&mut add)
                }
                Condition::Groups(groups) => {
                    bytes(groups)
                        .iter()
                        .flat_map(|group| self.groups.members(group))
                        .for_each(&mut add);
                }
            }
        }
        clients
    }

    fn field(&self, index: u32, field: &Field<'_>, out: &mut Vec<u8>) {
        let Some(client) = self.client(ConnId(index)) else { return write::null(out) };
        match field {
            Field::Session => write::string(&client.session, out),
            Field::Uid => match self.uids.of(index) {
                Some(uid) => write::string(uid, out),
                None => write::null(out),
            },
            Field::Groups if client.had_group => {
                write::array_open(self.groups.of(index).count(), out);
                for group in self.groups.of(index) {
                    write::key_bytes(group, out);
                    write::string(group, out);
                }
                write::array_close(out);
            }
            Field::Groups | Field::Other(_) => write::null(out),
        }
    }

    /// Array elements keyed by connection_id.
    fn elements(&self, clients: Vec<u32>, value: impl Fn(u32, &mut Vec<u8>)) -> Partial {
        let mut bytes = Vec::new();
        let mut count = 0;
        for index in clients {
            write::int(i64::from(self.number(index)), &mut bytes);
            value(index, &mut bytes);
            count += 1;
        }
        Partial::Elements { count, bytes }
    }

    fn ids_of(&self, uid: &[u8]) -> Vec<u32> {
        self.uids.clients(uid).map(|index| self.number(index)).collect()
    }

    /// Every client, in no order that means anything.
    fn clients(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(self.slots.iter())
            .filter(|(_, slot)| matches!(slot, super::Slot::Client(_)))
            .map(|(index, _)| index)
    }

    /// Every client, oldest first, as PHP lists them.
    fn by_age(&self) -> Vec<u32> {
        let mut clients: Vec<u32> = self.clients().collect();
        self.ids.sort_by_age(&mut clients, |index| self.number(*index));
        clients
    }

    fn number(&self, index: u32) -> u32 {
        super::number(&self.slots, index)
    }
}

fn whole(write: impl FnOnce(&mut Vec<u8>)) -> Partial {
    let mut bytes = Vec::new();
    write(&mut bytes);
    Partial::Whole(bytes)
}

/// PHP's `empty()` of a string.
fn is_empty(bytes: &[u8]) -> bool {
    matches!(bytes, b"" | b"0")
}

/// PHP refuses uids and groups that are `empty()`.
fn non_empty(name: &[u8]) -> Option<&[u8]> {
    (!is_empty(name)).then_some(name)
}

/// `array_replace_recursive` of two serialized sessions; an empty one is simply replaced. `None` when either is not an
/// array: the session stays as it is.
fn merge_sessions(session: &[u8], update: &[u8]) -> Option<Box<[u8]>> {
    if is_empty(session) {
        return Some(update.into());
    }
    let limits = php::Limits::default();
    let (Ok(Value::Array(base)), Ok(Value::Array(update))) =
        (php::unserialize(session, &limits), php::unserialize(update, &limits))
    else {
        return None;
    };
    let mut merged = Vec::new();
    php::serialize(&Value::Array(php::array_replace_recursive(base, update)), &mut merged);
    Some(merged.into())
}
