//! Extra data of the commands that carry JSON.

use tengate_proto::wire::ext::{
    self, Condition, ConnectionIds, Field, Select, SendToAll, SendToGroup,
};

use crate::names::Names;

/// For a message to these connections only.
pub(super) fn only(connections: Vec<u32>) -> Vec<u8> {
    encoded(|out| SendToAll::Only(connections).encode(out))
}

/// For a message to all but these connections.
pub(super) fn all_but(exclude: Vec<u32>) -> Vec<u8> {
    let recipients =
        if exclude.is_empty() { SendToAll::All } else { SendToAll::Except(ids(exclude)) };
    encoded(|out| recipients.encode(out))
}

/// For a message to the members of groups, but not to these connections.
pub(super) fn groups(groups: &Names, exclude: Vec<u32>) -> Vec<u8> {
    let exclude = ids(exclude);
    encoded(|out| SendToGroup { groups: wire_names(groups), exclude }.encode(out))
}

/// A list of uids or groups.
pub(super) fn names(names: &Names) -> Vec<u8> {
    encoded(|out| ext::encode_names(&wire_names(names), out))
}

/// For a question about fields of the clients that meet a condition; of all clients without one.
pub(super) fn select(fields: Vec<Field<'_>>, condition: Option<Condition<'_>>) -> Vec<u8> {
    let conditions = condition.map(|condition| vec![condition]);
    encoded(|out| Select { fields, conditions }.encode(out))
}

/// Names as the wire's JSON has them.
pub(super) fn wire_names(names: &Names) -> Vec<ext::Name<'_>> {
    names.0.iter().map(|name| ext::Name::from(name.as_str())).collect()
}

fn ids(connections: Vec<u32>) -> ConnectionIds {
    connections.into_iter().collect()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
