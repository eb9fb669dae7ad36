//! Counters of a stack: what was dropped and why, and how TCP fares.

/// Defines the counters once, for the struct and for who lists them.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start. Gauges are methods of [`Stack`](crate::Stack).
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the groups are documented, the names say the rest")]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// All counters with their names, for a table or a log.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Frames given to the stack and taken by the device.
    frames_received,
    frames_sent,
    /// TCP segments received that were intact and for one of our addresses, and segments sent.
    segments_received,
    segments_sent,
    /// Frames dropped before TCP, by cause.
    drop_not_for_us,
    drop_frame_malformed,
    drop_other_vlan,
    drop_ether_type,
    drop_arp_malformed,
    drop_ip_malformed,
    drop_ip_checksum,
    drop_ip_fragment,
    drop_ip_source,
    drop_protocol,
    drop_icmp_malformed,
    drop_icmp_unmatched,
    /// Segments dropped before a connection saw them, by cause.
    drop_tcp_malformed,
    drop_tcp_checksum,
    drop_tcp_no_connection,
    drop_tcp_no_listener,
    drop_syn_conns_full,
    drop_syn_pool_full,
    drop_syn_paused,
    drop_cookie_invalid,
    /// Segments or parts of them that a connection did not accept, by cause.
    drop_paws,
    drop_no_timestamps,
    drop_out_of_window,
    drop_ack_unacceptable,
    drop_rst_unacceptable,
    drop_syn_in_connection,
    drop_no_ack,
    drop_duplicate_data,
    drop_out_of_order_full,
    drop_data_after_close,
    /// Frames that the device refused and that are not tried again (answers to ARP and echo, resets).
    drop_device_full,
    /// Connections opened by peers and by us, and how they ended.
    conns_accepted,
    conns_accepted_by_cookie,
    conns_connected,
    conns_reset_by_peer,
    conns_refused,
    conns_unreachable,
    conns_timed_out,
    conns_finished,
    conns_aborted,
    cookies_sent,
    time_wait_recycled,
    time_wait_reused,
    /// Recovery.
    retransmits,
    retransmit_timeouts,
    loss_probes,
    recoveries,
    recoveries_undone,
    duplicate_sacks_received,
    sack_reneged,
    window_probes,
    keepalive_probes,
    path_mtu_lowered,
    /// Answers of the stack's own.
    challenge_acks_sent,
    resets_sent,
    arp_replies_sent,
    neighbor_advertisements_sent,
    echo_replies_sent,
    /// Bytes that [`Stack::send`](crate::Stack::send) did not take because the pool was empty.
    send_refused_pool_full,
    /// Messages that [`Stack::share`](crate::Stack::share) did not take because the pool was empty.
    share_refused_pool_full,
}
