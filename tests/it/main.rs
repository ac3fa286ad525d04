//! Integration tests. They use chinwag only through real sockets and its public API.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod browser;
mod harness;
mod program;
mod reverse_proxy;

// One module per topic. Tests that need more than Rust and a C compiler are ignored by default.
mod abuse; // clients that follow the protocol and try to harm others
mod acme; // certificates from an authority (ignored by default: needs pebble)
mod ahead; // clients that come from a faster node of a cluster
#[cfg(feature = "cluster")]
mod cluster; // several nodes with one log (ignored by default: needs nats-server)
mod command_line; // flags, exit codes and signals of the program
mod compression; // permessage-deflate
mod crashes; // kill -9 while clients write
mod devices; // one user in several browsers (ignored by default: needs Chromium)
mod disconnects; // every way a connection ends
mod disk; // disks that are full, read-only or damaged
mod echo; // the example of a WebSocket without the chat
mod embedded; // the chat mounted in another program, on actix's own test server
mod entries; // edits, deletions, reactions, replies and topics
mod extension; // actor messages and bots of another crate
mod fakes; // a log and clients that a test controls
mod flood; // clients that send more than they should
mod history_model; // history compared with a reference model, with crashes in between
mod hostile; // attacks on raw sockets
mod hub_model; // the hub compared with the reference hub
mod journal; // history on disk
mod js_client; // the JavaScript client, in node (ignored by default)
mod json; // the JSON protocol: answers and their order
mod limits; // limits on connections, rooms, messages and rates
mod log_contract; // the hub delivers the entries that the log hands out
mod many_clients; // hundreds of clients at once
mod memory; // how much memory hostile clients cost the server
mod metrics; // metrics, health checks and the JSON log
mod nginx; // the shipped nginx and Caddy configurations (ignored by default: needs nginx or Caddy)
mod nodes_model; // the users of several nodes after random faults of the network between them
mod one_worker; // a server with one worker, whose thread also runs the hub
mod pacing; // when rooms are flushed
mod page; // the page in a real browser (ignored by default: needs Chromium)
mod page_changes; // edits, reactions and topics in the page (ignored by default: needs Chromium)
mod page_controls; // message actions by mouse, keyboard and touch (ignored by default)
mod page_links; // links to messages, and the history around them (ignored by default)
mod page_search; // search and read marks in the page (ignored by default)
mod pages; // what is served over plain HTTP
mod presence; // names and presence
mod protocol; // the examples of docs/PROTOCOL.md, compared with a real server
mod reading; // the page over time: long histories, connections that break
mod reference_hub; // the reference model of the hub for `hub_model`
mod rendering; // the page without JavaScript, printed and with a pointer (ignored by default)
mod room_view; // the state of a room at a client
mod search; // full-text search
mod stalled_journal; // a journal that does not commit
mod subcommands; // backup, export and import
mod text; // the text protocol: who receives what
mod tidy; // rules about the source itself
mod timed; // tests that measure time
mod tls; // HTTPS
mod unread; // read marks and counts of unread messages
mod upgrade; // which handshakes are accepted
