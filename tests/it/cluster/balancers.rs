//! Two nodes behind nginx and behind Caddy, with the shipped configurations for several nodes. The
//! clients connect from different loopback addresses.

use super::nats::Version;
use super::proxy::Proxy;
use super::{Cluster, trouble};
use crate::browser::Browser;
use crate::harness::{Client, eventually, within};
use crate::metrics::metric_at;
use crate::program::Program;
use crate::reverse_proxy::{Kind, ReverseProxy};

const NGINX: &str = include_str!("../../../deploy/nginx-cluster.conf");
const CADDY: &str = include_str!("../../../deploy/Caddyfile-cluster");

/// Runs a test behind each reverse proxy.
macro_rules! behind_each_proxy {
    ($($test:ident),+ $(,)?) => {
        mod nginx {
            $(#[actix_web::test]
            #[ignore = "needs nats-server and nginx"]
            async fn $test() {
                super::$test(crate::reverse_proxy::Kind::Nginx).await;
            })+
        }
        mod caddy {
            $(#[actix_web::test]
            #[ignore = "needs nats-server and Caddy"]
            async fn $test() {
                super::$test(crate::reverse_proxy::Kind::Caddy).await;
            })+
        }
    };
}

behind_each_proxy!(
    address_uses_one_node_and_its_limit_is_exact,
    ipv6_addresses_with_the_same_first_64_bits_use_one_node,
    clients_of_a_killed_node_come_back_on_another,
    clients_of_a_stopped_node_come_back_on_another,
    clients_of_a_full_node_are_sent_to_another,
    without_nats_connected_clients_can_read,
);

/// Two nodes behind a reverse proxy.
struct Balanced {
    nodes: [Program; 2],
    proxy: ReverseProxy,
    cluster: Cluster,
}

/// Starts a reverse proxy in front of the nodes. Its configuration is the shipped one, in which the
/// second text replaces the first one.
async fn in_front_of(kind: Kind, nodes: &[Program; 2], replace: (&str, &str)) -> ReverseProxy {
    let [first, second] = nodes.each_ref().map(|node| node.addr.to_string());
    let configuration = match kind {
        Kind::Nginx => {
            let shipped = ["server 192.0.2.1:8080 ", "server 192.0.2.2:8080 "];
            assert!(shipped.iter().all(|server| NGINX.contains(server)));
            NGINX
                .replace(shipped[0], &format!("server {first} "))
                .replace(shipped[1], &format!("server {second} "))
        }
        Kind::Caddy => CADDY.to_owned(),
    };
    assert!(configuration.contains(replace.0));
    let configuration = configuration.replace(replace.0, replace.1);
    // Only Caddy's configuration takes the nodes from the environment.
    let variables = [("CHINWAG_NODES", &*format!("{first} {second}"))];
    ReverseProxy::start_with(kind, &configuration, &variables).await
}

const BEHIND_A_PROXY: [&str; 4] = ["--trusted-proxy", "127.0.0.1", "--public-host", "chat.example"];

impl Balanced {
    async fn start(kind: Kind, flags: &[&str]) -> Self {
        let cluster = Cluster::start(Version::Current).await;
        let flags = [&BEHIND_A_PROXY, flags].concat();
        let nodes = [cluster.node_with("a", &flags).await, cluster.node_with("b", &flags).await];
        let proxy = in_front_of(kind, &nodes, ("", "")).await;
        Self { nodes, proxy, cluster }
    }

    /// Connects from 127.0.0.`host`. Returns the client, or the status of the response.
    async fn connect(&self, host: u8, nick: &str) -> Result<Client, u16> {
        let from = format!("127.0.0.{host}");
        self.proxy.connect_from(&from, &format!("/ws?nick={nick}"), "chat.example").await
    }

    /// Returns which node has one client more than these, once one has.
    async fn node_of_new_client(&self, before: [usize; 2]) -> usize {
        eventually("a node to have the client", async || self.clients().await != before).await;
        let after = self.clients().await;
        let node = usize::from(after[0] == before[0]);
        assert_eq!(after[node], before[node] + 1, "{before:?} {after:?}");
        assert_eq!(after[1 - node], before[1 - node], "{before:?} {after:?}");
        node
    }

    /// Returns how many clients each node has.
    async fn clients(&self) -> [usize; 2] {
        [clients(&self.nodes[0]).await, clients(&self.nodes[1]).await]
    }

    /// Connects one client to each node. Returns them with their addresses.
    async fn connect_to_both(&self) -> [(u8, Client); 2] {
        let mut found = [None, None];
        for host in 2..=60 {
            let before = self.clients().await;
            let client = self.connect(host, &format!("from-{host}")).await.unwrap();
            let node = self.node_of_new_client(before).await;
            if found[node].is_none() {
                found[node] = Some((host, client));
            } else {
                client.leave().await;
                eventually("the client to leave", async || self.clients().await == before).await;
            }
            if found.iter().all(Option::is_some) {
                return found.map(Option::unwrap);
            }
        }
        panic!("all addresses use the same node");
    }
}

async fn clients(node: &Program) -> usize {
    metric_at(node.addr, "chinwag_clients").await as usize
}

/// Returns once the client has received this line.
async fn receive(client: &mut Client, line: &str) {
    within(format!("{line:?}"), async {
        while client.line().await.expect("the client is connected") != line {}
    })
    .await;
}

async fn address_uses_one_node_and_its_limit_is_exact(kind: Kind) {
    let balanced = Balanced::start(kind, &["--max-connections-per-address", "3"]).await;
    let mut on_nodes = [Vec::new(), Vec::new()];
    for host in 2..=13 {
        let mut of_address = Vec::new();
        for n in 0..3 {
            let before = balanced.clients().await;
            let nick = format!("from-{host}-{n}");
            let client = balanced.connect(host, &nick).await.unwrap();
            of_address.push((balanced.node_of_new_client(before).await, client, nick));
        }
        let nodes: Vec<_> = of_address.iter().map(|(node, ..)| *node).collect();
        assert!(nodes.iter().all(|node| *node == nodes[0]), "127.0.0.{host} uses {nodes:?}");
        assert_eq!(balanced.connect(host, "excess").await.err(), Some(429));
        on_nodes[nodes[0]].extend(of_address);
    }
    let [on_first, on_second] = &mut on_nodes;
    assert!(!on_first.is_empty() && !on_second.is_empty(), "both nodes are used");
    let (_, sender, nick) = &mut on_first[0];
    sender.say("hello").await;
    let line = format!("{nick}: hello");
    for (_, client, _) in on_first.iter_mut().chain(on_second) {
        receive(client, &line).await;
    }
}

async fn ipv6_addresses_with_the_same_first_64_bits_use_one_node(kind: Kind) {
    let mut balanced = Balanced::start(kind, &[]).await;
    // Loopback has only one IPv6 address, so the proxy takes the address from a header.
    let replace = match kind {
        Kind::Nginx => (
            "    server_name chat.example;",
            "    set_real_ip_from 127.0.0.1; real_ip_header X-Test-Address;",
        ),
        Kind::Caddy => ("{remote_host}", "{http.request.header.X-Test-Address}"),
    };
    balanced.proxy = in_front_of(kind, &balanced.nodes, replace).await;
    let mut is_used = [false, false];
    for n in 1..=8 {
        // The same networks, as they are written with other last bits.
        let networks = [
            [format!("2001:db8:0:{n}::1"), format!("2001:db8:0:{n}:a:b:c:d")],
            [format!("2001:db8:{n}::1"), format!("2001:db8:{n}:0:a:b:c:d")],
            [format!("2001:db{n}::a:b:c:d"), format!("2001:db{n}:0:0:a::")],
        ];
        for addresses in networks {
            let mut nodes = Vec::new();
            for address in &addresses {
                let before = balanced.clients().await;
                let header = ("X-Test-Address", address.as_str());
                let proxy = &balanced.proxy;
                let client = proxy.connect_with("127.0.0.1", "/ws", "chat.example", header).await;
                let client = client.unwrap();
                nodes.push(balanced.node_of_new_client(before).await);
                client.leave().await;
                let is_gone = async || balanced.clients().await == before;
                eventually("the client to leave", is_gone).await;
            }
            assert_eq!(nodes[0], nodes[1], "{addresses:?}");
            is_used[nodes[0]] = true;
        }
    }
    assert_eq!(is_used, [true, true]);
}

async fn clients_of_a_killed_node_come_back_on_another(kind: Kind) {
    clients_come_back_after(kind, "-KILL").await;
}

async fn clients_of_a_stopped_node_come_back_on_another(kind: Kind) {
    clients_come_back_after(kind, "-TERM").await;
}

async fn clients_come_back_after(kind: Kind, signal: &str) {
    let balanced = Balanced::start(kind, &[]).await;
    let [(host, mut ada), (_, mut ben)] = balanced.connect_to_both().await;
    balanced.nodes[0].signal(signal);
    within("the connection to end", async { while ada.line().await.is_some() {} }).await;
    let mut back = None;
    eventually("a connection to the other node", async || {
        back = balanced.connect(host, "back").await.ok();
        // A node that stops may still accept a connection.
        back.is_some() && clients(&balanced.nodes[1]).await == 2
    })
    .await;
    let mut ada = back.unwrap();
    ada.say("again").await;
    for client in [&mut ada, &mut ben] {
        receive(client, "back: again").await;
    }
}

async fn clients_of_a_full_node_are_sent_to_another(kind: Kind) {
    let balanced = Balanced::start(kind, &["--max-connections", "1"]).await;
    let mut ada = balanced.connect(2, "Ada").await.unwrap();
    let node = balanced.node_of_new_client([0, 0]).await;
    let mut ben = balanced.connect(2, "Ben").await;
    if matches!(kind, Kind::Caddy) {
        // Caddy forwards the first 503, and then uses another node.
        assert_eq!(ben.err(), Some(503));
        ben = balanced.connect(2, "Ben").await;
    }
    let mut ben = ben.unwrap();
    eventually("both nodes to be full", async || balanced.clients().await == [1, 1]).await;
    ada.say(&format!("on node {node}")).await;
    for client in [&mut ada, &mut ben] {
        receive(client, &format!("Ada: on node {node}")).await;
    }
}

async fn without_nats_connected_clients_can_read(kind: Kind) {
    let mut balanced = Balanced::start(kind, &[]).await;
    let [(host, mut ada), (other, mut ben)] = balanced.connect_to_both().await;
    ada.say("before").await;
    for client in [&mut ada, &mut ben] {
        receive(client, &format!("from-{host}: before")).await;
    }
    balanced.cluster.nats.kill().await;
    match kind {
        Kind::Caddy => {
            // No node is ready, so new clients are refused.
            let mut refused = async || balanced.connect(host, "new").await.err() == Some(503);
            eventually("a refusal", &mut refused).await;
        }
        Kind::Nginx => {
            for node in &balanced.nodes {
                eventually("no node to be ready", async || trouble(node).await.is_some()).await;
            }
            let path = "/ws?nick=new&history=1";
            let from = format!("127.0.0.{host}");
            let new = balanced.proxy.connect_from(&from, path, "chat.example").await;
            receive(&mut new.unwrap(), &format!("from-{host}: before")).await;
        }
    }
    balanced.cluster.nats.restart().await;
    eventually("a new client", async || balanced.connect(host, "again").await.is_ok()).await;
    eventually("all nodes to be ready", async || {
        trouble(&balanced.nodes[0]).await.is_none() && trouble(&balanced.nodes[1]).await.is_none()
    })
    .await;
    ben.say("after").await;
    receive(&mut ada, &format!("from-{other}: after")).await;
}

#[actix_web::test]
#[ignore = "needs nats-server and Caddy"]
async fn caddy_sends_no_new_clients_to_a_node_that_is_not_ready() {
    let cluster = Cluster::start(Version::Current).await;
    let to_nats = Proxy::start(cluster.nats.addr()).await;
    let db = cluster.db("a");
    let a = super::node_command(&to_nats.url(), "a", &db, &BEHIND_A_PROXY);
    let a = Program::spawn(a, cluster.folder.path(), "http").await;
    let nodes = [a, cluster.node_with("b", &BEHIND_A_PROXY).await];
    let proxy = in_front_of(Kind::Caddy, &nodes, ("", "")).await;
    let balanced = Balanced { nodes, proxy, cluster };
    let [(host, mut ada), (other, mut ben)] = balanced.connect_to_both().await;

    // They stay connected, so that only new clients change the counts.
    let mut others = Vec::new();
    let mut node_of_next = async || {
        let before = balanced.clients().await;
        let nick = format!("new-{}", others.len());
        others.push(balanced.connect(host, &nick).await.unwrap());
        balanced.node_of_new_client(before).await
    };
    to_nats.hold_both();
    eventually("a new client to use the other node", async || node_of_next().await == 1).await;
    to_nats.heal();
    eventually("a new client to use the node again", async || node_of_next().await == 0).await;
    ben.say("healed").await;
    for client in [&mut ada, &mut ben].into_iter().chain(&mut others) {
        receive(client, &format!("from-{other}: healed")).await;
    }
}

/// Starts a Caddy that sends clients from this machine to this node.
async fn caddy_to(balanced: &Balanced, node: usize) -> ReverseProxy {
    let ports = balanced.nodes.each_ref().map(|node| node.addr.port());
    // Caddy selects a node by a hash of the client's address and of how the node's is written.
    let spellings = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"];
    for (first, second) in spellings.into_iter().flat_map(|a| spellings.map(|b| (a, b))) {
        let nodes = format!("{first}:{} {second}:{}", ports[0], ports[1]);
        let variables = [("CHINWAG_NODES", &*nodes)];
        let caddy = ReverseProxy::start_with(Kind::Caddy, CADDY, &variables).await;
        if node_of_this_machine(balanced, &caddy).await == node {
            return caddy;
        }
    }
    panic!("Caddy always selects the same node");
}

/// Returns the node to which a proxy sends clients from this machine.
async fn node_of_this_machine(balanced: &Balanced, proxy: &ReverseProxy) -> usize {
    let before = balanced.clients().await;
    let client = proxy.connect_from("127.0.0.1", "/ws", "chat.example").await.unwrap();
    let node = balanced.node_of_new_client(before).await;
    client.leave().await;
    eventually("the client to leave", async || balanced.clients().await == before).await;
    node
}

#[ignore = "needs nats-server, nginx, Caddy and Chromium"]
#[actix_web::test]
async fn pages_on_two_nodes_show_the_members_of_both_and_who_is_typing() {
    let balanced = Balanced::start(Kind::Nginx, &[]).await;
    let of_nginx = node_of_this_machine(&balanced, &balanced.proxy).await;
    let caddy = caddy_to(&balanced, 1 - of_nginx).await;
    let open = async |proxy: &ReverseProxy, name| {
        let page = Browser::open(&format!("http://chat.example:{}/r/tea", proxy.addr.port())).await;
        page.is_called(name).await;
        page
    };
    let (ada, bob) = (open(&balanced.proxy, "Ada").await, open(&caddy, "Bob").await);
    assert_eq!(balanced.clients().await, [1, 1]);
    for (page, other) in [(&ada, "Bob"), (&bob, "Ada")] {
        let names = "[...document.querySelectorAll('#member-list li')].map((it) => it.textContent)";
        page.until(&format!("{names}.length === 2 && {names}.includes('{other}')")).await;
    }
    ada.say("hello from the other node").await;
    bob.has_line("hello from the other node").await;
    bob.type_into("#text", "Hel").await;
    ada.until("document.querySelector('#typing').textContent.startsWith('Bob is typing')").await;
    ada.picture("cluster-behind-nginx").await;
    bob.picture("cluster-behind-caddy").await;
    for page in [ada, bob] {
        page.close().await;
    }
}
