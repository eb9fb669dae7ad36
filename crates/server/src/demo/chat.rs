//! The demo's business code: a chat with names, rooms and direct messages (its protocol: web/demo/app.js).
//!
//! A user is a uid, made of the name; each tab is a client. A room is a group. What the chat knows of a client is in the
//! client's session, so any number of these workers can run side by side, and one can be restarted under its clients.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tengate_worker::php::{Array, Key, Value};
use tengate_worker::{
    BusinessWorker, CallError, ClientId, Context, EventResult, Events, Gateway, StartError,
};

/// Serves the chat until the future is dropped.
///
/// # Errors
/// The settings make no sense.
pub(crate) async fn run(register: &str, secret_key: &str) -> Result<(), StartError> {
    BusinessWorker::builder()
        .name("DemoChat")
        .register(register)
        .secret_key(secret_key)
        .run(Chat)
        .await
}

/// The chat keeps nothing itself.
#[derive(Debug)]
struct Chat;

/// What a page says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Request<'a> {
    Join {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow)]
        token: Cow<'a, str>,
        #[serde(borrow)]
        room: Cow<'a, str>,
    },
    Room {
        #[serde(borrow)]
        room: Cow<'a, str>,
    },
    Say {
        #[serde(borrow)]
        text: Cow<'a, str>,
    },
    Tell {
        #[serde(borrow)]
        to: Cow<'a, str>,
        #[serde(borrow)]
        text: Cow<'a, str>,
    },
    Ping,
}

/// What a page is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Notice<'a> {
    Joined { name: &'a str, room: &'a str },
    Rooms { rooms: Vec<Room> },
    Online { room: &'a str, users: Vec<User>, more: usize },
    Said { room: &'a str, from: &'a str, text: &'a str },
    Told { from: &'a str, to: &'a str, text: &'a str },
    Refused { code: &'static str, text: &'static str },
    Pong,
}

#[derive(Serialize)]
struct Room {
    name: String,
    clients: usize,
}

#[derive(Serialize)]
struct User {
    name: String,
    tabs: usize,
}

/// Why a request is not done; the page's user is at fault.
#[derive(Clone, Copy)]
enum Refusal {
    BadRequest,
    JoinFirst,
    BadName,
    NameTaken,
    BadRoom,
    BadText,
    NotOnline,
}

/// What the session of a client that has joined holds.
struct Member {
    name: String,
    token: String,
    room: String,
}

/// What a client just did.
enum Change {
    Entered(ClientId, Member),
    Left(ClientId),
}

impl Events for Chat {
    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        let outcome = match (decode(message), Member::from_session(ctx.session())) {
            (None, _) => Err(Refusal::BadRequest),
            (Some(Request::Ping), _) => {
                ctx.send(Notice::Pong.json()).await?;
                Ok(())
            }
            (Some(Request::Join { name, token, room }), before) => {
                join(ctx, before, &name, &token, &room).await?
            }
            (Some(_), None) => Err(Refusal::JoinFirst),
            (Some(Request::Room { room }), Some(member)) => move_to(ctx, member, &room).await?,
            (Some(Request::Say { text }), Some(member)) => say(ctx, &member, &text).await?,
            (Some(Request::Tell { to, text }), Some(member)) => {
                tell(ctx, &member, &to, &text).await?
            }
        };
        if let Err(refusal) = outcome {
            ctx.send(refusal.notice().json()).await?;
        }
        Ok(())
    }

    async fn on_close(&self, ctx: &mut Context) -> EventResult {
        if let Some(member) = Member::from_session(ctx.session()) {
            let client = ctx.client_id();
            let told = async {
                tell_online(ctx.gateway(), &member.room, Change::Left(client)).await?;
                tell_rooms(ctx.gateway(), client, None).await
            };
            match told.await {
                // The gateway itself is leaving: nobody is left to be told.
                Ok(()) | Err(CallError::NoGateway) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

async fn join(
    ctx: &mut Context,
    before: Option<Member>,
    name: &str,
    token: &str,
    room: &str,
) -> Result<Result<(), Refusal>, CallError> {
    let Some(name) = checked_line(name, NAME_CHARS_MAX) else { return Ok(Err(Refusal::BadName)) };
    let Some(room) = checked_line(room, ROOM_CHARS_MAX) else { return Ok(Err(Refusal::BadRoom)) };
    if token.len() < TOKEN_BYTES_MIN || token.len() > TOKEN_BYTES_MAX {
        return Ok(Err(Refusal::BadRequest));
    }
    let gateway = ctx.gateway();
    // The name belongs to whoever of its present users came first; more tabs of the same browser show the same token.
    for other in gateway.get_client_id_by_uid(uid(name)).await? {
        let session = gateway.get_session(other).await?.unwrap_or_default();
        if other != ctx.client_id()
            && Member::from_session(&session).is_some_and(|user| user.token != token)
        {
            return Ok(Err(Refusal::NameTaken));
        }
    }
    gateway.bind_uid(ctx.client_id(), uid(name)).await?;
    let member = Member { name: name.to_owned(), token: token.to_owned(), room: String::new() };
    enter(ctx, member, before.map(|member| member.room), room).await?;
    Ok(Ok(()))
}

async fn move_to(
    ctx: &mut Context,
    member: Member,
    room: &str,
) -> Result<Result<(), Refusal>, CallError> {
    let Some(room) = checked_line(room, ROOM_CHARS_MAX) else { return Ok(Err(Refusal::BadRoom)) };
    let left = member.room.clone();
    enter(ctx, member, Some(left), room).await?;
    Ok(Ok(()))
}

async fn say(ctx: &Context, member: &Member, text: &str) -> Result<Result<(), Refusal>, CallError> {
    let Some(text) = checked_text(text) else { return Ok(Err(Refusal::BadText)) };
    let said = Notice::Said { room: &member.room, from: &member.name, text };
    ctx.gateway().send_to_group(group(&member.room), said.json()).await?;
    Ok(Ok(()))
}

async fn tell(
    ctx: &Context,
    member: &Member,
    to: &str,
    text: &str,
) -> Result<Result<(), Refusal>, CallError> {
    let Some(text) = checked_text(text) else { return Ok(Err(Refusal::BadText)) };
    let Some(to) = checked_line(to, NAME_CHARS_MAX) else { return Ok(Err(Refusal::BadName)) };
    if !ctx.gateway().is_uid_online(uid(to)).await? {
        return Ok(Err(Refusal::NotOnline));
    }
    let told = Notice::Told { from: &member.name, to, text }.json();
    // The sender's other tabs show what was sent, too. A note to oneself goes out once.
    let mut uids = vec![uid(to), uid(&member.name)];
    uids.dedup();
    ctx.gateway().send_to_uid(uids, told).await?;
    Ok(Ok(()))
}

/// Moves the client into `room` and tells everyone concerned.
async fn enter(
    ctx: &mut Context,
    member: Member,
    left: Option<String>,
    room: &str,
) -> Result<(), CallError> {
    let member = Member { room: room.to_owned(), ..member };
    let (client, gateway) = (ctx.client_id(), ctx.gateway().clone());
    let left = left.filter(|left| left != room);
    if let Some(left) = &left {
        gateway.leave_group(client, group(left)).await?;
    }
    gateway.join_group(client, group(room)).await?;
    // Stored now, and not after this handler, because the lists below are made from sessions.
    let session = member.session();
    gateway.set_session(client, session.clone()).await?;
    *ctx.session_mut() = session;
    ctx.send(Notice::Joined { name: &member.name, room }.json()).await?;
    if let Some(left) = left {
        tell_online(&gateway, &left, Change::Left(client)).await?;
    }
    tell_online(&gateway, room, Change::Entered(client, member)).await?;
    tell_rooms(&gateway, client, Some(room)).await
}

/// Tells a room who is in it. What just changed is applied to the gateways' answers, which may not know it yet.
async fn tell_online(gateway: &Gateway, room: &str, change: Change) -> Result<(), CallError> {
    let mut sessions = gateway.get_client_sessions_by_group(group(room)).await?;
    match change {
        Change::Entered(client, member) => drop(sessions.insert(client, member.session())),
        Change::Left(client) => drop(sessions.remove(&client)),
    }
    let mut tabs: BTreeMap<String, User> = BTreeMap::new();
    for member in sessions.values().filter_map(Member::from_session) {
        tabs.entry(uid(&member.name)).or_insert(User { name: member.name, tabs: 0 }).tabs += 1;
    }
    let more = tabs.len().saturating_sub(ONLINE_SHOWN_MAX);
    let users = tabs.into_values().take(ONLINE_SHOWN_MAX).collect();
    gateway.send_to_group(group(room), Notice::Online { room, users, more }.json()).await
}

/// Tells everybody which rooms there are, with `client` in `room` only, whatever the gateways know of it.
async fn tell_rooms(
    gateway: &Gateway,
    client: ClientId,
    room: Option<&str>,
) -> Result<(), CallError> {
    let mut groups = gateway.get_all_group_client_id_list().await?;
    for members in groups.values_mut() {
        members.remove(&client);
    }
    if let Some(room) = room {
        groups.entry(group(room)).or_default().insert(client);
    }
    let mut rooms: Vec<Room> = groups
        .into_iter()
        .filter(|(_, members)| !members.is_empty())
        .filter_map(|(group, members)| {
            Some(Room {
                name: group.strip_prefix(GROUP_PREFIX)?.to_owned(),
                clients: members.len(),
            })
        })
        .collect();
    rooms.sort_by(|one, other| {
        other.clients.cmp(&one.clients).then_with(|| one.name.cmp(&other.name))
    });
    rooms.truncate(ROOMS_SHOWN_MAX);
    gateway.send_to_all(Notice::Rooms { rooms }.json()).await
}

impl Member {
    fn from_session(session: &Array) -> Option<Self> {
        let text = |key: &str| match session.get(&Key::from(key)) {
            Some(Value::Str(bytes)) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        };
        Some(Self { name: text("name")?, token: text("token")?, room: text("room")? })
    }

    fn session(&self) -> Array {
        let entries = [("name", &self.name), ("token", &self.token), ("room", &self.room)];
        entries
            .into_iter()
            .map(|(key, text)| (Key::from(key), Value::from(text.as_str())))
            .collect()
    }
}

impl Notice<'_> {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("notices are strings and numbers")
    }
}

impl Refusal {
    fn notice(self) -> Notice<'static> {
        let (code, text) = match self {
            Self::BadRequest => ("bad_request", "The chat does not understand this request."),
            Self::JoinFirst => ("join_first", "Say who you are first."),
            Self::BadName => ("bad_name", "A name has 1 to 32 characters, on one line."),
            Self::NameTaken => ("name_taken", "Somebody with this name is here already."),
            Self::BadRoom => ("bad_room", "A room's name has 1 to 32 characters, on one line."),
            Self::BadText => ("bad_text", "A message has 1 to 4096 characters."),
            Self::NotOnline => ("not_online", "Nobody of this name is here."),
        };
        Notice::Refused { code, text }
    }
}

fn decode(message: &[u8]) -> Option<Request<'_>> {
    if message.len() > REQUEST_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(message).ok()
}

/// A name without the space around it; `None` if nothing is left, it is too long, or has control characters.
fn checked_line(text: &str, chars_max: usize) -> Option<&str> {
    let text = text.trim();
    let fits = !text.is_empty()
        && text.chars().count() <= chars_max
        && !text.chars().any(char::is_control);
    fits.then_some(text)
}

fn checked_text(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= TEXT_CHARS_MAX).then_some(text)
}

/// Names that differ only in case are one user, lest somebody pass for another.
fn uid(name: &str) -> String {
    name.to_lowercase()
}

/// Rooms have a prefix, so that other workers' groups are no rooms.
fn group(room: &str) -> String {
    format!("{GROUP_PREFIX}{room}")
}

const GROUP_PREFIX: &str = "room:";
const NAME_CHARS_MAX: usize = 32;
const ROOM_CHARS_MAX: usize = 32;
const TEXT_CHARS_MAX: usize = 4096;

/// What a page makes up to be recognised by in its other tabs.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 64;

/// Longest request: a text of the greatest length with every character escaped (`\ud83d\ude00`), and some room.
const REQUEST_BYTES_MAX: usize = TEXT_CHARS_MAX * 12 + 1024;

/// Users and rooms that a page is told of.
const ONLINE_SHOWN_MAX: usize = 200;
const ROOMS_SHOWN_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        let longest = "ä".repeat(NAME_CHARS_MAX);
        let too_long = "a".repeat(NAME_CHARS_MAX + 1);
        for (name, expected) in [
            (" ann ", Some("ann")),
            ("", None),
            ("  ", None),
            ("a\nb", None),
            (&longest, Some(&*longest)),
            (&too_long, None),
        ] {
            assert_eq!(checked_line(name, NAME_CHARS_MAX), expected, "{name:?}");
        }
    }

    #[test]
    fn the_longest_text_fits_a_request_even_with_every_character_escaped() {
        let text = "\\ud83d\\ude00".repeat(TEXT_CHARS_MAX);
        let request = format!(r#"{{"type":"say","text":"{text}"}}"#);
        let Some(Request::Say { text }) = decode(request.as_bytes()) else { panic!("refused") };
        assert!(checked_text(&text).is_some());
    }

    #[test]
    fn other_requests_are_refused() {
        for request in [
            "",
            "[]",
            "{}",
            r#"{"type":"shout"}"#,
            r#"{"type":"say"}"#,
            r#"{"type":"say","text":1}"#,
        ] {
            assert!(decode(request.as_bytes()).is_none(), "{request}");
        }
    }

    #[test]
    fn a_member_survives_its_session() {
        let member = Member { name: "Ann".into(), token: "t".repeat(16), room: "lobby".into() };
        let again = Member::from_session(&member.session()).unwrap();
        assert_eq!((again.name, again.token, again.room), (member.name, member.token, member.room));
        assert!(Member::from_session(&Array::new()).is_none());
    }

    #[test]
    fn notices_are_what_the_page_expects() {
        let online = Notice::Online {
            room: "r",
            users: vec![User { name: "Ann".into(), tabs: 2 }],
            more: 0,
        };
        assert_eq!(
            online.json(),
            r#"{"type":"online","room":"r","users":[{"name":"Ann","tabs":2}],"more":0}"#
        );
        let refused = Refusal::JoinFirst.notice();
        assert_eq!(
            refused.json(),
            r#"{"type":"refused","code":"join_first","text":"Say who you are first."}"#
        );
    }
}
