//! From a worker's command to the gateways it concerns, each once (docs/dispatcher.md#commands).

use alloc::vec::Vec;

use tengate_base::{ConnId, Sink};

use super::Dispatcher;
use super::gateway_link::GatewayLink;
use crate::wire::ext::{self, Condition, Select, SendToAll, SendToGroup};
use crate::wire::extension::NameKind;
use crate::wire::header::{Command, InnerFrame};

impl Dispatcher {
    /// Carries a command to its gateways.
    pub(super) fn forward(
        &mut self,
        peer: ConnId,
        command: Command,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        if command == Command::Ping {
            // A worker's own keep-alive.
            return;
        }
        let mut targets = core::mem::take(&mut self.targets);
        targets.clear();
        let is_known = self.targets_of(command, frame, &mut targets);
        if !is_known {
            self.stats.command_ignored += 1;
        }
        for gateway in &targets {
            sink.buffer(*gateway).extend_from_slice(encoded);
            self.choke(peer, *gateway, sink);
        }
        self.stats.frames_to_gateways += targets.len() as u64;
        if command.is_for_one_client() {
            self.note_command(command, frame, targets.first().copied(), sink);
        } else if is_known {
            self.stats.frames_spared += self.homes().count().saturating_sub(targets.len()) as u64;
        }
        self.targets = targets;
    }

    /// What a command for one client changes here.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands change nothing here")]
    fn note_command(
        &mut self,
        command: Command,
        frame: &InnerFrame<'_>,
        gateway: Option<ConnId>,
        sink: &mut impl Sink,
    ) {
        let Some(gateway) = gateway else {
            self.stats.drop_unknown_gateway += 1;
            return;
        };
        let is_home = self.gateway(gateway).is_some_and(GatewayLink::is_home);
        self.stats.forwarded += u64::from(!is_home);
        let kind = match command {
            Command::BindUid => NameKind::Uid,
            Command::JoinGroup => NameKind::Group,
            _ => return,
        };
        if matches!(frame.ext, b"" | b"0") || !is_home {
            return;
        }
        let id = frame.header.connection_id;
        self.expect_name(gateway, self.proc_id(id), kind, frame.ext, sink);
        if kind == NameKind::Uid {
            self.rebind(id, frame.ext);
        }
    }

    /// Reads a peer no further while a gateway does not take what it sends.
    fn choke(&mut self, conn: ConnId, gateway: ConnId, sink: &mut impl Sink) {
        let limit = self.config.send_to_gateway_bytes_max;
        if sink.queued(gateway) < limit || sink.flush(gateway) < limit {
            return;
        }
        let Some(peer) = self.peer_mut(conn).filter(|peer| !peer.choked) else { return };
        peer.choked = true;
        sink.pause(conn);
        if let Some(link) = self.gateway_mut(gateway) {
            link.choked.push(conn);
            sink.notify_below(gateway, limit / 2);
        }
    }

    /// Gateways whose home this is.
    pub(super) fn homes(&self) -> impl Iterator<Item = ConnId> {
        let is_home = |conn: &ConnId| self.gateway(*conn).is_some_and(GatewayLink::is_home);
        self.gateways.iter().copied().filter(is_home)
    }

    /// Collects the gateways a command or question concerns; false when it cannot be understood.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others concern no gateway")]
    pub(super) fn targets_of(
        &self,
        command: Command,
        frame: &InnerFrame<'_>,
        targets: &mut Vec<ConnId>,
    ) -> bool {
        if command.is_for_one_client() {
            targets.extend(self.gateway_of(frame.header.connection_id));
            return true;
        }
        match command {
            Command::SendToAll => match SendToAll::decode(frame.ext) {
                Ok(SendToAll::Only(ids)) => self.add_owners(&ids, targets),
                Ok(SendToAll::All | SendToAll::Except(_)) => targets.extend(self.homes()),
                Err(_) => return false,
            },
            Command::SendToUid | Command::BatchGetClientIdByUid => {
                let Ok(uids) = ext::decode_names(frame.ext) else { return false };
                uids.iter()
                    .for_each(|uid| self.add_holders(NameKind::Uid, uid.as_bytes(), targets));
            }
            Command::BatchGetClientCountByGroup => {
                let Ok(groups) = ext::decode_names(frame.ext) else { return false };
                for group in &groups {
                    self.add_holders(NameKind::Group, group.as_bytes(), targets);
                }
            }
            Command::SendToGroup => {
                let Ok(to) = SendToGroup::decode(frame.ext) else { return false };
                for group in &to.groups {
                    self.add_holders(NameKind::Group, group.as_bytes(), targets);
                }
            }
            Command::GetClientIdByUid => self.add_holders(NameKind::Uid, frame.ext, targets),
            Command::GetClientCountByGroup if frame.ext.is_empty() => targets.extend(self.homes()),
            Command::Ungroup
            | Command::GetClientSessionsByGroup
            | Command::GetClientCountByGroup => {
                self.add_holders(NameKind::Group, frame.ext, targets);
            }
            Command::Select => self.add_selected(frame.ext, targets),
            Command::GetAllClientSessions | Command::GetGroupIdList => {
                targets.extend(self.homes());
            }
            _ => return false,
        }
        true
    }

    /// Gateways that hold a name, or may: those that have not told all their names yet may hold any.
    fn add_holders(&self, kind: NameKind, name: &[u8], targets: &mut Vec<ConnId>) {
        for holder in self.index.holders(kind, name) {
            let proc = self.procs.get(&holder.proc_id).filter(|proc| proc.life == holder.life);
            add(proc.map(|proc| proc.gateway), targets);
        }
        for conn in self.homes() {
            let Some(gateway) = self.gateway(conn) else { continue };
            let unlisted = |proc_id: u16| self.procs.get(&proc_id).is_some_and(|proc| !proc.listed);
            if gateway.proc_ids().any(unlisted) {
                add(Some(conn), targets);
            }
        }
    }

    /// Gateways that have these clients, whoever is their home.
    fn add_owners(&self, ids: &[u32], targets: &mut Vec<ConnId>) {
        for id in ids {
            add(self.gateway_of(*id), targets);
        }
    }

    fn add_selected(&self, ext: &[u8], targets: &mut Vec<ConnId>) {
        let Ok(select) = Select::decode(ext) else { return };
        let Some(conditions) = select.conditions else { return targets.extend(self.homes()) };
        for condition in &conditions {
            match condition {
                Condition::ConnectionId(ids) => self.add_owners(ids, targets),
                Condition::Uid(uids) => {
                    for uid in uids {
                        self.add_holders(NameKind::Uid, uid.as_bytes(), targets);
                    }
                }
                Condition::Groups(groups) => {
                    for group in groups {
                        self.add_holders(NameKind::Group, group.as_bytes(), targets);
                    }
                }
            }
        }
    }
}

fn add(gateway: Option<ConnId>, targets: &mut Vec<ConnId>) {
    if let Some(gateway) = gateway
        && !targets.contains(&gateway)
    {
        targets.push(gateway);
    }
}
