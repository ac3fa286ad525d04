//! The examples of `docs/PROTOCOL.md`, compared with a real server.

use std::path::Path;

use serde_json::Value;

use crate::harness::{TestServer, config, within};
use crate::journal::config_with_journal;
use crate::json::JsonClient;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PROTOCOL.md");
    std::fs::read_to_string(path).unwrap()
}

fn is_author(value: &Value) -> bool {
    let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    value.as_str().is_some_and(|text| text.len() == 20 && is_hex(text))
}

/// Whether a line matches the example. Epochs, times, authors and anonymous names may differ.
fn matches_example(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let matches = |(key, value): (&String, &Value)| {
                let found = found.get(key);
                match key.as_str() {
                    "epoch" => found.is_some_and(Value::is_string),
                    "at" | "edited_at" => found.is_some_and(Value::is_u64),
                    "author" => is_author(value) && found.is_some_and(is_author),
                    _ => found.is_some_and(|found| matches_example(value, found)),
                }
            };
            expected.len() == found.len() && expected.iter().all(matches)
        }
        (Value::Array(expected), Value::Array(found)) => {
            let mut pairs = expected.iter().zip(found);
            expected.len() == found.len()
                && pairs.all(|(expected, found)| matches_example(expected, found))
        }
        (Value::String(expected), Value::String(found)) => {
            let anonymous = "anonymous-";
            expected == found || expected.starts_with(anonymous) && found.starts_with(anonymous)
        }
        (expected, found) => expected == found,
    }
}

#[actix_web::test]
async fn every_example_in_the_protocol_document_matches_a_real_server() {
    let document = document();
    let mut types = Vec::new();
    for example in document.split("```json\n").skip(1) {
        let folder = tempfile::tempdir().unwrap();
        // Only a server with a history file keeps read marks and can search.
        let first = example.split("\n```").next().unwrap();
        let needs_file = first.contains("\"search\"") || example.contains("\"unread\":1000");
        let config = if needs_file { config_with_journal(folder.path()) } else { config() };
        let server = TestServer::start_with(config).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(JsonClient::connect(server.addr()).await);
            clients.last_mut().unwrap().receives_presence = true;
        }
        for line in example.split("\n```").next().unwrap().lines() {
            let (direction, line) = line.split_once(' ').unwrap();
            let expected: Value = serde_json::from_str(line).unwrap();
            let kind = expected["type"].as_str().unwrap();
            types.push(format!("{} {kind}", direction.trim_start_matches('2')));
            let client = &mut clients[usize::from(direction.starts_with('2'))];
            match direction.trim_start_matches('2') {
                ">" => client.send_text(line).await,
                "<" => {
                    let found = within(line, client.next()).await.unwrap();
                    assert!(
                        matches_example(&expected, &found),
                        "expected: {expected}\nfound:    {found}"
                    );
                }
                _ => panic!("{direction} is not a direction"),
            }
        }
    }
    let kinds = "> hello, > nick, > join, > say, > edit, > delete, > react, > set_room, > who, \
               > typing, > read, > history, > search, > leave, < welcome, < joined, < message, \
               < edited, < deleted, < reacted, < room, < said, < presence, < renamed, < typing, \
               < read, < members, < history, < search, < left, < error";
    for kind in kinds.split(", ") {
        assert!(types.iter().any(|found| found == kind), "there is no example of {kind}");
    }
}

#[test]
fn every_error_code_is_in_the_protocol_document() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol/event.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let (_, codes) = source.split_once("pub enum ErrorCode {").unwrap();
    let codes = codes.split('}').next().unwrap().lines().map(str::trim);
    let codes: Vec<_> = codes.filter(|line| line.ends_with(',')).collect();
    assert!(codes.len() >= 13);
    for code in codes {
        let label = code.trim_end_matches(',').chars().fold(String::new(), |mut name, c| {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(c.to_lowercase());
            name
        });
        assert!(document().contains(&format!("`{label}`")), "{label} is not documented");
    }
}
