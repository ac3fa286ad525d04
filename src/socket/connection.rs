//! What is known of a connection from its first byte to its last, which is longer than its actor
//! lives: the count of open WebSockets that an orderly shutdown waits for.

use std::any::Any;
use std::cell::Cell;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use tokio::sync::watch;

/// The open WebSockets of a server. Give [`Connections::on_connect`] to `HttpServer::on_connect`,
/// and [`Connections::all_closed`] tells when the last close frame has been written.
#[derive(Clone, Debug)]
pub struct Connections {
    open: watch::Sender<usize>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { open: watch::Sender::new(0) }
    }
}

impl Connections {
    /// The hook for `HttpServer::on_connect`; set it before `bind`.
    pub fn on_connect(&self) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static + use<> {
        let open = self.open.clone();
        move |_, extensions| {
            extensions.insert(Connection { open: open.clone(), counted: Cell::new(false) });
        }
    }

    /// Waits until no WebSocket is open. Connections that carry plain HTTP do not count: they may
    /// stay idle for as long as their clients like.
    pub async fn all_closed(&self) {
        let mut open = self.open.subscribe();
        // It fails only when the sender is gone, and this is one.
        let _ = open.wait_for(|&open| open == 0).await;
    }
}

/// Lives in the connection's extensions, and so as long as the connection.
#[derive(Debug)]
struct Connection {
    open: watch::Sender<usize>,
    counted: Cell<bool>,
}

/// Counts the request's connection as a WebSocket until it closes. Does nothing on a server
/// without the hook.
pub(super) fn upgraded(req: &HttpRequest) {
    if let Some(connection) = req.conn_data::<Connection>()
        && !connection.counted.replace(true)
    {
        connection.open.send_modify(|open| *open += 1);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.counted.get() {
            self.open.send_modify(|open| *open -= 1);
        }
    }
}
