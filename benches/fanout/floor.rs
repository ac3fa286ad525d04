//! The floor, a lower bound for the CPU time per delivery of any server: a bare epoll loop that
//! writes the same batches, already encoded, to the same number of sockets. It discards what it
//! receives.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::load::{STRIDE, record};
use crate::process::Process;

/// The argument with which the benchmark's own binary runs as the floor server.
pub(crate) const ARGUMENT: &str = "--floor";

/// The size of the kernel's send buffer, as chinwag sets it.
const SEND_BUFFER_BYTES: usize = 96 * 1024;

/// The batches that the floor server writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batches {
    pub(crate) clients: usize,
    pub(crate) rooms: usize,
    /// Batches a second, in all rooms together.
    pub(crate) per_second: f64,
    pub(crate) messages: usize,
}

impl Batches {
    /// Starts a floor as a child process.
    pub(crate) fn start(self) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let Self { clients, rooms, per_second, messages } = self;
        let numbers = [clients as f64, rooms as f64, per_second, messages as f64];
        Process::spawn(command.arg(ARGUMENT).args(numbers.map(|number| number.to_string())))
    }

    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let numbers: Vec<f64> = arguments.map(|number| number.parse().unwrap()).collect();
        Self {
            clients: numbers[0] as usize,
            rooms: numbers[1] as usize,
            per_second: numbers[2],
            messages: numbers[3] as usize,
        }
    }

    /// Encodes a batch as the frames that the server would send.
    fn encoded(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let messages: Vec<String> = (0..self.messages).map(|_| record(0, 0)).collect();
        for frame in messages.chunks((chinwag::websocket::MAX_COALESCED_BYTES + 1) / STRIDE) {
            let frame = frame.join("\n");
            bytes.push(0x81);
            if frame.len() < 126 {
                bytes.push(frame.len() as u8);
            } else {
                bytes.push(126);
                bytes.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
            }
            bytes.extend(frame.bytes());
        }
        bytes
    }
}

/// Runs as a floor until it is killed.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ! {
    let batches = Batches::parse(arguments);
    let batch = batches.encoded();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    eprintln!("http://localhost:{}", listener.local_addr().unwrap().port());
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let clients: Vec<TcpStream> = (0..batches.clients)
        .map(|id| {
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_nonblocking(true).unwrap();
            tcp.set_nodelay(true).unwrap();
            socket2::SockRef::from(&tcp).set_send_buffer_size(SEND_BUFFER_BYTES).unwrap();
            epoll::add(&poller, tcp.as_fd(), EventData::new_u64(id as u64), EventFlags::IN)
                .unwrap();
            tcp
        })
        .collect();
    // The byte of the batch from which on a socket's buffer was full.
    let mut unwritten: Vec<usize> = vec![batch.len(); clients.len()];
    let pause = Duration::from_secs_f64(1.0 / batches.per_second);
    let mut next = Instant::now();
    let mut events = Vec::with_capacity(64);
    let mut discarded = [0; 4096];
    for room in (0..batches.rooms).cycle() {
        for id in (room..clients.len()).step_by(batches.rooms) {
            let written = if unwritten[id] == batch.len() { 0 } else { unwritten[id] };
            match (&clients[id]).write(&batch[written..]) {
                Ok(bytes) => unwritten[id] = written + bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => unwritten[id] = written,
                Err(_) => std::process::exit(0),
            }
        }
        next += pause;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            let wait = rustix::time::Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&poller, buffer, Some(&wait)).unwrap();
            for event in &events {
                let mut client = &clients[event.data.u64() as usize];
                if !client.read(&mut discarded).is_ok_and(|bytes| bytes > 0) {
                    // The clients have disconnected.
                    std::process::exit(0);
                }
            }
        }
    }
    unreachable!("the cycle is endless")
}
