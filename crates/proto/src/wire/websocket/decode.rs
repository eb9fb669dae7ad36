//! Bytes to websocket messages, in place: payloads are unmasked where they lie and handed out as slices.
//!
//! Per connection: 8 bytes, plus the collected payload while a message is in fragments (at most twice
//! `message_bytes_max`). Per message: one pass to unmask, one to check text; nothing is allocated unless it is fragmented.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::frame::{FIN, LENGTH_IN_2, LENGTH_IN_8, MASKED, OPCODE, Opcode, RESERVED, apply_mask};
use super::violation::Violation;

/// What a listener accepts of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message in bytes of payload, all fragments together.
    pub message_bytes_max: usize,
    /// Whether text messages must be UTF-8 (RFC 6455 section 8.1).
    pub check_utf8: bool,
}

/// What one frame brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole message.
    Message {
        /// Whether it came as text rather than binary.
        text: bool,
        /// The message, unmasked.
        payload: &'a [u8],
    },
    /// A part of a message that more frames follow; nothing to do yet.
    Fragment,
    /// To be answered with a pong of the same payload (at most 125 bytes).
    Ping(&'a [u8]),
    /// No answer is due.
    Pong(&'a [u8]),
    /// The peer closes; whatever follows is to be ignored.
    Close {
        /// The status code, already checked; `None` when the frame has no payload.
        code: Option<u16>,
        /// The reason, UTF-8, at most 123 bytes.
        reason: &'a [u8],
    },
}

/// A server's decoder of what one client sends.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message in fragments. Boxed, so that a connection without one pays for a pointer only.
    partial: Option<Box<Partial>>,
}

/// A client's decoder of what its server sends.
#[derive(Debug, Default)]
pub struct ClientDecoder(Decoder);

const _: () = assert!(size_of::<Decoder>() <= 16);

impl Decoder {
    /// Decodes the frame at the front of `bytes`: its length and what it brought, or `None` while it is incomplete.
    ///
    /// `None` changes nothing, and asking again with more bytes costs no more than reading the header. When an item is
    /// returned its bytes have been unmasked in place: they must be consumed and not be shown again. A finished
    /// fragmented message is freed by the next call, or by [`Decoder::release`].
    ///
    /// # Errors
    /// The client broke RFC 6455 or the limit; as soon as the bytes at hand prove it. The connection cannot go on.
    pub fn decode<'a>(
        &'a mut self,
        bytes: &'a mut [u8],
        limits: &Limits,
    ) -> Result<Option<(usize, Item<'a>)>, Violation> {
        self.decode_from(Sender::Client, bytes, limits)
    }

    /// Frees a fragmented message that was handed out; the next `decode` would do it too.
    pub fn release(&mut self) {
        self.partial = self.partial.take().filter(|partial| !partial.finished);
    }

    /// Bytes held for a message in fragments, 0 when there is none.
    pub fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.payload.capacity())
    }

    fn decode_from<'a>(
        &'a mut self,
        sender: Sender,
        bytes: &'a mut [u8],
        limits: &Limits,
    ) -> Result<Option<(usize, Item<'a>)>, Violation> {
        self.release();
        let Some(head) = Head::decode(bytes, sender, self.partial.as_deref(), limits)? else {
            return Ok(None);
        };
        let frame_len = head.len.saturating_add(head.payload_len);
        let Some(payload) = bytes.get_mut(head.len..frame_len) else { return Ok(None) };
        apply_mask(payload, head.mask);
        let item = match head.opcode {
            Opcode::Text | Opcode::Binary if head.fin => {
                let text = head.opcode == Opcode::Text;
                if text && limits.check_utf8 && simdutf8::basic::from_utf8(payload).is_err() {
                    return Err(Violation::InvalidUtf8);
                }
                Item::Message { text, payload }
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                self.collect(&head, payload, limits)?
            }
            Opcode::Ping => Item::Ping(payload),
            Opcode::Pong => Item::Pong(payload),
            Opcode::Close => decode_close(payload)?,
        };
        Ok(Some((frame_len, item)))
    }

    /// Adds one frame of a fragmented message. Text is checked as it comes, so that bad text is refused early and no
    /// byte is looked at twice (but for a character that a fragment cuts).
    fn collect(
        &mut self,
        head: &Head,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<Item<'_>, Violation> {
        let partial = self.partial.get_or_insert_with(|| {
            Box::new(Partial {
                text: head.opcode == Opcode::Text,
                finished: false,
                checked_len: 0,
                payload: Vec::new(),
            })
        });
        partial.payload.extend_from_slice(payload);
        partial.finished = head.fin;
        if partial.text && limits.check_utf8 {
            partial.check_utf8()?;
        }
        Ok(if head.fin {
            Item::Message { text: partial.text, payload: &partial.payload }
        } else {
            Item::Fragment
        })
    }
}

impl ClientDecoder {
    /// As [`Decoder::decode`], for the frames of a server: they must not be masked.
    ///
    /// # Errors
    /// The server broke RFC 6455 or the limit; the connection cannot go on.
    pub fn decode<'a>(
        &'a mut self,
        bytes: &'a mut [u8],
        limits: &Limits,
    ) -> Result<Option<(usize, Item<'a>)>, Violation> {
        self.0.decode_from(Sender::Server, bytes, limits)
    }
}

/// Who sends the frames; clients mask them, servers do not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

/// A message of which some fragments have come.
#[derive(Debug)]
struct Partial {
    /// Whether the first frame was text.
    text: bool,
    /// Whether the last frame has come; the next call then frees this.
    finished: bool,
    /// How many bytes of the payload are known to be UTF-8.
    checked_len: usize,
    payload: Vec<u8>,
}

impl Partial {
    fn check_utf8(&mut self) -> Result<(), Violation> {
        match simdutf8::compat::from_utf8(&self.payload[self.checked_len..]) {
            Ok(_) => self.checked_len = self.payload.len(),
            // The fragment ends inside a character; the next one must complete it.
            Err(error) if error.error_len().is_none() && !self.finished => {
                self.checked_len += error.valid_up_to()
            }
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// A frame's header.
struct Head {
    fin: bool,
    opcode: Opcode,
    /// All zero when the frame is not masked.
    mask: [u8; 4],
    /// Bytes before the payload, 2 to 14.
    len: usize,
    payload_len: usize,
}

impl Head {
    /// Reads a header, and refuses it at the first byte that is wrong.
    fn decode(
        bytes: &[u8],
        sender: Sender,
        partial: Option<&Partial>,
        limits: &Limits,
    ) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let fin = first & FIN != 0;
        let opcode = decode_opcode(first, partial.is_some())?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        check_second_byte(second, opcode, sender)?;
        let Some((len, payload_len)) = decode_length(bytes, second & !MASKED)? else {
            return Ok(None);
        };
        // Control frames are no part of a message, and shorter than any sensible limit.
        let room = limits
            .message_bytes_max
            .saturating_sub(partial.map_or(0, |partial| partial.payload.len()));
        let payload_len = match usize::try_from(payload_len) {
            Ok(payload_len) if payload_len <= room || opcode.is_control() => payload_len,
            Ok(_) | Err(_) => return Err(Violation::MessageTooBig),
        };
        Ok(match sender {
            Sender::Client => bytes[len..].first_chunk().map(|mask| Self {
                fin,
                opcode,
                mask: *mask,
                len: len + mask.len(),
                payload_len,
            }),
            Sender::Server => Some(Self { fin, opcode, mask: [0; 4], len, payload_len }),
        })
    }
}

/// What the first byte says: sections 5.2 (reserved bits, opcodes), 5.4 and 5.5 (fragmentation).
fn decode_opcode(first: u8, in_fragments: bool) -> Result<Opcode, Violation> {
    if first & RESERVED != 0 {
        return Err(Violation::ReservedBits);
    }
    let number = first & OPCODE;
    let Some(opcode) = Opcode::from_number(number) else {
        return Err(Violation::UnknownOpcode { number });
    };
    match opcode {
        Opcode::Continuation if !in_fragments => Err(Violation::ContinuationWithoutStart),
        Opcode::Text | Opcode::Binary if in_fragments => Err(Violation::DataInsideFragments),
        Opcode::Close | Opcode::Ping | Opcode::Pong if first & FIN == 0 => {
            Err(Violation::FragmentedControl)
        }
        Opcode::Continuation
        | Opcode::Text
        | Opcode::Binary
        | Opcode::Close
        | Opcode::Ping
        | Opcode::Pong => Ok(opcode),
    }
}

fn check_second_byte(second: u8, opcode: Opcode, sender: Sender) -> Result<(), Violation> {
    match (sender, second & MASKED != 0) {
        (Sender::Client, false) => return Err(Violation::Unmasked),
        (Sender::Server, true) => return Err(Violation::Masked),
        (Sender::Client, true) | (Sender::Server, false) => {}
    }
    let short = second & !MASKED;
    if opcode.is_control() && short >= LENGTH_IN_2 {
        return Err(Violation::ControlTooLong);
    }
    if opcode == Opcode::Close && short == 1 {
        return Err(Violation::ClosePayload);
    }
    Ok(())
}

/// The payload's length and the bytes up to and including it (section 5.2).
fn decode_length(bytes: &[u8], short: u8) -> Result<Option<(usize, u64)>, Violation> {
    let (len, payload_len, shortest) = match short {
        LENGTH_IN_2 => {
            let Some(long) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
            (4, u64::from(u16::from_be_bytes(*long)), u64::from(LENGTH_IN_2))
        }
        LENGTH_IN_8 => {
            if bytes.get(2).is_some_and(|top| top & 0x80 != 0) {
                return Err(Violation::LengthTopBit);
            }
            let Some(long) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
            (10, u64::from_be_bytes(*long), u64::from(u16::MAX) + 1)
        }
        short => (2, u64::from(short), 0),
    };
    if payload_len < shortest {
        return Err(Violation::LengthNotMinimal);
    }
    Ok(Some((len, payload_len)))
}

fn decode_close(payload: &[u8]) -> Result<Item<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        // One byte of payload was refused with the header, so this is none at all.
        return Ok(Item::Close { code: None, reason: payload });
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Violation::CloseCode { code });
    }
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(Violation::CloseReason);
    }
    Ok(Item::Close { code: Some(code), reason })
}

/// Whether a close frame may carry this code: section 7.4, and 1012 to 1014 which IANA has assigned since.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
