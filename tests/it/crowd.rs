//! Many clients at once.

use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::{TestServer, config, eventually, within};
#[cfg(target_os = "linux")]
use crate::timed::slow::slow_client;

#[actix_web::test]
async fn two_hundred_clients_read_every_message_once_and_in_the_same_order() {
    const CLIENTS: usize = 200;
    const MESSAGES: usize = 1000;
    let server = TestServer::start().await;
    let mut clients = join_all((0..CLIENTS).map(|_| server.connect(""))).await;
    eventually("all to be registered", async || server.client_count().await == CLIENTS).await;

    // Four of them speak, 100 messages a second in all, for 10 seconds.
    let mut writers = join_all((0..4).map(|_| server.connect("room=lobby"))).await;
    let speak = async {
        let mut pace = interval(Duration::from_millis(10));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0..MESSAGES {
            pace.tick().await;
            let writer = n % writers.len();
            writers[writer].say(&format!("{writer} {n}")).await;
        }
    };
    let listen = join_all(clients.iter_mut().map(async |client| {
        let mut heard = Vec::with_capacity(MESSAGES);
        while heard.len() < MESSAGES {
            heard.push(within("the next message", client.line()).await.unwrap());
        }
        heard
    }));
    let ((), heard) = futures_util::future::join(speak, listen).await;

    let mut all = heard[0].clone();
    assert!(heard.iter().all(|order| *order == all), "the order is the same for all");
    all.sort();
    let mut said: Vec<_> = (0..MESSAGES).map(|n| format!("{} {n}", n % 4)).collect();
    said.sort();
    assert_eq!(all, said, "every message, none twice");
    server.stop().await;
}

#[actix_web::test]
async fn three_hundred_vanish_while_three_hundred_others_join() {
    const HALF: usize = 300;
    let server = TestServer::start().await;
    let vanishing = join_all((0..HALF).map(|_| server.connect("room=here"))).await;
    eventually("the first half", async || server.client_count().await == HALF).await;

    let vanish = async {
        for client in vanishing {
            drop(client);
            tokio::task::yield_now().await;
        }
    };
    let join = join_all((0..HALF).map(|n| server.connect(&format!("room=here&nick=n{n}"))));
    let ((), mut there) = futures_util::future::join(vanish, join).await;

    eventually("exactly the second half", async || server.client_count().await == HALF).await;
    there[0].say("who is here?").await;
    for client in &mut there {
        client.expect("n0: who is here?").await;
    }
    drop(there);
    eventually("nobody, and no room", async || server.rooms().await.is_empty()).await;
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn fifty_of_a_thousand_stall_and_the_others_read_everything() {
    const CLIENTS: usize = 1000;
    const STALLED: usize = 50;
    const QUEUE_BYTES: usize = 128 * 1024;
    // Long enough for no client to be cut off before its queue is full.
    let write_timeout = Duration::from_secs(3600);
    let limited = Config { send_queue_bytes: QUEUE_BYTES, write_timeout, ..config() };
    let server = TestServer::start_with(limited).await;
    let mut readers = join_all((STALLED..CLIENTS).map(|_| server.connect("room=slow"))).await;
    let stalled = join_all((0..STALLED).map(|_| slow_client(&server, 4 * 1024))).await;
    eventually("all to be there", async || server.client_count().await == CLIENTS).await;
    let mut writer = server.join("room=slow").await;
    let padding = "x".repeat(1000);
    // A round is less than a queue holds, and the next one begins when all have read it, so that
    // only clients that stall are outrun, however slow the machine is.
    let per_round = QUEUE_BYTES / 2 / padding.len();
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await < STALLED as u64 {
        assert!(said < 5_000, "5 MB are in no queues and buffers");
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
    assert_eq!(server.client_count().await, CLIENTS - STALLED + 1, "nobody else is evicted");
    drop(stalled);
}
