//! How a peer can break RFC 6455 once the handshake is done, and the close code each fault is answered with.

use core::fmt;

/// What is wrong with the peer's frames. The connection cannot go on; answer with [`Violation::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A client's frame is not masked (section 5.1).
    Unmasked,
    /// A server's frame is masked (section 5.1).
    Masked,
    /// A reserved bit is set although no extension was negotiated (section 5.2).
    ReservedBits,
    /// The opcode is one of the reserved ones (section 5.2).
    UnknownOpcode {
        /// The opcode's number: 3 to 7 or 11 to 15.
        number: u8,
    },
    /// The payload length is not written in its shortest form (section 5.2).
    LengthNotMinimal,
    /// The top bit of an eight-byte length is set (section 5.2).
    LengthTopBit,
    /// A continuation frame, but no message is in fragments (section 5.4).
    ContinuationWithoutStart,
    /// A new data message begins inside a fragmented one (section 5.4).
    DataInsideFragments,
    /// A control frame is fragmented (section 5.5).
    FragmentedControl,
    /// A control frame's payload is longer than 125 bytes (section 5.5).
    ControlTooLong,
    /// A close frame's payload is a single byte, too short for a status code (section 5.5.1).
    ClosePayload,
    /// A close frame's status code must not be sent (section 7.4).
    CloseCode {
        /// What the frame says.
        code: u16,
    },
    /// A close frame's reason is not UTF-8 (section 5.5.1).
    CloseReason,
    /// A text message is not UTF-8 (section 8.1).
    InvalidUtf8,
    /// The message, all its fragments together, is longer than the configured limit.
    MessageTooBig,
}

impl Violation {
    /// The status code to close with (RFC 6455 section 7.4.1): 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Unmasked
            | Self::Masked
            | Self::ReservedBits
            | Self::UnknownOpcode { .. }
            | Self::LengthNotMinimal
            | Self::LengthTopBit
            | Self::ContinuationWithoutStart
            | Self::DataInsideFragments
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::ClosePayload
            | Self::CloseCode { .. } => 1002,
            Self::CloseReason | Self::InvalidUtf8 => 1007,
            Self::MessageTooBig => 1009,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unmasked => "a client's frame is not masked",
            Self::Masked => "a server's frame is masked",
            Self::ReservedBits => "a reserved bit is set without an extension",
            Self::UnknownOpcode { number } => return write!(f, "opcode {number} is reserved"),
            Self::LengthNotMinimal => "the payload length is not in its shortest form",
            Self::LengthTopBit => "the top bit of the payload length is set",
            Self::ContinuationWithoutStart => "a continuation frame continues nothing",
            Self::DataInsideFragments => "a data message begins inside a fragmented one",
            Self::FragmentedControl => "a control frame is fragmented",
            Self::ControlTooLong => "a control frame is longer than 125 bytes",
            Self::ClosePayload => "a close frame has one byte of payload",
            Self::CloseCode { code } => return write!(f, "close code {code} must not be sent"),
            Self::CloseReason => "a close reason is not UTF-8",
            Self::InvalidUtf8 => "a text message is not UTF-8",
            Self::MessageTooBig => "a message is longer than the limit",
        })
    }
}

impl core::error::Error for Violation {}
