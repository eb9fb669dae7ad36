//! What `tengate start` shows a newcomer.

pub(crate) mod chat;
