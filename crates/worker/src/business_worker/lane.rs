//! Lanes: each handles the events of its clients in order, the session around every handler included.

use core::any::Any;
use core::future::{Future, pending, poll_fn};
use core::panic::AssertUnwindSafe;
use core::pin::pin;
use core::task::Poll;
use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::header::InnerFrame;
use tengate_proto::wire::php::{Array, Limits, Value, serialize, unserialize};
use tengate_proto::worker::{Event, EventKind, Fetched, Receipt, SessionSource, SessionVersions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use super::{Shared, pass_on_panic};
use crate::events::{Context, EventResult, Events, WebsocketRequest};
use crate::link::SendQueue;
use crate::session::Session;

/// How the events of one link are handled.
#[derive(Debug)]
pub(super) enum Lanes<E> {
    /// Where they are read: the link waits for each handler.
    Here(Lane<E>),
    /// In tasks, each with the clients whose connection id falls to it.
    Spread {
        /// One for each task.
        lanes: Vec<mpsc::Sender<Received>>,
        /// They end when their sender is gone.
        tasks: JoinSet<()>,
    },
}

#[derive(Debug)]
pub(super) struct Lane<E> {
    shared: Arc<Shared<E>>,
    queue: Arc<SendQueue>,
    versions: SessionVersions,
}

/// A frame to be handled.
#[derive(Debug)]
pub(super) struct Received {
    /// All of it.
    pub(super) frame: Bytes,
    /// To be handed back to the link's queue when it is handled, if the peer wants to know.
    pub(super) receipt: Option<Receipt>,
}

impl<E: Events> Lanes<E> {
    pub(super) fn new(shared: &Arc<Shared<E>>, queue: &Arc<SendQueue>) -> Self {
        let lane = || Lane {
            shared: shared.clone(),
            queue: queue.clone(),
            versions: SessionVersions::default(),
        };
        if shared.settings.tasks_per_link == 1 {
            return Self::Here(lane());
        }
        let mut tasks = JoinSet::new();
        let lanes = (0..shared.settings.tasks_per_link)
            .map(|_| {
                let (frames, waiting) = mpsc::channel(FRAMES_WAITING_MAX);
                tasks.spawn(lane().run(waiting));
                frames
            })
            .collect();
        Self::Spread { lanes, tasks }
    }

    /// Handles the event of a client, or leaves it to its task when that has room.
    pub(super) async fn handle(&mut self, connection_id: u32, received: Received) {
        match self {
            Self::Here(lane) => lane.handle(received).await,
            Self::Spread { lanes, .. } => {
                let lane = connection_id as usize % lanes.len();
                // A lane that ended early panicked; `broken` tells.
                let _ = lanes[lane].send(received).await;
            }
        }
    }

    /// Panics as soon as one of the tasks did. Safe to cancel.
    pub(super) async fn broken(&mut self) {
        if let Self::Spread { tasks, .. } = self
            && let Some(ended) = tasks.join_next().await
        {
            pass_on_panic(ended);
        }
        pending().await
    }

    /// Waits until everything handed over was handled.
    pub(super) async fn finish(self) {
        if let Self::Spread { lanes, tasks } = self {
            drop(lanes);
            tasks.join_all().await;
        }
    }
}

impl<E: Events> Lane<E> {
    async fn run(mut self, mut waiting: mpsc::Receiver<Received>) {
        while let Some(received) = waiting.recv().await {
            self.handle(received).await;
        }
    }

    async fn handle(&mut self, received: Received) {
        let Received { frame, receipt } = received;
        let Ok(Some((decoded, _))) = InnerFrame::decode(&frame, frame.len()) else { return };
        let Some(event) = Event::from_frame(&decoded) else { return };
        let source = match receipt {
            Some(_) => self.versions.handle_acknowledged_event(&event),
            None => self.versions.handle_event(&event),
        };
        let session = match source {
            SessionSource::Carried => frame.slice_ref(event.session),
            SessionSource::Fetch => {
                self.fetch(event.client).await.unwrap_or_else(|| frame.slice_ref(event.session))
            }
        };
        let mut ctx = Context {
            client_id: event.client,
            client_addr: event.client_addr,
            gateway_port: event.gateway_port,
            gateway: self.shared.worker.gateway.clone(),
            session: Session::new(session),
        };
        // A panic is a failure of this event and no more. If it cost the link, a peer that gives unacknowledged events to
        // the next worker would take down one worker after the other with the same message.
        let handled = caught(call(&*self.shared.events, &event, &mut ctx)).await;
        let panicked = handled.is_err();
        match handled {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(client = %event.client, %error, "an event handler failed"),
            Err(_) => warn!(client = %event.client, "an event handler panicked"),
        }
        if event.kind != EventKind::Close && !panicked {
            self.store(event.client, ctx.session).await;
        }
        if let Some(receipt) = receipt {
            self.queue.event_finished(receipt);
        }
    }

    /// The session as the gateway has it now.
    async fn fetch(&mut self, client: ClientId) -> Option<Bytes> {
        let mut answer = Vec::new();
        for _ in 0..FETCHES_MAX {
            let session = match self.shared.worker.gateway.get_session(client).await {
                Ok(session) => session?,
                Err(error) => {
                    warn!(%client, %error, "a newer session cannot be fetched; the handler gets the older one");
                    return None;
                }
            };
            answer.clear();
            serialize(&Value::Array(session), &mut answer);
            if self.versions.handle_fetched(client, &answer) == Fetched::Current {
                return Some(Bytes::from(answer));
            }
        }
        // So many answers cannot all have overtaken the store: somebody put back what it replaced.
        self.versions.handle_settled(client, &answer);
        Some(Bytes::from(answer))
    }

    async fn store(&mut self, client: ClientId, session: Session) {
        let before = session.before();
        let Some(changed) = session.changed() else { return };
        match self.shared.worker.gateway.set_session_bytes(client, &changed).await {
            Ok(()) => self.versions.handle_stored(client, &before, &changed),
            Err(error) => warn!(%client, %error, "a session cannot be stored"),
        }
    }
}

async fn call(events: &impl Events, event: &Event<'_>, ctx: &mut Context) -> EventResult {
    match event.kind {
        EventKind::Connect => events.on_connect(ctx).await,
        EventKind::WebsocketConnect => events.on_websocket_connect(ctx, &request(event.body)).await,
        EventKind::Message => events.on_message(ctx, event.body).await,
        EventKind::Close => events.on_close(ctx).await,
    }
}

/// The future's output, or what it panicked with. What a handler shares with others after that is its own business, as it was
/// between the tasks of several links.
async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn request(body: &[u8]) -> WebsocketRequest {
    let parts = match unserialize(body, &Limits::default()) {
        Ok(Value::Array(parts)) => parts,
        Ok(_) | Err(_) => {
            warn!("a gateway's websocket request cannot be read; it is taken for empty");
            Array::new()
        }
    };
    WebsocketRequest { parts }
}

/// Frames that may wait for one lane; the link is not read meanwhile.
const FRAMES_WAITING_MAX: usize = 64;

/// Questions for one session before the answer is believed. Each takes a round trip, in which the gateway reads the link.
const FETCHES_MAX: usize = 100;
