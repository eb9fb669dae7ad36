//! Counters of one gateway shard. Plain integers; whoever wants a sum adds the shards up.

/// What a gateway shard has done since it started, and why it dropped what it dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Clients connected now.
    pub clients: u64,
    /// Worker links and GatewayClient connections open now.
    pub links: u64,
    /// Distinct uids bound now.
    pub uids: u64,
    /// Groups with members now.
    pub groups: u64,
    /// Timers armed now.
    pub timers: u64,
    /// Whole messages received from clients.
    pub client_messages: u64,
    /// Messages sent to clients; each receiver of a broadcast counts.
    pub deliveries: u64,
    /// Events sent towards workers.
    pub events: u64,
    /// Commands received from workers and outside clients.
    pub commands: u64,
    /// Queries answered.
    pub queries: u64,
    /// Events given to another worker because the link of the first one was gone.
    pub rerouted: u64,
    /// Messages dropped because the client's send queue was full.
    pub drop_slow_client: u64,
    /// Messages dropped after they had waited in the client's send queue, to make room for newer ones.
    pub drop_oldest: u64,
    /// Clients closed because their send queue was full.
    pub close_slow_client: u64,
    /// Events dropped because the worker's send queue was full.
    pub drop_slow_worker: u64,
    /// Clients closed because their worker's send queue was full.
    pub close_slow_worker: u64,
    /// Times a client was read no further because its worker was slow.
    pub paused: u64,
    /// Events dropped because no worker came in time, or too many waited.
    pub drop_no_worker: u64,
    /// Clients closed because no worker came in time, or too many events waited.
    pub close_no_worker: u64,
    /// Messages dropped because the client had not finished its handshake and held too much already.
    pub drop_before_handshake: u64,
    /// Clients closed by the heartbeat.
    pub close_heartbeat: u64,
    /// Clients closed because their handshake took too long.
    pub close_handshake_timeout: u64,
    /// Clients refused because their handshake request was not acceptable.
    pub refused_handshake: u64,
    /// Clients closed because they broke their protocol.
    pub close_protocol: u64,
    /// Clients closed because a last message could not be delivered in time.
    pub close_linger: u64,
    /// Clients closed by a worker's kick or destroy.
    pub close_by_worker: u64,
    /// Clients that left by themselves or were cut off.
    pub closed_by_client: u64,
    /// Links closed because they did not show the right key, or none in time.
    pub link_unauthorized: u64,
    /// Links closed because of a frame that cannot be decoded.
    pub link_malformed: u64,
    /// Links replaced by a newer one with the same worker_key.
    pub link_replaced: u64,
    /// Times a dispatcher became the gateway's home; counted by shard 0.
    pub homes_changed: u64,
    /// Events that a dispatcher gave back because it was the home no more.
    pub events_returned: u64,
    /// Changes of the names a shard holds that the home was told of.
    pub names_hinted: u64,
    /// Links closed because a dispatcher came to a gateway without dispatchers, or with an offer that cannot be used.
    pub dispatcher_refused: u64,
    /// Links of a home closed because it did not give back in time what it could not deliver.
    pub detach_timeout: u64,
    /// Commands ignored: unknown number, or extra data that cannot be decoded.
    pub command_ignored: u64,
}

impl Stats {
    /// PHP's `send_fail`: messages that could not be queued.
    pub fn send_fail(&self) -> u64 {
        self.drop_slow_client
            + self.drop_oldest
            + self.drop_slow_worker
            + self.drop_no_worker
            + self.drop_before_handshake
    }
}
