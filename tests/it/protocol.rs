//! What `docs/PROTOCOL.md` tells, played against a real server.

use std::path::Path;

use serde_json::Value;

use crate::harness::{TestServer, within};
use crate::json::JsonClient;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PROTOCOL.md");
    std::fs::read_to_string(path).unwrap()
}

/// Whether a line is as the example has it: to the letter, but for what differs from one server
/// and moment to the next.
fn is_as_told(told: &Value, found: &Value) -> bool {
    match (told, found) {
        (Value::Object(told), Value::Object(found)) => {
            let alike = |(key, value): (&String, &Value)| {
                let found = found.get(key);
                match key.as_str() {
                    "epoch" => found.is_some_and(Value::is_string),
                    "at" => found.is_some_and(Value::is_u64),
                    _ => found.is_some_and(|found| is_as_told(value, found)),
                }
            };
            told.len() == found.len() && told.iter().all(alike)
        }
        (Value::Array(told), Value::Array(found)) => {
            let mut pairs = told.iter().zip(found);
            told.len() == found.len() && pairs.all(|(told, found)| is_as_told(told, found))
        }
        (Value::String(told), Value::String(found)) => {
            let unnamed = "anonymous-";
            told == found || told.starts_with(unnamed) && found.starts_with(unnamed)
        }
        (told, found) => told == found,
    }
}

#[actix_web::test]
async fn every_example_in_the_protocol_document_matches_a_real_server() {
    let document = document();
    let mut types = Vec::new();
    for example in document.split("```json\n").skip(1) {
        let server = TestServer::start().await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(JsonClient::connect(server.addr()).await);
            clients.last_mut().unwrap().receives_presence = true;
        }
        for line in example.split("\n```").next().unwrap().lines() {
            let (who, line) = line.split_once(' ').unwrap();
            let told: Value = serde_json::from_str(line).unwrap();
            let kind = told["type"].as_str().unwrap();
            types.push(format!("{} {kind}", who.trim_start_matches('2')));
            let client = &mut clients[usize::from(who.starts_with('2'))];
            match who.trim_start_matches('2') {
                ">" => client.send_text(line).await,
                "<" => {
                    let found = within(line, client.next()).await.unwrap();
                    assert!(is_as_told(&told, &found), "told:  {told}\nfound: {found}");
                }
                _ => panic!("{who} is neither the client nor the server"),
            }
        }
    }
    let all = "> hello, > nick, > join, > say, > who, > typing, > history, > leave, < welcome, \
               < joined, < message, < said, < presence, < renamed, < typing, < members, \
               < history, < left, < error";
    for kind in all.split(", ") {
        assert!(types.iter().any(|shown| shown == kind), "there is no example of {kind}");
    }
}

#[test]
fn every_error_code_is_in_the_protocol_document() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/event.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let (_, codes) = source.split_once("pub enum ErrorCode {").unwrap();
    let codes = codes.split('}').next().unwrap().lines().map(str::trim);
    let codes: Vec<_> = codes.filter(|line| line.ends_with(',')).collect();
    assert!(codes.len() >= 13);
    for code in codes {
        let words = code.trim_end_matches(',').chars().fold(String::new(), |mut name, c| {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(c.to_lowercase());
            name
        });
        assert!(document().contains(&format!("`{words}`")), "{words} is not told of");
    }
}
