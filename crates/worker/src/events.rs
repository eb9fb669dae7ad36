//! What business code implements, and what it is given.

use core::error::Error;
use core::future::Future;
use core::net::{SocketAddr, SocketAddrV4};

use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::php::{Array, Key, Value};

use crate::error::CallError;
use crate::gateway::Gateway;
use crate::names::Payload;
use crate::session::Session;

/// What an event handler answers. An error is logged with the client it concerns; the client stays.
pub type EventResult = Result<(), Box<dyn Error + Send + Sync>>;

/// Business code: what to do about the events of clients.
///
/// One value serves every link and every worker of a [`BusinessWorker`](crate::BusinessWorker). Events of one client come
/// in order, one at a time; events of one link, too, unless [`tasks_per_link`](crate::Builder::tasks_per_link) says otherwise.
/// A handler that panics has failed, no more: the panic is logged like an error, and what it did to the session is not stored.
pub trait Events: Send + Sync + 'static {
    /// The worker starts; it has no links yet.
    fn on_worker_start(&self, worker: &Worker) -> impl Future<Output = EventResult> + Send {
        let _ = worker;
        async { Ok(()) }
    }

    /// A client connected; for websocket clients before the handshake.
    fn on_connect(&self, ctx: &mut Context) -> impl Future<Output = EventResult> + Send {
        let _ = ctx;
        async { Ok(()) }
    }

    /// A client's websocket handshake was read; it has not been answered yet.
    fn on_websocket_connect(
        &self,
        ctx: &mut Context,
        request: &WebsocketRequest,
    ) -> impl Future<Output = EventResult> + Send {
        let _ = (ctx, request);
        async { Ok(()) }
    }

    /// A client sent a whole message.
    fn on_message(
        &self,
        ctx: &mut Context,
        message: &[u8],
    ) -> impl Future<Output = EventResult> + Send;

    /// A client is gone. Its uid and groups are, too; the session is as it was, and changes to it go nowhere.
    fn on_close(&self, ctx: &mut Context) -> impl Future<Output = EventResult> + Send {
        let _ = ctx;
        async { Ok(()) }
    }

    /// The worker stops. It takes no more events, and its links are still there for calls.
    fn on_worker_stop(&self, worker: &Worker) -> impl Future<Output = EventResult> + Send {
        let _ = worker;
        async { Ok(()) }
    }
}

/// One worker of the cluster, as gateways see it.
#[derive(Clone, Debug)]
pub struct Worker {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) gateway: Gateway,
}

/// An event's client and everything around it.
#[derive(Debug)]
pub struct Context {
    pub(crate) client_id: ClientId,
    pub(crate) client_addr: SocketAddr,
    pub(crate) gateway_port: u16,
    pub(crate) gateway: Gateway,
    pub(crate) session: Session,
}

/// A websocket handshake, as PHP's `onWebSocketConnect` gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct WebsocketRequest {
    pub(crate) parts: Array,
}

impl Worker {
    /// The name all workers of this kind share.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number among the workers of this name, from 0.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Calls to the cluster.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }
}

impl Context {
    /// The client.
    pub fn client_id(&self) -> ClientId {
        self.client_id
    }

    /// The client's address as its gateway sees it (PHP's `REMOTE_ADDR` and `REMOTE_PORT`). The IPv6 address of a client that
    /// has no other comes from tengate's roles only; PHP's gateways say 0.0.0.0 for it.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// The inner address of the client's gateway (its ip is PHP's `GATEWAY_ADDR`).
    pub fn gateway_addr(&self) -> SocketAddrV4 {
        self.client_id.gateway()
    }

    /// The port the client connected to (PHP's `GATEWAY_PORT`).
    pub fn gateway_port(&self) -> u16 {
        self.gateway_port
    }

    /// Calls to the cluster.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The client's session (PHP's `$_SESSION`); empty when nothing was ever stored. What other calls or workers store
    /// while the handler runs is not seen.
    pub fn session(&self) -> &Array {
        self.session.array()
    }

    /// The client's session, to be changed. If it differs after the handler, it is stored as a whole.
    pub fn session_mut(&mut self) -> &mut Array {
        self.session.array_mut()
    }

    /// Forgets the client's session (PHP's `$_SESSION = null`).
    pub fn clear_session(&mut self) {
        self.session.clear();
    }

    /// Sends to the client (PHP's `sendToCurrentClient`).
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn send(&self, payload: impl Into<Payload<'_>>) -> Result<(), CallError> {
        self.gateway.send_to_client(self.client_id, payload).await
    }

    /// Closes the client after what was sent to it before (PHP's `closeCurrentClient`).
    ///
    /// # Errors
    /// Its gateway failed.
    pub async fn close(&self) -> Result<(), CallError> {
        self.gateway.close_client(self.client_id).await
    }
}

impl WebsocketRequest {
    /// A parameter of the query string (PHP's `$data['get']`).
    pub fn query(&self, name: &str) -> Option<&Value> {
        self.part("get", name)
    }

    /// A cookie (PHP's `$data['cookie']`).
    pub fn cookie(&self, name: &str) -> Option<&Value> {
        self.part("cookie", name)
    }

    /// An entry of `$data['server']`: `REQUEST_URI`, `REMOTE_ADDR` and the like, and each header as `HTTP_` and its name
    /// in capitals with underscores.
    pub fn server(&self, name: &str) -> Option<&Value> {
        self.part("server", name)
    }

    /// All of it: `get`, `server` and `cookie`.
    pub fn parts(&self) -> &Array {
        &self.parts
    }

    fn part(&self, part: &str, name: &str) -> Option<&Value> {
        let Some(Value::Array(entries)) = self.parts.get(&Key::from(part)) else { return None };
        entries.get(&Key::from(name))
    }
}
