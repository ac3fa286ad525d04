//! Disks that are full, read-only or damaged: who speaks is told, what can be served is, and all is
//! well when the disk is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::within;
use crate::journal::history;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

fn say(id: usize) -> Value {
    let text = format!("{id} {}", "long ".repeat(800));
    json!({"type": "say", "room": "a", "text": text, "id": id.to_string()})
}

async fn speaker(program: &Program) -> JsonClient {
    let mut ada = JsonClient::hello(program.addr, json!({"key": "a secret of ada's own"})).await;
    ada.send(&[json!({"type": "join", "room": "a"})]).await;
    ada.expect("joined").await;
    ada
}

/// The next line that is about something said: `said`, or an error.
async fn outcome(client: &mut JsonClient) -> Value {
    loop {
        let line = within("an outcome", client.next()).await.unwrap();
        if line["type"] != "message" {
            return line;
        }
    }
}

/// A program that runs the program on a disk of its own, of 8 MB, of which a file takes most. It
/// is mounted where it is started.
fn on_a_small_disk(folder: &Path) -> PathBuf {
    let script = folder.join("on-a-small-disk");
    let lines = format!(
        "#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c '\n\
         mount -t tmpfs -o size=8m tmpfs . && cd \"$PWD\" && head -c 7500000 /dev/zero > filler \
         && exec {PROGRAM} \"$@\"' sh \"$@\"\n"
    );
    std::fs::write(&script, lines).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[ignore = "needs to make a mount namespace; scripts/test runs it"]
#[actix_web::test]
async fn a_full_disk_makes_senders_busy_and_all_is_well_when_it_has_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = on_a_small_disk(folder.path());
    let mut program = Program::start(script.to_str().unwrap(), folder.path(), &[]).await;
    let mut ada = speaker(&program).await;
    let mut kept = 0;
    let refused = loop {
        ada.send(&[say(kept)]).await;
        let line = outcome(&mut ada).await;
        if line["type"] == "error" {
            break line;
        }
        kept += 1;
        assert!(kept < 10_000, "the disk is small");
    };
    assert_eq!((&refused["code"], &refused["temporary"]), (&json!("busy"), &json!(true)));
    for _ in 0..3 {
        ada.send(&[say(kept)]).await;
        assert_eq!(outcome(&mut ada).await["code"], "busy");
    }
    assert_eq!(history(program.addr, "a").await.len(), kept, "who only reads is served");
    let pid = program.child.id().unwrap();
    let seen_by_it = format!("/proc/{pid}/root{}/filler", folder.path().display());
    std::fs::remove_file(seen_by_it).unwrap();
    ada.send(&[say(kept)]).await;
    let said = outcome(&mut ada).await;
    assert_eq!((&said["type"], &said["duplicate"]), (&json!("said"), &json!(false)), "{said}");
    let ids: Vec<_> = history(program.addr, "a").await.iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, (0..=kept).map(|id| json!(id.to_string())).collect::<Vec<_>>());
    // It is logged when this begins and when it ends.
    for words in ["messages are refused, since they cannot be kept", "messages are kept again"] {
        let line = within("the log", program.log.next_line()).await.unwrap().unwrap();
        assert!(line.contains(words), "{line}");
    }
}

#[ignore = "needs to make namespaces; scripts/test runs it"]
#[actix_web::test]
async fn a_file_or_folder_that_may_not_be_written_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let may = |name: &str, mode| {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    Program::start(PROGRAM, folder.path(), &["--db", "file.db"]).await.kill().await;
    may("file.db", 0o444);
    std::fs::create_dir(path("folder")).unwrap();
    may("folder", 0o555);
    let sealed = "mount --bind . . && mount -o remount,bind,ro . && cd \"$PWD\" && exec \"$@\"";
    // Who owns the files, but is not root; and root, on a disk that is read-only.
    let owner: &[&str] = &["--user"];
    let root: &[&str] = &["--user", "--map-root-user", "--mount", "sh", "-c", sealed, "sh"];
    for (as_whom, db) in [(owner, "file.db"), (owner, "folder/chat.db"), (root, "new.db")] {
        let mut program = Command::new("unshare");
        program.args(as_whom).args([PROGRAM, "--listen", "127.0.0.1:0", "--db", db]);
        let output = program.current_dir(folder.path()).kill_on_drop(true).output();
        let output = within("the program to end", output).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{db}: {error}");
        assert!(error.starts_with("error: cannot open") && error.contains(db), "{error}");
        assert!(error.contains("--db none") && error.lines().count() == 1, "{error}");
    }
    may("folder", 0o755);
}

#[actix_web::test]
async fn a_damaged_journal_serves_what_it_can_and_all_is_well_when_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = speaker(&program).await;
    for id in 0..100 {
        ada.send(&[say(id)]).await;
        assert_eq!(outcome(&mut ada).await["type"], "said");
    }
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));

    let path = folder.path().join("chinwag.db");
    let whole = std::fs::read(&path).unwrap();
    // The first pages tell how the file is laid out; those behind them hold the messages.
    let mut damaged = whole.clone();
    damaged[16 * 4096..].fill(0xAB);
    std::fs::write(&path, &damaged).unwrap();
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = JsonClient::hello(program.addr, json!({"key": "a secret of ada's own"})).await;
    let join = |room: &str| json!({"type": "join", "room": room});
    ada.send(&[join("a"), json!({"type": "history", "room": "a"}), say(100)]).await;
    assert_eq!(ada.expect("joined").await["messages"], json!([]));
    ada.expect_error("internal").await;
    ada.expect_error("internal").await;

    // The file is put back under the server's feet, as it was.
    std::fs::write(&path, &whole).unwrap();
    ada.send(&[say(100)]).await;
    assert_eq!(outcome(&mut ada).await["type"], "said");
    let ids: Vec<_> = history(program.addr, "a").await.iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, (0..=100).map(|id| json!(id.to_string())).collect::<Vec<_>>());
}
