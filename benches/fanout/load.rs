//! The clients: thousands of WebSockets on one epoll thread that never sleeps.
//!
//! Every message is a [`record`] of the same length, with a number and the time when it was due.
//! All members of a room receive the same messages in the same order. The first client to receive a
//! message appends it to the room's log, and the bytes that the others receive are compared with
//! the log: so every message to every WebSocket client is checked, at the cost of a `memcmp`. A
//! compressed frame is decompressed for the first client that receives it, and compared for the
//! others. Messages of the floor server are only counted.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress};
use hdrhistogram::Histogram;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::sample_text::sample_text;

/// The length of a message, without and with its separator.
pub(crate) const RECORD: usize = 64;
pub(crate) const STRIDE: usize = RECORD + 1;

/// How many handshakes take place at the same time, except in a storm.
const CONNECTING_MAX: usize = 100;

/// How many sockets are read before the load checks whether a message is due.
const EVENTS_MAX: usize = 64;
const READ_BUFFER: usize = 256 * 1024;

/// The benchmark fails if connecting takes longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a message: its number, when it was due in nanoseconds, and padding.
pub(crate) fn record(number: u32, due: u64) -> String {
    format!("{number:010} {due:016} {:x<width$}", "", width = RECORD - 28)
}

/// Returns a message that is padded with words.
fn record_of_words(number: u32, due: u64) -> String {
    let words = sample_text(u64::from(number), RECORD - 29);
    format!("{number:010} {due:016} {words}.")
}

/// What a client sends at the start and in its messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientKind {
    /// A WebSocket client.
    WebSocket,
    /// A WebSocket client whose messages contain words.
    Words,
    /// A WebSocket client that offers compression, and whose messages contain words.
    CompressedWords,
    /// A client of the floor server (`floor.rs`). It sends no handshake.
    Frames,
}

/// How many messages clients send, in all rooms together.
#[derive(Clone, Copy)]
pub(crate) enum Rate {
    Silent,
    /// This many messages a second, from all clients in turn.
    PerSecond(u32),
    /// One member of each room sends a message as soon as it has received its own previous one.
    ClosedLoop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Upgrading,
    Open,
    /// Open, but the benchmark no longer reads from it.
    Stalled,
    Gone,
}

struct Client {
    tcp: TcpStream,
    room: usize,
    state: State,
    /// The start of an incomplete frame.
    partial: Vec<u8>,
    /// How many messages of the room's log it has received.
    read: usize,
    /// The number of the sent message whose delivery the client awaits.
    awaits: Option<u32>,
}

/// The messages of a room in the order in which clients received them.
#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    due: Vec<u64>,
    /// The latest compressed frames with their texts.
    inflated: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Log {
    /// How many frames are kept. A frame for a client that is further behind is decompressed again.
    const INFLATED_MAX: usize = 100;

    /// Takes the text of a compressed frame. The caller returns it with [`Log::put_back`].
    fn take(&mut self, compressed: &[u8]) -> Vec<u8> {
        let known = self.inflated.iter_mut().rev().find(|(known, _)| known == compressed);
        known.map_or_else(|| inflate(compressed), |(_, text)| std::mem::take(text))
    }

    fn put_back(&mut self, compressed: &[u8], text: Vec<u8>) {
        let known = self.inflated.iter_mut().rev().find(|(known, _)| known == compressed);
        if let Some((_, place)) = known {
            *place = text;
            return;
        }
        self.inflated.push_back((compressed.to_owned(), text));
        if self.inflated.len() > Self::INFLATED_MAX {
            self.inflated.pop_front();
        }
    }
}

fn inflate(compressed: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(64 * 1024);
    let whole = [compressed, &[0, 0, 0xFF, 0xFF]].concat();
    let mut inflate = Decompress::new(false);
    inflate.decompress_vec(&whole, &mut text, FlushDecompress::Sync).unwrap();
    assert_eq!(inflate.total_in(), whole.len() as u64, "all input is decompressed");
    text
}

/// Counts since [`Load::reset`].
#[derive(Clone)]
pub(crate) struct Counts {
    pub(crate) deliveries: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) sent: u64,
    pub(crate) pongs: u64,
    pub(crate) busy: Duration,
    pub(crate) latency_us: Histogram<u64>,
}

impl Counts {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        Self {
            deliveries: 0,
            frames: 0,
            bytes: 0,
            sent: 0,
            pongs: 0,
            busy: Duration::ZERO,
            latency_us,
        }
    }
}

/// Failures: messages that a client did not receive or received twice, and clients that were
/// closed.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) closed: u64,
}

pub(crate) struct Load {
    epoll: OwnedFd,
    kind: ClientKind,
    clients: Vec<Client>,
    /// How many clients are not open yet.
    connecting: usize,
    logs: Vec<Log>,
    /// The index of each message in its room's log, once a client has received it.
    indices: Vec<Option<u32>>,
    clock: Instant,
    /// When the next message is due, and which client sends it.
    next: (Instant, usize),
    faults: Faults,
    pub(crate) counts: Counts,
    buffer: Vec<u8>,
}

impl Load {
    pub(crate) fn new(kind: ClientKind, rooms: usize) -> Self {
        let clock = Instant::now();
        Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            kind,
            clients: Vec::new(),
            connecting: 0,
            logs: (0..rooms).map(|_| Log::default()).collect(),
            indices: Vec::new(),
            clock,
            next: (clock, 0),
            faults: Faults::default(),
            counts: Counts::new(),
            buffer: vec![0; READ_BUFFER],
        }
    }

    /// Connects more clients, spread over the rooms, and waits until all are open.
    pub(crate) fn connect(&mut self, server: SocketAddr, clients: usize) {
        self.connect_with(server, clients, CONNECTING_MAX);
    }

    /// Connects more clients, all at the same time.
    pub(crate) fn storm(&mut self, server: SocketAddr, clients: usize) {
        self.connect_with(server, clients, clients);
    }

    fn connect_with(&mut self, server: SocketAddr, clients: usize, concurrent: usize) {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let goal = self.clients.len() + clients;
        while self.clients.len() < goal || self.connecting > 0 {
            while self.clients.len() < goal && self.connecting < concurrent {
                self.start_connecting(server);
            }
            self.poll();
            assert!(Instant::now() < deadline, "{} clients are not connected", self.connecting);
        }
        assert_eq!(self.faults, Faults::default(), "no failure while clients connect");
    }

    fn start_connecting(&mut self, server: SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Each client has its own address. On Linux all of 127/8 is loopback.
        let address = Ipv4Addr::from_bits(0x7F40_0000 + self.clients.len() as u32);
        socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        // Closing resets the connection, so that no port stays in TIME-WAIT.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        match socket.connect(&server.into()) {
            Ok(()) => {}
            // epoll reports when it is connected.
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => panic!("connecting: {error}"),
        }
        let (id, room) = (self.clients.len(), self.clients.len() % self.logs.len());
        epoll::add(&self.epoll, &socket, EventData::new_u64(id as u64), EventFlags::OUT).unwrap();
        self.clients.push(Client {
            tcp: socket.into(),
            room,
            state: State::Connecting,
            partial: Vec::new(),
            read: 0,
            awaits: None,
        });
        self.connecting += 1;
    }

    /// Stops reading from the first `clients`.
    pub(crate) fn stall(&mut self, clients: usize) {
        for client in &mut self.clients[..clients] {
            epoll::delete(&self.epoll, &client.tcp).unwrap();
            socket2::SockRef::from(&client.tcp).set_recv_buffer_size(4096).unwrap();
            client.state = State::Stalled;
        }
    }

    /// Resets all connections.
    pub(crate) fn disconnect(&mut self) {
        self.clients.clear();
    }

    pub(crate) fn reset(&mut self) {
        self.counts = Counts::new();
    }

    /// Sends and receives messages for this long.
    pub(crate) fn run(&mut self, rate: Rate, time: Duration) {
        let start = Instant::now();
        self.next.0 = start;
        if let Rate::ClosedLoop = rate {
            // The first client of each room.
            for id in 0..self.logs.len() {
                self.say_and_await(id);
            }
        }
        while start.elapsed() < time {
            if let Rate::PerSecond(messages) = rate {
                let pause = Duration::from_secs(1) / messages;
                while self.next.0 <= Instant::now() {
                    let (due, mut id) = self.next;
                    while !matches!(self.clients[id].state, State::Open) {
                        id = (id + 1) % self.clients.len();
                    }
                    self.say(id, due);
                    self.next = (due + pause, (id + 1) % self.clients.len());
                }
            }
            self.poll();
        }
        for client in &mut self.clients {
            client.awaits = None;
        }
    }

    /// Waits until all clients have received everything, and returns the failures.
    pub(crate) fn settle(&mut self, timeout: Duration) -> Faults {
        let deadline = Instant::now() + timeout;
        while !self.has_settled() && Instant::now() < deadline {
            for _ in 0..100 {
                self.poll();
            }
        }
        let mut faults = std::mem::take(&mut self.faults);
        let sent = self.indices.len();
        let received: usize = self.logs.iter().map(|log| log.due.len()).sum();
        // A message that no client has received counts once, because its room is not known.
        faults.lost += (sent - received) as u64;
        for client in self.clients.iter().filter(|client| client.state == State::Open) {
            faults.lost += (self.logs[client.room].due.len() - client.read) as u64;
        }
        faults
    }

    fn has_settled(&self) -> bool {
        let received: usize = self.logs.iter().map(|log| log.due.len()).sum();
        let mut reading = self.clients.iter().filter(|client| client.state == State::Open);
        received == self.indices.len()
            && reading.all(|client| client.read == self.logs[client.room].due.len())
    }

    fn say_and_await(&mut self, id: usize) {
        self.clients[id].awaits = Some(u32::try_from(self.indices.len()).unwrap());
        self.say(id, Instant::now());
    }

    fn say(&mut self, id: usize, due: Instant) {
        let number = u32::try_from(self.indices.len()).unwrap();
        let due = u64::try_from((due - self.clock).as_nanos()).unwrap();
        // A text frame with a mask of zeros.
        let mut frame = vec![0x81, 0x80 | RECORD as u8, 0, 0, 0, 0];
        let has_words = matches!(self.kind, ClientKind::Words | ClientKind::CompressedWords);
        let record = if has_words { record_of_words } else { record };
        frame.extend(record(number, due).bytes());
        let client = &mut self.clients[id];
        // This fails if the server has stopped reading or has closed the connection.
        if client.tcp.write(&frame).is_ok_and(|written| written == frame.len()) {
            self.indices.push(None);
            self.counts.sent += 1;
        } else {
            self.mark_closed(id);
        }
    }

    fn mark_closed(&mut self, id: usize) {
        let client = &mut self.clients[id];
        if client.state == State::Gone {
            return;
        }
        if matches!(client.state, State::Connecting | State::Upgrading) {
            self.connecting -= 1;
        }
        self.faults.closed += 1;
        client.state = State::Gone;
        let _ = epoll::delete(&self.epoll, &client.tcp);
    }

    /// Processes pending events without waiting.
    fn poll(&mut self) {
        let start = Instant::now();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap();
        for event in &events {
            self.process_event(usize::try_from(event.data.u64()).unwrap());
        }
        if !events.is_empty() {
            self.counts.busy += start.elapsed();
        }
    }

    fn process_event(&mut self, id: usize) {
        if self.clients[id].state == State::Connecting {
            return self.upgrade(id);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.clients[id].tcp.read(&mut buffer) {
            Ok(0) => self.mark_closed(id),
            Ok(bytes) => self.receive(id, &buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.mark_closed(id),
        }
        self.buffer = buffer;
    }

    /// Sends the handshake on a connection that is established.
    fn upgrade(&mut self, id: usize) {
        let client = &mut self.clients[id];
        epoll::modify(&self.epoll, &client.tcp, EventData::new_u64(id as u64), EventFlags::IN)
            .unwrap();
        if self.kind == ClientKind::Frames {
            client.state = State::Open;
            self.connecting -= 1;
            return;
        }
        client.state = State::Upgrading;
        let offer = if self.kind == ClientKind::CompressedWords {
            "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET /ws?room=r{} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{offer}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            client.room
        );
        if client.tcp.write_all(request.as_bytes()).is_err() {
            self.mark_closed(id);
        }
    }

    fn receive(&mut self, id: usize, chunk: &[u8]) {
        let mut partial = std::mem::take(&mut self.clients[id].partial);
        let mut rest = if partial.is_empty() {
            chunk
        } else {
            partial.extend_from_slice(chunk);
            &partial[..]
        };
        if self.clients[id].state == State::Upgrading {
            let Some(end) = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                self.clients[id].partial = rest.to_owned();
                return;
            };
            assert!(rest.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(rest));
            rest = &rest[end + 4..];
            self.clients[id].state = State::Open;
            self.connecting -= 1;
        }
        let now = u64::try_from(self.clock.elapsed().as_nanos()).unwrap();
        self.counts.bytes += chunk.len() as u64;
        while let Some((first, payload, following)) = split_frame(rest) {
            rest = following;
            match first {
                0x81 => self.receive_messages(id, payload, now),
                0xC1 => {
                    let room = self.clients[id].room;
                    let text = self.logs[room].take(payload);
                    self.receive_messages(id, &text, now);
                    self.logs[room].put_back(payload, text);
                }
                0x89 => self.pong(id),
                _ => return self.mark_closed(id),
            }
        }
        self.clients[id].partial = rest.to_owned();
    }

    fn pong(&mut self, id: usize) {
        self.counts.pongs += 1;
        if self.clients[id].tcp.write_all(&[0x8A, 0x80, 0, 0, 0, 0]).is_err() {
            self.mark_closed(id);
        }
    }

    /// Checks the messages of a frame.
    fn receive_messages(&mut self, id: usize, payload: &[u8], now: u64) {
        let messages = (payload.len() + 1) / STRIDE;
        assert_eq!(messages * STRIDE, payload.len() + 1, "a frame has complete messages");
        self.counts.frames += 1;
        self.counts.deliveries += messages as u64;
        if self.kind == ClientKind::Frames {
            return;
        }
        let client = &mut self.clients[id];
        let log = &mut self.logs[client.room];
        let start = client.read * STRIDE;
        if log.bytes.get(start..start + payload.len()) == Some(payload) {
            client.read += messages;
            for due in &log.due[client.read - messages..client.read] {
                self.counts.latency_us.saturating_record(now.saturating_sub(*due) / 1000);
            }
        } else {
            for message in payload.chunks(STRIDE) {
                let number = parse_digits(&message[..10]);
                let due = parse_digits(&message[11..27]);
                self.counts.latency_us.saturating_record(now.saturating_sub(due) / 1000);
                let index = &mut self.indices[usize::try_from(number).unwrap()];
                let index = *index.get_or_insert_with(|| {
                    log.bytes.extend_from_slice(&message[..RECORD]);
                    log.bytes.push(b'\n');
                    log.due.push(due);
                    u32::try_from(log.due.len() - 1).unwrap()
                }) as usize;
                if index < client.read {
                    self.faults.repeated += 1;
                } else {
                    self.faults.lost += (index - client.read) as u64;
                    client.read = index + 1;
                }
            }
        }
        let read = client.read;
        let has_read =
            |number| self.indices[number as usize].is_some_and(|index| (index as usize) < read);
        if client.awaits.is_some_and(has_read) {
            self.say_and_await(id);
        }
    }
}

/// Parses a decimal number.
fn parse_digits(text: &[u8]) -> u64 {
    text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Splits off the first frame, and returns its first byte, its payload and the bytes after it.
/// Returns `None` if it is incomplete.
fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, short], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match short {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).unwrap(), rest)
        }
        short => (usize::from(short), rest),
    };
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((first, payload, rest))
}
