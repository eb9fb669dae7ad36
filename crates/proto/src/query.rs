//! Answers to workers' queries: each part, from a shard or a gateway, and how parts become PHP's reply
//! (docs/protocol.md#queries).

use alloc::vec::Vec;

use crate::wire::ext::{self, ExtError};
use crate::wire::header::Command;
use crate::wire::php::{Key, write};

/// A shard's or gateway's part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Partial {
    /// Finished `serialize` output: a single client's answer, known only to its shard.
    Whole(Vec<u8>),
    /// Elements of an array keyed by connection_id, already serialized.
    Elements {
        /// How many key and value pairs.
        count: u32,
        /// The pairs.
        bytes: Vec<u8>,
    },
    /// Something that adds up, by position of what was asked for.
    Counts(Vec<u32>),
    /// Connection ids, by position of the uid they belong to.
    Ids(Vec<Vec<u32>>),
    /// Names, each once.
    Names(Vec<Vec<u8>>),
}

/// A query whose parts are being collected. Its answer goes out when every earlier one has. `K` names who answers.
#[derive(Debug)]
pub(crate) struct Pending<K> {
    pub(crate) seq: u32,
    command: Command,
    /// What was asked for, in order: the keys of a batch reply.
    keys: Vec<Vec<u8>>,
    /// Who was asked, and what they answered.
    parts: Vec<(K, Option<Partial>)>,
}

impl<K: Copy + Eq> Pending<K> {
    /// A query that those in `asked` answer.
    pub(crate) fn new(seq: u32, command: Command, ext: &[u8], asked: &[K]) -> Self {
        let keys = batch_keys(command, ext).unwrap_or_default();
        Self { seq, command, keys, parts: asked.iter().map(|place| (*place, None)).collect() }
    }

    /// Stores the part of one of them.
    pub(crate) fn put(&mut self, place: K, part: Partial) {
        if let Some((_, slot)) = self.parts.iter_mut().find(|(asked, _)| *asked == place) {
            *slot = Some(part);
        }
    }

    /// Waits no longer for the part of one of them.
    pub(crate) fn give_up(&mut self, place: K) {
        self.parts.retain(|(asked, part)| *asked != place || part.is_some());
    }

    /// Waits no longer for parts that are not there.
    pub(crate) fn expire(&mut self) {
        self.parts.retain(|(_, part)| part.is_some());
    }

    /// Whether every part is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.parts.iter().all(|(_, part)| part.is_some())
    }

    /// Puts the parts together to one, for somebody who collects parts in turn.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other replies are arrays by connection_id"
    )]
    pub(crate) fn merge(&mut self) -> Partial {
        let parts = self.parts.drain(..).filter_map(|(_, part)| part);
        match self.command {
            Command::GetClientCountByGroup => Partial::Counts(sum(parts, 1)),
            Command::BatchGetClientCountByGroup => Partial::Counts(sum(parts, self.keys.len())),
            Command::GetClientIdByUid => Partial::Ids(concat(parts, 1)),
            Command::BatchGetClientIdByUid => Partial::Ids(concat(parts, self.keys.len())),
            Command::GetGroupIdList => Partial::Names(unite(parts)),
            _ => join(parts),
        }
    }

    /// Appends the reply.
    pub(crate) fn encode(mut self, out: &mut Vec<u8>) {
        let is_batch = matches!(
            self.command,
            Command::BatchGetClientCountByGroup | Command::BatchGetClientIdByUid
        );
        let is_unanswered = self.parts.is_empty();
        let merged = self.merge();
        let keys = &self.keys;
        encode_reply(out, |out| match merged {
            // Who was to say so is gone: nobody has this client.
            _ if is_unanswered && self.command == Command::IsOnline => write::int(0, out),
            _ if is_unanswered && self.command == Command::GetSessionByClientId => write::null(out),
            Partial::Whole(bytes) => out.extend_from_slice(&bytes),
            Partial::Elements { count, bytes } => {
                write::array_open(count as usize, out);
                out.extend_from_slice(&bytes);
                write::array_close(out);
            }
            Partial::Counts(counts) if is_batch => {
                by_key(keys, &counts, |count, out| write::int(i64::from(*count), out), out);
            }
            Partial::Counts(counts) => write::int(counts.into_iter().map(i64::from).sum(), out),
            Partial::Ids(lists) if is_batch => {
                by_key(keys, &lists, |ids, out| id_list(ids, out), out)
            }
            Partial::Ids(lists) => id_list(&lists.concat(), out),
            Partial::Names(names) => name_list(&names, out),
        });
    }
}

/// Appends a reply: u32 length, then what `write` appends.
fn encode_reply(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// What a batch query asks for, which is also the order and the keys of its answer.
pub(crate) fn batch_keys(command: Command, ext: &[u8]) -> Result<Vec<Vec<u8>>, ExtError> {
    if !matches!(command, Command::BatchGetClientIdByUid | Command::BatchGetClientCountByGroup) {
        return Ok(Vec::new());
    }
    Ok(ext::decode_batch(ext)?.iter().map(|name| name.as_bytes().to_vec()).collect())
}

/// Adds counts up, position by position.
fn sum(parts: impl Iterator<Item = Partial>, len: usize) -> Vec<u32> {
    let mut total = alloc::vec![0; len];
    for part in parts {
        let Partial::Counts(counts) = part else { continue };
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    total
}

/// Joins id lists, position by position.
fn concat(parts: impl Iterator<Item = Partial>, len: usize) -> Vec<Vec<u32>> {
    let mut total = alloc::vec![Vec::new(); len];
    for part in parts {
        let Partial::Ids(lists) = part else { continue };
        for (all, ids) in total.iter_mut().zip(lists) {
            all.extend(ids);
        }
    }
    total
}

/// Joins name lists, each name once, in the order of first appearance.
fn unite(parts: impl Iterator<Item = Partial>) -> Vec<Vec<u8>> {
    let mut seen = alloc::collections::BTreeSet::new();
    let mut all = Vec::new();
    for part in parts {
        let Partial::Names(names) = part else { continue };
        for name in names {
            if seen.insert(name.clone()) {
                all.push(name);
            }
        }
    }
    all
}

/// Joins elements of arrays; a single client's answer is the answer.
fn join(parts: impl Iterator<Item = Partial>) -> Partial {
    let mut total = 0;
    let mut all = Vec::new();
    for part in parts {
        match part {
            Partial::Whole(_) => return part,
            Partial::Elements { count, bytes } => {
                total += count;
                if all.is_empty() {
                    all = bytes;
                } else {
                    all.extend_from_slice(&bytes);
                }
            }
            Partial::Counts(_) | Partial::Ids(_) | Partial::Names(_) => {}
        }
    }
    Partial::Elements { count: total, bytes: all }
}

fn id_list(ids: &[u32], out: &mut Vec<u8>) {
    write::array_open(ids.len(), out);
    for (index, id) in (0..).zip(ids) {
        write::int(index, out);
        write::int(i64::from(*id), out);
    }
    write::array_close(out);
}

/// A list of array keys, as `array_keys` gives them: numeric names are integers.
fn name_list(names: &[Vec<u8>], out: &mut Vec<u8>) {
    write::array_open(names.len(), out);
    for (index, name) in (0..).zip(names) {
        write::int(index, out);
        write::key(&Key::from_php_string(name), out);
    }
    write::array_close(out);
}

/// An array from what was asked for, each once, to its answer.
fn by_key<T>(keys: &[Vec<u8>], values: &[T], value: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    write::array_open(keys.len(), out);
    for (key, item) in keys.iter().zip(values) {
        write::key(&Key::from_php_string(key), out);
        value(item, out);
    }
    write::array_close(out);
}

impl Partial {
    /// Appends the part as it crosses to whoever asks: another shard, or a dispatcher.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Whole(bytes) => {
                out.push(0);
                out.extend_from_slice(bytes);
            }
            Self::Elements { count, bytes } => {
                out.push(1);
                put_u32(*count, out);
                out.extend_from_slice(bytes);
            }
            Self::Counts(counts) => {
                out.push(2);
                counts.iter().for_each(|count| put_u32(*count, out));
            }
            Self::Ids(lists) => {
                out.push(3);
                for ids in lists {
                    put_u32(len_u32(ids.len()), out);
                    ids.iter().for_each(|id| put_u32(*id, out));
                }
            }
            Self::Names(names) => {
                out.push(4);
                for name in names {
                    put_u32(len_u32(name.len()), out);
                    out.extend_from_slice(name);
                }
            }
        }
    }

    /// Reads what [`Partial::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        Some(match kind {
            0 => Self::Whole(rest.to_vec()),
            1 => Self::Elements { count: take_u32(&mut rest)?, bytes: rest.to_vec() },
            2 => Self::Counts(core::iter::from_fn(|| take_u32(&mut rest)).collect()),
            3 => Self::Ids(
                core::iter::from_fn(|| {
                    let len = take_u32(&mut rest)?;
                    (0..len).map(|_| take_u32(&mut rest)).collect()
                })
                .collect(),
            ),
            4 => Self::Names(
                core::iter::from_fn(|| {
                    let len = take_u32(&mut rest)? as usize;
                    rest.split_off(..len).map(<[u8]>::to_vec)
                })
                .collect(),
            ),
            _ => return None,
        })
    }
}

fn put_u32(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("limits keep names and lists under 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ext::Name;
    use alloc::string::String;
    use alloc::vec;
    use tengate_base::ShardId;

    fn reply(command: Command, keys: &[&str], parts: Vec<Partial>) -> String {
        let mut ext = Vec::new();
        let names: Vec<Name<'_>> = keys.iter().map(|key| Name::from(*key)).collect();
        ext::encode_names(&names, &mut ext);
        let shards: Vec<ShardId> = (0..4).take(parts.len()).map(ShardId).collect();
        let mut pending = Pending::new(0, command, &ext, &shards);
        for (place, part) in shards.into_iter().zip(parts) {
            assert!(!pending.is_complete());
            let mut bytes = Vec::new();
            part.encode(&mut bytes);
            assert_eq!(Partial::decode(&bytes).as_ref(), Some(&part));
            pending.put(place, part);
        }
        assert!(pending.is_complete());
        let mut out = Vec::new();
        pending.encode(&mut out);
        assert_eq!(out[..4], u32::try_from(out.len() - 4).unwrap().to_be_bytes());
        String::from_utf8(out[4..].to_vec()).unwrap()
    }

    #[test]
    fn parts_of_every_kind_become_one_php_value() {
        let ids = |lists: &[&[u32]]| Partial::Ids(lists.iter().map(|ids| ids.to_vec()).collect());
        let names = |names: &[&str]| {
            Partial::Names(names.iter().map(|name| name.as_bytes().to_vec()).collect())
        };
        let element = |text: &str| Partial::Elements { count: 1, bytes: text.as_bytes().to_vec() };
        assert_eq!(reply(Command::IsOnline, &[], vec![Partial::Whole(b"i:1;".to_vec())]), "i:1;");
        assert_eq!(
            reply(
                Command::GetAllClientSessions,
                &[],
                vec![element("i:1;s:0:\"\";"), element("i:9;s:0:\"\";")]
            ),
            "a:2:{i:1;s:0:\"\";i:9;s:0:\"\";}"
        );
        assert_eq!(
            reply(
                Command::GetClientCountByGroup,
                &[],
                vec![Partial::Counts(vec![3]), Partial::Counts(vec![4])]
            ),
            "i:7;"
        );
        assert_eq!(
            reply(Command::GetClientIdByUid, &[], vec![ids(&[&[5, 6]]), ids(&[&[]]), ids(&[&[7]])]),
            "a:3:{i:0;i:5;i:1;i:6;i:2;i:7;}"
        );
        assert_eq!(
            reply(
                Command::BatchGetClientIdByUid,
                &["u", "33"],
                vec![ids(&[&[1], &[]]), ids(&[&[], &[2]])]
            ),
            "a:2:{s:1:\"u\";a:1:{i:0;i:1;}i:33;a:1:{i:0;i:2;}}"
        );
        assert_eq!(
            reply(Command::GetGroupIdList, &[], vec![names(&["g", "42"]), names(&["42", "h"])]),
            "a:3:{i:0;s:1:\"g\";i:1;i:42;i:2;s:1:\"h\";}"
        );
        assert_eq!(
            reply(
                Command::BatchGetClientCountByGroup,
                &["g", "7"],
                vec![Partial::Counts(vec![1, 0])]
            ),
            "a:2:{s:1:\"g\";i:1;i:7;i:0;}"
        );
    }
}
