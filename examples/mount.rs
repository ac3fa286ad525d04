//! Mounts the chat in an actix-web program, with the same protection as in the chinwag program:
//! connections of slow and silent clients are closed, and SIGINT, SIGTERM and SIGHUP shut it down
//! gracefully.

use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;

use actix::Arbiter;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, rt, web};
use chinwag::hub::Drain;
use chinwag::websocket::Connections;
use chinwag::{Chat, Config, Hub, http, server};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    serve(TcpListener::bind("127.0.0.1:8080")?, Config::default(), server::stop_signal()?).await
}

/// Serves until `stop` is ready, and then shuts down gracefully.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let shutdown_timeout = config.shutdown_timeout;
    let hub = Hub::start_in(&Arbiter::new(), &config);
    let connections = Connections::new(config.write_timeout);
    let chat = Chat::new(hub.clone(), config);
    let mounted = chat.clone();
    let running = HttpServer::new(move || {
        App::new()
            // Limits requests, and reads and discards their bodies.
            .wrap(from_fn(http::bound_requests))
            .route("/about", web::get().to(|| async { "A chat of our own." }))
            .configure(|app| mounted.configure(app))
    })
    // `serve` stops the server itself, after it has closed all WebSockets.
    .disable_signals()
    .tcp_nodelay(true)
    // Closes the TCP connection immediately after the close handshake.
    .client_disconnect_timeout(Duration::ZERO)
    // Limits the kernel's buffers, and closes sockets whose peers do not read.
    .on_connect(chat.on_connect(&connections))
    .listen(listener)?
    .run();
    let http = running.handle();
    rt::spawn(running);

    stop.await;
    http.pause().await;
    let clients_closed = rt::time::timeout(shutdown_timeout, async {
        if let Ok(drained) = hub.send(Drain { wait: true }).await {
            let _ = drained.await;
        }
        connections.all_closed().await;
    });
    let _ = clients_closed.await;
    http.stop(false).await;
    Ok(())
}
