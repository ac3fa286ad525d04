//! What hostile clients cost the server in memory. The figures at full size, of the release build,
//! are those of `cargo bench --bench memory`.
#![cfg(target_os = "linux")]

use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Client, frame, raw_socket, within};
use crate::program::{PROGRAM, Program};

const MB: u64 = 1_000_000;

/// A program that has served somebody before, so that what it needs once is there.
async fn warm(flags: &[&str]) -> (Program, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(PROGRAM, folder.path(), flags).await;
    for _ in 0..20 {
        let mut client = Client::connect(program.addr, "nick=first").await;
        for line in ["x".repeat(4000), "warm".to_owned()] {
            client.say(&line).await;
            client.expect(&format!("first: {line}")).await;
        }
        client.leave().await;
    }
    program.forget_peak();
    (program, folder)
}

#[actix_web::test]
async fn a_giant_frame_costs_less_than_a_megabyte() {
    let (program, _folder) = warm(&[]).await;
    let before = program.memory();
    let mut tcp = raw_socket(program.addr, "/ws").await;
    // It announces 2^40 bytes, and 300 MB of them come.
    tcp.write_all(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (mut reader, mut writer) = tcp.into_split();
    let chunk = vec![0; MB as usize];
    let write = async {
        for _ in 0..300 {
            // After 2 seconds of this the server has had enough.
            if within("a megabyte", writer.write_all(&chunk)).await.is_err() {
                break;
            }
        }
    };
    let mut told = [0; 4];
    let (read, ()) = join(within("a close frame", reader.read_exact(&mut told)), write).await;
    read.unwrap();
    assert_eq!(u16::from_be_bytes([told[2], told[3]]), 1009);
    let grown = program.peak_memory().saturating_sub(before);
    assert!(grown < MB, "grown by {grown} bytes");
}

#[actix_web::test]
async fn a_flood_by_a_client_that_reads_its_echoes_costs_less_than_four_megabytes() {
    // What rooms remember is bounded by itself.
    let (program, _folder) = warm(&["--resume-buffer", "10"]).await;
    let before = program.memory();
    let (mut reader, mut writer) = raw_socket(program.addr, "/ws").await.into_split();
    let message = frame(0x81, &[b'x'; 4000]);
    let total = 50 * MB as usize;
    let write = async {
        for _ in 0..total / message.len() {
            within("a message to be sent", writer.write_all(&message)).await.unwrap();
        }
    };
    let read = async {
        let mut chunk = vec![0; 256 * 1024];
        let mut echoed = 0;
        while echoed < total / message.len() * 4000 {
            let read = within("an echo", reader.read(&mut chunk)).await.unwrap();
            assert_ne!(read, 0, "it is not cut off");
            echoed += read;
        }
    };
    join(write, read).await;
    let grown = program.peak_memory().saturating_sub(before);
    assert!(grown < 4 * MB, "grown by {grown} bytes");
}

#[actix_web::test]
async fn a_client_that_stops_reading_costs_no_more_than_its_queue() {
    const STALLED: u64 = 10;
    // What rooms remember is bounded by itself.
    let (program, _folder) = warm(&["--resume-buffer", "10"]).await;
    let before = program.memory();
    let mut stalled = Vec::new();
    // Each in a room of its own, so that no batch is shared, which is the worst case.
    for n in 0..STALLED {
        stalled.push(raw_socket(program.addr, &format!("/ws?room=r{n}")).await);
        let mut talker = Client::connect(program.addr, &format!("room=r{n}&nick=t")).await;
        // More than it takes to have it evicted.
        let long = "x".repeat(4000);
        for _ in 0..100 {
            for _ in 0..10 {
                talker.say(&long).await;
            }
            for _ in 0..10 {
                talker.expect(&format!("t: {long}")).await;
            }
        }
        talker.leave().await;
    }
    let each = program.peak_memory().saturating_sub(before) / STALLED;
    // The queue of 1 MiB, as messages and as frames, and the connection's buffers.
    assert!(each < 3 * MB, "{each} bytes for each");
}
