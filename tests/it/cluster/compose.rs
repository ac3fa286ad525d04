//! The NATS servers and the settings of the nodes of deploy/compose.yml.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use tempfile::TempDir;

use super::nats::{Nats, Version};
use super::{join, node_command, say};
use crate::metrics::assert_durability;
use crate::program::Program;

const COMPOSE: &str = include_str!("../../../deploy/compose.yml");
const NATS: &str = include_str!("../../../deploy/nats.conf");
const NATS_CLUSTER: &str = include_str!("../../../deploy/nats-cluster.conf");

/// Starts three servers with the shipped configuration, in which only the addresses are replaced.
async fn start_nats(folder: &TempDir) -> Vec<Nats> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let routes = [free(), free(), free()].map(|free| free.local_addr().unwrap().to_string());
    let mut configuration = NATS_CLUSTER.to_owned();
    let names = ["nats1", "nats2", "nats3"];
    for (name, route) in names.iter().zip(&routes) {
        assert!(COMPOSE.contains(&format!("environment: {{ NATS_NAME: {name} }}")));
        let shipped = format!("\"nats://{name}:6222\"\n");
        assert!(configuration.contains(&shipped));
        configuration = configuration.replace(&shipped, &format!("\"nats://{route}\"\n"));
    }
    let mut servers = Vec::new();
    for (name, route) in names.iter().zip(&routes) {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("nats.conf"), NATS).unwrap();
        let path = folder.join("nats-cluster.conf");
        let listen = "listen: \"0.0.0.0:6222\"";
        assert!(configuration.contains(listen));
        let own = configuration.replace(listen, &format!("listen: \"{route}\""));
        std::fs::write(&path, own).unwrap();
        servers.push(Nats::start_with_config(Version::Current, &folder, &path).await);
    }
    servers
}

/// Returns the settings that all nodes share, as environment variables.
fn settings() -> Vec<(&'static str, &'static str)> {
    let (_, settings) = COMPOSE.split_once("environment: &settings\n").unwrap();
    let lines = settings.lines().map(str::trim).take_while(|line| !line.is_empty());
    let settings = lines.filter(|line| !line.starts_with('#'));
    settings.map(|line| line.split_once(": ").unwrap()).collect()
}

async fn start_node(folder: &Path, name: &str, urls: &str) -> Program {
    let mut command = node_command(urls, name, &folder.join(name).with_extension("db"), &[]);
    // The flag has the URLs of the test.
    command.envs(settings().iter().map(|(name, value)| (name, value.trim_matches('"'))));
    Program::spawn(command, folder, "http").await
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn log_of_the_shipped_compose_file_is_replicated_and_survives_one_nats_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = start_nats(&folder).await;
    let urls = servers.iter().map(Nats::url).collect::<Vec<_>>().join(",");
    let a = start_node(folder.path(), "a", &urls).await;
    let b = start_node(folder.path(), "b", &urls).await;
    assert_durability(a.addr, "stream", Some(3)).await;
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    assert_eq!(bob.until("message").await["text"], "before");
    servers[fastrand::usize(..3)].kill().await;
    say(&mut ada, "tea", "after").await;
    assert_eq!(bob.until("message").await["text"], "after");
}

#[test]
fn settings_of_the_shipped_compose_file_are_valid() {
    let settings = settings();
    assert!(settings.len() >= 4, "{settings:?}");
    let output = std::process::Command::new(crate::program::PROGRAM)
        .arg("check-config")
        .envs(settings.iter().map(|(name, value)| (name, value.trim_matches('"'))))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("CHINWAG_"), "{errors}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("nats://nats3:4222"), "{shown}");
}
