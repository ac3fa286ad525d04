//! The middleware that limits the requests of a connection: their number, their bodies, and the
//! time between them. The counters and the reset of a connection are in `websocket::connection`.

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

/// The greatest part of a request's body that is read, in bytes.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;

/// The time limit for reading a request's body.
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
    let pending = websocket::begin_request(req.request());
    if pending.is_disconnected() {
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
    if pending.is_last() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|head, body| match head.status {
        StatusCode::SWITCHING_PROTOCOLS => body.boxed(),
        _ => pending.response_body(body),
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
    const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

    /// Answers later than [`NEXT_REQUEST_TIMEOUT`], and writes the body for longer than that.
    async fn slow() -> HttpResponse {
        sleep(NEXT_REQUEST_TIMEOUT * 3 / 2).await;
        let parts = futures_util::stream::unfold(0, async |n| {
            sleep(NEXT_REQUEST_TIMEOUT / 2).await;
            (n < 3).then_some((Ok::<_, Error>(Bytes::from_static(b"part")), n + 1))
        });
        HttpResponse::Ok().streaming(Box::pin(parts))
    }

    /// A response repeats this part until it is as long as a file of the page, about 10 kB.
    const PART: &str = "a part of a long response ";

    fn start() -> SocketAddr {
        let connections =
            Connections::new(DEADLINE).with_next_request_timeout(NEXT_REQUEST_TIMEOUT);
        let app = || {
            let quick = web::get().to(|| async { "quick" });
            App::new()
                .wrap(from_fn(bound_requests))
                .route("/", quick)
                .route("/slow", web::get().to(slow))
                .route("/long", web::get().to(|| async { PART.repeat(400) }))
        };
        let http = HttpServer::new(app).workers(1).disable_signals();
        let http = http.on_connect(connections.on_connect()).bind("127.0.0.1:0").expect("a port");
        let addr = http.addrs()[0];
        rt::spawn(http.run());
        addr
    }

    /// Sends a request. Returns the response, which ends with `end`.
    async fn get(tcp: &mut TcpStream, path: &str, end: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(end.as_bytes()) {
                assert_ne!(tcp.read_buf(&mut answer).await.expect("an answer"), 0, "disconnected");
            }
        };
        timeout(DEADLINE, read).await.expect("in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[actix_web::test]
    async fn client_that_sends_its_second_request_too_slowly_is_disconnected() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        get(&mut tcp, "/", "quick").await;
        let (mut reader, mut writer) = tcp.into_split();
        let drip = async {
            while writer.write_all(b"G").await.is_ok() {
                sleep(NEXT_REQUEST_TIMEOUT / 10).await;
            }
        };
        let end = timeout(DEADLINE, async {
            tokio::select! {
                () = drip => {}
                read = reader.read_u8() => assert!(read.is_err(), "there is no response"),
            }
        });
        end.await.expect("the server disconnects the client");
    }

    /// Pipelines requests. Returns whether all are answered before the connection ends.
    async fn are_answered(path: &str, count: usize, bytes: usize) -> bool {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        let head = get(&mut tcp, "/", "quick").await.len() - "quick".len();
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
    async fn client_that_pipelines_many_requests_is_disconnected() {
        assert!(are_answered("/", 10, "quick".len()).await);
        assert!(!are_answered("/", 1000, "quick".len()).await);
        assert!(!are_answered("/long", 200, 400 * PART.len()).await);
    }

    #[actix_web::test]
    async fn connection_carries_100_requests() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        for n in 1..=100 {
            let answer = get(&mut tcp, "/", "quick").await.to_lowercase();
            assert_eq!(answer.contains("connection: close"), n == 100, "{n}: {answer}");
        }
    }

    #[actix_web::test]
    async fn response_and_its_body_may_take_longer_than_the_next_request_timeout() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        get(&mut tcp, "/", "quick").await;
        let answer = get(&mut tcp, "/slow", "\r\n0\r\n\r\n").await;
        assert_eq!(answer.matches("part").count(), 3);
        get(&mut tcp, "/", "quick").await;
    }
}
