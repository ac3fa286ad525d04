//! chinwag from outside: real sockets, real servers, what anybody can see.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod browser;
mod harness;
mod program;

// One module a topic.
mod acme; // certificates from an authority (pebble, ignored unless asked for)
mod chat; // the text protocol: who reads what
mod client;
mod command_line; // the program: its flags, its exit codes, its signals
mod commands; // the program's other commands: backup, export
mod compression; // compressed messages
mod crowd; // many clients at once
mod devices; // one user in several browsers (ignored likewise)
mod disk; // disks that are full, read-only or damaged
mod echo; // the socket without the chat: the example, run
mod embedded; // the chat mounted in another program, on actix's own test server
mod endings; // every way a connection ends
mod extension; // messages and bots of another crate's
mod flood; // clients that send more than they should
mod hostile; // attacks on raw sockets
mod journal; // history on disk, and a disk that does not
mod json; // the JSON protocol: what is answered, in which order
mod limits; // limits, crossed by one
mod memory; // what hostile clients cost the server in memory
mod metrics; // what operators are told
mod mischief; // harm done by the rules
mod model; // history held against a plain list, with crashes in between
mod nginx; // behind a proxy, by the configuration that is shipped (ignored likewise)
mod pacing; // when rooms are flushed
mod page; // the page in a real browser (ignored unless asked for: needs Chromium)
mod pages; // what is served over plain HTTP
mod plain_hub; // the hub as plain lists: the model of `state`
mod presence; // names, and who is told who is there
mod protocol; // the examples of docs/PROTOCOL.md, played
mod reading; // the page over time: long histories, connections that break
mod rendering; // the page without JavaScript, on paper, under the pointer (ignored likewise)
mod stall; // a journal that stands still
mod stand_in; // a log and clients that do as they are told
mod state; // the hub held against plain lists
mod tidy; // rules about the source itself
mod timed; // what must happen in time
mod tls; // HTTPS
mod torture; // killed under those who write
mod upgrade; // which handshakes are answered
