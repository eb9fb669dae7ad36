//! Calls without an answer: messages, closing, uids, groups, sessions.

use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::header::Command;
use tengate_proto::wire::php::{Array, Value, serialize};
use tengate_proto::worker::{Body, Call};

use super::{Gateway, ext};
use crate::error::CallError;
use crate::names::{Name, Names, Payload};

impl Gateway {
    /// Sends to every client.
    ///
    /// # Errors
    /// No gateway is known, or one failed; the others still got it.
    pub async fn send_to_all(&self, payload: impl Into<Payload<'_>>) -> Result<(), CallError> {
        let payload = payload.into();
        self.send_everywhere(&Call::new(Command::SendToAll).body(payload.body())).await
    }

    /// Sends to every client but `exclude`.
    ///
    /// # Errors
    /// As [`send_to_all`](Self::send_to_all).
    pub async fn send_to_all_except(
        &self,
        exclude: &[ClientId],
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let payload = payload.into();
        let mut outcome = Ok(());
        for gateway in self.reachable().await? {
            let ext = ext::all_but(self.perhaps_at(gateway, exclude));
            let call = Call::new(Command::SendToAll).ext(&ext).body(payload.body());
            outcome = outcome.and(self.send(gateway, &call).await);
        }
        outcome
    }

    /// Sends to each of `clients`, with one frame a gateway. An empty list is nobody.
    ///
    /// # Errors
    /// A gateway failed; the others still got it.
    pub async fn send_to_clients(
        &self,
        clients: &[ClientId],
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let payload = payload.into();
        let mut outcome = Ok(());
        for clients in self.by_route(clients).into_values() {
            let ext = ext::only(clients.iter().map(|client| client.connection_id).collect());
            let call = Call::new(Command::SendToAll).ext(&ext).body(payload.body());
            outcome = outcome.and(self.send_for(clients[0], &call).await);
        }
        outcome
    }

    /// Sends to one client. Whether it is still there is not known here.
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn send_to_client(
        &self,
        client: ClientId,
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let payload = payload.into();
        self.send_to(client, Call::new(Command::SendToOne).body(payload.body())).await
    }

    /// Sends to every client of one uid or several.
    ///
    /// # Errors
    /// As [`send_to_all`](Self::send_to_all).
    pub async fn send_to_uid(
        &self,
        uids: impl Into<Names>,
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let (uids, payload) = (ext::names(&uids.into()), payload.into());
        self.send_everywhere(&Call::new(Command::SendToUid).ext(&uids).body(payload.body())).await
    }

    /// Sends to every member of one group or several. A member of two named groups gets it twice.
    ///
    /// # Errors
    /// No group is named; or as [`send_to_all`](Self::send_to_all).
    pub async fn send_to_group(
        &self,
        groups: impl Into<Names>,
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        self.send_to_group_except(groups, &[], payload).await
    }

    /// Sends to every member of one group or several, but not to `exclude`.
    ///
    /// # Errors
    /// As [`send_to_group`](Self::send_to_group).
    pub async fn send_to_group_except(
        &self,
        groups: impl Into<Names>,
        exclude: &[ClientId],
        payload: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let (groups, payload) = (checked_groups(groups)?, payload.into());
        let mut outcome = Ok(());
        for gateway in self.reachable().await? {
            let ext = ext::groups(&groups, self.perhaps_at(gateway, exclude));
            let call = Call::new(Command::SendToGroup).ext(&ext).body(payload.body());
            outcome = outcome.and(self.send(gateway, &call).await);
        }
        outcome
    }

    /// Closes a client after what was sent to it before.
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn close_client(&self, client: ClientId) -> Result<(), CallError> {
        self.send_to(client, Call::new(Command::Kick).body(Body::Null)).await
    }

    /// Sends a client a last message and closes it.
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn close_client_with(
        &self,
        client: ClientId,
        last: impl Into<Payload<'_>>,
    ) -> Result<(), CallError> {
        let last = last.into();
        self.send_to(client, Call::new(Command::Kick).body(last.body())).await
    }

    /// Closes a client at once; what was sent to it before may be lost.
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn destroy_client(&self, client: ClientId) -> Result<(), CallError> {
        self.send_to(client, Call::new(Command::Destroy)).await
    }

    /// Binds a client to a uid. A client has one uid at most; a uid may have many clients.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn bind_uid(&self, client: ClientId, uid: impl Into<Name>) -> Result<(), CallError> {
        self.send_name(Command::BindUid, client, uid.into()).await
    }

    /// Takes a client's uid away, whichever it is: the gateway does not look at `uid`.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn unbind_uid(
        &self,
        client: ClientId,
        uid: impl Into<Name>,
    ) -> Result<(), CallError> {
        self.send_name(Command::UnbindUid, client, uid.into()).await
    }

    /// Puts a client into a group, besides those it is in. It leaves them all when it goes.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn join_group(
        &self,
        client: ClientId,
        group: impl Into<Name>,
    ) -> Result<(), CallError> {
        self.send_name(Command::JoinGroup, client, group.into()).await
    }

    /// Takes a client out of a group.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn leave_group(
        &self,
        client: ClientId,
        group: impl Into<Name>,
    ) -> Result<(), CallError> {
        self.send_name(Command::LeaveGroup, client, group.into()).await
    }

    /// Takes everybody out of a group, on every gateway.
    ///
    /// # Errors
    /// The group has no name; or as [`send_to_all`](Self::send_to_all).
    pub async fn ungroup(&self, group: impl Into<Name>) -> Result<(), CallError> {
        let group = group.into();
        checked_groups(&group)?;
        self.send_everywhere(&Call::new(Command::Ungroup).ext(group.0.as_bytes())).await
    }

    /// Replaces a client's session. A handler that runs for this very client changes
    /// [`Context::session_mut`](crate::Context::session_mut) instead.
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn set_session(&self, client: ClientId, session: Array) -> Result<(), CallError> {
        self.set_session_bytes(client, &serialized(session)).await
    }

    /// Merges into a client's session: entries replace those of the same key, arrays in arrays are merged likewise
    /// (PHP's `array_replace_recursive`).
    ///
    /// # Errors
    /// The client's gateway failed.
    pub async fn update_session(&self, client: ClientId, changes: Array) -> Result<(), CallError> {
        let changes = serialized(changes);
        self.send_to(client, Call::new(Command::UpdateSession).ext(&changes)).await
    }

    pub(crate) async fn set_session_bytes(
        &self,
        client: ClientId,
        session: &[u8],
    ) -> Result<(), CallError> {
        self.send_to(client, Call::new(Command::SetSession).ext(session)).await
    }

    async fn send_name(
        &self,
        command: Command,
        client: ClientId,
        name: Name,
    ) -> Result<(), CallError> {
        self.send_to(client, Call::new(command).ext(name.0.as_bytes())).await
    }
}

/// Groups of a call that makes no sense without any.
pub(super) fn checked_groups(groups: impl Into<Names>) -> Result<Names, CallError> {
    let groups = groups.into();
    let named = !groups.0.is_empty() && groups.0.iter().all(|group| !group.0.is_empty());
    if named { Ok(groups) } else { Err(CallError::NoGroup) }
}

fn serialized(session: Array) -> Vec<u8> {
    let mut bytes = Vec::new();
    serialize(&Value::Array(session), &mut bytes);
    bytes
}
