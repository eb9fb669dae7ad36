//! The send queue and the frame reader, over memory.

use super::*;
use std::sync::Arc;
use tengate_proto::wire::header::{Command, Header};
use tengate_proto::worker::Body;
use tokio::io::duplex;

#[tokio::test]
async fn frames_leave_in_the_order_they_were_sent() {
    let queue = SendQueue::new(1000);
    for text in ["one", "two"] {
        queue.send(&message(text)).unwrap();
    }
    queue.close();
    let mut sent = Vec::new();
    queue.write_to(&mut sent).await.unwrap();
    let mut expected = Vec::new();
    message("one").encode(&mut expected);
    message("two").encode(&mut expected);
    assert_eq!(sent, expected);
}

#[test]
fn a_full_queue_refuses_and_says_how_full_it_is() {
    let queue = SendQueue::new(30);
    queue.send(&message("first")).unwrap();
    let queued_bytes = message("first").frame_len();
    assert_eq!(queue.send(&message("second")), Err(GatewayFault::QueueFull { queued_bytes }));
}

#[tokio::test]
async fn bytes_being_written_count_as_queued() {
    let queue = Arc::new(SendQueue::new(30));
    let (ours, mut theirs) = duplex(8);
    let writing = tokio::spawn({
        let queue = queue.clone();
        async move { queue.write_to(ours).await }
    });
    queue.send(&message("first")).unwrap();
    theirs.read_exact(&mut [0; 4]).await.unwrap();
    assert!(matches!(queue.send(&message("second")), Err(GatewayFault::QueueFull { .. })));
    theirs.read_exact(&mut vec![0; message("first").frame_len() - 4]).await.unwrap();
    queue.flushed().await;
    queue.send(&message("second")).unwrap();
    queue.close();
    theirs.read_to_end(&mut Vec::new()).await.unwrap();
    writing.await.unwrap().unwrap();
}

#[test]
fn a_frame_no_gateway_takes_is_refused() {
    let body = vec![0; FRAME_BYTES_MAX];
    let call = Call::new(Command::SendToAll).body(Body::Plain(&body));
    let frame_bytes = Header::LEN + FRAME_BYTES_MAX;
    assert_eq!(SendQueue::new(1).send(&call), Err(GatewayFault::TooLong { frame_bytes }));
}

#[test]
fn a_closed_queue_is_no_link() {
    let queue = SendQueue::new(1000);
    queue.close();
    assert_eq!(queue.send(&message("late")), Err(GatewayFault::NotLinked));
}

#[tokio::test]
async fn closing_ends_the_wait_for_a_flush() {
    let queue = Arc::new(SendQueue::new(1000));
    queue.send(&message("never written")).unwrap();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.flushed().await }
    });
    tokio::task::yield_now().await;
    queue.close();
    waiting.await.unwrap();
}

#[tokio::test]
async fn frames_split_at_every_byte_are_read_whole() {
    let mut frames = Vec::new();
    message("one").encode(&mut frames);
    let first_len = frames.len();
    message("two").encode(&mut frames);
    for cut in 0..frames.len() {
        let (mut theirs, ours) = duplex(frames.len());
        let mut reader = FrameReader::new(ours, LOCAL);
        theirs.write_all(&frames[..cut]).await.unwrap();
        let split = async {
            tokio::task::yield_now().await;
            theirs.write_all(&frames[cut..]).await.unwrap();
            drop(theirs);
        };
        let reading = async {
            assert_eq!(reader.next().await.unwrap(), frames[..first_len], "cut at {cut}");
            assert_eq!(reader.next().await.unwrap(), frames[first_len..], "cut at {cut}");
            assert!(matches!(reader.next().await, Err(ReadError::Closed)), "cut at {cut}");
        };
        tokio::join!(split, reading);
    }
}

#[tokio::test]
async fn nonsense_ends_the_link() {
    let bytes = [0xff; 64];
    let mut reader = FrameReader::new(&bytes[..], LOCAL);
    assert!(matches!(reader.next().await, Err(ReadError::Frame(_))));
}

#[tokio::test(start_paused = true)]
async fn only_gateways_that_send_keep_alives_may_not_fall_silent() {
    let remote = "10.0.0.1:2900".parse().unwrap();
    let (_theirs, ours) = duplex(64);
    assert!(matches!(FrameReader::new(ours, remote).next().await, Err(ReadError::Silent)));

    let (_theirs, ours) = duplex(64);
    let mut local = FrameReader::new(ours, LOCAL);
    assert!(timeout(10 * SILENCE_MAX, local.next()).await.is_err());
}

const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2900);

fn message(text: &str) -> Call<'_> {
    Call::new(Command::SendToAll).body(Body::Plain(text.as_bytes()))
}
