//! The JSON protocol, `chinwag.v1`: commands, answers and their order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{TestServer, also_with_http_server, config, within};

also_with_http_server! {
    burst_is_answered_in_order_and_evicts_nobody,
    slow_reader_of_a_long_answer_is_not_evicted_by_new_messages,
}

/// A client of the JSON protocol.
pub struct JsonClient {
    pub stream: WebSocketStream<TcpStream>,
    lines: VecDeque<Value>,
    pub close_code: Option<u16>,
    /// Whether [`JsonClient::next`] returns `presence`. Most tests ignore it.
    pub receives_presence: bool,
}

impl JsonClient {
    /// Connects, or returns why it failed: the server may be starting or stopping.
    pub async fn try_connect(addr: SocketAddr) -> Result<Self, String> {
        let mut request = format!("ws://{addr}/ws").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
        let tcp = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let upgraded = tokio_tungstenite::client_async(request, tcp).await;
        let (stream, response) = upgraded.map_err(|error| error.to_string())?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "chinwag.v1");
        Ok(Self { stream, lines: VecDeque::new(), close_code: None, receives_presence: false })
    }

    pub async fn connect(addr: SocketAddr) -> Self {
        within("a connection", Self::try_connect(addr)).await.unwrap()
    }

    /// Connects, and sends a `hello` with these fields.
    pub async fn hello(addr: SocketAddr, hello: Value) -> Self {
        let mut client = Self::connect(addr).await;
        let mut line = json!({"type": "hello"});
        line.as_object_mut().unwrap().extend(hello.as_object().unwrap().clone());
        client.send(&[line]).await;
        client.expect("welcome").await;
        client
    }

    /// Sends lines in one frame.
    pub async fn send(&mut self, lines: &[Value]) {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        self.send_text(&lines.join("\n")).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        within("a frame to be sent", self.stream.send(Message::text(text))).await.unwrap();
    }

    /// Returns the next line, or `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Value> {
        while self.lines.is_empty() {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    let lines = text.split('\n').map(|line| serde_json::from_str(line).unwrap());
                    let is_wanted =
                        |line: &Value| self.receives_presence || line["type"] != "presence";
                    self.lines.extend(lines.filter(is_wanted));
                }
                Ok(Message::Close(frame)) => {
                    self.close_code = frame.map(|frame| frame.code.into());
                    return None;
                }
                Err(_) => return None,
                Ok(_) => {}
            }
        }
        self.lines.pop_front()
    }

    /// Returns the next line, which must be of this type.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> impl Future<Output = Value> {
        let caller = Location::caller();
        let read = within(format!("a line of type {kind}"), self.next());
        async move {
            let line = read
                .await
                .unwrap_or_else(|| panic!("{caller}: the connection ended before {kind}"));
            assert_eq!(line["type"], kind, "at {caller}: {line}");
            line
        }
    }

    /// Returns the next line of this type, and skips all others before it.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> impl Future<Output = Value> {
        let caller = Location::caller();
        let read = within(format!("a line of type {kind}"), async move {
            loop {
                let line = self.next().await;
                if line.as_ref().is_none_or(|line| line["type"] == kind) {
                    break line;
                }
            }
        });
        async move {
            read.await.unwrap_or_else(|| panic!("{caller}: the connection ended before {kind}"))
        }
    }

    /// Returns the next line, which must be an error with this code.
    #[track_caller]
    pub fn expect_error(&mut self, code: &str) -> impl Future<Output = Value> {
        let caller = Location::caller();
        let line = self.expect("error");
        async move {
            let line = line.await;
            assert_eq!(line["code"], code, "at {caller}: {line}");
            line
        }
    }
}

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

fn say(room: &str, text: &str, id: &str) -> Value {
    json!({"type": "say", "room": room, "text": text, "id": id})
}

fn texts(line: &Value) -> Vec<&str> {
    let messages = line["messages"].as_array().unwrap();
    messages.iter().map(|message| message["text"].as_str().unwrap()).collect()
}

#[actix_web::test]
async fn commands_of_one_frame_run_in_order_and_answers_echo_their_ref() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::connect(server.addr()).await;
    ada.send(&[
        json!({"type": "hello", "nick": "Ada", "ref": 1}),
        json!({"type": "join", "room": "Tea", "ref": "two"}),
        json!({"type": "say", "room": "tea", "text": "hello", "id": "a", "ref": 3}),
        json!({"type": "history", "room": "tea", "ref": 4}),
        json!({"type": "leave", "room": "tea", "ref": 5}),
        json!({"type": "say", "room": "tea", "text": "?", "ref": 6}),
    ])
    .await;
    let welcome = ada.expect("welcome").await;
    assert_eq!((&welcome["nick"], &welcome["ref"]), (&json!("Ada"), &json!(1)));
    assert_eq!(welcome["limits"]["message_bytes"], 4096);
    let joined = ada.expect("joined").await;
    assert_eq!((&joined["room"], &joined["ref"]), (&json!("tea"), &json!("two")));
    assert_eq!((&joined["members"], &joined["member_count"]), (&json!(["Ada"]), &json!(1)));
    let message = ada.expect("message").await;
    assert_eq!((&message["nick"], &message["text"]), (&json!("Ada"), &json!("hello")));
    assert_eq!(message["id"], "a");
    let said = ada.expect("said").await;
    assert_eq!((&said["seq"], &said["ref"]), (&message["seq"], &json!(3)));
    assert_eq!((&said["id"], &said["duplicate"]), (&json!("a"), &json!(false)));
    let history = ada.expect("history").await;
    assert_eq!((texts(&history), &history["ref"]), (vec!["hello"], &json!(4)));
    assert_eq!(ada.expect("left").await["ref"], 5);
    assert_eq!(ada.expect_error("not_joined").await["ref"], 6);
}

#[actix_web::test]
async fn text_and_json_clients_share_rooms() {
    let server = TestServer::start().await;
    let mut text = server.join("nick=ben&room=tea").await;
    let mut json = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    json.send(&[join("tea"), say("tea", "two\nlines: \"yes\"", "1")]).await;
    assert_eq!(json.expect("joined").await["member_count"], 2);
    assert_eq!(json.expect("message").await["text"], "two\nlines: \"yes\"");
    json.expect("said").await;
    text.expect("Ada: two lines: \"yes\"").await;
    text.say("hello").await;
    let message = json.expect("message").await;
    assert_eq!((&message["nick"], &message["text"]), (&json!("ben"), &json!("hello")));
    assert_eq!(message.get("id"), None);
}

#[actix_web::test]
async fn invalid_command_returns_an_error_and_keeps_the_connection() {
    let server = TestServer::start().await;
    let mut client = JsonClient::hello(server.addr(), json!({})).await;
    let bomb = format!("{{\"type\":\"say\",\"room\":{}", "[".repeat(5000));
    let ignored_bomb = format!("{{\"type\":\"nope\",\"x\":{}1{}}}", "[".repeat(99), "]".repeat(99));
    let invalid: [(&str, &str); 34] = [
        ("hello", "bad_json"),
        ("[\"hello\"]", "bad_json"),
        ("1", "bad_json"),
        ("{}", "bad_json"),
        ("{\"type\":1}", "bad_json"),
        ("{\"type\":\"say\"", "bad_json"),
        ("{\"type\":\"say\",\"room\":\"a\"}", "bad_json"),
        ("{\"type\":\"say\",\"room\":\"a\",\"text\":\"\\ud800\"}", "bad_json"),
        ("{\"type\":\"say\",\"room\":\"a\",\"text\":\"\\u0007\"}", "bad_json"),
        ("{\"type\":\"say\",\"room\":\"a\",\"text\":1}", "bad_json"),
        ("{\"type\":\"history\",\"room\":\"a\",\"before\":1e999999}", "bad_json"),
        ("{\"type\":\"history\",\"room\":\"a\",\"before\":-1}", "bad_json"),
        ("{\"type\":\"history\",\"room\":\"a\",\"limit\":101}", "bad_json"),
        ("{\"type\":\"history\",\"room\":\"a\",\"before\":2,\"after\":1}", "bad_json"),
        ("{\"type\":\"edit\",\"room\":\"a\",\"text\":\"x\"}", "bad_json"),
        ("{\"type\":\"edit\",\"room\":\"a\",\"seq\":1,\"text\":\"x\"}", "not_joined"),
        ("{\"type\":\"delete\",\"room\":\"a\",\"seq\":1}", "not_joined"),
        ("{\"type\":\"react\",\"room\":\"a\",\"seq\":1,\"emoji\":\"x\"}", "bad_json"),
        ("{\"type\":\"react\",\"room\":\"a\",\"seq\":1,\"emoji\":\"👍\"}", "not_joined"),
        ("{\"type\":\"set_room\",\"room\":\"a\",\"topic\":\"x\\ny\"}", "bad_json"),
        ("{\"type\":\"set_room\",\"room\":\"a\",\"topic\":\"x\"}", "not_joined"),
        ("{\"type\":\"read\",\"room\":\"a\"}", "bad_json"),
        ("{\"type\":\"read\",\"room\":\"a\",\"seq\":-1}", "bad_json"),
        ("{\"type\":\"read\",\"room\":\"no room\",\"seq\":1}", "bad_room"),
        ("{\"type\":\"read\",\"room\":\"a\",\"seq\":1}", "not_joined"),
        ("{\"type\":\"leave\",\"room\":\"a\",\"ref\":{}}", "bad_json"),
        ("{\"type\":\"hello\",\"key\":\"short\"}", "bad_json"),
        (&bomb, "bad_json"),
        (&ignored_bomb, "unknown_type"),
        ("{\"type\":\"join\",\"room\":\"no room\"}", "bad_room"),
        ("{\"type\":\"hello\",\"nick\":\"a:b\"}", "bad_nick"),
        ("{\"type\":\"say\",\"room\":\"a\",\"text\":\" \\r\\n \"}", "empty"),
        ("{\"type\":\"say\",\"room\":\"a\",\"text\":\"x\"}", "not_joined"),
        ("{\"type\":\"leave\",\"room\":\"a\"}", "not_joined"),
    ];
    for (line, code) in invalid {
        // Blank lines are ignored.
        client.send_text(&format!("\n  \r\n{line}\n")).await;
        let error = client.expect_error(code).await;
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        assert_eq!(error["temporary"], false);
    }
    let long = json!({"type": "say", "room": "a", "text": "x".repeat(4097), "ref": 7});
    client.send(&[long, json!({"type": "nope", "ref": 8})]).await;
    assert_eq!(client.expect_error("too_long").await["ref"], 7);
    assert_eq!(client.expect_error("unknown_type").await["ref"], 8);
    let with_unknown_field =
        json!({"type": "join", "room": "a", "new": {"field": [1, 2]}, "after": null});
    client.send(&[with_unknown_field]).await;
    client.expect("joined").await;
}

#[actix_web::test]
async fn command_before_hello_closes_the_connection_with_4000() {
    let hello_timeout = Duration::from_secs(3);
    let server = TestServer::start_with(Config { hello_timeout, ..config() }).await;
    let mut other = JsonClient::hello(server.addr(), json!({})).await;
    let mut client = JsonClient::connect(server.addr()).await;
    client.send(&[join("a")]).await;
    client.expect_error("hello_first").await;
    assert_eq!(within("the end", client.next()).await, None);
    assert_eq!(client.close_code, Some(4000));
    server.expect_disconnect(Reason::NoHello).await;
    // A client that has sent hello stays connected.
    other.send(&[join("a")]).await;
    other.expect("joined").await;
}

#[actix_web::test]
async fn connection_joins_several_rooms_up_to_the_limit() {
    let server = TestServer::start_with(Config { max_rooms_per_client: Some(3), ..config() }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "ada"})).await;
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "ben"})).await;
    for room in ["a", "b", "c"] {
        ada.send(&[join(room)]).await;
        ada.expect("joined").await;
    }
    ada.send(&[join("d"), join("a")]).await;
    ada.expect_error("forbidden").await;
    ada.expect("joined").await;
    let hits = "chinwag_limit_hits_total{limit=\"max_rooms_per_client\"}";
    assert_eq!(crate::metrics::metric(&server, hits).await, 1.0);
    ada.send(&[json!({"type": "leave", "room": "b"})]).await;
    ada.expect("left").await;
    for room in ["a", "b", "c"] {
        ben.send(&[join(room), say(room, room, room)]).await;
        ben.expect("joined").await;
        ben.expect("message").await;
        ben.expect("said").await;
    }
    assert_eq!(ada.expect("message").await["room"], "a");
    assert_eq!(ada.expect("message").await["room"], "c");
}

#[actix_web::test]
async fn resuming_returns_missed_messages_or_reports_a_gap() {
    let server = TestServer::start_with(Config { resume_buffer: 60, ..config() }).await;
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "ben"})).await;
    ben.send(&[join("a")]).await;
    ben.expect("joined").await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "ada"})).await;
    ada.send(&[join("a")]).await;
    let joined = ada.expect("joined").await;
    let (epoch, start) = (joined["epoch"].clone(), joined["seq"].as_u64().unwrap());
    drop(ada);
    let mut seqs = Vec::new();
    for n in 0..70 {
        ben.send(&[say("a", &n.to_string(), &n.to_string())]).await;
        seqs.push(ben.expect("message").await["seq"].as_u64().unwrap());
        ben.expect("said").await;
    }
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "ada"})).await;
    let unknown_epoch = json!("another");
    let last = seqs[69];
    for (epoch, after, recovered, first) in [
        (&epoch, seqs[9], true, 10),
        (&epoch, seqs[40], true, 41),
        (&epoch, last, true, 70),
        (&epoch, seqs[8], false, 20),
        (&epoch, start, false, 20),
        (&epoch, last + 1, false, 20),
        (&unknown_epoch, seqs[40], false, 20),
    ] {
        let after = json!({"epoch": epoch, "seq": after});
        ada.send(&[json!({"type": "join", "room": "a", "after": after})]).await;
        let joined = ada.expect("joined").await;
        assert_eq!(joined["recovered"], recovered, "{after}");
        assert_eq!(joined["seq"], last);
        let expected: Vec<_> = (first..70).map(|n| n.to_string()).collect();
        assert_eq!(texts(&joined), expected, "{after}");
    }
}

#[actix_web::test]
async fn history_pages_cover_the_room_without_gap_or_repeat() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    for n in 0..95 {
        ada.send(&[say("a", &n.to_string(), &n.to_string())]).await;
        ada.expect("message").await;
        ada.expect("said").await;
    }
    let (mut numbers, mut before) = (Vec::new(), Value::Null);
    for pages in 1.. {
        let limit = 10;
        let page = json!({"type": "history", "room": "a", "before": before, "limit": limit});
        ada.send(&[page]).await;
        let page = ada.expect("history").await;
        before = page["messages"][0]["seq"].clone();
        let texts = texts(&page);
        numbers.splice(0..0, texts.iter().map(|text| text.parse::<usize>().unwrap()));
        if page["more"] == false {
            assert_eq!(pages, 10);
            break;
        }
    }
    assert_eq!(numbers, (0..95).collect::<Vec<_>>());
}

#[actix_web::test]
async fn message_sent_twice_by_one_identity_is_stored_once() {
    let server = TestServer::start().await;
    let key = json!({"nick": "ada", "key": "a secret of ada's own"});
    let mut first = JsonClient::hello(server.addr(), key.clone()).await;
    first.send(&[join("a"), say("a", "hello", "1"), say("a", "hello", "1")]).await;
    first.expect("joined").await;
    let seq = first.expect("message").await["seq"].clone();
    let said = first.expect("said").await;
    assert_eq!((&said["seq"], &said["duplicate"]), (&seq, &json!(false)));
    let repeated = first.expect("said").await;
    assert_eq!((&repeated["seq"], &repeated["duplicate"]), (&seq, &json!(true)));

    let mut second = JsonClient::hello(server.addr(), key).await;
    second.send(&[join("a"), say("a", "hello", "1")]).await;
    second.expect("joined").await;
    let said = second.expect("said").await;
    assert_eq!((&said["seq"], &said["duplicate"]), (&seq, &json!(true)));
    // Without a key, each connection is another identity.
    let mut stranger = JsonClient::hello(server.addr(), json!({})).await;
    stranger.send(&[join("a"), say("a", "hello", "1")]).await;
    stranger.expect("joined").await;
    stranger.expect("message").await;
    assert_eq!(stranger.expect("said").await["duplicate"], false);
    assert_ne!(first.expect("message").await["seq"], seq, "the duplicate was not delivered");
}

#[actix_web::test]
async fn burst_is_answered_in_order_and_evicts_nobody() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    for frame in 0..20 {
        let lines: Vec<_> =
            (0..100).map(|n| (frame * 100 + n).to_string()).map(|n| say("a", &n, &n)).collect();
        ada.send(&lines).await;
    }
    let (mut messages, mut said) = (0, 0);
    while said < 2000 {
        let line = within("the next line", ada.next()).await.expect("the client is not evicted");
        let count = if line["type"] == "said" { &mut said } else { &mut messages };
        assert_eq!(line["id"], count.to_string(), "{line}");
        *count += 1;
    }
    assert_eq!(messages, 2000);
}

/// An answer may be as long as the send queue, and must leave space in it for messages.
#[actix_web::test]
async fn slow_reader_of_a_long_answer_is_not_evicted_by_new_messages() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a")]).await;
    let epoch = ada.expect("joined").await["epoch"].clone();
    let long = "x".repeat(4000);
    let mut send = async |from: usize, to: usize| {
        for n in from..to {
            ada.send(&[say("a", &long, &n.to_string())]).await;
            ada.until("said").await;
        }
    };
    send(0, 256).await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    let after = json!({"epoch": epoch, "seq": 0});
    eve.send(&[json!({"type": "join", "room": "a", "after": after})]).await;
    within("the answer to begin", eve.stream.get_ref().readable()).await.unwrap();
    send(256, 286).await;
    let joined = within("the answer", eve.next()).await.expect("the client is not evicted");
    assert_eq!(joined["messages"].as_array().unwrap().len(), 256);
    for n in 256..286 {
        assert_eq!(eve.until("message").await["id"], n.to_string());
    }
}

#[actix_web::test]
async fn binary_message_closes_the_connection_with_1003() {
    let server = TestServer::start().await;
    let mut client = JsonClient::hello(server.addr(), json!({})).await;
    client.stream.send(Message::binary(vec![0])).await.unwrap();
    assert_eq!(within("the end", client.next()).await, None);
    assert_eq!(client.close_code, Some(1003));
}
