//! What a gateway is, without shards, buffers or wire: who is connected, bound and grouped, and who must get what.
//!
//! The model is told each command in the order the shards carried it out (see [`crate::watched`]); a command for several
//! shards reaches each of them when the batch that holds it does. So what it says is exact, not a range.

use std::collections::{BTreeMap, VecDeque};

use tengate_base::{Instant, ShardId};
use tengate_proto::gateway::Stats;

use crate::op::{Op, Session};
use crate::watched::{Call, What};

/// One gateway process, from its start to its end.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// Bits of a connection_id below the shard.
    number_bits: u32,
    /// The first shard's.
    first_proc_id: usize,
    /// Connected clients by connection_id.
    pub(crate) clients: BTreeMap<u32, Member>,
    /// connection_ids in the order of connecting.
    pub(crate) order: Vec<u32>,
    /// uid ⇒ clients, oldest binding first.
    pub(crate) uids: BTreeMap<&'static str, Vec<u32>>,
    /// group ⇒ members, oldest first.
    pub(crate) groups: BTreeMap<&'static str, Vec<u32>>,
    /// What clients were sent, also those that are gone.
    pub(crate) inboxes: BTreeMap<u32, Inbox>,
    /// Numbers of commands for other shards, of the turn that is not over: by sender, by receiver.
    leaving: Vec<Vec<Vec<u32>>>,
    /// The same, on the rings.
    crossing: Vec<Vec<VecDeque<Vec<u32>>>>,
}

/// A connected client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// When it connected.
    pub(crate) opened: Instant,
    /// When its last whole message came, or it connected.
    pub(crate) heard: Instant,
    /// The uid it is bound to.
    pub(crate) uid: Option<&'static str>,
    /// Its groups in the order of joining.
    pub(crate) groups: Vec<&'static str>,
    /// Whether it was in a group ever.
    pub(crate) had_group: bool,
    /// Its session.
    pub(crate) session: Session,
    /// A worker kicked it: it gets nothing more.
    pub(crate) closing: bool,
    /// It broke its protocol or said goodbye, so that the gateway may be closing it.
    pub(crate) leaving: bool,
}

/// What a client was sent, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox {
    /// The messages.
    pub(crate) expected: Vec<Expected>,
    /// How many of them came, or were skipped.
    pub(crate) cursor: usize,
    /// Messages that did not come, and can only have been dropped after they had waited.
    pub(crate) missed: u64,
    /// Why it ended, if the gateway ended it.
    pub(crate) ended: bool,
}

/// A message to a client.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Its text.
    pub(crate) token: String,
    /// It may be missing: the gateway counted a drop, or the client was leaving.
    pub(crate) maybe: bool,
    /// It may have been dropped after it had waited, to make room: the gateway counts each.
    pub(crate) replaced: bool,
}

/// Messages that one call must have sent.
#[derive(Debug, Default)]
struct Sent {
    sure: u64,
    maybe: u64,
    kicked: u64,
    /// Where they were noted: client, and position in its inbox.
    noted: Vec<(u32, usize)>,
}

/// A gateway's call, and where it happened.
#[derive(Debug)]
pub(crate) struct Applied<'a> {
    /// The shard that was called.
    pub(crate) shard: ShardId,
    /// The call.
    pub(crate) call: &'a Call,
    /// Every command there is, by number.
    pub(crate) ops: &'a [Op],
    /// Commands in the frames of the call.
    pub(crate) numbers: &'a [u32],
    /// When.
    pub(crate) now: Instant,
}

impl Model {
    /// A gateway without clients.
    pub(crate) fn new(shards: usize, number_bits: u8, first_proc_id: u16) -> Self {
        Self {
            number_bits: number_bits.into(),
            first_proc_id: first_proc_id.into(),
            clients: BTreeMap::new(),
            order: Vec::new(),
            uids: BTreeMap::new(),
            groups: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            leaving: vec![vec![Vec::new(); shards]; shards],
            crossing: vec![vec![VecDeque::new(); shards]; shards],
        }
    }

    /// The proc_id of a client's shard.
    pub(crate) fn proc_id_of(&self, id: u32) -> u16 {
        u16::try_from(id >> self.number_bits).expect("leases fit")
    }

    /// The shard of a client; beyond all shards if it is another gateway's.
    pub(crate) fn shard_of(&self, id: u32) -> usize {
        ((id >> self.number_bits) as usize).wrapping_sub(self.first_proc_id)
    }

    /// Takes in the clients of another gateway, for what is asked of both.
    pub(crate) fn add(&mut self, other: &Self) {
        self.clients.extend(other.clients.iter().map(|(id, member)| (*id, member.clone())));
        self.order.extend(&other.order);
        for (uid, ids) in &other.uids {
            self.uids.entry(uid).or_default().extend(ids);
        }
        for (group, ids) in &other.groups {
            self.groups.entry(group).or_default().extend(ids);
        }
        for id in other.inboxes.keys() {
            self.inboxes.insert(*id, Inbox::default());
        }
    }

    /// A shard's turn is over: what it appended for other shards is on its way.
    pub(crate) fn handle_sent(&mut self, from: ShardId, to: ShardId) {
        let (from, to) = (usize::from(from.0), usize::from(to.0));
        let batch = core::mem::take(&mut self.leaving[from][to]);
        self.crossing[from][to].push_back(batch);
    }

    /// Follows one call, and says what the gateway did wrong in it.
    ///
    /// # Errors
    /// A sentence for whoever looks for the defect.
    pub(crate) fn apply(&mut self, applied: &Applied<'_>) -> Result<(), String> {
        let shard = usize::from(applied.shard.0);
        let mut sent = Sent::default();
        // Before the receivers are computed, because clients that a call closes got nothing in it, or were told to go.
        match &applied.call.what {
            What::Opened(id, _) => {
                let now = applied.now;
                self.clients.insert(*id, Member { opened: now, heard: now, ..Member::default() });
                self.order.push(*id);
                self.inboxes.insert(*id, Inbox::default());
            }
            What::Frames(_) => {
                for number in applied.numbers {
                    self.dispatch(shard, *number, applied.ops, &mut sent);
                }
            }
            What::Batch(from) => {
                let batch = self.crossing[usize::from(from.0)][shard].pop_front();
                let batch = batch.ok_or("a batch came that no shard sent")?;
                for number in batch {
                    self.execute(shard, &applied.ops[number as usize], &mut sent);
                }
            }
            What::Bytes(id) => {
                if applied.call.after.client_messages > applied.call.before.client_messages
                    && let Some(member) = self.clients.get_mut(id)
                {
                    member.heard = applied.now;
                }
            }
            What::TurnedAway(_)
            | What::LinkOpened
            | What::Closed(_)
            | What::Timeout
            | What::Wish
            | What::Drained => {}
        }
        let dropped = check_counts(applied.call, &sent)?;
        for (id, at) in sent.noted.iter().filter(|_| dropped > 0) {
            self.inboxes.entry(*id).or_default().expected[*at].maybe = true;
        }
        if applied.call.after.drop_oldest > applied.call.before.drop_oldest {
            self.excuse_waiting(shard);
        }
        for id in &applied.call.gone {
            self.forget(*id);
        }
        if matches!(applied.call.what, What::Frames(_) | What::Batch(_)) {
            self.check_destroyed(shard, applied)?;
        }
        Ok(())
    }

    /// Messages that wait may be missing from now on. How many are, is compared with what the gateway counts.
    fn excuse_waiting(&mut self, shard: usize) {
        let (number_bits, first) = (self.number_bits, self.first_proc_id);
        let here = |id: &u32| (id >> number_bits) as usize == first + shard;
        for (_, inbox) in self.inboxes.iter_mut().filter(|(id, _)| here(id)) {
            for expected in &mut inbox.expected[inbox.cursor..] {
                expected.replaced |= !expected.maybe;
            }
        }
    }

    /// A frame was read by `shard`: for which shards is it?
    fn dispatch(&mut self, shard: usize, number: u32, ops: &[Op], sent: &mut Sent) {
        let op = &ops[number as usize];
        if matches!(op, Op::Ask(_) | Op::Hello) {
            return;
        }
        let shards = self.leaving.len();
        match op.client().map(|id| self.shard_of(id)) {
            Some(owner) if owner == shard => self.execute(shard, op, sent),
            Some(owner) if owner < shards => self.leaving[shard][owner].push(number),
            Some(_) => {}
            None => {
                for other in (0..shards).filter(|other| *other != shard) {
                    self.leaving[shard][other].push(number);
                }
                self.execute(shard, op, sent);
            }
        }
    }

    /// Carries a command out on the clients of one shard.
    fn execute(&mut self, shard: usize, op: &Op, sent: &mut Sent) {
        match op {
            Op::SendAll { .. } | Op::SendUid { .. } | Op::SendGroup { .. } | Op::Ungroup { .. } => {
                self.execute_for_many(shard, op, sent);
            }
            Op::Ask(_) | Op::Hello => {}
            Op::SendOne { .. }
            | Op::Kick { .. }
            | Op::Destroy { .. }
            | Op::SetSession { .. }
            | Op::UpdateSession { .. }
            | Op::Bind { .. }
            | Op::Unbind { .. }
            | Op::Join { .. }
            | Op::Leave { .. } => self.execute_for_one(op, sent),
        }
    }

    fn execute_for_many(&mut self, shard: usize, op: &Op, sent: &mut Sent) {
        let (receivers, token) = match op {
            Op::SendAll { only: Some(ids), token, .. } => (ids.clone(), token),
            Op::SendAll { only: None, except, token } => {
                (without(self.clients.keys().copied(), except), token)
            }
            Op::SendUid { uids, token } => {
                (uids.iter().flat_map(|uid| self.of_uid(uid)).collect(), token)
            }
            Op::SendGroup { groups, except, token } => {
                (without(groups.iter().flat_map(|group| self.of_group(group)), except), token)
            }
            Op::Ungroup { group } => {
                for id in self.of_group(group) {
                    if self.shard_of(id) == shard {
                        self.leave(id, group);
                    }
                }
                return;
            }
            Op::SendOne { .. }
            | Op::Kick { .. }
            | Op::Destroy { .. }
            | Op::SetSession { .. }
            | Op::UpdateSession { .. }
            | Op::Bind { .. }
            | Op::Unbind { .. }
            | Op::Join { .. }
            | Op::Leave { .. }
            | Op::Ask(_)
            | Op::Hello => return,
        };
        for id in receivers {
            if self.shard_of(id) == shard {
                self.send(id, token, sent);
            }
        }
    }

    fn execute_for_one(&mut self, op: &Op, sent: &mut Sent) {
        let id = op.client().unwrap_or(0);
        if !self.clients.contains_key(&id) {
            return;
        }
        let member = self.clients.get_mut(&id).expect("just found");
        match op {
            Op::SendOne { token, .. } => self.send(id, token, sent),
            Op::Kick { token, .. } => {
                if let Some(token) = token {
                    self.send(id, token, sent);
                }
                sent.kicked += 1;
                self.clients.get_mut(&id).expect("still there").closing = true;
            }
            Op::Destroy { .. } => {
                sent.kicked += 1;
                self.forget(id);
            }
            Op::SetSession { session, .. } => member.session.clone_from(session),
            Op::UpdateSession { session, .. } => merge(&mut member.session, session),
            Op::Bind { uid, .. } => {
                self.unbind(id);
                self.uids.entry(uid).or_default().push(id);
                self.clients.get_mut(&id).expect("still there").uid = Some(uid);
            }
            Op::Unbind { .. } => self.unbind(id),
            Op::Join { group, .. } => {
                member.had_group = true;
                if !member.groups.contains(group) {
                    member.groups.push(group);
                    self.groups.entry(group).or_default().push(id);
                }
            }
            Op::Leave { group, .. } => self.leave(id, group),
            Op::SendAll { .. }
            | Op::SendUid { .. }
            | Op::SendGroup { .. }
            | Op::Ungroup { .. }
            | Op::Ask(_)
            | Op::Hello => {}
        }
    }

    fn send(&mut self, id: u32, token: &str, sent: &mut Sent) {
        let Some(member) = self.clients.get(&id) else { return };
        if member.closing {
            return;
        }
        if member.leaving {
            sent.maybe += 1;
        } else {
            sent.sure += 1;
        }
        let maybe = member.leaving;
        let inbox = self.inboxes.entry(id).or_default();
        sent.noted.push((id, inbox.expected.len()));
        inbox.expected.push(Expected { token: token.into(), maybe, replaced: false });
    }

    fn of_uid(&self, uid: &str) -> Vec<u32> {
        self.uids.get(uid).cloned().unwrap_or_default()
    }

    fn of_group(&self, group: &str) -> Vec<u32> {
        self.groups.get(group).cloned().unwrap_or_default()
    }

    fn unbind(&mut self, id: u32) {
        let Some(uid) = self.clients.get_mut(&id).and_then(|member| member.uid.take()) else {
            return;
        };
        remove(&mut self.uids, uid, id);
    }

    fn leave(&mut self, id: u32, group: &'static str) {
        if let Some(member) = self.clients.get_mut(&id) {
            member.groups.retain(|name| *name != group);
            remove(&mut self.groups, group, id);
        }
    }

    /// A client is gone.
    fn forget(&mut self, id: u32) {
        self.unbind(id);
        if let Some(member) = self.clients.remove(&id) {
            for group in member.groups {
                remove(&mut self.groups, group, id);
            }
            self.order.retain(|other| *other != id);
        }
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.ended = true;
        }
    }

    /// What is destroyed must be gone, at once.
    fn check_destroyed(&self, shard: usize, applied: &Applied<'_>) -> Result<(), String> {
        let here = self.clients.keys().filter(|id| self.shard_of(**id) == shard).count() as u64;
        if here == applied.call.after.clients {
            return Ok(());
        }
        let there = applied.call.after.clients;
        Err(format!("shard {shard} has {there} clients, the model {here}"))
    }
}

/// Whether the counters of a call agree with what the model says it sent and closed. Returns the messages dropped.
fn check_counts(call: &Call, sent: &Sent) -> Result<u64, String> {
    if !matches!(call.what, What::Frames(_) | What::Batch(_)) {
        return Ok(0);
    }
    let by = |counter: fn(&Stats) -> u64| counter(&call.after) - counter(&call.before);
    let delivered = by(|stats| stats.deliveries);
    let dropped = by(|stats| stats.drop_slow_client + stats.drop_before_handshake);
    // A slow client that is closed in the middle of a fan-out gets nothing else of it.
    let slow_closed = by(|stats| stats.close_slow_client);
    let total = delivered + dropped + slow_closed;
    // Nor does one that nobody serves, if the batch that says so holds the command as well.
    let unserved = by(|stats| stats.close_no_worker + stats.close_slow_worker);
    let least = if slow_closed + unserved > 0 { 0 } else { sent.sure };
    if total < least || total > sent.sure + sent.maybe {
        return Err(format!(
            "sent {delivered} messages and dropped {dropped}, where {} to {} were due ({:?})",
            sent.sure,
            sent.sure + sent.maybe,
            call.what
        ));
    }
    let kicked = by(|stats| stats.close_by_worker);
    if kicked > sent.kicked {
        return Err(format!("closed {kicked} clients for workers that asked for {}", sent.kicked));
    }
    Ok(dropped)
}

fn without(ids: impl Iterator<Item = u32>, except: &[u32]) -> Vec<u32> {
    ids.filter(|id| !except.contains(id)).collect()
}

fn remove(names: &mut BTreeMap<&'static str, Vec<u32>>, name: &'static str, id: u32) {
    if let Some(ids) = names.get_mut(name) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            names.remove(name);
        }
    }
}

/// PHP's `array_replace_recursive` of flat arrays; a session that was never set is replaced.
fn merge(session: &mut Session, update: &Session) {
    let Some(base) = session else { return session.clone_from(update) };
    for (key, value) in update.iter().flatten() {
        match base.iter_mut().find(|(other, _)| other == key) {
            Some((_, old)) => *old = *value,
            None => base.push((key, *value)),
        }
    }
}
