//! Disks that are full, read-only or damaged: messages are rejected, reading works as far as
//! possible, and the server recovers with the disk.

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

/// Connects a client and joins room `a`.
async fn connect_and_join(program: &Program) -> JsonClient {
    let mut ada = JsonClient::hello(program.addr, json!({"key": "a secret of ada's own"})).await;
    ada.send(&[json!({"type": "join", "room": "a"})]).await;
    ada.expect("joined").await;
    ada
}

/// Returns the next answer to `say`: `said` or an error.
async fn next_answer(client: &mut JsonClient) -> Value {
    loop {
        let line = within("an answer", client.next()).await.unwrap();
        if line["type"] != "message" {
            return line;
        }
    }
}

/// Writes a script that runs the program on its own disk of 8 MB, most of which a file takes. The
/// disk is mounted on the current directory.
fn small_disk_script(folder: &Path) -> PathBuf {
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
async fn full_disk_rejects_messages_until_space_is_free_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = small_disk_script(folder.path());
    let mut program = Program::start(script.to_str().unwrap(), folder.path(), &[]).await;
    let mut ada = connect_and_join(&program).await;
    let mut stored = 0;
    let error = loop {
        ada.send(&[say(stored)]).await;
        let line = next_answer(&mut ada).await;
        if line["type"] == "error" {
            break line;
        }
        stored += 1;
        assert!(stored < 10_000, "the disk is not full");
    };
    assert_eq!((&error["code"], &error["temporary"]), (&json!("busy"), &json!(true)));
    for _ in 0..3 {
        ada.send(&[say(stored)]).await;
        assert_eq!(next_answer(&mut ada).await["code"], "busy");
    }
    assert_eq!(history(program.addr, "a").await.len(), stored, "reading still works");
    let pid = program.child.id().unwrap();
    let filler = format!("/proc/{pid}/root{}/filler", folder.path().display());
    std::fs::remove_file(filler).unwrap();
    ada.send(&[say(stored)]).await;
    let said = next_answer(&mut ada).await;
    assert_eq!((&said["type"], &said["duplicate"]), (&json!("said"), &json!(false)), "{said}");
    let ids: Vec<_> = history(program.addr, "a").await.iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, (0..=stored).map(|id| json!(id.to_string())).collect::<Vec<_>>());
    // The log has one line for the failure and one for the recovery.
    for words in ["log unavailable; rejecting messages", "log available again"] {
        let line = within("the log", program.log.next_line()).await.unwrap().unwrap();
        assert!(line.contains(words), "{line}");
    }
}

#[ignore = "needs to make namespaces; scripts/test runs it"]
#[actix_web::test]
async fn read_only_file_or_folder_exits_with_a_one_line_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let set_mode = |name: &str, mode| {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    Program::start(PROGRAM, folder.path(), &["--db", "file.db"]).await.kill().await;
    set_mode("file.db", 0o444);
    std::fs::create_dir(path("folder")).unwrap();
    set_mode("folder", 0o555);
    let read_only_mount =
        "mount --bind . . && mount -o remount,bind,ro . && cd \"$PWD\" && exec \"$@\"";
    // An unprivileged owner of the files, and root on a read-only disk.
    let owner: &[&str] = &["--user"];
    let root: &[&str] =
        &["--user", "--map-root-user", "--mount", "sh", "-c", read_only_mount, "sh"];
    for (namespace, db) in [(owner, "file.db"), (owner, "folder/chat.db"), (root, "new.db")] {
        let mut program = Command::new("unshare");
        program.args(namespace).args([PROGRAM, "--listen", "127.0.0.1:0", "--db", db]);
        let output = program.current_dir(folder.path()).kill_on_drop(true).output();
        let output = within("the program to end", output).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{db}: {error}");
        assert!(error.starts_with("error: cannot open") && error.contains(db), "{error}");
        assert!(error.contains("--db none") && error.lines().count() == 1, "{error}");
    }
    set_mode("folder", 0o755);
}

#[actix_web::test]
async fn damaged_journal_reports_internal_errors_until_it_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = connect_and_join(&program).await;
    for id in 0..100 {
        ada.send(&[say(id)]).await;
        assert_eq!(next_answer(&mut ada).await["type"], "said");
    }
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));

    let path = folder.path().join("chinwag.db");
    let intact = std::fs::read(&path).unwrap();
    // The first pages hold the schema, the later ones the messages.
    let mut damaged = intact.clone();
    damaged[32 * 4096..].fill(0xAB);
    std::fs::write(&path, &damaged).unwrap();
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = JsonClient::hello(program.addr, json!({"key": "a secret of ada's own"})).await;
    let join = |room: &str| json!({"type": "join", "room": room});
    ada.send(&[join("a"), json!({"type": "history", "room": "a"}), say(100)]).await;
    assert_eq!(ada.expect("joined").await["messages"], json!([]));
    ada.expect_error("internal").await;
    ada.expect_error("internal").await;

    // The intact content is restored while the server runs.
    std::fs::write(&path, &intact).unwrap();
    ada.send(&[say(100)]).await;
    assert_eq!(next_answer(&mut ada).await["type"], "said");
    let ids: Vec<_> = history(program.addr, "a").await.iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, (0..=100).map(|id| json!(id.to_string())).collect::<Vec<_>>());
}
