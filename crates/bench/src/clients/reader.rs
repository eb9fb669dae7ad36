//! Received bytes become events: the answer to the greeting, messages, pings.

use anyhow::Result;

use super::{Event, Line, State, Stop};
use crate::protocol::{Decoder, Item, Protocol};

/// What a client keeps between two reads.
#[derive(Debug)]
pub(super) struct Reader {
    decoder: Decoder,
    /// The front of an incomplete message.
    kept: Option<Box<Bytes>>,
}

/// A vector that is nearly always absent: behind a pointer it takes 8 bytes then, not 24.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Reader {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { decoder: protocol.decoder(), kept: None }
    }

    /// Tells what `bytes` complete. What they leave incomplete is kept.
    pub(super) fn take_in(
        &mut self,
        bytes: &mut [u8],
        line: &mut Line<'_>,
        protocol: Protocol,
        tell: &mut impl FnMut(&mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<(), Stop> {
        let Some(mut kept) = self.kept.take() else {
            let used = self.decode(bytes, line, protocol, tell)?;
            if used < bytes.len() {
                self.kept = Some(Box::new(Bytes(bytes[used..].to_vec())));
            }
            return Ok(());
        };
        kept.0.extend_from_slice(bytes);
        let used = self.decode(&mut kept.0, line, protocol, tell)?;
        if used < kept.0.len() {
            kept.0.drain(..used);
            self.kept = Some(kept);
        }
        Ok(())
    }

    /// Tells what `bytes` hold; how many of them are done with.
    fn decode(
        &mut self,
        bytes: &mut [u8],
        line: &mut Line<'_>,
        protocol: Protocol,
        tell: &mut impl FnMut(&mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<usize, Stop> {
        let gone = |error| Stop::Gone(Some(error));
        let mut at = 0;
        if line.state() == State::Greeting {
            let Some(len) = protocol.decode_welcome(bytes).map_err(gone)? else { return Ok(0) };
            at = len;
            line.set_state(State::Open);
            tell(line, Event::Open).map_err(Stop::Ours)?;
        }
        while at < bytes.len() && line.is_connected() {
            let Some((len, item)) = self.decoder.decode(&mut bytes[at..]).map_err(gone)? else {
                return Ok(at);
            };
            at += len;
            match item {
                Item::Message(payload) => {
                    tell(line, Event::Message(payload)).map_err(Stop::Ours)?;
                }
                Item::Ping(payload) => {
                    let mut pong = Vec::new();
                    Protocol::encode_pong(payload, &mut pong);
                    line.send(&pong);
                }
                Item::Close if line.state() != State::Leaving => return Err(Stop::Gone(None)),
                Item::Close | Item::Other => {}
            }
        }
        Ok(bytes.len())
    }
}
