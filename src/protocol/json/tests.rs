//! Tests of the exact form of commands, events and answers.

use super::*;
use serde_json::json;

use crate::domain::{Durability, Settings, SettingsChange, Unread};

const MAX_BYTES: usize = 8;

fn decoded(line: &Value) -> Result<Command, (ErrorCode, String)> {
    match decode(&line.to_string(), MAX_BYTES) {
        Ok(request) => Ok(request.expect("the line is not blank").command),
        Err(reply) => {
            let Event::Error(refusal) = reply.event else { panic!("{reply:?}") };
            Err((refusal.code, refusal.message.into_owned()))
        }
    }
}

fn room() -> RoomName {
    RoomName::parse("tea").expect("a room")
}

fn nick(name: &str) -> Nick {
    Nick::parse(name).expect("a name")
}

fn text(text: &str) -> MessageText {
    MessageText::parse(text, 100).expect("a text")
}

fn message_id() -> Option<MessageId> {
    Some(MessageId::parse("i").expect("an id"))
}

fn emoji(text: &str) -> Emoji {
    Emoji::parse(text).expect("an emoji")
}

fn topic() -> Topic {
    Topic::parse("Which tea?").expect("a topic")
}

fn ada() -> Identity {
    Identity::of_key("the secret key of Ada").expect("a key")
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn message(seq: u64) -> ChatMessage {
    ChatMessage {
        room: room(),
        seq: Seq::new(seq),
        at: at(1000 + seq),
        author: Some(ada()),
        nick: nick("Ada"),
        text: text("hello"),
        id: None,
        attributed: true,
        reply_to: None,
        quote: None,
        edited_at: None,
        deleted: false,
        counted: None,
    }
}

fn reply_to(seq: u64, target: u64) -> ChatMessage {
    let quote = Some(Arc::new(Quote::new(nick("Ben"), "\"messages\":[] said Ben")));
    ChatMessage { reply_to: Some(Seq::new(target)), quote, ..message(seq) }
}

fn deleted(seq: u64) -> ChatMessage {
    ChatMessage { text: MessageText::deleted(), deleted: true, ..message(seq) }
}

fn change(seq: u64, kind: ChangeKind) -> Arc<Change> {
    Arc::new(Change {
        room: room(),
        seq: Seq::new(seq),
        at: at(1000 + seq),
        author: Some(ada()),
        nick: nick("Ada"),
        id: None,
        kind,
    })
}

/// Returns one change of each kind.
fn changes() -> Vec<Arc<Change>> {
    let target = Seq::new(1);
    vec![
        change(5, ChangeKind::Edit { target, text: text("new") }),
        change(6, ChangeKind::React { target, emoji: emoji("👍"), on: true, count: 2 }),
        change(7, ChangeKind::Delete { target }),
        change(8, ChangeKind::Room { topic: topic() }),
    ]
}

fn count(target: u64, text: &str, count: u32, mine: bool) -> ReactionCount {
    ReactionCount { target: Seq::new(target), emoji: emoji(text), count, mine }
}

#[test]
fn message_may_reply_to_another() {
    let say = json!({"type": "say", "room": "Tea", "text": "a\r\nb", "id": "i", "reply_to": 5});
    let command = |id, reply_to| Command::Say { room: room(), text: text("a\nb"), id, reply_to };
    assert_eq!(decoded(&say), Ok(command(message_id(), Some(Seq::new(5)))));
    let say = json!({"type": "say", "room": "tea", "text": "a\nb", "reply_to": null});
    assert_eq!(decoded(&say), Ok(command(None, None)));
}

#[test]
fn commands_for_changes_are_decoded() {
    let (room, target) = (room(), Seq::new(5));
    let edit = json!({"type": "edit", "room": "Tea", "seq": 5, "text": "a\r\nb", "id": "i"});
    let edited = Command::Edit { room: room.clone(), target, text: text("a\nb"), id: message_id() };
    assert_eq!(decoded(&edit), Ok(edited));
    let delete = json!({"type": "delete", "room": "tea", "seq": 5, "new": [1]});
    assert_eq!(decoded(&delete), Ok(Command::Delete { room: room.clone(), target, id: None }));
    for (on, is_on) in [(json!(true), true), (json!(false), false), (Value::Null, true)] {
        let react = json!({"type": "react", "room": "tea", "seq": 5, "emoji": "❤", "on": on});
        let emoji = emoji("❤️");
        let reacted = Command::React { room: room.clone(), target, emoji, on: is_on, id: None };
        assert_eq!(decoded(&react), Ok(reacted));
    }
    let set_room = json!({"type": "set_room", "room": "tea", "topic": " Which tea? ", "id": "i"});
    let changed = Command::SetRoom { room: room.clone(), topic: topic(), id: message_id() };
    assert_eq!(decoded(&set_room), Ok(changed));
    let set_room = json!({"type": "set_room", "room": "tea", "topic": ""});
    let cleared = Command::SetRoom { room, topic: Topic::default(), id: None };
    assert_eq!(decoded(&set_room), Ok(cleared));
}

#[test]
fn history_takes_one_range() {
    let seq = Seq::new(5);
    let ranges = [
        (json!({}), HistoryRange::Latest),
        (json!({"before": null, "after": null}), HistoryRange::Latest),
        (json!({"before": 5}), HistoryRange::Before(seq)),
        (json!({"after": 5}), HistoryRange::After(seq)),
        (json!({"around": 5, "before": null}), HistoryRange::Around(seq)),
    ];
    let history = |fields: &Value| {
        let mut line = json!({"type": "history", "room": "tea"});
        let fields = fields.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(fields);
        decoded(&line)
    };
    for (fields, range) in ranges {
        let command = Command::History { room: room(), range, limit: HISTORY_DEFAULT };
        assert_eq!(history(&fields), Ok(command), "{fields}");
    }
    for fields in [
        json!({"before": 1, "after": 2}),
        json!({"before": 1, "around": 2}),
        json!({"after": 1, "around": 2}),
        json!({"before": 1, "after": 2, "around": 3}),
    ] {
        let words = "use only one of before, after and around".to_owned();
        assert_eq!(history(&fields), Err((ErrorCode::BadJson, words)), "{fields}");
    }
}

#[test]
fn wrong_field_of_a_command_is_an_error() {
    let commands = [
        json!({"type": "say", "room": "tea", "text": "x", "id": "i", "reply_to": 1}),
        json!({"type": "edit", "room": "tea", "seq": 1, "text": "x", "id": "i"}),
        json!({"type": "delete", "room": "tea", "seq": 1, "id": "i"}),
        json!({"type": "react", "room": "tea", "seq": 1, "emoji": "👍", "on": true, "id": "i"}),
        json!({"type": "set_room", "room": "tea", "topic": "x", "id": "i"}),
        json!({"type": "history", "room": "tea", "limit": 1, "after": 1}),
        json!({"type": "history", "room": "tea", "around": 1}),
    ];
    let wrong = |field: &str| match field {
        "room" => vec![(json!("no room"), ErrorCode::BadRoom)],
        "seq" | "reply_to" | "after" | "around" => vec![
            (json!(-1), ErrorCode::BadJson),
            (json!(1.5), ErrorCode::BadJson),
            (json!(1e30), ErrorCode::BadJson),
            (json!("1"), ErrorCode::BadJson),
        ],
        "text" => vec![
            (json!(" \n"), ErrorCode::Empty),
            (json!("123456789"), ErrorCode::TooLong),
            (json!("\u{7}"), ErrorCode::BadJson),
        ],
        "emoji" => vec![(json!("👍👍"), ErrorCode::BadJson), (json!("x"), ErrorCode::BadJson)],
        "topic" => vec![
            (json!("one\ntwo"), ErrorCode::BadJson),
            (json!("x".repeat(251)), ErrorCode::BadJson),
        ],
        "id" => vec![(json!(""), ErrorCode::BadJson), (json!("i".repeat(65)), ErrorCode::BadJson)],
        "limit" => vec![(json!(0), ErrorCode::BadJson), (json!(101), ErrorCode::BadJson)],
        "on" => vec![(json!("yes"), ErrorCode::BadJson), (json!(1), ErrorCode::BadJson)],
        other => panic!("{other} is not a field"),
    };
    let optional = ["id", "reply_to", "on", "limit", "before", "after", "around"];
    for command in commands {
        let code = |line: &Value| decoded(line).err().map(|(code, _)| code);
        assert_eq!(code(&command), None, "{command}");
        let fields = command.as_object().expect("an object").keys();
        for field in fields.filter(|field| *field != "type") {
            let mut other = command.clone();
            for (value, expected) in wrong(field) {
                other[field] = value;
                assert_eq!(code(&other), Some(expected), "{other}");
            }
            other[field] = json!({});
            assert_eq!(code(&other), Some(ErrorCode::BadJson), "{other}");
            other.as_object_mut().expect("an object").remove(field);
            let is_optional = optional.contains(&field.as_str());
            assert_eq!(code(&other), (!is_optional).then_some(ErrorCode::BadJson), "{other}");
        }
    }
}

#[test]
fn sequence_number_that_no_message_has_is_not_an_error() {
    for seq in [0, 1 << 53, u64::MAX] {
        let delete = json!({"type": "delete", "room": "tea", "seq": seq});
        let target = Seq::new(seq);
        assert_eq!(decoded(&delete), Ok(Command::Delete { room: room(), target, id: None }));
    }
}

#[test]
fn error_says_what_is_wrong_with_an_emoji_or_a_topic() {
    let react = json!({"type": "react", "room": "tea", "seq": 1, "emoji": "x"});
    let words = "a reaction must be one emoji".to_owned();
    assert_eq!(decoded(&react), Err((ErrorCode::BadJson, words)));
    let set_room = json!({"type": "set_room", "room": "tea", "topic": "x".repeat(251)});
    let words = "a topic must have at most 250 characters".to_owned();
    assert_eq!(decoded(&set_room), Err((ErrorCode::BadJson, words)));
}

#[test]
fn line_of_a_message_has_its_fields_in_order() {
    let author = Author::from(ada());
    let plain = ChatMessage { author: None, ..message(1) };
    assert_eq!(
        line(&plain),
        r#"{"type":"message","room":"tea","seq":1,"at":1001,"nick":"Ada","text":"hello"}"#
    );
    let edited_at = Some(at(1009));
    let full = ChatMessage { id: message_id(), edited_at, ..reply_to(2, 1) };
    assert_eq!(
        line(&full),
        format!(
            "{{\"type\":\"message\",\"room\":\"tea\",\"seq\":2,\"at\":1002,\"author\":\"{author}\",\
             \"nick\":\"Ada\",\"text\":\"hello\",\"id\":\"i\",\"reply_to\":1,\"edited_at\":1009}}"
        )
    );
    assert_eq!(
        object(&deleted(3)),
        format!(
            "{{\"room\":\"tea\",\"seq\":3,\"at\":1003,\"author\":\"{author}\",\"nick\":\"Ada\",\
             \"text\":\"\",\"deleted\":true}}"
        )
    );
}

#[test]
fn line_of_a_change_has_its_fields_in_order() {
    let author = Author::from(ada());
    assert_eq!(author.to_string().len(), 20);
    let head = |kind: &str, seq: u64| {
        format!(
            "{{\"type\":\"{kind}\",\"room\":\"tea\",\"seq\":{seq},\"at\":{},\
             \"author\":\"{author}\",\"nick\":\"Ada\",",
            1000 + seq
        )
    };
    let expected = [
        head("edited", 5) + r#""target":1,"text":"new"}"#,
        head("reacted", 6) + r#""target":1,"emoji":"👍","on":true,"count":2}"#,
        head("deleted", 7) + r#""target":1}"#,
        head("room", 8) + r#""topic":"Which tea?"}"#,
    ];
    for (change, expected) in changes().into_iter().zip(expected) {
        assert_eq!(entry_line(&Entry::Change(Arc::clone(&change))), Some(expected.clone()));
        let anonymous = Change { author: None, id: message_id(), ..(*change).clone() };
        let expected = expected.replace(&format!("\"author\":\"{author}\","), "");
        let expected = format!("{},\"id\":\"i\"}}", expected.trim_end_matches('}'));
        assert_eq!(entry_line(&Entry::Change(Arc::new(anonymous))), Some(expected));
    }
}

#[test]
fn settings_have_no_line() {
    let change = SettingsChange { seq: Seq::new(1), at: at(1), settings: Settings::default() };
    assert_eq!(entry_line(&Entry::Settings(Arc::new(change))), None);
}

#[test]
fn welcome_has_the_author_the_limits_and_the_durability() {
    let limits = Limits {
        message_bytes: 4096,
        frame_bytes: 28672,
        rooms: None,
        history: 100,
        search: Some(50),
        edits: true,
        edit_window_ms: Some(60_000),
        unread: Some(1000),
    };
    let author = Author::from(ada());
    let durability = Durability::Disk;
    let line = event(&Event::Welcome { nick: nick("Ada"), author, limits, durability });
    let expected = format!(
        "{{\"type\":\"welcome\",\"nick\":\"Ada\",\"author\":\"{author}\",\"limits\":\
         {{\"message_bytes\":4096,\"frame_bytes\":28672,\"history\":100,\"search\":50,\
         \"edits\":true,\"edit_window_ms\":60000,\"unread\":1000}},\
         \"durability\":{{\"level\":\"disk\"}}}}"
    );
    assert_eq!(line, expected);
}

fn joined(messages: Vec<ChatMessage>, counts: Vec<ReactionCount>) -> Event {
    Event::Joined {
        room: room(),
        epoch: Epoch::of("e"),
        seq: Seq::new(9),
        recovered: false,
        topic: Topic::default(),
        members: vec![nick("Ada")],
        member_count: 1,
        unread: None,
        messages: messages.into_iter().map(Arc::new).collect(),
        counts,
        changes: Vec::new(),
    }
}

fn history(messages: Vec<ChatMessage>, counts: Vec<ReactionCount>) -> Event {
    let messages = messages.into_iter().map(Arc::new).collect();
    Event::History { room: room(), messages, counts, more: true, more_newer: false }
}

/// Returns an event as a value, after checking that its pieces are the same.
fn value(event: Event) -> Value {
    let reference = Some(Ref(json!("\"messages\":[]")));
    let reply = Reply { event, reference };
    let whole = self::reply(&reply);
    assert_eq!(reply_parts(reply).collect::<String>(), whole);
    let mut value: Value = serde_json::from_str(&whole).expect("the line is JSON");
    let reference = value.as_object_mut().expect("an object").remove("ref");
    assert_eq!(reference, Some(json!("\"messages\":[]")));
    value
}

#[test]
fn fields_of_joined_and_history_are_left_out_if_empty() {
    let expected = json!({"type": "joined", "room": "tea", "epoch": "e", "seq": 9,
        "recovered": false, "members": ["Ada"], "member_count": 1, "messages": []});
    assert_eq!(value(joined(vec![], vec![])), expected);
    let expected = json!({"type": "history", "room": "tea", "messages": [], "more": true});
    assert_eq!(value(history(vec![], vec![])), expected);
}

#[test]
fn joined_has_the_unread_messages_of_a_user_with_a_read_mark() {
    let with = |found: Unread| {
        let mut event = joined(vec![message(5)], vec![]);
        if let Event::Joined { unread, .. } = &mut event {
            *unread = Some(found);
        }
        let value = value(event);
        ["read", "unread", "first_unread", "mentions"].map(|field| value[field].clone())
    };
    let mark = Seq::new(4);
    let some = Unread { mark, count: 1, first: Some(Seq::new(5)), mentions: 1 };
    assert_eq!(with(some), [json!(4), json!(1), json!(5), json!(1)]);
    let none = Unread { mark, ..Unread::default() };
    assert_eq!(with(none), [json!(4), json!(0), Value::Null, json!(0)]);
}

#[test]
fn read_is_a_command_and_an_event() {
    let line = json!({"type": "read", "room": "Tea", "seq": 5});
    assert_eq!(decoded(&line), Ok(Command::Read { room: room(), seq: Seq::new(5) }));
    let expected = json!({"type": "read", "room": "tea", "seq": 5});
    assert_eq!(value(Event::Read { room: room(), seq: Seq::new(5) }), expected);
}

#[test]
fn messages_of_joined_and_history_have_quotes_and_reactions() {
    let author = Author::from(ada());
    let counts = vec![
        count(1, "❤", 1, false),
        count(1, "👍", 3, true),
        count(3, "👍", 1, true),
        count(4, "🎉", 2, false),
    ];
    let object = |seq: u64, fields: Value| {
        let mut object = json!({"room": "tea", "seq": seq, "at": 1000 + seq, "author": author,
            "nick": "Ada", "text": "hello"});
        let fields = fields.as_object().expect("an object").clone();
        object.as_object_mut().expect("an object").extend(fields);
        object
    };
    let messages = json!([
        object(1, json!({"reactions": {"❤️": 1, "👍": 3}})),
        object(2, json!({"text": "", "deleted": true})),
        object(
            3,
            json!({"reply_to": 1, "reactions": {"👍": 1},
            "quote": {"nick": "Ben", "text": "\"messages\":[] said Ben"}})
        ),
    ]);
    let mine = json!([{"seq": 1, "emoji": "👍"}, {"seq": 3, "emoji": "👍"}]);
    for list in [joined, history] {
        let found = value(list(vec![message(1), deleted(2), reply_to(3, 1)], counts.clone()));
        assert_eq!((&found["messages"], &found["mine"]), (&messages, &mine));
        let found = value(list(vec![message(5)], vec![]));
        assert_eq!(found["messages"], json!([object(5, json!({}))]));
        assert_eq!(found.get("mine"), None);
    }
}

#[test]
fn history_says_whether_there_are_newer_messages() {
    let messages = vec![Arc::new(message(1))];
    let counts = vec![count(1, "👍", 1, true)];
    let (more, more_newer) = (false, true);
    let history = Event::History { room: room(), messages, counts, more, more_newer };
    let found = value(history);
    assert_eq!((&found["more"], &found["more_newer"]), (&json!(false), &json!(true)));
}

#[test]
fn joined_has_missed_changes_as_events_and_the_topic() {
    let missed = changes();
    let expected: Vec<Value> = missed
        .iter()
        .filter_map(|change| entry_line(&Entry::Change(Arc::clone(change))))
        .map(|line| serde_json::from_str(&line).expect("the line is JSON"))
        .collect();
    let with_changes = |messages| {
        let mut event = joined(messages, vec![]);
        if let Event::Joined { changes, topic, recovered, .. } = &mut event {
            (*changes, *topic, *recovered) = (missed.clone(), self::topic(), true);
        }
        event
    };
    for messages in [vec![], vec![message(1)], vec![message(1), reply_to(2, 1)]] {
        let found = value(with_changes(messages));
        assert_eq!(found["changes"], json!(expected));
        assert_eq!(found["topic"], "Which tea?");
    }
}

#[test]
fn every_message_change_and_own_reaction_is_a_piece() {
    let counts = vec![count(1, "❤", 1, true), count(1, "👍", 3, true)];
    let mut event = joined(vec![message(1), reply_to(2, 1)], counts);
    if let Event::Joined { changes, .. } = &mut event {
        *changes = self::changes();
    }
    let objects = reply_parts(Reply { event, reference: None })
        .filter(|piece| serde_json::from_str::<Value>(piece.trim_start_matches(',')).is_ok())
        .count();
    assert_eq!(objects, 2 + 2 + 4);
}

#[test]
fn answer_without_lists_is_encoded_completely_in_pieces() {
    let said = Event::Said { room: room(), seq: Seq::new(1), id: message_id(), duplicate: false };
    let expected = r#"{"type":"said","room":"tea","seq":1,"id":"i","duplicate":false}"#;
    let reply = Reply { event: said, reference: None };
    assert_eq!(reply_parts(reply).collect::<String>(), expected);
}

#[test]
fn size_of_an_answer_includes_texts_quotes_counts_and_changes() {
    let empty = joined(vec![], vec![]).bytes();
    let quote = "\"messages\":[] said Ben".len();
    let with_reply = joined(vec![reply_to(3, 1)], vec![count(3, "👍", 1, true)]).bytes();
    assert_eq!(with_reply, empty + "hello".len() + quote + size_of::<ReactionCount>());
    let mut event = joined(vec![], vec![]);
    if let Event::Joined { changes, topic, .. } = &mut event {
        (*changes, *topic) = (self::changes(), self::topic());
    }
    let texts = "new".len() + 2 * topic().as_str().len();
    assert_eq!(event.bytes(), empty + texts + self::changes().len() * size_of::<Change>());
}

#[test]
fn search_has_optional_filters() {
    let terms = SearchTerms::parse("black tea").expect("terms");
    let plain =
        SearchQuery { terms, room: None, from: None, before: Seq::MAX, limit: SEARCH_DEFAULT };
    let filtered = SearchQuery {
        room: Some(room()),
        from: Some(nick("ada")),
        before: Seq::new(5),
        limit: 3,
        ..plain.clone()
    };
    let fields = json!({"room": "Tea", "from": "Ada", "before": 5, "limit": 3});
    for (fields, query) in [(json!({"room": null}), plain.clone()), (fields, filtered)] {
        let mut line = json!({"type": "search", "text": "black tea"});
        line.as_object_mut()
            .expect("an object")
            .extend(fields.as_object().cloned().unwrap_or_default());
        assert_eq!(decoded(&line), Ok(Command::Search { query }));
    }
    // Messages have generated names, which users cannot choose.
    let line = json!({"type": "search", "text": "black tea", "from": "anonymous-k3v9"});
    let from = Some(Nick::from_trusted("anonymous-k3v9".into()));
    assert_eq!(decoded(&line), Ok(Command::Search { query: SearchQuery { from, ..plain } }));
}

#[test]
fn search_answer_has_the_results_and_what_was_left_out() {
    let result = SearchResult {
        room: room(),
        seq: Seq::new(7),
        at: at(9),
        author: None,
        nick: nick("Ada"),
        snippet: vec!["".into(), "tea".into()],
    };
    let search =
        |incomplete| Event::Search { results: vec![result.clone()], more: true, incomplete };
    let expected = concat!(
        r#"{"type":"search","results":[{"room":"tea","seq":7,"at":9,"nick":"Ada","#,
        r#""snippet":["","tea"]}],"more":true"#,
    );
    assert_eq!(event(&search(false)), format!("{expected}}}"));
    assert_eq!(event(&search(true)), format!("{expected},\"incomplete\":true}}"));
    assert!(search(false).bytes() > Event::Left { room: room() }.bytes());
}
