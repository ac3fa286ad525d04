//! Ends a connection of actix-http from outside its task. While a peer does not read, that task
//! waits for the socket to be writable and does not poll the actor (actix-web#2441): the actor can
//! handle no message, and its timers do not run. A [`ForceClose`] resets the socket instead.
//! Connections with a driver do not need it.

use std::net::Shutdown;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::debug;
use socket2::Socket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A socket to reset, and when that was requested.
type Request = (Weak<Socket>, Instant);

/// Ends a connection whose actor may be unable to end it. It does not keep the connection alive.
/// The default value does nothing.
#[derive(Clone, Debug, Default)]
pub struct ForceClose(Option<(Weak<Socket>, ForceCloseQueue)>);

impl ForceClose {
    pub(super) fn new(socket: &Arc<Socket>, queue: &ForceCloseQueue) -> Self {
        Self(Some((Arc::downgrade(socket), queue.clone())))
    }

    /// Schedules a reset of the connection for when the write timeout has passed, whether or not
    /// its peer reads. Until then the connection may still close in order.
    pub fn arm(&self) {
        if let Some((socket, queue)) = &self.0 {
            queue.schedule(socket.clone());
        }
    }
}

/// Resets sockets after a delay. The delay is the same for all, so they queue in order. A
/// connection is in the queue at most twice: once when it is evicted and once when it closes.
#[derive(Clone, Debug)]
pub(super) struct ForceCloseQueue(mpsc::UnboundedSender<Request>);

impl ForceCloseQueue {
    pub(super) fn start(delay: Duration) -> Self {
        let (sender, mut queue) = mpsc::unbounded_channel::<Request>();
        actix_web::rt::spawn(async move {
            while let Some((socket, at)) = queue.recv().await {
                sleep_until(at + delay).await;
                if let Some(socket) = socket.upgrade() {
                    reset(&socket);
                }
            }
        });
        Self(sender)
    }

    fn schedule(&self, socket: Weak<Socket>) {
        // This fails when the server's system has stopped, which has closed its sockets.
        let _ = self.0.send((socket, Instant::now()));
    }
}

/// Resets a connection and discards what is not written yet.
pub(super) fn reset(socket: &Socket) {
    // A linger time of zero discards unwritten data. Otherwise the kernel would keep it for as long
    // as the peer does not read it.
    let outcome =
        socket.set_linger(Some(Duration::ZERO)).and_then(|()| socket.shutdown(Shutdown::Both));
    if let Err(error) = outcome {
        debug!("cannot reset a connection, which has probably ended: {error}");
    }
}
