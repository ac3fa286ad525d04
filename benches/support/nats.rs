//! NATS servers with JetStream as child processes. `scripts/test` fetches the program.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// One server, or several that replicate. They are killed when this value is dropped.
pub(crate) struct Nats {
    servers: Vec<Server>,
}

/// A server that keeps its port and its files when it is restarted.
struct Server {
    port: u16,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Returns a free port that the system gives to no outgoing connection. So it stays free while its
/// server is down, and no client can connect to itself.
pub(crate) fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    // A generator of its own, because other numbers may depend on a seed.
    let mut random = fastrand::Rng::new();
    std::iter::repeat_with(|| random.u16(20_000..32_000)).find(is_free).unwrap()
}

impl Nats {
    /// Starts `count` servers with their files in a folder. With `always`, they sync each record to
    /// disk.
    pub(crate) fn start(folder: &Path, count: usize, always: bool) -> Self {
        let routes: Vec<_> = (0..count).map(|_| free_port()).collect();
        let all_routes: Vec<_> =
            routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let server = |n: usize| {
            let sync = if always { "always" } else { "2m" };
            let (port, store) = (free_port(), folder.join(format!("nats{n}")));
            let mut text = format!(
                "listen: 127.0.0.1:{port}\nserver_name: n{n}\n\
                 jetstream {{\n store_dir: {store:?}\n sync_interval: {sync}\n}}\n"
            );
            if count > 1 {
                // Clients use only the addresses that they were given, which may be of proxies.
                text += &format!(
                    "cluster {{\n name: bench\n no_advertise: true\n listen: 127.0.0.1:{}\n \
                     routes: [{}]\n}}\n",
                    routes[n],
                    all_routes.join(",")
                );
            }
            let config = store.with_extension("conf");
            std::fs::write(&config, text).unwrap();
            Server { port, config, log: store.with_extension("log"), child: None }
        };
        let mut nats = Self { servers: (0..count).map(server).collect() };
        (0..count).for_each(|n| nats.restart(n));
        for n in 0..count {
            while !nats.is_listening(n) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        nats
    }

    /// Returns the number of servers.
    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    /// Returns the addresses of all servers.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        let addr = |server: &Server| (Ipv4Addr::LOCALHOST, server.port).into();
        self.servers.iter().map(addr).collect()
    }

    /// Returns the addresses of all servers, as `--nats` takes them.
    pub(crate) fn url(&self) -> String {
        let urls = self.addrs().into_iter().map(|addr| format!("nats://{addr}"));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Starts a server, and does not wait until it listens.
    pub(crate) fn restart(&mut self, n: usize) {
        let server = &mut self.servers[n];
        let log = File::options().create(true).append(true).open(&server.log).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nats/current/nats-server");
        let mut command = Command::new(program);
        let child = command.arg("-c").arg(&server.config).stderr(log).spawn();
        server.child = Some(child.expect("scripts/test fetches nats-server"));
    }

    /// Returns whether a server accepts connections. A stopped one does, too.
    pub(crate) fn is_listening(&self, n: usize) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.servers[n].port)).is_ok()
    }

    /// Kills a server with SIGKILL.
    pub(crate) fn kill(&mut self, n: usize) {
        self.servers[n].kill();
    }

    /// Sends a server a signal, for example `-STOP`.
    pub(crate) fn signal(&self, n: usize, name: &str) {
        let pid = self.servers[n].child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Returns the process ids of the servers that run.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().filter_map(|server| server.child.as_ref()).map(Child::id)
    }
}

impl Server {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
    }
}
