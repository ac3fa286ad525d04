//! The subcommands `backup` and `export`, on a journal that a server is writing, and `import`.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::within;
use crate::journal::history;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// Runs the program to its end, and returns its exit code, standard output and standard error.
async fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).kill_on_drop(true);
    let output = within("the program to end", command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Starts a server and sends messages in two rooms. Returns the server, its epoch and the messages.
async fn server_with_messages(folder: &Path) -> (Program, Value, Vec<Value>) {
    let program = Program::start(PROGRAM, folder, &[]).await;
    let mut ada = JsonClient::hello(program.addr, json!({"nick": "Ada"})).await;
    let mut messages = Vec::new();
    let mut epoch = Value::Null;
    for room in ["tea", "coffee"] {
        ada.send(&[json!({"type": "join", "room": room})]).await;
        epoch = ada.expect("joined").await["epoch"].clone();
        for n in 0..100 {
            let text = format!("{n} \"quoted\"\nand {}", "long ".repeat(100));
            ada.send(&[json!({"type": "say", "room": room, "text": text, "id": n.to_string()})])
                .await;
            let mut message = ada.expect("message").await;
            message.as_object_mut().unwrap().remove("type");
            messages.push(message);
            ada.expect("said").await;
        }
    }
    (program, epoch, messages)
}

#[actix_web::test]
async fn backup_of_a_running_server_can_be_served_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let (program, epoch, messages) = server_with_messages(folder.path()).await;
    let outcome = run(folder.path(), &["backup", "copy.db"]).await;
    assert_eq!(outcome, (Some(0), String::new(), String::new()));
    let other = Program::start(PROGRAM, folder.path(), &["--db", "copy.db"]).await;
    assert_eq!(history(other.addr, "tea").await, messages[..100]);
    // From here on the sequence numbers of the two servers differ, so the backup has a new epoch.
    let mut ada = JsonClient::hello(other.addr, json!({})).await;
    let after = json!({"epoch": epoch, "seq": messages[99]["seq"]});
    ada.send(&[json!({"type": "join", "room": "tea", "after": after})]).await;
    assert_eq!(ada.expect("joined").await["recovered"], false);
    // The first server is not affected.
    assert_eq!(history(program.addr, "coffee").await, messages[100..]);
}

#[actix_web::test]
async fn export_of_a_running_server_writes_each_message_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (_program, _, mut messages) = server_with_messages(folder.path()).await;
    // An export is sorted by the names of the rooms.
    messages.rotate_left(100);
    // It has the identity of the author, which an import needs.
    for message in &mut messages {
        message.as_object_mut().unwrap().remove("author");
    }
    for (arguments, expected) in
        [(&["export"][..], &messages[..]), (&["export", "--room", "Tea"], &messages[100..])]
    {
        let (code, lines, errors) = run(folder.path(), arguments).await;
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        let mut lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let identity = line.as_object_mut().unwrap().remove("identity").unwrap();
            assert_eq!(identity.as_str().unwrap().len(), 32);
        }
        assert_eq!(lines, expected);
    }
}

#[actix_web::test]
async fn import_of_an_export_makes_the_same_history_for_the_same_authors() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    let ada = json!({"nick": "Ada", "key": "a secret of Ada's own"});
    let mut client = JsonClient::hello(program.addr, ada.clone()).await;
    let (room, emoji) = ("tea", "👍");
    let commands = [
        json!({"type": "join", "room": room}),
        json!({"type": "say", "room": room, "text": "helo", "id": "1"}),
        json!({"type": "say", "room": room, "text": "gone"}),
        json!({"type": "edit", "room": room, "seq": 1, "text": "hello"}),
        json!({"type": "delete", "room": room, "seq": 2}),
        json!({"type": "react", "room": room, "seq": 1, "emoji": emoji}),
        json!({"type": "say", "room": room, "text": "bye", "reply_to": 1}),
        json!({"type": "set_room", "room": room, "topic": "leaves and water"}),
    ];
    for command in &commands {
        client.send(std::slice::from_ref(command)).await;
        let answer = if command["type"] == "join" { "joined" } else { "said" };
        client.until(answer).await;
    }
    let before = history(program.addr, room).await;
    assert_eq!(before.len(), 3);
    let (code, lines, error) = run(folder.path(), &["export"]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(!lines.contains("gone") && !lines.contains("helo\""), "{lines}");
    std::fs::write(folder.path().join("all.jsonl"), &lines).unwrap();
    program.kill().await;

    let outcome = run(folder.path(), &["import", "--db", "new.db", "all.jsonl"]).await;
    assert_eq!(outcome, (Some(0), String::new(), String::new()));
    let program = Program::start(PROGRAM, folder.path(), &["--db", "new.db"]).await;
    assert_eq!(history(program.addr, room).await, before);
    let mut client = JsonClient::hello(program.addr, ada).await;
    client.send(&[json!({"type": "join", "room": room})]).await;
    assert_eq!(client.expect("joined").await["topic"], "leaves and water");
    // The author can still edit, and a message with a known id is a duplicate.
    client.send(&[json!({"type": "edit", "room": room, "seq": 1, "text": "hello!"})]).await;
    assert_eq!(client.expect("edited").await["text"], "hello!");
    client.expect("said").await;
    client.send(&[commands[1].clone()]).await;
    let said = client.expect("said").await;
    assert_eq!((&said["seq"], &said["duplicate"]), (&json!(1), &json!(true)));
    program.kill().await;

    // A second import does not overwrite the file, and a bad line leaves no file.
    let (code, _, error) = run(folder.path(), &["import", "--db", "new.db", "all.jsonl"]).await;
    assert_eq!((code, error.contains("exists already")), (Some(1), true), "{error}");
    std::fs::write(folder.path().join("bad.jsonl"), lines + "{\"room\": \"tea\"}\n").unwrap();
    let (code, _, error) = run(folder.path(), &["import", "--db", "bad.db", "bad.jsonl"]).await;
    assert_eq!((code, error.contains("line 5")), (Some(1), true), "{error}");
    assert!(!folder.path().join("bad.db").exists());
}

#[actix_web::test]
async fn export_succeeds_when_its_reader_closes_the_pipe() {
    let folder = tempfile::tempdir().unwrap();
    server_with_messages(folder.path()).await.0.kill().await;
    // The export exceeds the buffer of the pipe, and the reader closes it.
    let mut command = Command::new(PROGRAM);
    command.arg("export").current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    drop(child.stdout.take());
    let output = within("the program to end", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[actix_web::test]
async fn errors_are_one_line_that_states_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    Program::start(PROGRAM, folder.path(), &[]).await.kill().await;
    std::fs::write(folder.path().join("letter"), "Dear Ada, this is no database.").unwrap();
    let invalid: [(&[&str], i32, &str); 7] = [
        (&["backup", "--db", "none", "copy"], 2, "--db"),
        (&["export", "--room", "a b"], 2, "--room"),
        (&["export", "--room", "tea"], 1, "there are no messages of the room 'tea'"),
        (&["export", "--db", "nowhere"], 1, "cannot open"),
        (&["export", "--db", "letter"], 1, "is not a chinwag history file"),
        (&["backup", "letter"], 1, "exists already"),
        (&["backup", "no/such/folder/copy"], 1, "cannot write the backup"),
    ];
    for (arguments, expected, words) in invalid {
        let (code, output, error) = run(folder.path(), arguments).await;
        assert_eq!((code, output.as_str()), (Some(expected), ""), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(words), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // A flag of the server has no effect on a subcommand, so it is an error.
    let (code, _, error) = run(folder.path(), &["--workers", "1", "backup", "copy"]).await;
    assert_eq!((code, error.contains("--workers")), (Some(2), true), "{error}");
    assert!(!folder.path().join("copy").exists());
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn progress_is_shown_on_one_line_of_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read;

    let folder = tempfile::tempdir().unwrap();
    server_with_messages(folder.path()).await.0.kill().await;
    for (arguments, shown) in [
        (&["backup", "copy.db"][..], ["100% copied", "copied to copy.db\r\n"]),
        (&["export"], ["200 messages", "200 messages exported\r\n"]),
    ] {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let other_end = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(folder.path()).stderr(Stdio::from(other_end));
        let child = command.stdout(Stdio::null()).kill_on_drop(true).status();
        assert!(within("the program to end", child).await.unwrap().success());
        // The command holds the last open descriptor of the other end.
        drop(command);
        let mut seen = String::new();
        // Reading from a terminal ends with an error (EIO).
        let _ = std::fs::File::from(terminal).read_to_string(&mut seen);
        assert!(shown.iter().all(|words| seen.contains(words)), "{seen:?}");
        assert_eq!(seen.lines().count(), 1, "{seen:?}");
    }
}

/// Returns the arguments of every `chinwag …` in the documentation, in blocks of commands and in
/// text.
fn documented_commands() -> Vec<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for document in ["README.md", "docs/CONFIGURATION.md", "docs/OPERATIONS.md", "docs/CLUSTER.md"]
    {
        let text = std::fs::read_to_string(root.join(document)).unwrap().replace("\\\n", " ");
        let (mut commands, mut is_block) = (Vec::new(), false);
        for line in text.lines() {
            if line.starts_with("```") {
                is_block = line == "```sh";
            } else if is_block {
                commands.push(line);
            } else {
                commands.extend(line.split('`').skip(1).step_by(2));
            }
        }
        let of_chinwag = commands.into_iter().filter_map(|command| {
            let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
            let start = match &*words.iter().map(String::as_str).collect::<Vec<_>>() {
                // It needs NATS, so tests of clusters run it.
                ["chinwag", "cluster", ..] => return None,
                ["chinwag", _, ..] => 1,
                ["cargo", "run", "--", _, ..] => 3,
                _ => return None,
            };
            Some(words[start..].to_vec())
        });
        all.extend(of_chinwag);
    }
    all
}

#[actix_web::test]
async fn commands_in_the_documentation_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = JsonClient::hello(program.addr, json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "lobby"})]).await;
    ada.send(&[json!({"type": "say", "room": "lobby", "text": "hello"})]).await;
    ada.until("said").await;
    let commands = documented_commands();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in &commands {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let mut parts = words.splitn(2, |word| *word == ">");
        let (arguments, output) = (parts.next().unwrap(), parts.next());
        let is_server = arguments[0].starts_with("--") && arguments[0] != "--help";
        // A server's flags are checked without starting it: it may want port 443.
        let check = if is_server { &["check-config"][..] } else { &[] };
        let (code, text, error) = run(folder.path(), &[check, arguments].concat()).await;
        assert_eq!(code, Some(0), "chinwag {arguments:?}: {error}");
        if let Some([file]) = output {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let _ = std::fs::remove_file(folder.path().join("copy.db"));
    }
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));
}
