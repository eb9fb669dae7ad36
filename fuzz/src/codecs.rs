//! Targets of the inner wire and of the client protocols that are only framing.

use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::header::{FrameError, Header, InnerFrame};
use tengate_proto::wire::length_field::{Counts, Endian, Layout, LengthField, Malformed};
use tengate_proto::wire::{length, text};
use tengate_proto::worker::{Event, EventKind, SessionSource, SessionVersions};

use crate::stream::{hear, split};

/// Longest message or frame in these targets, in bytes.
const BYTES_MAX: usize = 1000;

/// A frame that is decoded is encoded to the same bytes, and a split changes nothing.
pub fn inner_frame(data: &[u8]) {
    let Some((stream, parts)) = split(data) else { return };
    let frames_of = |reads: &[&[u8]]| {
        hear(reads, |bytes| {
            let decoded = InnerFrame::decode(bytes, BYTES_MAX)?;
            Ok::<_, FrameError>(decoded.map(|(frame, len)| {
                assert!((Header::LEN..=BYTES_MAX).contains(&len));
                let mut encoded = Vec::new();
                frame.header.encode(frame.ext, frame.body, &mut encoded);
                assert_eq!(encoded, bytes[..len]);
                (len, encoded)
            }))
        })
    };
    assert_eq!(frames_of(&parts), frames_of(&[stream]));
}

/// A worker takes what a frame carries, and once it has settled a client's session it believes the next event of it.
pub fn worker(data: &[u8]) {
    let mut versions = SessionVersions::default();
    hear(&[data], |bytes| {
        let Some((frame, len)) = InnerFrame::decode(bytes, BYTES_MAX)? else { return Ok(None) };
        if let Some(event) = Event::from_frame(&frame) {
            assert_eq!((event.session, event.body), (frame.ext, frame.body));
            assert_eq!(event.client.to_string().parse(), Ok(event.client));
            if versions.handle_event(&event) == SessionSource::Fetch {
                assert_ne!(event.kind, EventKind::Close);
                versions.handle_fetched(event.client, event.body);
                versions.handle_settled(event.client, event.session);
            } else {
                versions.handle_stored(event.client, event.session, event.body);
                versions.handle_settled(event.client, event.session);
            }
            assert_eq!(versions.handle_event(&event), SessionSource::Carried);
        }
        Ok::<_, FrameError>(Some((len, ())))
    });
}

/// What is decoded is encoded to the same text, in lower case; what is encoded is decoded to the same value.
pub fn client_id(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data)
        && let Ok(client_id) = text.parse::<ClientId>()
    {
        assert_eq!(client_id.to_string(), text.to_ascii_lowercase());
    }
    if let Some([a, b, c, d, e, f, g, h, i, j]) = data.first_chunk() {
        let client_id = ClientId {
            local_ip: u32::from_be_bytes([*a, *b, *c, *d]),
            local_port: u16::from_be_bytes([*e, *f]),
            connection_id: u32::from_be_bytes([*g, *h, *i, *j]),
        };
        assert_eq!(client_id.to_string().parse(), Ok(client_id));
    }
}

/// A split changes nothing, and a message survives being sent on.
pub fn text(data: &[u8]) {
    let Some((stream, parts)) = split(data) else { return };
    let lines_of = |reads: &[&[u8]]| {
        let mut decoder = text::Decoder::default();
        hear(reads, |bytes| {
            Ok::<_, text::TooLong>(
                decoder.decode(bytes, BYTES_MAX)?.map(|(len, line)| (len, line.to_vec())),
            )
        })
    };
    let heard = lines_of(&[stream]);
    assert_eq!(lines_of(&parts), heard);
    for line in heard.0 {
        let mut sent_on = Vec::new();
        text::encode(&line, &mut sent_on);
        assert_eq!(lines_of(&[&sent_on]), (vec![line], None));
    }
}

/// A frame that is decoded is encoded to the same bytes, and a split changes nothing.
pub fn length(data: &[u8]) {
    let Some((stream, parts)) = split(data) else { return };
    let frames_of = |reads: &[&[u8]]| {
        hear(reads, |bytes| {
            let decoded = length::decode(bytes, BYTES_MAX)?;
            Ok::<_, length::Malformed>(decoded.map(|(len, message)| {
                assert!(len <= BYTES_MAX);
                let mut encoded = Vec::new();
                length::encode(message, &mut encoded);
                assert_eq!(encoded, bytes[..len]);
                (len, encoded)
            }))
        })
    };
    assert_eq!(frames_of(&parts), frames_of(&[stream]));
}

/// Whatever the layout: a frame begins with the magic and is within its limits, and a split changes nothing.
pub fn length_field(data: &[u8]) {
    let Some(([length_offset, length_bytes, header_bytes, magic_len, bits], data)) =
        data.split_first_chunk()
    else {
        return;
    };
    let Some((stream, parts)) = split(data) else { return };
    let layout = Layout {
        magic: stream.iter().take((*magic_len).into()).copied().collect(),
        length_offset: (*length_offset).into(),
        length_bytes: (*length_bytes).into(),
        endian: if bits & 1 == 0 { Endian::Big } else { Endian::Little },
        counts: if bits & 2 == 0 { Counts::Frame } else { Counts::Body },
        header_bytes: (*header_bytes).into(),
        frame_bytes_max: BYTES_MAX,
    };
    let Ok(framing) = LengthField::new(layout.clone()) else { return };
    let frames_of = |reads: &[&[u8]]| {
        hear(reads, |bytes| {
            let decoded = framing.decode(bytes)?;
            Ok::<_, Malformed>(decoded.map(|(len, frame)| {
                assert!((layout.header_bytes..=BYTES_MAX).contains(&len));
                assert!(frame == &bytes[..len] && frame.starts_with(&layout.magic));
                (len, frame.to_vec())
            }))
        })
    };
    assert_eq!(frames_of(&parts), frames_of(&[stream]));
}
