//! The commands of the README that turn one server into a cluster.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use super::nats::{Nats, Version};
use super::{join, say};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// Returns the words of each command in the section about several servers.
fn commands() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (_, section) = readme.split_once("\n## Several servers\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    blocks.flat_map(str::lines).map(words).collect()
}

/// Returns the arguments of a node for a NATS server, and without the address that it listens on,
/// because tests use free ports.
fn arguments<'a>(words: &[&'a str], nats: &'a str) -> Vec<&'a str> {
    let listen = words.iter().position(|word| *word == "--listen").unwrap();
    let rest = words[..listen].iter().chain(&words[listen + 2..]);
    rest.map(|word| if word.starts_with("nats://") { nats } else { word }).collect()
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn commands_of_the_readme_turn_one_server_into_three_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let mut single = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = join(&single, "Ada", "tea").await;
    let first = say(&mut ada, "tea", "alone").await;
    drop(ada);
    single.signal("-TERM");
    assert_eq!(single.exit_code().await, Some(0));

    let (mut nats, mut nodes) = (None, Vec::new());
    for command in commands() {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        match &*words {
            ["cargo", "install", ..] => {}
            ["nats-server", "--config", config] => {
                let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config);
                nats =
                    Some(Nats::start_with_config(Version::Current, folder.path(), &config).await);
            }
            ["chinwag", "backup", rest @ ..] => {
                let mut backup = Command::new(PROGRAM);
                let backup = backup.arg("backup").args(rest).current_dir(folder.path());
                assert!(backup.status().await.unwrap().success(), "{words:?}");
            }
            ["chinwag", rest @ ..] => {
                let url = nats.as_ref().expect("NATS is started first").url();
                let node = Program::start(PROGRAM, folder.path(), &arguments(rest, &url)).await;
                nodes.push(node);
            }
            _ => panic!("the test does not know how to run {words:?}"),
        }
    }
    assert_eq!(nodes.len(), 3);

    let mut on_last = join(&nodes[2], "Ada", "tea").await;
    let mut on_others = Vec::new();
    for node in &nodes[..2] {
        on_others.push(join(node, "Bob", "tea").await);
    }
    let second = say(&mut on_last, "tea", "together").await;
    for mut client in on_others {
        let message = client.until("message").await;
        assert_eq!(message["seq"], second);
    }
    for node in &nodes {
        let mut client =
            JsonClient::hello(node.addr, json!({"nick": "Cyd", "key": "the secret key of Cyd"}))
                .await;
        client.send(&[json!({"type": "join", "room": "tea"})]).await;
        let joined = client.until("joined").await;
        let messages = joined["messages"].as_array().unwrap();
        let seqs: Vec<_> =
            messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, [first, second]);
    }
}
