//! chinwag is a web chat server on the actor model: gorilla/websocket's chat example as a complete
//! server. It is a program, and a library that another actix-web program mounts and extends with
//! its own actor messages.
//!
//! # The path of a message
//!
//! ```text
//! browser ──frame──▶ Session ──Broadcast──▶ Hub ──Append───▶ log (SQLite on its own
//! browser ◀─frame─── Session ◀──Deliver──── Hub ◀──FromLog── thread, or in memory)
//! ```
//!
//! 1. The HTTP routes of [`http`] check the handshake and start a session, which is an actor with
//!    a [`websocket`] that resists hostile peers.
//! 2. The session decodes its client's input with a [`protocol`] into a
//!    [`Command`](protocol::Command), and sends the [`hub`] a [`Broadcast`](hub::Broadcast).
//! 3. The hub adds the message to the pending messages of its room. When the room's flush is due,
//!    the hub appends them to the [`log`], which assigns sequence numbers and commits them.
//! 4. The hub delivers one [`Batch`](hub::Batch) to all members. A member whose send queue is full
//!    is evicted.
//! 5. Each session writes what was delivered. The first one encodes the batch, for all members.
//!
//! `ARCHITECTURE.md` names the files and functions of each step.
//!
//! # Layout
//!
//! A module imports only modules above it in this list, and [`domain`] and [`websocket`] import
//! none.
//!
//! * [`domain`]: names, texts, messages; parsed once.
//! * [`websocket`]: the WebSocket. It knows nothing of chat.
//! * [`protocol`]: the text and the JSON protocol, and the reasons of disconnects.
//! * [`metrics`]: counters of what happens, and what the hub holds.
//! * [`config`]: all settings.
//! * `limits`: connections and rates of each address.
//! * [`log`]: the contract of a log; a log in memory, one in SQLite (feature `journal`), and one
//!   that several nodes share (feature `cluster`).
//! * [`hub`]: the rooms and their members.
//! * `session`: the actor of one connection.
//! * [`http`]: the routes.
//! * [`server`]: start, run and shut down all of this.
//!
//! # Mounting it
//!
//! [`server::start`] starts a complete server. A program with its own `HttpServer` mounts a
//! [`Chat`]. It must configure its connections with a hook, or a client that does not read stays
//! connected forever. To shut down, it stops accepting, drains the hub and then stops. This is
//! `examples/mount.rs`:
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
