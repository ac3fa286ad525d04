//! Clients that send more than they should: memory stays where it is, and nobody else suffers.

use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{TestServer, also_on_the_plain_road, eventually, frame, raw_socket, within};

also_on_the_plain_road! {
    a_flood_of_sixty_thousand_messages_reaches_everybody_and_evicts_nobody,
    a_browser_that_sends_fifty_megabytes_reads_1009_every_time,
}

/// The flood is bounded by what the hub accepts, so the sessions keep up.
#[actix_web::test]
async fn a_flood_of_sixty_thousand_messages_reaches_everybody_and_evicts_nobody() {
    const MESSAGES: usize = 60_000;
    let server = TestServer::start().await;
    let mut clients = join_all((0..20).map(|_| server.connect(""))).await;
    eventually("all to be registered", async || server.client_count().await == 20).await;
    // The flooder is one of those who read, on a socket of its own.
    let tcp = raw_socket(server.addr(), "/ws").await;
    eventually("the flooder too", async || server.client_count().await == 21).await;
    let (mut echoes, mut flood) = tcp.into_split();

    let send = async {
        for n in (0..MESSAGES).step_by(100) {
            let frames: Vec<u8> =
                (n..n + 100).flat_map(|n| frame(0x81, n.to_string().as_bytes())).collect();
            flood.write_all(&frames).await.unwrap();
        }
    };
    let read_echoes = async {
        // The last line of the echo is enough: lines come in order.
        let last = (MESSAGES - 1).to_string();
        let mut tail = Vec::new();
        while !tail.ends_with(last.as_bytes()) {
            let drop = tail.len().saturating_sub(16);
            tail.drain(..drop);
            let read = within("an echo", echoes.read_buf(&mut tail)).await.unwrap();
            assert_ne!(read, 0, "the flooder is not cut off");
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
    assert_eq!(server.client_count().await, 21);
}

#[actix_web::test]
async fn a_browser_that_sends_fifty_megabytes_reads_1009_every_time() {
    let server = TestServer::start().await;
    let giant = frame(0x82, &vec![0; 50_000_000]);
    for attempt in 0..20 {
        let (mut reader, mut writer) = raw_socket(server.addr(), "/ws").await.into_split();
        // Like a browser it writes all of it before it looks at what has come.
        within("the frame to be sent", writer.write_all(&giant)).await.unwrap();
        // And then answers the close frame that it finds.
        writer.write_all(&frame(0x88, &1009_u16.to_be_bytes())).await.unwrap();
        let mut read = Vec::new();
        let ended = within("the end", reader.read_to_end(&mut read)).await;
        assert!(ended.is_ok(), "attempt {attempt}: {ended:?} after {read:?}");
        let words = Reason::TooBig.words().as_bytes();
        let told = [&[0x88, 2 + words.len() as u8, 0x03, 0xF1], words].concat();
        assert_eq!(read, told, "attempt {attempt}");
    }
    assert_eq!(server.disconnects(Reason::TooBig).await, 20);
}
