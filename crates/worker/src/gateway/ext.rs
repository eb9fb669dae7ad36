//! The JSON that some commands carry as extra data, byte for byte as PHP writes it for names without special characters.

use core::net::SocketAddrV4;
use std::collections::BTreeMap;

use serde::Serialize;
use tengate_proto::wire::client_id::ClientId;

use crate::names::Names;

/// Connections of one gateway, as PHP's map of each number to itself.
pub(super) type Connections = BTreeMap<u32, u32>;

/// Clients by the gateway that holds them.
pub(super) fn by_gateway(clients: &[ClientId]) -> BTreeMap<SocketAddrV4, Connections> {
    let mut gateways: BTreeMap<SocketAddrV4, Connections> = BTreeMap::new();
    for client in clients {
        gateways
            .entry(client.gateway())
            .or_default()
            .insert(client.connection_id, client.connection_id);
    }
    gateways
}

/// `{"connections":{"3":3}}`
pub(super) fn only(connections: &Connections) -> Vec<u8> {
    #[derive(Serialize)]
    struct Only<'a> {
        connections: &'a Connections,
    }
    json(&Only { connections })
}

/// `{"exclude":{"3":3}}`, or nothing when there is nobody to leave out.
pub(super) fn all_but(exclude: Option<&Connections>) -> Vec<u8> {
    #[derive(Serialize)]
    struct AllBut<'a> {
        exclude: &'a Connections,
    }
    exclude.map_or_else(Vec::new, |exclude| json(&AllBut { exclude }))
}

/// `{"group":["g1"],"exclude":null}`
pub(super) fn groups(group: &Names, exclude: Option<&Connections>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Groups<'a> {
        group: &'a Names,
        exclude: Option<&'a Connections>,
    }
    json(&Groups { group, exclude })
}

/// `["u1","u2"]`
pub(super) fn names(names: &Names) -> Vec<u8> {
    json(names)
}

/// What a select asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Where<'a> {
    Everyone,
    Groups(&'a Names),
    Connections(&'a Connections),
}

/// `{"fields":["uid"],"where":{"connection_id":{"360":360}}}`
pub(super) fn select(fields: &[&str], condition: Where<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Select<'a> {
        fields: &'a [&'a str],
        r#where: Condition<'a>,
    }
    /// Untagged: no condition is PHP's empty array, a list in JSON.
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Condition<'a> {
        Everyone([u8; 0]),
        Groups { groups: &'a Names },
        Connections { connection_id: &'a Connections },
    }
    let r#where = match condition {
        Where::Everyone => Condition::Everyone([]),
        Where::Groups(groups) => Condition::Groups { groups },
        Where::Connections(connection_id) => Condition::Connections { connection_id },
    };
    json(&Select { fields, r#where })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("names and numbers have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_data_has_the_bytes_of_a_real_worker() {
        let three_and_four = Connections::from([(3, 3), (4, 4)]);
        let three = Connections::from([(3, 3)]);
        let group = Names::from("g1");
        let cases = [
            (only(&three_and_four), r#"{"connections":{"3":3,"4":4}}"#),
            (all_but(Some(&three)), r#"{"exclude":{"3":3}}"#),
            (all_but(None), ""),
            (groups(&group, None), r#"{"group":["g1"],"exclude":null}"#),
            (groups(&group, Some(&three)), r#"{"group":["g1"],"exclude":{"3":3}}"#),
            (names(&Names::from(["u0", "nobody"])), r#"["u0","nobody"]"#),
            (select(&["uid"], Where::Everyone), r#"{"fields":["uid"],"where":[]}"#),
            (
                select(&["uid"], Where::Groups(&group)),
                r#"{"fields":["uid"],"where":{"groups":["g1"]}}"#,
            ),
            (
                select(&["uid"], Where::Connections(&Connections::from([(360, 360)]))),
                r#"{"fields":["uid"],"where":{"connection_id":{"360":360}}}"#,
            ),
        ];
        for (ext, expected) in cases {
            assert_eq!(String::from_utf8(ext).unwrap(), expected);
        }
    }
}
