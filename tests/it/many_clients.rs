//! Hundreds of clients at once.

use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::{TestServer, config, eventually, within};
#[cfg(target_os = "linux")]
use crate::timed::slow::slow_client;

#[actix_web::test]
async fn two_hundred_clients_receive_every_message_once_in_the_same_order() {
    const CLIENTS: usize = 200;
    const MESSAGES: usize = 1000;
    let server = TestServer::start().await;
    let mut clients = join_all((0..CLIENTS).map(|_| server.connect(""))).await;
    eventually("all clients to be registered", async || server.member_count().await == CLIENTS)
        .await;

    // Four others send 100 messages a second in total, for 10 seconds.
    let mut writers = join_all((0..4).map(|_| server.connect("room=lobby"))).await;
    let send = async {
        let mut pace = interval(Duration::from_millis(10));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0..MESSAGES {
            pace.tick().await;
            let writer = n % writers.len();
            writers[writer].say(&format!("{writer} {n}")).await;
        }
    };
    let receive = join_all(clients.iter_mut().map(async |client| {
        let mut lines = Vec::with_capacity(MESSAGES);
        while lines.len() < MESSAGES {
            lines.push(within("the next message", client.line()).await.unwrap());
        }
        lines
    }));
    let ((), received) = futures_util::future::join(send, receive).await;

    let mut all = received[0].clone();
    assert!(received.iter().all(|lines| *lines == all), "the order is the same for all clients");
    all.sort();
    let mut sent: Vec<_> = (0..MESSAGES).map(|n| format!("{} {n}", n % 4)).collect();
    sent.sort();
    assert_eq!(all, sent, "every message arrives once");
    server.stop().await;
}

#[actix_web::test]
async fn three_hundred_clients_vanish_while_three_hundred_others_join() {
    const HALF: usize = 300;
    let server = TestServer::start().await;
    let vanishing = join_all((0..HALF).map(|_| server.connect("room=here"))).await;
    eventually("the first half to be registered", async || server.member_count().await == HALF)
        .await;

    let vanish = async {
        for client in vanishing {
            drop(client);
            tokio::task::yield_now().await;
        }
    };
    let join = join_all((0..HALF).map(|n| server.connect(&format!("room=here&nick=n{n}"))));
    let ((), mut joined) = futures_util::future::join(vanish, join).await;

    eventually("only the second half to be registered", async || {
        server.member_count().await == HALF
    })
    .await;
    joined[0].say("who is here?").await;
    for client in &mut joined {
        client.expect("n0: who is here?").await;
    }
    drop(joined);
    eventually("all rooms to be removed", async || server.rooms().await.is_empty()).await;
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn fifty_stalled_clients_do_not_affect_the_other_950() {
    const CLIENTS: usize = 1000;
    const STALLED: usize = 50;
    const QUEUE_BYTES: usize = 128 * 1024;
    // No client is closed by this timeout before its queue is full.
    let write_timeout = Duration::from_secs(3600);
    let limited = Config { send_queue_bytes: QUEUE_BYTES, write_timeout, ..config() };
    let server = TestServer::start_with(limited).await;
    let mut readers = join_all((STALLED..CLIENTS).map(|_| server.connect("room=slow"))).await;
    let stalled = join_all((0..STALLED).map(|_| slow_client(&server, 4 * 1024))).await;
    eventually("all clients to be registered", async || server.member_count().await == CLIENTS)
        .await;
    let mut writer = server.join("room=slow").await;
    let padding = "x".repeat(1000);
    // A round fits a queue, and the next round begins when all readers have received it. So only
    // stalled clients fall behind, however slow the machine is.
    let per_round = QUEUE_BYTES / 2 / padding.len();
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await < STALLED as u64 {
        assert!(said < 5_000, "5,000 messages exceed all queues and buffers");
        let lines: Vec<_> = (said..said + per_round).map(|n| format!("{n} {padding}")).collect();
        said += per_round;
        for line in &lines {
            writer.say(line).await;
        }
        join_all(readers.iter_mut().chain([&mut writer]).map(async |reader| {
            for line in &lines {
                reader.expect(line).await;
            }
        }))
        .await;
    }
    assert_eq!(server.member_count().await, CLIENTS - STALLED + 1, "no other client is evicted");
    drop(stalled);
}
