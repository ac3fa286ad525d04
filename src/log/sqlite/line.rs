//! The lines of an export, in JSON. A line without `type` is a message.

use serde::{Deserialize, Serialize};

use crate::domain::{ChatMessage, Identity, Nick, Reaction, RoomName, Topic};

/// A message in its current state. Optional fields without a value are left out, so the line of a
/// message without them is the same as in older versions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageLine {
    pub(super) room: String,
    pub(super) seq: u64,
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) nick: String,
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// The author. An import needs the identity itself, since its public form cannot be converted
    /// back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<HexIdentity>,
    /// See [`ChatMessage::attributed`]. Absent if it is as [`is_attributed_by_default`] says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attributed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply_to: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) edited_at: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) reactions: Vec<ReactionLine>,
}

/// The reactions to a message with one emoji.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReactionLine {
    pub(super) emoji: String,
    /// The authors. `null` is the server itself.
    pub(super) identities: Vec<Option<HexIdentity>>,
}

/// The topic of a room.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomLine {
    pub(super) r#type: RoomType,
    pub(super) room: String,
    pub(super) topic: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoomType {
    Room,
}

/// The 16 bytes of an identity as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::log) struct HexIdentity(pub(in crate::log) Identity);

impl From<HexIdentity> for String {
    fn from(HexIdentity(identity): HexIdentity) -> Self {
        identity.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for HexIdentity {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| is_valid);
        let number = number.ok_or("an identity must have 32 hexadecimal digits")?;
        Ok(Self(Identity::from_trusted(number.to_be_bytes())))
    }
}

/// Returns whether the text protocol shows this name if a line has no `attributed`.
pub(super) fn is_attributed_by_default(nick: &Nick) -> bool {
    !nick.is_anonymous()
}

/// Returns the line of a message. `reactions` are the reactions to it, sorted by emoji.
pub(super) fn export_line(message: &ChatMessage, reactions: &[Reaction]) -> String {
    let is_default = message.attributed == is_attributed_by_default(&message.nick);
    encode(&MessageLine {
        room: message.room.as_str().into(),
        seq: message.seq.get(),
        at: message.at.millis(),
        nick: message.nick.as_str().into(),
        text: message.text.as_str().into(),
        id: message.id.as_ref().map(|id| id.as_str().into()),
        identity: message.author.map(HexIdentity),
        attributed: (!is_default).then_some(message.attributed),
        reply_to: message.reply_to.map(crate::domain::Seq::get),
        edited_at: message.edited_at.map(crate::domain::Timestamp::millis),
        deleted: message.deleted,
        reactions: reactions
            .chunk_by(|a, b| a.emoji == b.emoji)
            .map(|same| ReactionLine {
                emoji: same[0].emoji.as_str().into(),
                identities: same.iter().map(|one| one.author.map(HexIdentity)).collect(),
            })
            .collect(),
    })
}

/// Returns the line of a room.
pub(super) fn room_line(room: &RoomName, topic: &Topic) -> String {
    let (room, topic) = (room.as_str().into(), topic.as_str().into());
    encode(&RoomLine { r#type: RoomType::Room, room, topic })
}

fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are strings and no other error is possible")
}
