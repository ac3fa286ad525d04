//! Limits of requests on a connection: their number, their bodies, and the time between them.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse};
use futures_core::Stream;
use tokio::time::timeout;

use crate::websocket;

/// How much of an unwanted body is read, in bytes, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// Limits the requests of a connection. Wrap an app in it with `actix_web::middleware::from_fn`.
///
/// - The body of a request is read and discarded, since no route uses it.
/// - The head of the next request must be complete within a minute after an answer.
/// - A connection ends after 100 requests.
/// - A client that sends more than 16 requests without waiting for an answer is disconnected.
///
/// A body is read because closing a connection with input unread resets it, and the client may
/// never see the answer. The answer is sent after 16 MiB or 5 seconds in any case.
///
/// # Errors
/// Returns the errors of the routes.
pub async fn bound_requests(
    mut req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let request_state = websocket::begin_request(req.request());
    if request_state.is_cut_off() {
        return Ok(req
            .into_response(HttpResponse::TooManyRequests().finish())
            .map_into_boxed_body());
    }
    if !req.head().upgrade() {
        let mut body = req.take_payload();
        let read = async {
            let mut bytes = 0;
            while let Some(Ok(chunk)) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
                bytes += chunk.len();
                if bytes > MAX_DISCARDED_BYTES {
                    break;
                }
            }
        };
        // The rest of a body that takes too long is not read.
        let _ = timeout(MAX_DISCARD_TIME, read).await;
    }
    let mut response = next.call(req).await?;
    if request_state.is_last() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|head, body| match head.status {
        StatusCode::SWITCHING_PROTOCOLS => body.boxed(),
        _ => request_state.answer(body),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use crate::websocket::Connections;
    use actix_web::middleware::from_fn;
    use actix_web::rt::net::TcpStream;
    use actix_web::{App, HttpServer, rt, web};
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::sleep;

    const DEADLINE: Duration = Duration::from_secs(20);
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Takes longer than a next request may to answer, and again to write the body.
    async fn slow() -> HttpResponse {
        sleep(PATIENCE * 3 / 2).await;
        let parts = futures_util::stream::unfold(0, async |n| {
            sleep(PATIENCE / 2).await;
            (n < 3).then_some((Ok::<_, Error>(Bytes::from_static(b"part")), n + 1))
        });
        HttpResponse::Ok().streaming(Box::pin(parts))
    }

    /// As long as a file of the page.
    const LONG: &str = "quick with 10 kB behind it";

    fn start() -> SocketAddr {
        let connections = Connections::new(DEADLINE).with_next_request(PATIENCE);
        let app = || {
            let quick = web::get().to(|| async { "quick" });
            App::new()
                .wrap(from_fn(bound_requests))
                .route("/", quick)
                .route("/slow", web::get().to(slow))
                .route("/long", web::get().to(|| async { LONG.repeat(400) }))
        };
        let http = HttpServer::new(app).workers(1).disable_signals();
        let http = http.on_connect(connections.on_connect()).bind("127.0.0.1:0").expect("a port");
        let addr = http.addrs()[0];
        rt::spawn(http.run());
        addr
    }

    async fn ask(tcp: &mut TcpStream, path: &str, end: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(end.as_bytes()) {
                assert_ne!(tcp.read_buf(&mut answer).await.expect("an answer"), 0, "cut off");
            }
        };
        timeout(DEADLINE, read).await.expect("in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[actix_web::test]
    async fn a_second_request_that_drips_is_cut_off_as_a_first_one_is() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        ask(&mut tcp, "/", "quick").await;
        let (mut reader, mut writer) = tcp.into_split();
        let drip = async {
            while writer.write_all(b"G").await.is_ok() {
                sleep(PATIENCE / 10).await;
            }
        };
        let end = timeout(DEADLINE, async {
            tokio::select! {
                () = drip => {}
                read = reader.read_u8() => assert!(read.is_err(), "nothing is answered"),
            }
        });
        end.await.expect("it does not drip for ever");
    }

    /// Sends requests without waiting; says whether all are answered before the connection ends.
    async fn are_answered(path: &str, count: usize, bytes: usize) -> bool {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        let head = ask(&mut tcp, "/", "quick").await.len() - "quick".len();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(count);
        tcp.write_all(request.as_bytes()).await.expect("it is open");
        let mut answers = Vec::new();
        let read = timeout(DEADLINE, async {
            while answers.len() < count * (head + bytes) {
                if !tcp.read_buf(&mut answers).await.is_ok_and(|bytes| bytes > 0) {
                    return false;
                }
            }
            true
        });
        read.await.expect("answers, or an end")
    }

    #[actix_web::test]
    async fn client_that_pipelines_many_requests_is_cut_off() {
        assert!(are_answered("/", 10, "quick".len()).await);
        assert!(!are_answered("/", 1000, "quick".len()).await);
        assert!(!are_answered("/long", 200, 400 * LONG.len()).await);
    }

    #[actix_web::test]
    async fn a_connection_carries_a_hundred_requests() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        for n in 1..=100 {
            let answer = ask(&mut tcp, "/", "quick").await.to_lowercase();
            assert_eq!(answer.contains("connection: close"), n == 100, "{n}: {answer}");
        }
    }

    #[actix_web::test]
    async fn an_answer_may_take_as_long_as_it_likes_and_so_may_its_body() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        ask(&mut tcp, "/", "quick").await;
        let answer = ask(&mut tcp, "/slow", "\r\n0\r\n\r\n").await;
        assert_eq!(answer.matches("part").count(), 3);
        ask(&mut tcp, "/", "quick").await;
    }
}
