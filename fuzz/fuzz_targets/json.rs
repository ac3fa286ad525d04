//! The JSON protocol. Every line is decoded to a valid command or answered with an error in one
//! line of JSON, and decoding it again gives the same command.
#![no_main]

use chinwag::domain::{Emoji, MessageId, Nick, RoomName, SearchQuery, Topic};
use chinwag::protocol::{Command, json};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 100;

fuzz_target!(|input: &str| {
    let line = input.split('\n').next().unwrap_or_default();
    match json::decode(line, MAX_BYTES) {
        Ok(None) => assert!(line.trim().is_empty()),
        Ok(Some(request)) => {
            let again = json::decode(line, MAX_BYTES);
            assert!(again.is_ok_and(|again| again.as_ref() == Some(&request)));
            assert_valid(&request.command, line);
        }
        Err(reply) => {
            let line = json::reply(&reply);
            assert!(!line.contains('\n') && line.len() < 2000, "{line}");
            let error: serde_json::Value = serde_json::from_str(&line).expect("the line is JSON");
            assert_eq!(error["type"], "error");
        }
    }
});

fn assert_valid(command: &Command, line: &str) {
    match command {
        Command::Say { room, text, id, .. } | Command::Edit { room, text, id, .. } => {
            assert_valid_room(room);
            assert!((1..=MAX_BYTES).contains(&text.as_str().len()));
            assert_valid_id(id.as_ref());
        }
        Command::Delete { room, id, .. } => {
            assert_valid_room(room);
            assert_valid_id(id.as_ref());
        }
        Command::React { room, emoji, id, .. } => {
            assert_valid_room(room);
            assert_eq!(Emoji::parse(emoji.as_str()).as_ref(), Ok(emoji));
            assert_valid_id(id.as_ref());
        }
        Command::SetRoom { room, topic, id } => {
            assert_valid_room(room);
            assert_eq!(Topic::parse(topic.as_str()).as_ref(), Ok(topic));
            assert!(topic.as_str().chars().count() <= Topic::MAX_CHARS);
            assert_valid_id(id.as_ref());
        }
        Command::Hello { nick, .. } => nick.iter().for_each(assert_valid_nick),
        Command::Nick { nick } => assert_valid_nick(nick),
        Command::History { room, limit, .. } => {
            assert_valid_room(room);
            assert!((1..=json::HISTORY_MAX).contains(limit));
        }
        Command::Search { query } => {
            let SearchQuery { terms, room, limit, .. } = query;
            room.iter().for_each(assert_valid_room);
            assert!((1..=json::SEARCH_MAX).contains(limit));
            // If the line itself matches, its snippet has at least one match.
            if let Some(snippet) = terms.snippet(line) {
                assert!(snippet.len() >= 2);
            }
        }
        Command::Join { room, .. }
        | Command::Leave { room }
        | Command::Who { room }
        | Command::Typing { room }
        | Command::Read { room, .. } => assert_valid_room(room),
    }
}

fn assert_valid_id(id: Option<&MessageId>) {
    assert!(id.is_none_or(|id| (1..=MessageId::MAX_CHARS).contains(&id.as_str().chars().count())));
}

fn assert_valid_room(room: &RoomName) {
    assert_eq!(RoomName::parse(room.as_str()).as_ref(), Ok(room));
}

fn assert_valid_nick(nick: &Nick) {
    assert_eq!(Nick::parse(nick.as_str()).as_ref(), Ok(nick));
}
