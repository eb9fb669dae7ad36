//! Counters of a stack: what was dropped and why, and how TCP fares.

/// Counts since the start. Gauges are methods of [`Stack`](crate::Stack).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the groups are documented, the names say the rest")]
pub struct Stats {
    /// Frames given to the stack and taken by the device.
    pub frames_received: u64,
    pub frames_sent: u64,
    /// TCP segments received that were intact and for one of our addresses, and segments sent.
    pub segments_received: u64,
    pub segments_sent: u64,
    /// Frames dropped before TCP, by cause.
    pub drop_not_for_us: u64,
    pub drop_frame_malformed: u64,
    pub drop_other_vlan: u64,
    pub drop_ether_type: u64,
    pub drop_arp_malformed: u64,
    pub drop_ip_malformed: u64,
    pub drop_ip_checksum: u64,
    pub drop_ip_fragment: u64,
    pub drop_ip_source: u64,
    pub drop_protocol: u64,
    pub drop_icmp_malformed: u64,
    pub drop_icmp_unmatched: u64,
    /// Segments dropped before a connection saw them, by cause.
    pub drop_tcp_malformed: u64,
    pub drop_tcp_checksum: u64,
    pub drop_tcp_no_connection: u64,
    pub drop_tcp_no_listener: u64,
    pub drop_syn_conns_full: u64,
    pub drop_syn_pool_full: u64,
    pub drop_cookie_invalid: u64,
    /// Segments or parts of them that a connection did not accept, by cause.
    pub drop_paws: u64,
    pub drop_no_timestamps: u64,
    pub drop_out_of_window: u64,
    pub drop_ack_unacceptable: u64,
    pub drop_rst_unacceptable: u64,
    pub drop_syn_in_connection: u64,
    pub drop_no_ack: u64,
    pub drop_duplicate_data: u64,
    pub drop_out_of_order_full: u64,
    pub drop_data_after_close: u64,
    /// Frames that the device refused and that are not tried again (answers to ARP and echo, resets).
    pub drop_device_full: u64,
    /// Connections opened by peers and by us, and how they ended.
    pub conns_accepted: u64,
    pub conns_accepted_by_cookie: u64,
    pub conns_connected: u64,
    pub conns_reset_by_peer: u64,
    pub conns_refused: u64,
    pub conns_unreachable: u64,
    pub conns_timed_out: u64,
    pub conns_finished: u64,
    pub conns_aborted: u64,
    pub cookies_sent: u64,
    pub time_wait_recycled: u64,
    pub time_wait_reused: u64,
    /// Recovery.
    pub retransmits: u64,
    pub retransmit_timeouts: u64,
    pub loss_probes: u64,
    pub recoveries: u64,
    pub duplicate_sacks_received: u64,
    pub sack_reneged: u64,
    pub window_probes: u64,
    pub keepalive_probes: u64,
    pub path_mtu_lowered: u64,
    /// Answers of the stack's own.
    pub challenge_acks_sent: u64,
    pub resets_sent: u64,
    pub arp_replies_sent: u64,
    pub neighbor_advertisements_sent: u64,
    pub echo_replies_sent: u64,
    /// Bytes that [`Stack::send`](crate::Stack::send) did not take because the pool was empty.
    pub send_refused_pool_full: u64,
}
