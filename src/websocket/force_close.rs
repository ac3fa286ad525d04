//! The last resort where actix-http keeps the connection. A peer that does not read keeps the
//! connection's task waiting for the socket to be writable, and all that time the actor on it is
//! not polled (actix-web#2441): it cannot obey an order to close, nor can its timers run. So the
//! socket itself is shut down from outside.

use std::net::Shutdown;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::debug;
use socket2::Socket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A socket that is to end, unless it is gone by then, and since when.
type Appointment = (Weak<Socket>, Instant);

/// The power to end a connection whose actor may not be able to. It does not keep the connection
/// alive. The default one ends nothing.
#[derive(Clone, Debug, Default)]
pub struct ForceClose(Option<(Weak<Socket>, Reaper)>);

impl ForceClose {
    pub(super) fn new(socket: &Arc<Socket>, reaper: &Reaper) -> Self {
        Self(Some((Arc::downgrade(socket), reaper.clone())))
    }

    /// Ends the connection once the write timeout has passed, whatever its peer reads. Until then
    /// it may still end in order.
    pub fn arm(&self) {
        if let Some((socket, reaper)) = &self.0 {
            reaper.schedule(socket.clone());
        }
    }
}

/// Ends sockets when their time has come. All wait equally long, so they queue in order; a
/// connection is in the queue twice at the most, once by whoever evicts it and once by itself.
#[derive(Clone, Debug)]
pub(super) struct Reaper(mpsc::UnboundedSender<Appointment>);

impl Reaper {
    pub(super) fn start(delay: Duration) -> Self {
        let (appointments, mut queue) = mpsc::unbounded_channel::<Appointment>();
        actix_web::rt::spawn(async move {
            while let Some((socket, at)) = queue.recv().await {
                sleep_until(at + delay).await;
                if let Some(socket) = socket.upgrade() {
                    end(&socket);
                }
            }
        });
        Self(appointments)
    }

    fn schedule(&self, socket: Weak<Socket>) {
        // It fails when the server's system has ended, and the sockets with it.
        let _ = self.0.send((socket, Instant::now()));
    }
}

pub(super) fn end(socket: &Socket) {
    // What is unwritten would keep its memory in the kernel for as long as the peer likes; with
    // no linger it goes at once, and the peer sees a reset.
    let ended =
        socket.set_linger(Some(Duration::ZERO)).and_then(|()| socket.shutdown(Shutdown::Both));
    if let Err(error) = ended {
        debug!("a connection was gone before it was cut off: {error}");
    }
}
