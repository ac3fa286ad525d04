//! The JSON protocol: whatever a line holds, it is a command that keeps its promises, or it is
//! answered by an error that is itself a line of JSON; and nothing depends on how often it is read.
#![no_main]

use chinwag::domain::{Nick, RoomName};
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
            keeps_its_promises(&request.command);
        }
        Err(reply) => {
            let told = json::reply(&reply);
            assert!(!told.contains('\n') && told.len() < 2000, "{told}");
            let told: serde_json::Value = serde_json::from_str(&told).expect("a line of JSON");
            assert_eq!(told["type"], "error");
        }
    }
});

fn keeps_its_promises(command: &Command) {
    match command {
        Command::Say { room, text, id } => {
            is_a_room(room);
            assert!((1..=MAX_BYTES).contains(&text.as_str().len()));
            assert!(id.as_ref().is_none_or(|id| id.as_str().chars().count() <= 64));
        }
        Command::Hello { nick, .. } => nick.iter().for_each(is_a_nick),
        Command::Nick { nick } => is_a_nick(nick),
        Command::History { room, limit, .. } => {
            is_a_room(room);
            assert!((1..=json::HISTORY_MAX).contains(limit));
        }
        Command::Join { room, .. }
        | Command::Leave { room }
        | Command::Who { room }
        | Command::Typing { room } => is_a_room(room),
    }
}

fn is_a_room(room: &RoomName) {
    assert_eq!(RoomName::parse(room.as_str()).as_ref(), Ok(room));
}

fn is_a_nick(nick: &Nick) {
    assert_eq!(Nick::parse(nick.as_str()).as_ref(), Ok(nick));
}
