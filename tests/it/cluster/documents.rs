//! The permissions that docs/CLUSTER.md lists, and the metrics that the alerts of
//! docs/OPERATIONS.md use.

use std::collections::BTreeSet;
use std::path::Path;

use super::nats::{Nats, Version};
use super::{Cluster, join, node_command, say, with_each_nats};
use crate::metrics::{assert_durability, get};
use crate::program::{PROGRAM, Program};

with_each_nats!(documented_permissions_are_enough);

fn read(document: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap()
}

async fn documented_permissions_are_enough(version: Version) {
    let folder = tempfile::tempdir().unwrap();
    let document = read("docs/CLUSTER.md");
    let (_, permissions) = document.split_once("\n```conf\n").unwrap();
    let permissions =
        permissions.split("```").next().unwrap().replace("$NATS_PASSWORD", "\"p@ss/word\"");
    let config = folder.path().join("nats.conf");
    let jetstream = "jetstream { store_dir: nats }\n";
    std::fs::write(&config, format!("{jetstream}{permissions}")).unwrap();
    let nats = Nats::start_with_config(version, folder.path(), &config).await;
    let url = format!("nats://chinwag:p%40ss%2Fword@{}", nats.addr());

    // The second node has to copy the history file of the first one.
    let mut single = Program::start(PROGRAM, folder.path(), &["--db", "a.db"]).await;
    let first = say(&mut join(&single, "Ada", "tea").await, "tea", "alone").await;
    single.signal("-TERM");
    assert_eq!(single.exit_code().await, Some(0));
    let node = async |name: &str| {
        let db = folder.path().join(name).with_extension("db");
        Program::spawn(node_command(&url, name, &db, &[]), folder.path(), "http").await
    };
    let (mut a, mut b) = (node("a").await, node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    let second = say(&mut ada, "tea", "together").await;
    assert!(second > first);
    assert_eq!(bob.until("message").await["seq"], second);
    for node in [&mut a, &mut b] {
        node.signal("-TERM");
        assert_eq!(node.exit_code().await, Some(0));
        while let Some(line) = node.log.next_line().await.unwrap() {
            assert!(!line.to_lowercase().contains("permission"), "{line}");
        }
    }
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn alerts_use_metrics_that_exist() {
    let document = read("docs/OPERATIONS.md");
    let blocks =
        document.split("\n```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let expressions: Vec<_> =
        blocks.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expressions.iter().flat_map(|text| text.split(|c| !is_name(c)));
    let is_metric = |word: &&str| word.starts_with("chinwag_") || word.starts_with("process_");
    let used: BTreeSet<_> = words.filter(is_metric).collect();
    assert!(expressions.len() >= 13 && used.len() >= 13, "{used:?}");

    let cluster = Cluster::start(Version::Current).await;
    let node = cluster.node("a").await;
    assert_durability(node.addr, "stream", Some(1)).await;
    say(&mut join(&node, "Ada", "tea").await, "tea", "measured").await;
    let (_, metrics) = get(node.addr, "/metrics", "").await;
    let names = metrics.lines().filter(|line| !line.starts_with('#'));
    let exist: BTreeSet<_> =
        names.map(|line| line.split(|c| !is_name(c)).next().unwrap()).collect();
    let missing: Vec<_> = used.difference(&exist).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
