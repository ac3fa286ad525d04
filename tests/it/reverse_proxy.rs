//! nginx and Caddy as child processes, with the shipped configurations.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header;

use crate::harness::{Client, eventually, within};

/// A program that is a reverse proxy.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    Caddy,
}

impl Kind {
    /// Returns its path: the one that `scripts/test` downloads, or that of the system.
    fn program(self) -> String {
        let (downloaded, name) = match self {
            Self::Nginx => ("target/nginx/usr/sbin/nginx", "nginx"),
            Self::Caddy => ("target/caddy/usr/bin/caddy", "caddy"),
        };
        let downloaded = format!("{}/{downloaded}", env!("CARGO_MANIFEST_DIR"));
        let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
        let installed = folders.map(|folder| format!("{folder}/{name}"));
        let found = [downloaded].into_iter().chain(installed).find(|path| Path::new(path).exists());
        found.unwrap_or_else(|| panic!("{name} is not installed; scripts/test downloads it"))
    }

    /// Returns a shipped configuration with an address of its own, and without TLS and privileges.
    fn configuration(self, shipped: &str, addr: SocketAddr) -> String {
        match self {
            Self::Nginx => {
                let shipped = shipped
                    .replace("listen 80;", &format!("listen {addr};"))
                    .replace("listen [::]:80;", "");
                let temp_folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let temp_paths =
                    temp_folders.map(|name| format!("{name}_temp_path tmp_{name};\n")).concat();
                format!(
                    "daemon off; master_process off; pid pid; error_log stderr; events {{}}\n\
                     http {{ access_log off;\n{temp_paths}{shipped} }}\n"
                )
            }
            Self::Caddy => {
                let site =
                    format!("http://chat.example:{} {{\n\tbind {}\n", addr.port(), addr.ip());
                let shipped = shipped.replace("\nchat.example {\n", &format!("\n{site}"));
                assert!(shipped.contains(&site), "the configuration has the site chat.example");
                format!("{{\n\tadmin off\n}}\n{shipped}")
            }
        }
    }

    fn command(self, folder: &Path, configuration: &str) -> Command {
        let mut command = Command::new(self.program());
        let file = folder.join("configuration");
        std::fs::write(&file, configuration).unwrap();
        match self {
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file).args(["-e", "stderr"]),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file)
                .env("XDG_CONFIG_HOME", folder)
                .env("XDG_DATA_HOME", folder),
        };
        command
    }
}

/// A reverse proxy that runs without privileges, in its own folder.
pub struct ReverseProxy {
    pub addr: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl ReverseProxy {
    /// Starts it with a shipped configuration that has the addresses of the servers. Waits until it
    /// listens.
    pub async fn start(kind: Kind, shipped: &str) -> Self {
        Self::start_with(kind, shipped, &[]).await
    }

    /// Does the same with environment variables.
    pub async fn start_with(kind: Kind, shipped: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let mut command = kind.command(folder.path(), &kind.configuration(shipped, addr));
        command.envs(variables.iter().copied()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let is_up = async || {
            // A connection of another test may use its port for a moment. Then it ends.
            if process.try_wait().unwrap().is_some() {
                process = command.spawn().unwrap();
            }
            TcpStream::connect(addr).await.is_ok()
        };
        eventually(format!("{kind:?} to listen"), is_up).await;
        Self { addr, _process: process, _folder: folder }
    }

    /// Requests a WebSocket from this client address, at this path and host. Returns the client, or
    /// the status of the response.
    pub async fn connect_from(&self, from: &str, path: &str, host: &str) -> Result<Client, u16> {
        // The proxy appends the real address to this forged one, and the server uses only the last
        // one. Caddy replaces it.
        self.connect_with(from, path, host, ("X-Forwarded-For", "198.51.100.7")).await
    }

    /// Does the same with another header.
    pub async fn connect_with(
        &self,
        from: &str,
        path: &str,
        host: &str,
        (name, value): (&'static str, &str),
    ) -> Result<Client, u16> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let tcp = within("the reverse proxy", socket.connect(self.addr)).await.unwrap();
        let mut request = format!("ws://{host}{path}").into_client_request().unwrap();
        let origin = format!("http://{host}").parse().unwrap();
        request.headers_mut().insert(header::ORIGIN, origin);
        request.headers_mut().insert(name, value.parse().unwrap());
        match within("an answer", Client::try_handshake(tcp, request)).await {
            Ok(client) => Ok(client),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}
