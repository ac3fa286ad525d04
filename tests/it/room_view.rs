//! The state of a room at a client that follows `docs/PROTOCOL.md`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The state of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageView {
    pub text: String,
    pub is_edited: bool,
    pub is_deleted: bool,
    pub reply_to: Option<u64>,
    /// The number of authors for each emoji.
    pub reactions: BTreeMap<String, u64>,
}

/// The messages of a room by sequence number, the topic, and the position for the next resume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomView {
    pub messages: BTreeMap<u64, MessageView>,
    pub topic: String,
    pub epoch: Value,
    pub seq: u64,
}

impl MessageView {
    /// Returns the state that a message object has.
    pub fn of(message: &Value) -> Self {
        let reactions = message["reactions"].as_object().into_iter().flatten();
        Self {
            text: message["text"].as_str().unwrap().to_owned(),
            is_edited: !message["edited_at"].is_null(),
            is_deleted: message["deleted"] == true,
            reply_to: message["reply_to"].as_u64(),
            reactions: reactions
                .map(|(emoji, count)| (emoji.clone(), count.as_u64().unwrap()))
                .collect(),
        }
    }
}

impl RoomView {
    /// Returns the `after` of a `join` that resumes at the view's position.
    pub fn position(&self) -> Value {
        if self.epoch.is_null() {
            Value::Null
        } else {
            json!({"epoch": self.epoch, "seq": self.seq})
        }
    }

    /// Applies a line that the server has sent.
    pub fn apply(&mut self, line: &Value) {
        match line["type"].as_str().unwrap() {
            "joined" => {
                if line["recovered"] == false {
                    self.messages.clear();
                }
                self.add(line["messages"].as_array().unwrap());
                for change in line["changes"].as_array().into_iter().flatten() {
                    self.change(change);
                }
                self.topic = line["topic"].as_str().unwrap_or_default().to_owned();
                self.epoch = line["epoch"].clone();
                self.seq = line["seq"].as_u64().unwrap();
            }
            "message" => {
                self.advance(line);
                self.add(std::slice::from_ref(line));
            }
            "edited" | "deleted" | "reacted" | "room" => {
                self.advance(line);
                self.change(line);
            }
            _ => {}
        }
    }

    fn advance(&mut self, line: &Value) {
        let seq = line["seq"].as_u64().unwrap();
        assert!(seq > self.seq, "{line} after {}", self.seq);
        self.seq = seq;
    }

    fn add(&mut self, messages: &[Value]) {
        for message in messages {
            let seq = message["seq"].as_u64().unwrap();
            let before = self.messages.insert(seq, MessageView::of(message));
            assert_eq!(before, None, "{message} came twice");
        }
    }

    fn change(&mut self, change: &Value) {
        if change["type"] == "room" {
            self.topic = change["topic"].as_str().unwrap().to_owned();
        }
        let target = change["target"].as_u64().and_then(|seq| self.messages.get_mut(&seq));
        let Some(message) = target else { return };
        match change["type"].as_str().unwrap() {
            "edited" => {
                message.text = change["text"].as_str().unwrap().to_owned();
                message.is_edited = true;
            }
            "deleted" => {
                message.text.clear();
                message.is_edited = false;
                message.is_deleted = true;
                message.reactions.clear();
            }
            "reacted" => {
                let emoji = change["emoji"].as_str().unwrap().to_owned();
                match change["count"].as_u64().unwrap() {
                    0 => message.reactions.remove(&emoji),
                    count => message.reactions.insert(emoji, count),
                };
            }
            _ => {}
        }
    }
}
