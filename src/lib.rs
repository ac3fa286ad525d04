//! chinwag is a web chat server on the actor model: gorilla/websocket's chat example, grown up.
//! It is a program, and a library that another actix-web program mounts and extends with actor
//! messages of its own.
//!
//! # The way of one message
//!
//! ```text
//! browser ──frame──▶ Session actor ──Broadcast──▶ Hub actor ──Append───▶ Journal
//!                    (one per socket)             (one, own   ◀─Appended─ (SQLite, own
//! browser ◀─frame─── Session actor ◀──Deliver──── thread)                  thread)
//! ```
//!
//! 1. [`http`] answers the handshake, once [`admission`] lets it in, and starts a session on the
//!    hardened WebSocket of [`socket`].
//! 2. The session, which knows its client by the names of [`domain`], reads a frame, decodes it
//!    with [`wire`] into a [`Command`](wire::Command), and sends the [`hub`] a
//!    [`Broadcast`](hub::Broadcast). It reads no further while the hub has yet to accept as much
//!    as one message may hold.
//! 3. The hub puts the message into the room's pending batch and flushes it when that is due: the
//!    `journal`, if there is one, gives it its place and commits it, and the hub then
//!    delivers the one [`Batch`](wire::Batch) to every member. A member that does not take it is
//!    evicted.
//! 4. Each session puts what is delivered into its socket's outbox; when its mailbox is empty,
//!    that is written as one WebSocket message. The frame of a batch is encoded once for all.
//!
//! # Layout, in reading order
//!
//! * [`config`]: every limit and interval.
//! * [`server`]: start the actors, bind, run, stop in order.
//! * [`http`] and [`admission`]: the routes, and who may connect.
//! * [`socket`]: the hardened WebSocket, which knows nothing of chat.
//! * `session`: the actor of one connection.
//! * [`wire`]: the protocols.
//! * [`domain`]: names and texts, parsed once.
//! * [`hub`]: the rooms, and who is in them.
//! * `journal`: what was said, on disk (with the feature of that name, on by default).
//! * [`metrics`]: what happens, counted.
//!
//! # Mounting it
//!
//! [`server::start`] starts all of it in one call. A program that has an `HttpServer` of its own
//! mounts a [`Chat`], and takes over what [`server`] does for the program: the settings of each
//! connection, without which a client that does not read lives for ever, and the end in order.
//! This is `examples/mount.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/mount.rs")]
//! ```

pub mod config;
pub mod domain;
pub mod http;
pub mod hub;
mod limits;
pub mod log;
pub mod metrics;
pub mod protocol;
pub mod server;
mod session;
pub mod websocket;

pub use config::Config;
pub use http::Chat;
pub use hub::Hub;
pub use server::Server;
