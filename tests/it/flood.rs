//! Clients that send more than they should. Other clients are not affected.

use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{TestServer, also_with_http_server, eventually, frame, raw_socket, within};

also_with_http_server! {
    flood_of_60_000_messages_reaches_everyone_and_evicts_nobody,
    client_that_sends_a_50_mb_frame_always_receives_1009,
}

/// Backpressure from the hub limits the flood, so that the sessions keep up.
#[actix_web::test]
async fn flood_of_60_000_messages_reaches_everyone_and_evicts_nobody() {
    const MESSAGES: usize = 60_000;
    let server = TestServer::start().await;
    let mut clients = join_all((0..20).map(|_| server.connect(""))).await;
    eventually("all clients to be registered", async || server.member_count().await == 20).await;
    // The flooder reads its echoes from a raw socket.
    let tcp = raw_socket(server.addr(), "/ws").await;
    eventually("the flooder to be registered", async || server.member_count().await == 21).await;
    let (mut echoes, mut flood) = tcp.into_split();

    let send = async {
        for n in (0..MESSAGES).step_by(100) {
            let frames: Vec<u8> =
                (n..n + 100).flat_map(|n| frame(0x81, n.to_string().as_bytes())).collect();
            flood.write_all(&frames).await.unwrap();
        }
    };
    let read_echoes = async {
        // Lines arrive in order, so the last one is enough.
        let last = (MESSAGES - 1).to_string();
        let mut tail = Vec::new();
        while !tail.ends_with(last.as_bytes()) {
            let drop = tail.len().saturating_sub(16);
            tail.drain(..drop);
            let read = within("an echo", echoes.read_buf(&mut tail)).await.unwrap();
            assert_ne!(read, 0, "the flooder stays connected");
        }
    };
    let read = join_all(clients.iter_mut().map(async |client| {
        for n in 0..MESSAGES {
            let line = within("the next line", client.line()).await;
            assert_eq!(line, Some(n.to_string()));
        }
    }));
    join(join(send, read_echoes), read).await;
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    assert_eq!(server.member_count().await, 21);
}

#[actix_web::test]
async fn client_that_sends_a_50_mb_frame_always_receives_1009() {
    let server = TestServer::start().await;
    let giant = frame(0x82, &vec![0; 50_000_000]);
    for attempt in 0..20 {
        let (mut reader, mut writer) = raw_socket(server.addr(), "/ws").await.into_split();
        // Like a browser, it writes the whole frame before it reads.
        within("the frame to be sent", writer.write_all(&giant)).await.unwrap();
        // Then it answers the close frame.
        writer.write_all(&frame(0x88, &1009_u16.to_be_bytes())).await.unwrap();
        let mut read = Vec::new();
        let ended = within("the end", reader.read_to_end(&mut read)).await;
        assert!(ended.is_ok(), "attempt {attempt}: {ended:?} after {read:?}");
        let words = Reason::TooBig.words().as_bytes();
        let close = [&[0x88, 2 + words.len() as u8, 0x03, 0xF1], words].concat();
        assert_eq!(read, close, "attempt {attempt}");
    }
    assert_eq!(server.disconnects(Reason::TooBig).await, 20);
}
