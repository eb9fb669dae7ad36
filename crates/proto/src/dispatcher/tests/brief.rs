//! Short names for what the tests speak of.

pub(super) use crate::query::Partial;
pub(super) use crate::wire::extension::{Extension, NameKind};
pub(super) use crate::wire::header::Command;

pub(super) const CONNECT: Command = Command::OnConnect;
pub(super) const MESSAGE: Command = Command::OnMessage;
pub(super) const CLOSE: Command = Command::OnClose;
pub(super) const UID: NameKind = NameKind::Uid;
pub(super) const GROUP: NameKind = NameKind::Group;
