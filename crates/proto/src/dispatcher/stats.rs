//! Counters of a dispatcher.

/// What a dispatcher has done since it started, and why it dropped what it dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gateways linked now.
    pub gateways: u64,
    /// Gateways whose home this is now.
    pub homes: u64,
    /// Workers linked now.
    pub workers: u64,
    /// Connections of outside clients, and of peers that have not said who they are, open now.
    pub outside_clients: u64,
    /// Clients bound to a worker now.
    pub clients: u64,
    /// Uids in the routing index now.
    pub uids: u64,
    /// Groups in the routing index now.
    pub groups: u64,
    /// Events received from gateways.
    pub events: u64,
    /// Commands and questions received from workers and outside clients.
    pub commands: u64,
    /// Command frames sent to gateways; a send to a group counts once for each gateway that holds it.
    pub frames_to_gateways: u64,
    /// Frames that a send to every gateway would have taken beyond those.
    pub frames_spared: u64,
    /// Commands that went to a gateway whose home is another dispatcher.
    pub forwarded: u64,
    /// Questions answered.
    pub queries: u64,
    /// Questions answered before every gateway had.
    pub query_timeouts: u64,
    /// Changes of names heard from gateways.
    pub names: u64,
    /// Events given to another worker because the link of the first one was gone.
    pub rerouted: u64,
    /// Events acknowledged by workers.
    pub acknowledged: u64,
    /// Events given back to gateways that moved away.
    pub returned: u64,
    /// Times a client was read no further because its worker was slow.
    pub paused: u64,
    /// Gateways that moved away in good order.
    pub detached: u64,
    /// Links replaced by a newer one with the same worker_key.
    pub link_replaced: u64,
    /// Commands dropped because no linked gateway has the client.
    pub drop_unknown_gateway: u64,
    /// Events dropped because the worker's queue was full.
    pub drop_slow_worker: u64,
    /// Clients closed because their worker's queue was full.
    pub close_slow_worker: u64,
    /// Events dropped because no worker came in time, or too many waited.
    pub drop_no_worker: u64,
    /// Clients closed because no worker came in time, or too many events waited.
    pub close_no_worker: u64,
    /// Links closed because they did not show the right key, or none in time.
    pub link_unauthorized: u64,
    /// Links closed because of a frame that cannot be decoded.
    pub link_malformed: u64,
    /// Gateways that were connected to and did not answer as one that has dispatchers.
    pub gateway_refused: u64,
    /// Commands ignored: unknown number, or extra data that cannot be decoded.
    pub command_ignored: u64,
}
