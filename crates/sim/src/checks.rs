//! What must hold: in every call of a gateway, at rest, and when everybody has left.

use core::time::Duration;
use std::collections::BTreeMap;

use tengate_base::{CloseCause, Instant, ShardId};
use tengate_proto::gateway::{SlowClient, SlowWorker, Stats};

use crate::client::{CLOSED, FIRST_MESSAGE, Phase, Told};
use crate::model::Applied;
use crate::network::{Owner, Server};
use crate::process::Running;
use crate::watched::{Call, What};
use crate::world::{Life, World};

/// Time in which questions are answered.
pub(crate) const ASKING: Duration = Duration::from_millis(500);
/// Time in which an event reaches a worker.
const NEWS: Duration = Duration::from_millis(50);
/// Bytes that fit between a gateway and a peer when nothing is meant to be slow any more.
pub(crate) const CALM_WINDOW: usize = 1 << 20;

impl World {
    /// A gateway did something: follows it in the model, and checks whether it had a reason for whom it closed.
    pub(crate) fn judge(&mut self, server: Server, shard: ShardId, call: &Call) {
        self.note(|_| format!("gateway {} shard {shard}: {}", server.index, told_in_short(call)));
        let now = self.now;
        self.totals.rerouted += call.after.rerouted - call.before.rerouted;
        let Some(life) = &mut self.gateways[server.index].life else { return };
        let at = usize::from(shard.0);
        if !call.gone.is_empty() {
            self.last_end = now;
        }
        if call.workers > 0 {
            life.served[at] = now;
        }
        let mut numbers = Vec::new();
        if let What::Frames(bytes) = &call.what {
            numbers = self.command_numbers(server, bytes);
        }
        let verdict = self.check_causes(server, shard, call);
        if call.after.close_no_worker > call.before.close_no_worker {
            self.excuse_opening(server);
        }
        let Some(life) = &mut self.gateways[server.index].life else { return };
        let (ops, numbers) = (&self.ops, &numbers[..]);
        let followed = life.model.apply(&Applied { shard, call, ops, numbers, now });
        for problem in [verdict, followed].into_iter().filter_map(Result::err) {
            self.fail(format!("gateway {} shard {shard}: {problem}", server.index));
        }
    }

    /// Clients without a handshake may be on their way out, with an answer in HTTP, for want of a worker.
    fn excuse_opening(&mut self, server: Server) {
        let Some(life) = &mut self.gateways[server.index].life else { return };
        for client in &self.clients {
            if client.server == server
                && client.phase == Phase::Opening
                && let Some(member) = client.id.and_then(|id| life.model.clients.get_mut(&id))
            {
                member.leaving = true;
            }
        }
    }

    /// Whether every client that was closed in this call was closed for a cause the model knows.
    fn check_causes(&self, server: Server, shard: ShardId, call: &Call) -> Result<(), String> {
        let gate = &self.gateways[server.index];
        let Some(life) = &gate.life else { return Ok(()) };
        let by = |counter: fn(&Stats) -> u64| counter(&call.after) - counter(&call.before);
        let explained = by(|stats| {
            stats.close_by_worker
                + stats.close_heartbeat
                + stats.close_handshake_timeout
                + stats.refused_handshake
                + stats.close_protocol
                + stats.close_linger
                + stats.close_no_worker
                + stats.close_slow_worker
                + stats.close_slow_client
                + stats.closed_by_client
        });
        let is_end = matches!(call.what, What::Closed(CloseCause::Flushed));
        if call.gone.len() as u64 > explained.max(u64::from(is_end)) {
            return Err(format!("closed {:?} without a cause", call.gone));
        }
        let listeners = &gate.config.listeners;
        if by(|stats| stats.close_slow_client) > 0
            && listeners.iter().all(|listener| listener.slow_client != SlowClient::Close)
        {
            return Err("closed a slow client against its configuration".into());
        }
        if by(|stats| stats.drop_oldest) > 0
            && listeners.iter().all(|listener| listener.slow_client != SlowClient::DropOldest)
        {
            return Err("dropped messages that waited against its configuration".into());
        }
        if by(|stats| stats.close_slow_worker) > 0 && gate.config.slow_worker != SlowWorker::Close {
            return Err("closed a slow worker's client against its configuration".into());
        }
        if by(|stats| stats.drop_slow_worker) > 0 && gate.config.slow_worker != SlowWorker::Drop {
            return Err("dropped an event for a slow worker against its configuration".into());
        }
        if by(|stats| stats.close_no_worker) > 0 {
            let grace = gate.config.no_worker_grace;
            check_grace(grace, life, shard, call, self.now, !self.dispatchers.is_empty())?;
        }
        self.check_breaks(server, life, call)?;
        call.gone.iter().try_for_each(|id| self.check_patience(server, life, call, *id))
    }

    /// Only clients that broke their protocol, or said goodbye, are closed for it.
    fn check_breaks(&self, server: Server, life: &Life, call: &Call) -> Result<(), String> {
        let What::Bytes(id) = call.what else { return Ok(()) };
        let by = |counter: fn(&Stats) -> u64| counter(&call.after) - counter(&call.before);
        let broken =
            by(|stats| stats.refused_handshake + stats.close_protocol + stats.closed_by_client);
        let leaving = life.model.clients.get(&id).is_some_and(|member| member.leaving);
        // A cut may leave half a frame, but only of a connection whose end follows.
        let cut = self.by_id.get(&(server, id)).is_some_and(|index| self.clients[*index].cut);
        if broken > 0 && !leaving && !cut {
            return Err(format!("closed {id} for bytes that were in order"));
        }
        Ok(())
    }

    /// Clients are closed for silence only when they were silent for long enough.
    fn check_patience(
        &self,
        server: Server,
        life: &Life,
        call: &Call,
        id: u32,
    ) -> Result<(), String> {
        let by = |counter: fn(&Stats) -> u64| counter(&call.after) - counter(&call.before);
        let gone = call.gone.len() as u64;
        let Some(member) = life.model.clients.get(&id) else { return Ok(()) };
        let Some(index) = self.by_id.get(&(server, id)) else { return Ok(()) };
        let door = usize::from(!self.clients[*index].websocket);
        let listener = &self.gateways[server.index].config.listeners[door];
        if by(|stats| stats.close_heartbeat) == gone {
            let Some(heartbeat) = &listener.heartbeat else {
                return Err(format!("closed {id} for a heartbeat it does not have"));
            };
            let patience = heartbeat.tick() * 2 * u32::from(heartbeat.not_response_limit);
            if patience.is_zero() || self.now - member.heard < patience {
                return Err(format!("closed {id}, which spoke {:?} ago", self.now - member.heard));
            }
        }
        if by(|stats| stats.close_handshake_timeout) == gone
            && self.now - member.opened < listener.handshake_timeout
        {
            return Err(format!("closed {id}, which still had time for its handshake"));
        }
        if by(|stats| stats.close_linger) == gone && !member.closing && !member.leaving {
            return Err(format!("closed {id} as lingering, and nobody had closed it"));
        }
        Ok(())
    }

    /// Trouble ends; what is dead comes back; everything in flight lands. Then all must be as the model says.
    pub(crate) fn rest(&mut self) {
        self.calm = true;
        for conn in 0..self.conns.len() {
            self.resume(conn);
            self.widen(conn, CALM_WINDOW);
        }
        self.run_until(self.now + self.plan.rest);
        for target in 0..self.target_count() {
            self.ask_everything(target);
        }
        self.run_until(self.now + ASKING);
        if !self.dispatchers.is_empty() {
            let (asked, probes) = (self.now, self.send_probes());
            self.run_until(self.now + ASKING);
            // The heartbeat goes on at rest: who left just now may have held a name.
            if self.last_end + ASKING < asked {
                self.check_probes(&probes);
            }
        }
        self.let_news_arrive();
        self.check_all();
    }

    /// The heartbeat goes on at rest: who was closed just now is heard of a little later.
    fn let_news_arrive(&mut self) {
        while self.now - self.last_end < NEWS && !self.has_failed() {
            self.run_until(self.now + NEWS);
        }
    }

    /// Everybody leaves; then nothing may be left.
    pub(crate) fn say_goodbye(&mut self) {
        for client in 0..self.clients.len() {
            self.client_leaves(client);
        }
        self.run_until(self.now + self.plan.rest);
        self.let_news_arrive();
        self.check_all();
        for gateway in 0..self.gateways.len() {
            let problem = self.leftover(gateway).or_else(|| self.streams_leftover(gateway));
            if let Some(problem) = problem {
                self.fail(format!("gateway {gateway}, which everybody left: {problem}"));
            }
            self.totals.moves += self.moves(gateway);
        }
        if let Some(problem) = self.tier_leftover() {
            self.fail(format!("everybody left: {problem}"));
        }
    }

    fn check_all(&mut self) {
        if self.has_failed() {
            return;
        }
        let mut problems = Vec::new();
        for client in 0..self.clients.len() {
            problems.extend(self.check_told(client).err());
            problems.extend(self.check_inbox(client).err());
            problems.extend(self.check_admitted(client).err());
        }
        for gateway in 0..self.gateways.len() {
            problems.extend(self.check_gateway(gateway).err());
        }
        problems.extend(self.check_tier().err());
        if let Some(problem) = problems.into_iter().next() {
            self.fail(problem);
        }
    }

    /// A client's events reached one worker after the other, in order, all of them.
    fn check_told(&self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let mut told = client.told.clone();
        told.sort_by_key(|told| told.event);
        let at_workers: Vec<Told> =
            told.iter().filter(|it| self.is_worker_link(it.link)).copied().collect();
        if let Some(twice) = interleaved(&at_workers)
            && !self.may_go_back(index)
        {
            return Err(format!("events of client {index} went back to link {twice}: {told:?}"));
        }
        let (lost, dropped) = self.left_behind(index);
        told.extend(lost);
        if told.iter().any(|told| told.lost) && !self.plan.faults.iter().any(|fault| fault.loses())
        {
            return Err(format!("client {index} lost events although no link was cut: {told:?}"));
        }
        told.extend(dropped);
        told.sort_by_key(|told| told.event);
        let gate = &self.gateways[client.server.index];
        if gate.server != client.server {
            return Ok(());
        }
        let Some(life) = &gate.life else { return Ok(()) };
        let total = totals(life);
        let drops = total.drop_slow_worker + total.drop_no_worker + total.close_slow_worker;
        let is_here = client.id.is_some_and(|id| life.model.clients.contains_key(&id));
        if drops > 0 || client.id.is_none() {
            return Ok(());
        }
        let messages = told
            .iter()
            .filter(|told| (FIRST_MESSAGE..CLOSED).contains(&told.event))
            .map(|told| told.event - FIRST_MESSAGE);
        let messages: Vec<u32> = messages.collect();
        let gapless = messages.iter().zip(0..).all(|(number, due)| *number == due);
        let complete = client.cut || !is_here || messages.len() == client.sent as usize;
        let has = |event| told.iter().any(|told| told.event == event);
        if !gapless || !complete || !has(0) || has(CLOSED) == is_here {
            let sent = client.sent;
            return Err(format!(
                "client {index} sent {sent}, connected {is_here}, events {told:?}"
            ));
        }
        Ok(())
    }

    /// A client that is connected has got everything it was sent.
    fn check_inbox(&self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let gate = &self.gateways[client.server.index];
        let Some(life) = gate.life.as_ref().filter(|_| gate.server == client.server) else {
            return Ok(());
        };
        let Some(inbox) = client.id.and_then(|id| life.model.inboxes.get(&id)) else {
            return Ok(());
        };
        let mut rest = inbox.expected[inbox.cursor..].iter();
        // The newest message always takes the place of older ones.
        let missing = rest.find(|expected| !expected.maybe && !expected.replaced);
        if let Some(missing) = missing
            && client.phase == Phase::Open
            && !client.cut
            && !inbox.ended
        {
            return Err(format!("client {index} never got {}", missing.token));
        }
        let known = !inbox.ended;
        let open = self.conns[client.conn].server_open;
        if known != open {
            return Err(format!("client {index}: the model has it {known}, the shell {open}"));
        }
        Ok(())
    }

    /// A gateway's counters and tables agree with the model and with the network.
    fn check_gateway(&mut self, gateway: usize) -> Result<(), String> {
        let server = self.gateways[gateway].server;
        let Some(life) = &self.gateways[gateway].life else {
            return Err(format!("gateway {gateway} did not start again"));
        };
        let total = totals(life);
        let links = self
            .conns
            .iter()
            .filter(|conn| conn.server == server && conn.server_open)
            .filter(|conn| is_inner(&conn.owner))
            .count() as u64;
        let (uids, groups) = names(life);
        let expected = [life.model.clients.len() as u64, links, uids, groups];
        let given = [total.clients, total.links, total.uids, total.groups];
        if given != expected {
            return Err(format!(
                "gateway {gateway} counts clients, links, uids, groups {given:?}, not {expected:?}"
            ));
        }
        self.check_balance(gateway, &total)?;
        let missed: u64 = life.model.inboxes.values().map(|inbox| inbox.missed).sum();
        if missed > total.drop_oldest {
            let counted = total.drop_oldest;
            return Err(format!("gateway {gateway} lost {missed} waiting messages, not {counted}"));
        }
        let unanswered = self.outsides.iter().position(|outside| !outside.asked.is_empty());
        unanswered.map_or(Ok(()), |target| Err(format!("{target} left questions unanswered")))
    }

    /// Every event a gateway emitted reached a worker, was lost with a link, or was dropped and counted.
    fn check_balance(&self, gateway: usize, total: &Stats) -> Result<(), String> {
        let server = self.gateways[gateway].server;
        let told: usize = self
            .clients
            .iter()
            .filter(|client| client.server == server)
            .map(|client| match self.dispatchers.is_empty() {
                true => client.told.len(),
                false => client.taken.len(),
            })
            .sum();
        let turned_away = self.dispatchers.is_empty()
            && self.clients.iter().any(|client| client.server == server && client.turned_away);
        let dropped = total.drop_slow_worker + total.drop_no_worker + total.close_slow_worker;
        // Events of a client that was turned away before it had a name here cannot be told apart.
        // An event may come back from a dispatcher and be dropped then.
        let twice = total.events_returned.min(dropped);
        let least = told as u64 + dropped - twice;
        if !turned_away && !(least..=told as u64 + dropped).contains(&total.events) {
            return Err(format!(
                "gateway {gateway} emitted {} events, {told} came or were lost, {dropped} dropped",
                total.events
            ));
        }
        Ok(())
    }

    /// What a gateway still has although nobody is connected.
    fn leftover(&mut self, gateway: usize) -> Option<String> {
        let server = self.gateways[gateway].server;
        let loopback = self.gateways[gateway].config.lan_ip.is_loopback();
        let life = self.gateways[gateway].life.as_ref()?;
        let total = totals(life);
        let open = |wanted: fn(&Owner) -> bool| {
            let conns = self.conns.iter();
            let of = conns.filter(|conn| conn.server == server && conn.server_open);
            of.filter(|conn| wanted(&conn.owner)).count()
        };
        let links = open(|owner| matches!(owner, Owner::Worker(_) | Owner::Dispatcher(_)));
        let outsides = open(|owner| matches!(owner, Owner::Outside(_)));
        let conns: usize = life
            .process
            .shards()
            .into_iter()
            .map(|shard| life.process.shell.open_count(shard))
            .sum();
        let workers = life.process.shell.peek(ShardId(0)).gateway().workers().count();
        let (workers, identified) = match self.dispatchers.len() {
            0 => (workers, workers),
            // The home is the one worker there is.
            dispatchers => (workers, dispatchers),
        };
        // A link that fell silent before its greeting arrived is nobody's: with a key it has 10 s to show it.
        let nameless = links - identified.min(links);
        let pings = if loopback { 0 } else { identified };
        let waits = if self.plan.secret.is_empty() { 0 } else { nameless };
        let alive = match self.dispatchers.len() {
            0 => self.workers.iter().filter(|worker| worker.alive).count(),
            _ => 1,
        };
        let expected = [0, 0, 0, pings + waits, links + outsides, alive];
        let tables = [total.clients, total.uids, total.groups, total.timers];
        let tables = tables.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let given = [tables[0], tables[1], tables[2], tables[3], conns, workers];
        (given != expected).then(|| {
            format!(
                "clients, uids, groups, timers, connections, workers are {given:?}, not {expected:?}"
            )
        })
    }
}

/// Whether such a connection to a gateway is a link.
fn is_inner(owner: &Owner) -> bool {
    match owner {
        Owner::Worker(_) | Owner::Outside(_) | Owner::Dispatcher(_) => true,
        Owner::Client(_)
        | Owner::GatewayAtRegister(..)
        | Owner::WorkerAtRegister(..)
        | Owner::DispatcherAtRegister(..) => false,
    }
}

/// A call as the trace shows it.
fn told_in_short(call: &Call) -> String {
    let mut text = match &call.what {
        What::Frames(bytes) => format!("{} bytes of commands", bytes.len()),
        What::Opened(..)
        | What::TurnedAway(_)
        | What::LinkOpened
        | What::Bytes(_)
        | What::Closed(_)
        | What::Batch(_)
        | What::Timeout
        | What::Wish
        | What::Drained => format!("{:?}", call.what),
    };
    if !call.gone.is_empty() {
        text.push_str(&format!(", gone {:?}", call.gone));
    }
    text
}

fn check_grace(
    grace: Duration,
    life: &Life,
    shard: ShardId,
    call: &Call,
    now: Instant,
    is_dispatched: bool,
) -> Result<(), String> {
    let served = life.served[usize::from(shard.0)];
    // In one batch the last worker may go and another one come. While a home gives events back there is one, and no room.
    if call.workers > 0 && !matches!(call.what, What::Batch(_)) && !is_dispatched {
        return Err("closed a client for want of a worker, and has one".into());
    }
    if matches!(call.what, What::Timeout) && now - served < grace {
        return Err(format!("gave up waiting for a worker after {:?}", now - served));
    }
    Ok(())
}

/// The sum over a gateway's shards.
fn totals(life: &Life) -> Stats {
    let mut total = Stats::default();
    for shard in life.process.shards() {
        let stats = life.process.shell.peek(shard).gateway().stats();
        total.clients += stats.clients;
        total.links += stats.links;
        total.uids += stats.uids;
        total.groups += stats.groups;
        total.timers += stats.timers;
        total.events += stats.events;
        total.events_returned += stats.events_returned;
        total.drop_oldest += stats.drop_oldest;
        total.drop_slow_worker += stats.drop_slow_worker;
        total.drop_no_worker += stats.drop_no_worker;
        total.close_slow_worker += stats.close_slow_worker;
    }
    total
}

/// How many uids and groups the shards have, each counting its own.
fn names(life: &Life) -> (u64, u64) {
    let count = |names: &BTreeMap<&'static str, Vec<u32>>| {
        let of = |ids: &Vec<u32>| {
            let mut shards: Vec<usize> = ids.iter().map(|id| life.model.shard_of(*id)).collect();
            shards.sort_unstable();
            shards.dedup();
            shards.len() as u64
        };
        names.values().map(of).sum()
    };
    (count(&life.model.uids), count(&life.model.groups))
}

/// A link that got an event after another link had got one in between. `told` is in the order of events.
fn interleaved(told: &[Told]) -> Option<usize> {
    let mut left = Vec::new();
    for pair in told.windows(2) {
        if pair[0].link != pair[1].link {
            left.push(pair[0].link);
            if left.contains(&pair[1].link) {
                return Some(pair[1].link);
            }
        }
    }
    None
}
