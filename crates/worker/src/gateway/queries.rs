//! Calls with an answer: who is where, how many, and sessions.

use core::net::SocketAddrV4;
use std::collections::{BTreeMap, BTreeSet};

use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::ext::{Condition, Field};
use tengate_proto::wire::header::Command;
use tengate_proto::wire::php::{Array, Key, Limits, Value, unserialize};
use tengate_proto::worker::Call;
use tokio::task::JoinSet;

use super::Gateway;
use super::ext;
use super::sends::checked_groups;
use crate::error::{CallError, GatewayFault};
use crate::names::{Name, Names};

impl Gateway {
    /// Whether a client is connected. A worker takes clients that none of its links leads to for gone.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn is_online(&self, client: ClientId) -> Result<bool, CallError> {
        if !self.can_ask(client) {
            return Ok(false);
        }
        let reply = self.ask_about(client, Call::new(Command::IsOnline).to(client)).await?;
        reply.count().map(|online| online > 0)
    }

    /// Whether a uid has a client.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn is_uid_online(&self, uid: impl Into<Name>) -> Result<bool, CallError> {
        Ok(!self.get_client_id_by_uid(uid).await?.is_empty())
    }

    /// Which of these uids have a client. Every uid asked for is in the answer.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn is_uids_online(
        &self,
        uids: impl Into<Names>,
    ) -> Result<BTreeMap<String, bool>, CallError> {
        let uids = uids.into();
        let mut online: BTreeMap<String, bool> =
            uids.0.iter().map(|uid| (uid.0.clone(), false)).collect();
        let clients = self.batch_get_client_id_by_uid(uids).await?;
        online.extend(clients.into_iter().map(|(uid, clients)| (uid, !clients.is_empty())));
        Ok(online)
    }

    /// Every client's session.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_client_sessions(&self) -> Result<BTreeMap<ClientId, Array>, CallError> {
        self.sessions(Call::new(Command::GetAllClientSessions)).await
    }

    /// The sessions of a group's members.
    ///
    /// # Errors
    /// The group has no name, or a gateway failed.
    pub async fn get_client_sessions_by_group(
        &self,
        group: impl Into<Name>,
    ) -> Result<BTreeMap<ClientId, Array>, CallError> {
        let group = group.into();
        checked_groups(&group)?;
        self.sessions(Call::new(Command::GetClientSessionsByGroup).ext(group.0.as_bytes())).await
    }

    /// How many clients are connected.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_client_id_count(&self) -> Result<u64, CallError> {
        self.count(Call::new(Command::GetClientCountByGroup)).await
    }

    /// How many members a group has.
    ///
    /// # Errors
    /// The group has no name, or a gateway failed.
    pub async fn get_client_id_count_by_group(
        &self,
        group: impl Into<Name>,
    ) -> Result<u64, CallError> {
        let group = group.into();
        checked_groups(&group)?;
        self.count(Call::new(Command::GetClientCountByGroup).ext(group.0.as_bytes())).await
    }

    /// How many members each of these groups has.
    ///
    /// # Errors
    /// No group is named, or a gateway failed.
    pub async fn batch_get_client_id_count_by_group(
        &self,
        groups: impl Into<Names>,
    ) -> Result<BTreeMap<String, u64>, CallError> {
        let groups = ext::names(&checked_groups(groups)?);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for reply in
            self.ask_all(Call::new(Command::BatchGetClientCountByGroup).ext(&groups)).await?
        {
            for (group, count) in reply.entries()? {
                *counts.entry(text(&group)).or_default() += count.count()?;
            }
        }
        Ok(counts)
    }

    /// The members of one group or several.
    ///
    /// # Errors
    /// No group is named, or a gateway failed.
    pub async fn get_client_id_list_by_group(
        &self,
        groups: impl Into<Names>,
    ) -> Result<BTreeSet<ClientId>, CallError> {
        let groups = checked_groups(groups)?;
        let found = self
            .select(vec![Field::Uid], Some(Condition::Groups(ext::wire_names(&groups))))
            .await?;
        Ok(found.into_iter().map(|client| client.id).collect())
    }

    /// Every client.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_client_id_list(&self) -> Result<BTreeSet<ClientId>, CallError> {
        let found = self.select(vec![Field::Uid], None).await?;
        Ok(found.into_iter().map(|client| client.id).collect())
    }

    /// The clients of a uid.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_client_id_by_uid(
        &self,
        uid: impl Into<Name>,
    ) -> Result<Vec<ClientId>, CallError> {
        let uid = uid.into();
        let mut clients = Vec::new();
        for reply in
            self.ask_all(Call::new(Command::GetClientIdByUid).ext(uid.0.as_bytes())).await?
        {
            clients.extend(reply.clients()?);
        }
        Ok(clients)
    }

    /// The clients of each of these uids; a uid without any may be missing.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn batch_get_client_id_by_uid(
        &self,
        uids: impl Into<Names>,
    ) -> Result<BTreeMap<String, Vec<ClientId>>, CallError> {
        let uids = ext::names(&uids.into());
        let mut clients: BTreeMap<String, Vec<ClientId>> = BTreeMap::new();
        for reply in self.ask_all(Call::new(Command::BatchGetClientIdByUid).ext(&uids)).await? {
            for (uid, connections) in reply.entries()? {
                clients.entry(text(&uid)).or_default().extend(connections.clients()?);
            }
        }
        Ok(clients)
    }

    /// The uids of the members of one group or several.
    ///
    /// # Errors
    /// No group is named, or a gateway failed.
    pub async fn get_uid_list_by_group(
        &self,
        groups: impl Into<Names>,
    ) -> Result<BTreeSet<String>, CallError> {
        let groups = checked_groups(groups)?;
        let found = self
            .select(vec![Field::Uid], Some(Condition::Groups(ext::wire_names(&groups))))
            .await?;
        Ok(found.into_iter().filter_map(|client| client.uid).collect())
    }

    /// How many uids the members of one group or several have.
    ///
    /// # Errors
    /// No group is named, or a gateway failed.
    pub async fn get_uid_count_by_group(
        &self,
        groups: impl Into<Names>,
    ) -> Result<usize, CallError> {
        Ok(self.get_uid_list_by_group(groups).await?.len())
    }

    /// Every uid that has a client.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_uid_list(&self) -> Result<BTreeSet<String>, CallError> {
        let found = self.select(vec![Field::Uid], None).await?;
        Ok(found.into_iter().filter_map(|client| client.uid).collect())
    }

    /// How many uids have a client.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_uid_count(&self) -> Result<usize, CallError> {
        Ok(self.get_all_uid_list().await?.len())
    }

    /// The uid of a client; `None` when it has none, or is gone.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn get_uid_by_client_id(
        &self,
        client: ClientId,
    ) -> Result<Option<String>, CallError> {
        let condition = Condition::ConnectionId(vec![client.connection_id]);
        let select = ext::select(vec![Field::Uid], Some(condition));
        let reply = self.ask_about(client, Call::new(Command::Select).ext(&select)).await?;
        Ok(reply.selected()?.into_iter().find_map(|client| client.uid))
    }

    /// Every group that has a member.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_group_id_list(&self) -> Result<BTreeSet<String>, CallError> {
        let mut groups = BTreeSet::new();
        for reply in self.ask_all(Call::new(Command::GetGroupIdList)).await? {
            for (_, group) in reply.entries()? {
                groups.insert(group.text()?);
            }
        }
        Ok(groups)
    }

    /// The uids in every group. Members without a uid are passed over; PHP stops at the first such client of a gateway.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_group_uid_list(
        &self,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for client in self.select(vec![Field::Uid, Field::Groups], None).await? {
            let Some(uid) = client.uid else { continue };
            for group in client.groups {
                groups.entry(group).or_default().insert(uid.clone());
            }
        }
        Ok(groups)
    }

    /// How many uids are in every group.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_group_uid_count(&self) -> Result<BTreeMap<String, usize>, CallError> {
        Ok(lengths(self.get_all_group_uid_list().await?))
    }

    /// The members of every group.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_group_client_id_list(
        &self,
    ) -> Result<BTreeMap<String, BTreeSet<ClientId>>, CallError> {
        let mut groups: BTreeMap<String, BTreeSet<ClientId>> = BTreeMap::new();
        for client in self.select(vec![Field::Groups], None).await? {
            for group in client.groups {
                groups.entry(group).or_default().insert(client.id);
            }
        }
        Ok(groups)
    }

    /// How many members every group has.
    ///
    /// # Errors
    /// A gateway failed.
    pub async fn get_all_group_client_id_count(
        &self,
    ) -> Result<BTreeMap<String, usize>, CallError> {
        Ok(lengths(self.get_all_group_client_id_list().await?))
    }

    /// A client's session; `None` when the client is gone.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn get_session(&self, client: ClientId) -> Result<Option<Array>, CallError> {
        if !self.can_ask(client) {
            return Ok(None);
        }
        let call = Call::new(Command::GetSessionByClientId).to(client);
        let reply = self.ask_about(client, call).await?;
        match reply.value {
            Value::Array(session) => Ok(Some(session)),
            Value::Null => Ok(None),
            Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Str(_) => {
                Err(unexpected(reply.gateway))
            }
        }
    }

    async fn sessions(&self, call: Call<'_>) -> Result<BTreeMap<ClientId, Array>, CallError> {
        let mut sessions = BTreeMap::new();
        for reply in self.ask_all(call).await? {
            let gateway = reply.gateway;
            for (connection, session) in reply.entries()? {
                sessions.insert(client_id(gateway, &connection)?, session.session()?);
            }
        }
        Ok(sessions)
    }

    async fn count(&self, call: Call<'_>) -> Result<u64, CallError> {
        let replies = self.ask_all(call).await?;
        replies.into_iter().map(Reply::count).sum()
    }

    async fn select(
        &self,
        fields: Vec<Field<'_>>,
        condition: Option<Condition<'_>>,
    ) -> Result<Vec<Selected>, CallError> {
        let select = ext::select(fields, condition);
        let mut found = Vec::new();
        for reply in self.ask_all(Call::new(Command::Select).ext(&select)).await? {
            found.extend(reply.selected()?);
        }
        Ok(found)
    }

    async fn ask(&self, gateway: SocketAddrV4, call: Call<'_>) -> Result<Reply, CallError> {
        self.flushed(gateway).await?;
        let value = self.shared.pool.ask(gateway, &call).await?;
        Ok(Reply { gateway, value })
    }

    async fn ask_about(&self, client: ClientId, call: Call<'_>) -> Result<Reply, CallError> {
        let outcome = self.ask(self.route(client), call).await;
        match self.other_way(client, outcome.as_ref().err()).await {
            Some(dispatcher) => self.ask(dispatcher, call).await,
            None => outcome,
        }
    }

    /// Asks every announced gateway at the same time; the answers in the order of the gateways' addresses.
    async fn ask_all(&self, call: Call<'_>) -> Result<Vec<Reply>, CallError> {
        let mut asking = JoinSet::new();
        for gateway in self.announced().await? {
            let (api, command, ext) = (self.clone(), call.command, call.ext.to_vec());
            asking.spawn(async move { api.ask(gateway, Call::new(command).ext(&ext)).await });
        }
        let replies: Result<Vec<Reply>, CallError> = asking.join_all().await.into_iter().collect();
        let mut replies = replies?;
        replies.sort_by_key(|reply| reply.gateway);
        Ok(replies)
    }
}

/// A value in a gateway's answer, and whose it is.
#[derive(Debug)]
struct Reply {
    gateway: SocketAddrV4,
    value: Value,
}

/// One client that a select found.
#[derive(Debug)]
struct Selected {
    id: ClientId,
    uid: Option<String>,
    groups: Vec<String>,
}

impl Reply {
    fn entries(self) -> Result<impl Iterator<Item = (Key, Self)>, CallError> {
        let gateway = self.gateway;
        let Value::Array(array) = self.value else { return Err(unexpected(gateway)) };
        Ok(array.into_iter().map(move |(key, value)| (key, Self { gateway, value })))
    }

    fn count(self) -> Result<u64, CallError> {
        let Value::Int(count) = self.value else { return Err(unexpected(self.gateway)) };
        u64::try_from(count).map_err(|_| unexpected(self.gateway))
    }

    /// A list of connection numbers.
    fn clients(self) -> Result<Vec<ClientId>, CallError> {
        let gateway = self.gateway;
        self.entries()?
            .map(|(_, connection)| match connection.value {
                Value::Int(int) => client_id(gateway, &Key::Int(int)),
                Value::Null
                | Value::Bool(_)
                | Value::Double(_)
                | Value::Str(_)
                | Value::Array(_) => Err(unexpected(gateway)),
            })
            .collect()
    }

    /// A uid or group: PHP holds those that spell an integer as integers.
    fn text(self) -> Result<String, CallError> {
        match self.value {
            Value::Int(int) => Ok(int.to_string()),
            Value::Str(bytes) => Ok(lossy(bytes)),
            Value::Null | Value::Bool(_) | Value::Double(_) | Value::Array(_) => {
                Err(unexpected(self.gateway))
            }
        }
    }

    /// The session in a list of sessions: a string that holds `serialize` output; empty, or null, is no session yet.
    fn session(self) -> Result<Array, CallError> {
        let bytes = match self.value {
            Value::Str(bytes) => bytes,
            Value::Null => return Ok(Array::new()),
            Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Array(_) => {
                return Err(unexpected(self.gateway));
            }
        };
        if bytes.is_empty() {
            return Ok(Array::new());
        }
        match unserialize(&bytes, &Limits::default()) {
            Ok(Value::Array(session)) => Ok(session),
            Ok(_) => Err(unexpected(self.gateway)),
            Err(error) => {
                Err(CallError::Gateway { gateway: self.gateway, fault: GatewayFault::Reply(error) })
            }
        }
    }

    /// What a select found: connection ⇒ field ⇒ value.
    fn selected(self) -> Result<Vec<Selected>, CallError> {
        let gateway = self.gateway;
        let mut found = Vec::new();
        for (connection, fields) in self.entries()? {
            let mut client =
                Selected { id: client_id(gateway, &connection)?, uid: None, groups: Vec::new() };
            for (field, reply) in fields.entries()? {
                if reply.value == Value::Null {
                    continue;
                }
                if field == Key::from("uid") {
                    client.uid = Some(reply.text()?);
                } else if field == Key::from("groups") {
                    client.groups = reply
                        .entries()?
                        .map(|(_, group)| group.text())
                        .collect::<Result<_, _>>()?;
                }
            }
            found.push(client);
        }
        Ok(found)
    }
}

fn client_id(gateway: SocketAddrV4, connection: &Key) -> Result<ClientId, CallError> {
    let Key::Int(int) = connection else { return Err(unexpected(gateway)) };
    let connection_id = u32::try_from(*int).map_err(|_| unexpected(gateway))?;
    Ok(ClientId { local_ip: gateway.ip().to_bits(), local_port: gateway.port(), connection_id })
}

fn text(key: &Key) -> String {
    match key {
        Key::Int(int) => int.to_string(),
        Key::Str(bytes) => lossy(bytes.clone()),
    }
}

/// Names from Rust are UTF-8; those that a PHP worker made of other bytes are shown as well as can be.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn lengths<T>(groups: BTreeMap<String, BTreeSet<T>>) -> BTreeMap<String, usize> {
    groups.into_iter().map(|(group, members)| (group, members.len())).collect()
}

fn unexpected(gateway: SocketAddrV4) -> CallError {
    CallError::Gateway { gateway, fault: GatewayFault::UnexpectedReply }
}
