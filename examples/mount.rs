//! The chat in an actix-web program of your own, as safe as in ours: slow and silent clients lose
//! their sockets, and on SIGINT, SIGTERM or SIGHUP every client is told before the program ends.

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

/// Serves until `stop` is ready, and then ends in order.
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
            // Gives a request an end, and reads bodies that nobody wants.
            .wrap(from_fn(http::bound_requests))
            .route("/about", web::get().to(|| async { "A chat of our own." }))
            .configure(|app| mounted.configure(app))
    })
    // We stop it ourselves, once the clients have been told.
    .disable_signals()
    .tcp_nodelay(true)
    // A WebSocket that was closed in order ends at once.
    .client_disconnect_timeout(Duration::ZERO)
    // Bounds the kernel's buffers, and ends sockets whose peers do not read.
    .on_connect(chat.on_connect(&connections))
    .listen(listener)?
    .run();
    let http = running.handle();
    rt::spawn(running);

    stop.await;
    http.pause().await;
    let told = rt::time::timeout(shutdown_timeout, async {
        if let Ok(drained) = hub.send(Drain { wait: true }).await {
            let _ = drained.await;
        }
        connections.all_closed().await;
    });
    let _ = told.await;
    http.stop(false).await;
    Ok(())
}
