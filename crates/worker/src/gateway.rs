//! The handle for calls to gateways: what Lib\Gateway.php and GatewayClient offer.

mod ext;
mod queries;
mod sends;

use core::net::SocketAddrV4;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tengate_proto::secret::SecretKey;
use tengate_proto::wire::client_id::ClientId;
use tengate_proto::worker::{Call, stand_in};
use tokio::time::{Instant, timeout};

use crate::error::{CallError, GatewayFault};
use crate::link::SendQueue;
use crate::query::{Pool, Timeouts};
use crate::register;

/// Calls to the cluster's gateways: sends, groups, uids, sessions and queries. Cheap to clone.
///
/// In a worker, sends go over its links and return at once; outside ([`Client`](crate::Client)) they return when the kernel
/// has them. Queries to all gateways run at the same time over connections of their own. Calls of one task to one gateway
/// happen in the order they are made. A query leaves after the sends before it, on its own connection; a gateway
/// handles one host's connections in the order their bytes came.
///
/// | PHP | here |
/// |---|---|
/// | `sendToAll($m)`, `($m, $ids)`, `($m, null, $not)` | [`send_to_all`](Self::send_to_all), [`send_to_clients`](Self::send_to_clients), [`send_to_all_except`](Self::send_to_all_except) |
/// | `sendToGroup($g, $m)`, `($g, $m, $not)` | [`send_to_group`](Self::send_to_group), [`send_to_group_except`](Self::send_to_group_except) |
/// | `$raw = true` | [`Payload::raw`](crate::Payload::raw) |
/// | `sendToCurrentClient`, `closeCurrentClient`, `$_SESSION` | on [`Context`](crate::Context) |
/// | `closeClient($id)`, `($id, $m)` | [`close_client`](Self::close_client), [`close_client_with`](Self::close_client_with) |
/// | `destoryClient` | [`destroy_client`](Self::destroy_client) |
/// | everything else | the same name in snake case |
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    route: Route,
    pool: Pool,
}

/// How gateways are found and reached.
#[derive(Debug)]
enum Route {
    /// A worker's own links.
    Linked(Arc<Links>),
    /// What a register said last.
    Asked(Box<Addresses>),
}

/// The gateways one worker knows.
#[derive(Debug, Default)]
pub(crate) struct Links {
    state: Mutex<LinksState>,
}

#[derive(Debug, Default)]
pub(crate) struct LinksState {
    /// Gateways the registers announce.
    pub(crate) announced: BTreeSet<SocketAddrV4>,
    /// Gateways somebody keeps a link to, with the queue of the link while there is one.
    pub(crate) kept: BTreeMap<SocketAddrV4, Option<Arc<SendQueue>>>,
    /// Those that said they were dispatchers when they were linked last.
    dispatchers: BTreeSet<SocketAddrV4>,
}

/// Which gateways there are, asked from a register at most once a second.
#[derive(Debug)]
struct Addresses {
    registers: Vec<String>,
    secret_key: SecretKey,
    timeouts: Timeouts,
    gateways: Asked,
    /// Those of a cluster that has no gateways without one. Asked only when a client's address does not answer.
    dispatchers: Asked,
}

/// The last answer, and when it came.
type Asked = tokio::sync::Mutex<Option<(Instant, BTreeSet<SocketAddrV4>)>>;

impl Gateway {
    pub(crate) fn linked(links: Arc<Links>, secret_key: SecretKey, timeouts: Timeouts) -> Self {
        let pool = Pool::new(secret_key, timeouts);
        Self { shared: Arc::new(Shared { route: Route::Linked(links), pool }) }
    }

    pub(crate) fn asked(registers: Vec<String>, secret_key: SecretKey, timeouts: Timeouts) -> Self {
        let pool = Pool::new(secret_key.clone(), timeouts);
        let (gateways, dispatchers) = Default::default();
        let addresses = Addresses { registers, secret_key, timeouts, gateways, dispatchers };
        let route = Route::Asked(Box::new(addresses));
        Self { shared: Arc::new(Shared { route, pool }) }
    }

    /// The gateways a query goes to: all that are announced.
    async fn announced(&self) -> Result<BTreeSet<SocketAddrV4>, CallError> {
        let announced = match &self.shared.route {
            Route::Linked(links) => links.state().announced.clone(),
            Route::Asked(addresses) => addresses.current().await?,
        };
        if announced.is_empty() { Err(CallError::NoGateway) } else { Ok(announced) }
    }

    /// The gateways a send goes to: those this worker is linked to, or all that are announced.
    async fn reachable(&self) -> Result<BTreeSet<SocketAddrV4>, CallError> {
        match &self.shared.route {
            Route::Linked(links) => Ok(links.state().linked().collect()),
            Route::Asked(_) => self.announced().await,
        }
    }

    /// Where a call for one client goes.
    fn route(&self, client: ClientId) -> SocketAddrV4 {
        match &self.shared.route {
            Route::Linked(links) => links.state().route(client),
            Route::Asked(_) => client.gateway(),
        }
    }

    /// Where else a call for one client goes that failed like this. Outside a worker, the address in a client_id may be that of
    /// a dispatcher that is gone.
    async fn other_way(&self, client: ClientId, error: Option<&CallError>) -> Option<SocketAddrV4> {
        let Route::Asked(addresses) = &self.shared.route else { return None };
        let Some(CallError::Gateway { fault, .. }) = error else { return None };
        if !matches!(fault, GatewayFault::Connect(_) | GatewayFault::ConnectTimedOut) {
            return None;
        }
        addresses.stand_in(client).await
    }

    /// Clients by where calls for them go.
    fn by_route(&self, clients: &[ClientId]) -> BTreeMap<SocketAddrV4, Vec<ClientId>> {
        let mut routes: BTreeMap<SocketAddrV4, Vec<ClientId>> = BTreeMap::new();
        for client in clients {
            routes.entry(self.route(*client)).or_default().push(*client);
        }
        routes
    }

    /// Which of these clients a gateway may hold, so that it must be told to leave them out.
    fn perhaps_at(&self, gateway: SocketAddrV4, clients: &[ClientId]) -> Vec<u32> {
        let at_gateway = |client: &&ClientId| match &self.shared.route {
            Route::Linked(links) => links.state().is_perhaps_at(gateway, **client),
            Route::Asked(_) => client.gateway() == gateway,
        };
        clients.iter().filter(at_gateway).map(|client| client.connection_id).collect()
    }

    /// Whether a question about a client is worth asking: a worker only asks gateways it is linked to.
    fn can_ask(&self, client: ClientId) -> bool {
        match &self.shared.route {
            Route::Linked(links) => {
                let state = links.state();
                state.queue(state.route(client)).is_some()
            }
            Route::Asked(_) => true,
        }
    }

    async fn send(&self, gateway: SocketAddrV4, call: &Call<'_>) -> Result<(), CallError> {
        match &self.shared.route {
            Route::Linked(links) => {
                let queue = links.state().queue(gateway);
                let sent = queue.map_or(Err(GatewayFault::NotLinked), |queue| queue.send(call));
                sent.map_err(|fault| CallError::Gateway { gateway, fault })
            }
            Route::Asked(_) => self.shared.pool.tell(gateway, call).await,
        }
    }

    /// Waits until a gateway's kernel has what this worker sent it before. A question goes over another connection, and
    /// must not overtake the sends that it is about.
    async fn flushed(&self, gateway: SocketAddrV4) -> Result<(), CallError> {
        let Route::Linked(links) = &self.shared.route else { return Ok(()) };
        let Some(queue) = links.state().queue(gateway) else { return Ok(()) };
        let late = |_| CallError::Gateway { gateway, fault: GatewayFault::ReplyTimedOut };
        timeout(self.shared.pool.reply_timeout(), queue.flushed()).await.map_err(late)
    }

    async fn send_to(&self, client: ClientId, call: Call<'_>) -> Result<(), CallError> {
        self.send_for(client, &call.to(client)).await
    }

    /// Sends to where this client is.
    async fn send_for(&self, client: ClientId, call: &Call<'_>) -> Result<(), CallError> {
        let outcome = self.send(self.route(client), call).await;
        match self.other_way(client, outcome.as_ref().err()).await {
            Some(dispatcher) => self.send(dispatcher, call).await,
            None => outcome,
        }
    }

    /// Sends to every gateway in reach, past those that fail; the first failure is the answer.
    async fn send_everywhere(&self, call: &Call<'_>) -> Result<(), CallError> {
        let mut outcome = Ok(());
        for gateway in self.reachable().await? {
            outcome = outcome.and(self.send(gateway, call).await);
        }
        outcome
    }
}

impl Links {
    pub(crate) fn state(&self) -> MutexGuard<'_, LinksState> {
        // Every change of the state is one assignment, so a panic cannot leave it half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinksState {
    /// There is a link; what it leads to is not known yet, or it is a gateway.
    pub(crate) fn handle_linked(&mut self, gateway: SocketAddrV4, queue: Arc<SendQueue>) {
        self.dispatchers.remove(&gateway);
        self.kept.insert(gateway, Some(queue));
    }

    /// The peer of a link said that it is a dispatcher.
    pub(crate) fn handle_dispatcher(&mut self, gateway: SocketAddrV4) {
        self.dispatchers.insert(gateway);
    }

    /// Where a call for one client goes: to the address in its client_id if that is linked, and else to a dispatcher, if
    /// it takes the client's connection_id for the same client.
    fn route(&self, client: ClientId) -> SocketAddrV4 {
        let own = client.gateway();
        if self.queue(own).is_some() || !self.is_dispatched(own) {
            return own;
        }
        let dispatchers = self.linked().filter(|gateway| self.dispatchers.contains(gateway));
        stand_in(client.connection_id, dispatchers).unwrap_or(own)
    }

    /// Whether a gateway, or the gateways behind a dispatcher, may hold a client. Every dispatcher may: a client_id keeps the
    /// address of the dispatcher it was made by, and its gateway may have moved to another since.
    fn is_perhaps_at(&self, gateway: SocketAddrV4, client: ClientId) -> bool {
        let own = client.gateway();
        own == gateway || self.dispatchers.contains(&gateway) && self.is_dispatched(own)
    }

    /// Whether connection_ids in client_ids with this address are those of the dispatched gateways, which have each number
    /// once. A gateway without a dispatcher numbers its clients as it likes, and a message must not reach somebody else:
    /// an address that was never linked counts only while there are dispatchers alone.
    fn is_dispatched(&self, own: SocketAddrV4) -> bool {
        self.dispatchers.contains(&own)
            || self.queue(own).is_none() && self.announced.is_subset(&self.dispatchers)
    }

    fn linked(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.kept.iter().filter(|(_, queue)| queue.is_some()).map(|(gateway, _)| *gateway)
    }

    fn queue(&self, gateway: SocketAddrV4) -> Option<Arc<SendQueue>> {
        self.kept.get(&gateway).cloned().flatten()
    }
}

impl Addresses {
    async fn current(&self) -> Result<BTreeSet<SocketAddrV4>, CallError> {
        let Self { registers, secret_key, timeouts, gateways, .. } = self;
        recent(gateways, register::ask(registers, secret_key, *timeouts)).await
    }

    /// The dispatcher that takes calls for a client whose own is gone. There is none when the registers cannot tell.
    async fn stand_in(&self, client: ClientId) -> Option<SocketAddrV4> {
        let Self { registers, secret_key, timeouts, dispatchers, .. } = self;
        let ask = register::ask_dispatchers(registers, secret_key, *timeouts);
        let dispatchers = recent(dispatchers, ask).await.ok()?;
        let others = dispatchers.into_iter().filter(|dispatcher| *dispatcher != client.gateway());
        stand_in(client.connection_id, others)
    }
}

/// The last answer if it is young, or a new one.
async fn recent(
    last: &Asked,
    ask: impl Future<Output = Result<BTreeSet<SocketAddrV4>, CallError>>,
) -> Result<BTreeSet<SocketAddrV4>, CallError> {
    // Held while asking, so that many callers at once cost one question.
    let mut last = last.lock().await;
    if let Some((asked_at, addresses)) = &*last
        && asked_at.elapsed() < ADDRESSES_AGE_MAX
        && !addresses.is_empty()
    {
        return Ok(addresses.clone());
    }
    let addresses = ask.await?;
    *last = Some((Instant::now(), addresses.clone()));
    Ok(addresses)
}

/// How long the list of gateways is used without asking again, as in GatewayClient.
const ADDRESSES_AGE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
