//! Connections begin and end between two stacks (RFC 9293 3.5, 3.6).

use super::link::Faults;
use super::pair::Pair;
use crate::Cause;

#[test]
fn a_connection_opens_carries_data_both_ways_and_ends() {
    let mut pair = Pair::new(Faults::NONE);
    let (conn, other) = pair.open();
    let (ours, theirs) = (pair.hosts[0].stream(conn), b"hello".to_vec());
    ours.to_send = theirs.clone();
    ours.then_shutdown = true;
    pair.hosts[1].stream(other).to_send = b"goodbye".to_vec();
    pair.hosts[1].stream(other).then_shutdown = true;
    let both_ended = |pair: &Pair| {
        pair.hosts.iter().all(|host| host.streams.values().all(|stream| stream.closed.is_some()))
    };
    assert!(pair.run_until(both_ended));
    assert_eq!(pair.hosts[0].stream(conn).received, b"goodbye");
    assert_eq!(pair.hosts[1].stream(other).received, theirs);
    for (host, conn) in [(0, conn), (1, other)] {
        assert_eq!(pair.hosts[host].stream(conn).closed, Some(Cause::Finished));
        assert_eq!(pair.hosts[host].stack.conn_count(), 0);
        assert_eq!(pair.hosts[host].stack.pool_used_bytes(), 0);
    }
    assert!(pair.hosts.iter().any(|host| host.stack.time_wait_count() == 1));
    assert!(pair.run_until(|pair| pair.hosts.iter().all(|host| host.stack.time_wait_count() == 0)));
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    // RFC 9293 3.10.7.1.
    let mut pair = Pair::new(Faults::NONE);
    pair.hosts[1].stack.unlisten(super::pair::PORT);
    let conn = pair.connect();
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].closed == Some(Cause::Refused)));
}
