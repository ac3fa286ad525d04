//! Names, which are unique in a room over all nodes. If two users claim one at the same moment, one
//! of them is renamed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::nats::Version;
use super::presence::{ProxiedNodes, WATCHERS, members, until_joined, until_left, watchers};
use super::{Cluster, join, with_each_nats};
use crate::harness::{Client, eventually, raw_http, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    of_crossing_claims_one_keeps_the_name,
    older_claim_of_a_partition_keeps_the_name;
    only with the current one:
    name_of_a_member_on_another_node_is_refused_with_a_free_suggestion,
    name_of_a_member_on_another_node_is_refused_at_the_handshake_of_a_text_client,
    name_is_free_when_its_node_is_gone,
    anonymous_names_of_nodes_differ,
    of_crossing_claims_of_three_nodes_one_keeps_the_name,
    of_crossing_changes_of_name_one_keeps_the_name,
    of_crossing_claims_of_names_that_look_alike_one_is_kept,
    text_client_whose_claim_crosses_an_older_one_is_renamed,
    older_claim_of_a_long_partition_keeps_the_name,
    renamed_user_gets_a_name_that_is_free_in_all_of_its_rooms,
    user_with_two_names_after_a_partition_has_one,
    user_with_another_name_on_a_node_without_rooms_has_one_name,
    new_name_from_a_node_without_rooms_that_is_lost_is_told_again,
    lost_change_of_a_name_by_a_client_that_has_left_is_undone_or_told_again,
    chosen_name_counts_more_than_a_generated_one,
);

/// How long after the end of a partition the names are unique: 2 seconds, and the rest is for a
/// busy machine.
const UNIQUE_WITHIN: Duration = Duration::from_secs(5);

/// Connects a user with this name, who joins no room. Two users may have the same name.
async fn user(node: &Program, nick: &str, key: &str) -> JsonClient {
    let key = format!("the secret key of user {key}");
    JsonClient::hello(node.addr, json!({"nick": nick, "key": key})).await
}

/// Connects a user, and joins a room.
async fn claim(node: &Program, nick: &str, key: &str, room: &str) -> JsonClient {
    let mut client = user(node, nick, key).await;
    send_join(&mut client, room).await;
    client.expect("joined").await;
    client
}

/// Connects users to a node. It knows then that a claim there after them is younger than one that
/// another node took at the same time.
async fn age(node: &Program) {
    for n in 0..5 {
        drop(claim(node, &format!("Passer-by {n}"), &format!("passer-by {n}"), "other").await);
    }
}

/// Connects users to a node, without rooms. So a claim there after them is younger than one that
/// another node takes later.
async fn age_in_secret(node: &Program) {
    for n in 0..5 {
        drop(user(node, &format!("Passer-by {n}"), &format!("passer-by {n}")).await);
    }
}

async fn send_join(client: &mut JsonClient, room: &str) {
    client.send(&[json!({"type": "join", "room": room})]).await;
}

/// Returns whether a `join` succeeds, or the name is taken.
async fn has_joined(client: &mut JsonClient) -> bool {
    let is_answer = |line: &Value| line["type"] == "joined" || line["type"] == "error";
    let answer = async {
        loop {
            let line = client.next().await.unwrap();
            if is_answer(&line) {
                break line;
            }
        }
    };
    let answer = within("an answer to join", answer).await;
    assert!(answer["type"] == "joined" || answer["code"] == "nick_taken", "{answer}");
    answer["type"] == "joined"
}

/// Waits until all nodes know the same members of the room `tea`, so many, and each name once.
/// Returns the names.
#[track_caller]
fn agreement(watchers: &mut [JsonClient], count: usize) -> impl Future<Output = Vec<String>> {
    let (mut last, mut names) = (Vec::new(), Vec::new());
    let caller = std::panic::Location::caller();
    async move {
        let agree = async || {
            let mut known = Vec::new();
            for watcher in watchers.iter_mut() {
                known.push(members(watcher, "tea").await);
            }
            names.clone_from(&known[0].0);
            let unique: HashSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
            let is_done = unique.len() == count
                && known.iter().all(|other| *other == (names.clone(), count as u64));
            if !is_done && known != last {
                // The output of a test that fails shows it.
                eprintln!("{caller}: the nodes know {known:?}");
                last = known;
            }
            is_done
        };
        eventually(format!("{count} members with unique names, for {caller}"), agree).await;
        names
    }
}

/// What a client was told about names since it joined.
#[derive(Debug)]
struct Told {
    /// Its name now.
    nick: String,
    /// The names in `welcome` without having asked.
    welcomes: Vec<String>,
    /// The old and new names in `renamed`, and the rooms.
    renamed: Vec<(String, String, String)>,
}

impl Told {
    /// Returns whether the client was told that it was renamed, and the room as well.
    fn was_renamed_in(&self, room: &str) -> bool {
        let is_told = self.renamed.iter().any(|(_, to, of)| *to == self.nick && of == room);
        self.welcomes.last() == Some(&self.nick) && is_told
    }
}

/// Reads everything that a client was told.
async fn told(client: &mut JsonClient) -> Told {
    client.send(&[json!({"type": "hello", "ref": "asked"})]).await;
    let (mut welcomes, mut renamed) = (Vec::new(), Vec::new());
    let name = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    let read = async {
        loop {
            let line = client.next().await.unwrap();
            match line["type"].as_str().unwrap() {
                "welcome" if line["ref"] == "asked" => break name(&line, "nick"),
                "welcome" => welcomes.push(name(&line, "nick")),
                "renamed" => {
                    renamed.push((name(&line, "from"), name(&line, "to"), name(&line, "room")));
                }
                _ => {}
            }
        }
    };
    let nick = within("welcome", read).await;
    Told { nick, welcomes, renamed }
}

/// Checks that exactly one of these users has the name, and that each other one was told its new
/// name. Returns who has it.
#[track_caller]
fn keeper(nick: &str, all: &[Told]) -> usize {
    let keepers: Vec<_> = (0..all.len()).filter(|n| all[*n].nick == nick).collect();
    assert_eq!(keepers.len(), 1, "{all:?}");
    for (n, told) in all.iter().enumerate() {
        if n == keepers[0] {
            assert_eq!(told.welcomes, [""; 0], "it keeps its name all the time: {all:?}");
        } else {
            assert!(told.was_renamed_in("tea"), "{all:?}");
        }
    }
    keepers[0]
}

async fn name_of_a_member_on_another_node_is_refused_with_a_free_suggestion(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let _ada = join(&a, "Ada", "tea").await;
    let _second = join(&c, "Ada-2", "tea").await;
    until_joined(&mut watchers[1], "Ada").await;
    agreement(&mut watchers, 5).await;
    let mut eve = user(&b, "ADA", "Eve").await;
    for nick in ["ADA", "Аdа", "Wanda"] {
        // The second one begins and ends with Cyrillic letters.
        eve.send(&[json!({"type": "nick", "nick": nick})]).await;
        eve.expect("welcome").await;
        send_join(&mut eve, "tea").await;
        let error = eve.expect_error("nick_taken").await;
        assert_eq!(error["temporary"], false);
        if nick == "ADA" {
            assert_eq!(error["suggested"], "ADA-3");
        }
    }
    // In another room the name is free. As a member of this room, Eve cannot take it.
    send_join(&mut eve, "coffee").await;
    eve.expect("joined").await;
    eve.send(&[json!({"type": "nick", "nick": "Eve"})]).await;
    eve.until("welcome").await;
    send_join(&mut eve, "tea").await;
    eve.until("joined").await;
    eve.send(&[json!({"type": "nick", "nick": "ada"})]).await;
    assert_eq!(eve.until("error").await["code"], "nick_taken");
    eve.send(&[json!({"type": "hello", "nick": "ada"})]).await;
    assert_eq!(eve.until("error").await["code"], "nick_taken");
    let names = agreement(&mut watchers, 6).await;
    assert!(names.contains(&"Eve".into()), "{names:?}");
}

async fn name_of_a_member_on_another_node_is_refused_at_the_handshake_of_a_text_client(
    version: Version,
) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let _text = Client::connect(a.addr, "room=tea&nick=Ada").await;
    until_joined(&mut watchers[1], "Ada").await;
    let handshake = async |query: &str| {
        let request = format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            b.addr
        );
        raw_http(b.addr, &request).await
    };
    let answer = handshake("room=tea&nick=ada").await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    let answer = handshake("room=coffee&nick=ada").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

async fn name_is_free_when_its_node_is_gone(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    c.kill().await;
    let mut eve = user(&a, WATCHERS[2], "Eve").await;
    send_join(&mut eve, "tea").await;
    eve.expect_error("nick_taken").await;
    until_left(&mut watchers[0], WATCHERS[2]).await;
    send_join(&mut eve, "tea").await;
    eve.expect("joined").await;
    let [on_a, on_b, _] = watchers;
    assert_eq!(agreement(&mut [on_a, on_b], 3).await, WATCHERS);
}

async fn anonymous_names_of_nodes_differ(version: Version) {
    const CLIENTS: usize = 30;
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let (mut clients, mut names, mut endings) = (Vec::new(), HashSet::new(), HashSet::new());
    for n in 0..CLIENTS {
        let node = [&a, &b, &c][n % 3];
        let mut client = JsonClient::connect(node.addr).await;
        client.send(&[json!({"type": "hello"})]).await;
        let welcome = client.expect("welcome").await;
        let nick = welcome["nick"].as_str().unwrap().to_owned();
        let random = nick.strip_prefix("anonymous-").unwrap();
        assert_eq!(random.len(), 6, "{nick}");
        endings.insert(random[4..].to_owned());
        names.insert(nick);
        send_join(&mut client, "tea").await;
        client.expect("joined").await;
        clients.push(client);
    }
    assert_eq!(names.len(), CLIENTS);
    assert_eq!(endings.len(), 3, "each node has an ending of its own: {endings:?}");
    let known: HashSet<_> = agreement(&mut watchers, CLIENTS + 3).await.into_iter().collect();
    assert!(known.is_superset(&names));
    // Nobody may choose such a name.
    let mut eve = user(&a, "Eve", "Eve").await;
    eve.send(&[json!({"type": "nick", "nick": "anonymous-1234ab"})]).await;
    eve.expect_error("bad_nick").await;
}

async fn of_crossing_claims_one_keeps_the_name(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut crossed = 0;
    for round in 0..8 {
        let nick = format!("Ada{round}");
        let mut pair = [user(&a, &nick, "first").await, user(&b, &nick, "second").await];
        for client in &mut pair {
            send_join(client, "tea").await;
        }
        let have_joined = [has_joined(&mut pair[0]).await, has_joined(&mut pair[1]).await];
        assert!(have_joined.contains(&true));
        if have_joined == [true; 2] {
            crossed += 1;
            agreement(&mut watchers, 5).await;
            keeper(&nick, &[told(&mut pair[0]).await, told(&mut pair[1]).await]);
        }
        drop(pair);
        agreement(&mut watchers, 3).await;
    }
    assert!(crossed > 0, "claims cross");
}

async fn of_crossing_claims_of_three_nodes_one_keeps_the_name(version: Version) {
    let cluster = Cluster::start(version).await;
    let nodes = cluster.three_nodes().await;
    let mut watchers = watchers(nodes.each_ref()).await;
    let mut clients = Vec::new();
    // Two users of each node. Of those only one can have joined.
    for (n, node) in nodes.iter().chain(&nodes).enumerate() {
        clients.push(user(node, "Ada", &n.to_string()).await);
    }
    for client in &mut clients {
        send_join(client, "tea").await;
    }
    let mut joined = Vec::new();
    for mut client in clients {
        if has_joined(&mut client).await {
            joined.push(client);
        }
    }
    assert!((1..=3).contains(&joined.len()), "{}", joined.len());
    let names = agreement(&mut watchers, joined.len() + 3).await;
    let mut all = Vec::new();
    for client in &mut joined {
        all.push(told(client).await);
    }
    keeper("Ada", &all);
    assert!(all.iter().all(|told| names.contains(&told.nick)), "{names:?} {all:?}");
}

async fn of_crossing_changes_of_name_one_keeps_the_name(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut pair = [claim(&a, "One", "1", "tea").await, claim(&b, "Two", "2", "tea").await];
    agreement(&mut watchers, 5).await;
    let mut crossed = 0;
    for round in 0..8 {
        let nick = format!("Ada{round}");
        for client in &mut pair {
            client.send(&[json!({"type": "nick", "nick": nick, "ref": round})]).await;
        }
        let mut are_taken = Vec::new();
        for client in &mut pair {
            let answer = within("an answer to nick", async {
                loop {
                    let line = client.next().await.unwrap();
                    if line["ref"] == round {
                        break line;
                    }
                }
            });
            are_taken.push(answer.await["type"] == "error");
        }
        assert!(are_taken.contains(&false));
        let names = agreement(&mut watchers, 5).await;
        assert_eq!(names.iter().filter(|name| **name == nick).count(), 1, "{names:?}");
        if !are_taken.contains(&true) {
            crossed += 1;
            keeper(&nick, &[told(&mut pair[0]).await, told(&mut pair[1]).await]);
        }
    }
    assert!(crossed > 0, "changes cross");
}

async fn of_crossing_claims_of_names_that_look_alike_one_is_kept(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.hold_both();
    let mut first = claim(&nodes.a, "paypal", "1", "tea").await;
    age(&nodes.b).await;
    let mut second = claim(&nodes.b, "paypaI", "2", "tea").await;
    nodes.a_proxy.heal();
    let is_renamed = async || told(&mut second).await.nick != "paypaI";
    eventually("the second user to be renamed", is_renamed).await;
    agreement(&mut watchers, 5).await;
    assert_eq!(told(&mut first).await.nick, "paypal");
}

async fn text_client_whose_claim_crosses_an_older_one_is_renamed(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.hold_both();
    let mut first = claim(&nodes.a, "Ada", "1", "tea").await;
    age(&nodes.b).await;
    let mut second = Client::connect(nodes.b.addr, "room=tea&nick=Ada").await;
    nodes.a_proxy.heal();
    agreement(&mut watchers, 5).await;
    assert_eq!(told(&mut first).await.nick, "Ada");
    second.say("hello").await;
    let message = watchers[0].until("message").await;
    assert_eq!(message["text"], "hello");
    assert_ne!(message["nick"], "Ada");
    let (names, _) = members(&mut watchers[2], "tea").await;
    assert!(names.iter().any(|name| message["nick"] == **name), "{names:?} {message}");
}

/// Two nodes claim a name while neither reaches the other one, nor the third node.
async fn claims_in_a_partition(version: Version, is_long: bool) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.hold_both();
    nodes.c_proxy.hold_both();
    let mut pair = vec![claim(&nodes.a, "Ada", "1", "tea").await];
    age(&nodes.c).await;
    pair.push(claim(&nodes.c, "Ada", "2", "tea").await);
    if is_long {
        // All nodes forget each other.
        until_left(&mut watchers[0], WATCHERS[2]).await;
        until_left(&mut watchers[1], WATCHERS[0]).await;
        until_left(&mut watchers[2], WATCHERS[0]).await;
    }
    nodes.a_proxy.heal();
    nodes.c_proxy.heal();
    let healed = Instant::now();
    let names = agreement(&mut watchers, 5).await;
    let elapsed = healed.elapsed();
    eprintln!("the names were unique after {elapsed:?}");
    assert!(elapsed < UNIQUE_WITHIN, "{elapsed:?}");
    let all = [told(&mut pair[0]).await, told(&mut pair[1]).await];
    assert_eq!(keeper("Ada", &all), 0, "the older claim wins: {all:?}");
    assert!(names.contains(&all[1].nick), "{names:?} {all:?}");
    // The new name is also that of messages.
    pair[1].send(&[json!({"type": "say", "room": "tea", "text": "hello", "id": "1"})]).await;
    let message = watchers[1].until("message").await;
    assert_eq!(message["nick"], *all[1].nick);
}

async fn older_claim_of_a_partition_keeps_the_name(version: Version) {
    claims_in_a_partition(version, false).await;
}

async fn older_claim_of_a_long_partition_keeps_the_name(version: Version) {
    claims_in_a_partition(version, true).await;
}

async fn renamed_user_gets_a_name_that_is_free_in_all_of_its_rooms(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    // These names are taken in another room of the user who is renamed.
    let _second = claim(&nodes.b, "Ada-2", "ada-2", "coffee").await;
    let _third = claim(&nodes.c, "Ada-3", "ada-3", "coffee").await;
    nodes.a_proxy.hold_both();
    nodes.c_proxy.hold_both();
    let mut first = claim(&nodes.a, "Ada", "1", "tea").await;
    // The node of the other user does not know this one.
    let mut fourth = claim(&nodes.a, "Ada-4", "ada-4", "tea").await;
    age(&nodes.c).await;
    let mut other = claim(&nodes.c, "Ada", "2", "tea").await;
    send_join(&mut other, "coffee").await;
    other.until("joined").await;
    nodes.a_proxy.heal();
    nodes.c_proxy.heal();
    let names = agreement(&mut watchers, 6).await;
    assert_eq!(told(&mut first).await.nick, "Ada");
    assert_eq!(told(&mut fourth).await.nick, "Ada-4");
    let nick = told(&mut other).await.nick;
    assert!(!["Ada", "Ada-2", "Ada-3", "Ada-4"].contains(&nick.as_str()), "{nick} {names:?}");
    assert!(names.contains(&nick), "{nick} {names:?}");
    let (coffee, count) = members(&mut other, "coffee").await;
    assert_eq!((coffee.len(), count), (3, 3), "{coffee:?}");
    assert!(coffee.contains(&nick), "{coffee:?}");
}

async fn user_with_two_names_after_a_partition_has_one(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    let mut on_a = claim(&nodes.a, "Ada", "Ada", "tea").await;
    let mut on_c = claim(&nodes.c, "Ada", "Ada", "tea").await;
    agreement(&mut watchers, 4).await;
    nodes.a_proxy.hold_both();
    nodes.c_proxy.hold_both();
    on_a.send(&[json!({"type": "nick", "nick": "Ann"})]).await;
    on_a.until("welcome").await;
    age(&nodes.c).await;
    on_c.send(&[json!({"type": "nick", "nick": "Amy"})]).await;
    on_c.until("welcome").await;
    nodes.a_proxy.heal();
    nodes.c_proxy.heal();
    let mut nicks = [String::new(), String::new()];
    let have_one = async || {
        nicks = [told(&mut on_a).await.nick, told(&mut on_c).await.nick];
        nicks[0] == nicks[1]
    };
    eventually("the user to have one name", have_one).await;
    let names = agreement(&mut watchers, 4).await;
    assert_eq!(nicks[0], "Amy", "the newer name counts");
    assert!(names.contains(&nicks[0]), "{names:?} {nicks:?}");
}

/// A node tells the others only of users in rooms.
async fn user_with_another_name_on_a_node_without_rooms_has_one_name(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    age_in_secret(&b).await;
    let mut on_b = user(&b, "Zed", "Ada").await;
    let mut on_a = claim(&a, "Ada", "Ada", "tea").await;
    let names = agreement(&mut watchers, 4).await;
    assert_eq!(told(&mut on_a).await.nick, told(&mut on_b).await.nick, "{names:?}");
}

async fn new_name_from_a_node_without_rooms_that_is_lost_is_told_again(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    let mut on_b = claim(&nodes.b, "Ada", "Ada", "tea").await;
    until_joined(&mut watchers[0], "Ada").await;
    let mut on_a = user(&nodes.a, "Ada", "Ada").await;
    nodes.a_proxy.drop_sent_presence();
    on_a.send(&[json!({"type": "nick", "nick": "Zed"})]).await;
    on_a.until("welcome").await;
    let before = nodes.a_proxy.dropped();
    // One of them has the name, since a node sends one other message a second.
    let is_lost = async || nodes.a_proxy.dropped() >= before + 2;
    eventually("the name to be lost", is_lost).await;
    nodes.a_proxy.drop_nothing();
    let names = agreement(&mut watchers, 4).await;
    assert_eq!(told(&mut on_a).await.nick, told(&mut on_b).await.nick, "{names:?}");
}

/// A node that has not heard of a user gives the user's client a name, if the client has none.
async fn chosen_name_counts_more_than_a_generated_one(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    age_in_secret(&b).await;
    let mut on_a = user(&a, "Ada", "Ada").await;
    let key = "the secret key of user Ada";
    let mut on_b = JsonClient::connect(b.addr).await;
    on_b.send(&[json!({"type": "hello", "key": key})]).await;
    on_b.expect("welcome").await;
    for client in [&mut on_a, &mut on_b] {
        send_join(client, "tea").await;
        client.until("joined").await;
    }
    let names = agreement(&mut watchers, 4).await;
    assert_eq!([told(&mut on_a).await.nick, told(&mut on_b).await.nick], ["Ada"; 2], "{names:?}");
}

/// The node from which the other nodes did not hear the new name has no client of the user then.
async fn lost_change_of_a_name_by_a_client_that_has_left_is_undone_or_told_again(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    let mut on_b = claim(&nodes.b, "Ada", "Ada", "tea").await;
    until_joined(&mut watchers[0], "Ada").await;
    let mut on_a = claim(&nodes.a, "Ada", "Ada", "tea").await;
    nodes.a_proxy.drop_sent_presence();
    on_a.send(&[json!({"type": "nick", "nick": "Zed"}), json!({"type": "leave", "room": "tea"})])
        .await;
    on_a.until("left").await;
    drop(on_a);
    let before = nodes.a_proxy.dropped();
    // One of them has the name, since a node sends one other message a second.
    let is_lost = async || nodes.a_proxy.dropped() >= before + 2;
    eventually("the name to be lost", is_lost).await;
    nodes.a_proxy.drop_nothing();
    let names = agreement(&mut watchers, 4).await;
    let nick = told(&mut on_b).await.nick;
    assert!(names.contains(&nick), "{nick} {names:?}");
}
