//! The text protocol and names: every value that is accepted is valid.
#![no_main]

use chinwag::domain::{Nick, RoomName};
use chinwag::protocol::{Command, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Ok(Some(Command::Say { text, .. })) = text::decode(input, &RoomName::default(), 100) {
        let text = text.as_str();
        assert!(!text.is_empty() && text.len() <= 100 && text == text.trim());
        assert!(!text.contains(|c: char| c.is_control() && c != '\t'));
    }
    if let Ok(room) = RoomName::parse(input) {
        assert_eq!(RoomName::parse(room.as_str()), Ok(room));
    }
    if let Ok(nick) = Nick::parse(input) {
        assert_eq!(Nick::parse(nick.as_str()).map(|again| again.to_string()), Ok(nick.to_string()));
        let line = format!("{nick}: hi");
        assert!(Nick::forms_claimed_by(&line).contains(&nick.forms().map(str::to_owned)));
    }
});
