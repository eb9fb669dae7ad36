//! The answers a gateway must give, from the reference model.

use core::fmt::Write as _;

use crate::model::Model;
use crate::op::{Query, serialized};

/// PHP's `serialize` output that answers `query`, and whether its elements may come in any order.
pub(crate) fn answer(model: &Model, query: &Query) -> String {
    match query {
        Query::IsOnline(id) => format!("i:{};", u8::from(model.clients.contains_key(id))),
        Query::SessionOf(id) => match model.clients.get(id) {
            None => "N;".into(),
            Some(member) if member.session.is_none() => "a:0:{}".into(),
            Some(member) => serialized(&member.session),
        },
        Query::Sessions => sessions(model, model.order.clone()),
        Query::SessionsOfGroup(group) => {
            sessions(model, model.groups.get(group).cloned().unwrap_or_default())
        }
        Query::Count("") => format!("i:{};", model.clients.len()),
        Query::Count(group) => format!("i:{};", count(model, group)),
        Query::Counts(groups) => {
            array(groups.iter().map(|group| (key(group), format!("i:{};", count(model, group)))))
        }
        Query::ClientsOf(uid) => ids(model, uid),
        Query::ClientsOfEach(uids) => array(uids.iter().map(|uid| (key(uid), ids(model, uid)))),
        Query::Groups => groups(model),
        Query::Select(groups) => select(model, groups),
    }
}

/// The groups, sorted by their bytes: their order over shards says nothing (see [`sorted_list`]).
fn groups(model: &Model) -> String {
    let mut names: Vec<String> = model.groups.keys().map(|group| key(group)).collect();
    names.sort();
    names.concat()
}

/// The values of a serialized list of strings and integers, sorted.
pub(crate) fn sorted_list(list: &str) -> String {
    let inner = list.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    let parts: Vec<&str> = inner.split_terminator(';').collect();
    let mut values: Vec<String> =
        parts.chunks(2).filter_map(|pair| Some(format!("{};", pair.get(1)?))).collect();
    values.sort();
    values.concat()
}

/// PHP's `serialize` output of arrays, strings and integers with the entries of each array in an order of their own, and
/// without the keys of lists: which of two gateways answered first says nothing.
pub(crate) fn canonical(text: &str) -> String {
    let mut rest = text;
    let value = canonical_value(&mut rest, 0);
    if rest.is_empty() { value } else { text.into() }
}

/// Arrays within arrays that answers have; a session inside is a string.
const DEPTH_MAX: usize = 5;

fn canonical_value(rest: &mut &str, depth: usize) -> String {
    let text = *rest;
    if let Some(string) = text.strip_prefix("s:") {
        let digits = string.find(':').unwrap_or(0);
        let len: usize = string[..digits].parse().unwrap_or(0);
        return split_off(rest, 2 + digits + 2 + len + 2);
    }
    let Some(inner) = text.strip_prefix("a:").filter(|_| depth < DEPTH_MAX) else {
        return split_off(rest, text.find(';').map_or(text.len(), |at| at + 1));
    };
    let Some((count, tail)) = inner.split_once(":{") else { return split_off(rest, text.len()) };
    let count: usize = count.parse().unwrap_or(0);
    *rest = tail;
    let mut entries: Vec<(String, String)> = (0..count)
        .map(|_| (canonical_value(rest, depth + 1), canonical_value(rest, depth + 1)))
        .collect();
    *rest = rest.strip_prefix('}').unwrap_or(rest);
    let is_list = entries.iter().zip(0..).all(|((key, _), at)| *key == format!("i:{at};"));
    if is_list {
        entries.iter_mut().for_each(|(key, _)| key.clear());
    }
    entries.sort();
    array(entries.into_iter())
}

fn split_off(rest: &mut &str, len: usize) -> String {
    let (value, tail) = rest.split_at_checked(len).unwrap_or((*rest, ""));
    *rest = tail;
    value.to_owned()
}

fn select(model: &Model, groups: &[&'static str]) -> String {
    // Each shard answers in the order of the condition, so clients are in that order within a shard.
    let mut chosen: Vec<u32> = Vec::new();
    if groups.is_empty() {
        chosen.clone_from(&model.order);
    }
    for group in groups {
        for id in model.groups.get(group).into_iter().flatten() {
            if !chosen.contains(id) {
                chosen.push(*id);
            }
        }
    }
    array(by_shard(model, chosen).into_iter().map(|id| {
        let member = &model.clients[&id];
        let session = serialized(&member.session);
        let uid = member.uid.map_or_else(|| "N;".into(), string);
        let groups = if member.had_group {
            array(member.groups.iter().map(|group| (key(group), string(group))))
        } else {
            "N;".into()
        };
        let fields = [
            (string("session"), string(&session)),
            (string("uid"), uid),
            (string("groups"), groups),
        ];
        (format!("i:{id};"), array(fields.into_iter()))
    }))
}

fn sessions(model: &Model, clients: Vec<u32>) -> String {
    array(
        by_shard(model, clients)
            .into_iter()
            .map(|id| (format!("i:{id};"), string(&serialized(&model.clients[&id].session)))),
    )
}

fn ids(model: &Model, uid: &str) -> String {
    let clients = by_shard(model, model.uids.get(uid).cloned().unwrap_or_default());
    array(clients.iter().enumerate().map(|(index, id)| (format!("i:{index};"), format!("i:{id};"))))
}

fn count(model: &Model, group: &str) -> usize {
    model.groups.get(group).map_or(0, Vec::len)
}

/// Shards answer one after the other.
fn by_shard(model: &Model, mut clients: Vec<u32>) -> Vec<u32> {
    clients.sort_by_key(|id| model.shard_of(*id));
    clients
}

fn array(pairs: impl ExactSizeIterator<Item = (String, String)>) -> String {
    let mut text = format!("a:{}:{{", pairs.len());
    for (key, value) in pairs {
        let _ = write!(text, "{key}{value}");
    }
    text.push('}');
    text
}

fn string(text: &str) -> String {
    format!("s:{}:\"{text}\";", text.len())
}

/// PHP turns decimal strings into integers when they are array keys.
fn key(name: &str) -> String {
    if name.parse::<u32>().is_ok_and(|number| number.to_string() == name) {
        format!("i:{name};")
    } else {
        string(name)
    }
}
