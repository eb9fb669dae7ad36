//! Conversations with a gateway, over memory and with a paused clock.

use super::*;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

#[tokio::test]
async fn answers_go_to_their_askers_in_order() {
    let mut talk = Talk::start(b"");
    let (first, second) = (talk.ask(b"first"), talk.ask(b"second"));
    assert_eq!(talk.heard(11).await, b"firstsecond");
    talk.gateway.write_all(b"\0\0\0\x01A\0\0\0\x02BB").await.unwrap();
    assert_eq!(first.await.unwrap(), Ok(b"A".to_vec()));
    assert_eq!(second.await.unwrap(), Ok(b"BB".to_vec()));
}

#[tokio::test]
async fn the_greeting_comes_before_everything() {
    let mut talk = Talk::start(b"hello ");
    let told = talk.tell(b"do it");
    assert_eq!(talk.heard(11).await, b"hello do it");
    assert_eq!(told.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_gateway_that_goes_away_fails_everyone_who_waits() {
    let mut talk = Talk::start(b"");
    let (first, second) = (talk.ask(b"1"), talk.ask(b"2"));
    talk.heard(2).await;
    talk.gateway.write_all(b"\0\0\0\x05half").await.unwrap();
    drop(talk.gateway);
    assert_eq!(first.await.unwrap(), Err(GatewayFault::Closed));
    assert_eq!(second.await.unwrap(), Err(GatewayFault::Closed));
    assert_eq!(talk.talking.await.unwrap(), Err(GatewayFault::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_answer_fails_everyone_who_waits() {
    let talk = Talk::start(b"");
    let (first, second) = (talk.ask(b"1"), talk.ask(b"2"));
    assert_eq!(first.await.unwrap(), Err(GatewayFault::ReplyTimedOut));
    assert_eq!(second.await.unwrap(), Err(GatewayFault::ReplyTimedOut));
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_not_read() {
    let mut talk = Talk::start(b"");
    let asked = talk.ask(b"1");
    talk.heard(1).await;
    talk.gateway.write_all(&[0xff; 4]).await.unwrap();
    let reply_bytes = u32::MAX as usize;
    assert_eq!(asked.await.unwrap(), Err(GatewayFault::ReplyTooLong { reply_bytes }));
}

#[tokio::test]
async fn bytes_nobody_asked_for_end_the_connection() {
    let mut talk = Talk::start(b"");
    talk.gateway.write_all(b"?").await.unwrap();
    assert_eq!(talk.talking.await.unwrap(), Err(GatewayFault::Closed));
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_ends_in_order() {
    let talk = Talk::start(b"");
    assert_eq!(talk.talking.await.unwrap(), Ok(()));
    assert!(talk.requests.is_closed());
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_named() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let core::net::SocketAddr::V4(gateway) = unused.local_addr().unwrap() else {
        panic!("bound to IPv4")
    };
    drop(unused);
    let pool = Pool::new(SecretKey::default(), Timeouts::DEFAULT);
    let call = Call::new(tengate_proto::wire::header::Command::IsOnline);
    let fault = GatewayFault::Connect(io::ErrorKind::ConnectionRefused);
    assert_eq!(pool.ask(gateway, &call).await, Err(CallError::Gateway { gateway, fault }));
    assert_eq!(pool.tell(gateway, &call).await, Err(CallError::Gateway { gateway, fault }));
}

/// One conversation: the test is the callers and the gateway.
struct Talk {
    requests: mpsc::Sender<Request>,
    gateway: DuplexStream,
    talking: JoinHandle<Result<(), GatewayFault>>,
}

impl Talk {
    fn start(greeting: &'static [u8]) -> Self {
        let (requests, mut waiting) = mpsc::channel(8);
        let (gateway, ours) = duplex(1024);
        let talking = tokio::spawn(async move {
            converse(ours, greeting, Timeouts::DEFAULT.reply, &mut waiting).await
        });
        Self { requests, gateway, talking }
    }

    fn ask(&self, frame: &[u8]) -> oneshot::Receiver<Result<Vec<u8>, GatewayFault>> {
        let (asker, answer) = oneshot::channel();
        self.request(frame, Done::Answered(asker));
        answer
    }

    fn tell(&self, frame: &[u8]) -> oneshot::Receiver<Result<(), GatewayFault>> {
        let (writer, written) = oneshot::channel();
        self.request(frame, Done::Written(writer));
        written
    }

    fn request(&self, frame: &[u8], done: Done) {
        let request = Request { frame: frame.to_vec(), done };
        assert!(self.requests.try_send(request).is_ok(), "the channel has room");
    }

    async fn heard(&mut self, len: usize) -> Vec<u8> {
        let mut heard = vec![0; len];
        self.gateway.read_exact(&mut heard).await.unwrap();
        heard
    }
}
