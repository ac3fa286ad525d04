//! Flags, exit codes and signals of the program.

use tokio::process::Command;

use crate::harness::{Client, raw_http, within};
use crate::program::{PROGRAM, Program};

/// Runs the program to its end, and returns its exit code and its standard error.
async fn run(flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(flags).kill_on_drop(true).output();
    let output = within("the program to end", output).await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[actix_web::test]
async fn invalid_flag_value_exits_with_2_and_one_line_that_says_what_is_valid() {
    let invalid: [(&[&str], &str); 11] = [
        (&["--workers", "513"], "must be a whole number from 1 to 512"),
        (&["--send-queue", "15"], "must be a whole number from 16 to 65536"),
        (&["--listen", "localhost"], "must be a port, or an address and a port"),
        (&["--workers", "0"], "must be a whole number from 1 to 512"),
        (&["--max-message-bytes", "many"], "must be a whole number from 1"),
        (&["--max-frame-bytes", "1"], "must be at least max_message_bytes (4096)"),
        (&["--ping-interval", "soon"], "must be a duration such as 50ms, 10s or 1m"),
        (&["--pong-timeout", "1s"], "must be longer than ping_interval (25s)"),
        (&["--public-host", "http://x"], "must be a host name"),
        (&["--allowed-origin", "chat.example"], "must be an origin such as"),
        (&["--static-dir", "/nonexistent"], "must be a folder with an index.html"),
    ];
    for (flags, expected) in invalid {
        let (code, error) = run(flags).await;
        assert_eq!(code, Some(2), "{flags:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("error: ") && error.contains(flags[0]), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[actix_web::test]
async fn flags_override_environment_variables() {
    let workers = async |environment: &str, flags: &[&str]| {
        let program = Command::new(PROGRAM)
            .arg("check-config")
            .args(flags)
            .env("CHINWAG_WORKERS", environment)
            .output();
        let program = within("the program to end", program).await.unwrap();
        let [output, error] =
            [program.stdout, program.stderr].map(|text| String::from_utf8(text).unwrap());
        let row = output.lines().find_map(|line| line.strip_prefix("--workers"));
        let row = row.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        (program.status.code(), row, error)
    };
    let (code, row, error) = workers("3", &[]).await;
    assert_eq!((code, row.as_str()), (Some(0), "3 CHINWAG_WORKERS"), "{error}");
    let (code, row, error) = workers("3", &["--workers", "5"]).await;
    assert_eq!((code, row.as_str()), (Some(0), "5 flag"), "{error}");
    let (code, _, error) = workers("none", &[]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--workers"), "{error}");
}

#[actix_web::test]
async fn check_config_prints_every_value_and_its_source() {
    let output = Command::new(PROGRAM)
        .args(["check-config", "--publish-rate", "5", "--listen", "[::1]:1,127.0.0.1:2"])
        .env("CHINWAG_DB", "none")
        .env("CHINWAG_PUBLISH_RTAE", "7")
        .output();
    let output = within("the program to end", output).await.unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let row = |flag: &str| {
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|row| row[0] == flag).unwrap_or_else(|| panic!("{table}"));
        row[1..].join(" ")
    };
    assert_eq!(row("--publish-rate"), "5 flag");
    assert_eq!(row("--listen"), "[::1]:1,127.0.0.1:2 flag");
    assert_eq!(row("--db"), "none CHINWAG_DB");
    assert_eq!(row("--ping-interval"), "25s default");
    assert_eq!(row("--max-frame-bytes"), "28672 default");
    assert_eq!(row("--log-format"), "text default");
    let warning = String::from_utf8(output.stderr).unwrap();
    let expected = "warning: unknown environment variable CHINWAG_PUBLISH_RTAE; did you mean \
        CHINWAG_PUBLISH_RATE?\n";
    assert_eq!(warning, expected);
    let (code, error) = run(&["check-config", "--pong-timeout", "1s"]).await;
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("--pong-timeout and --ping-interval"), "{error}");
}

#[actix_web::test]
async fn unknown_variable_that_resembles_none_is_reported_without_a_suggestion() {
    let output = Command::new(PROGRAM).arg("check-config").env("CHINWAG_COFFEE", "black").output();
    let output = within("the program to end", output).await.unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warning, "warning: unknown environment variable CHINWAG_COFFEE\n");
}

#[actix_web::test]
async fn short_help_is_short_and_long_help_is_grouped() {
    let help = async |flag: &str| {
        let output = within("the program to end", Command::new(PROGRAM).arg(flag).output());
        String::from_utf8(output.await.unwrap().stdout).unwrap()
    };
    let (short, long) = (help("-h").await, help("--help").await);
    assert!(short.lines().count() < 60, "{short}");
    assert!(short.contains("--listen") && !short.contains("--command-burst"), "{short}");
    let headings = ["Listening:", "Security:", "History:", "Limits:", "Operation:"];
    let found: Vec<_> = long.lines().filter(|line| headings.contains(line)).collect();
    assert_eq!(found, headings);
    assert!(long.lines().all(|line| line.chars().count() <= 100), "{long}");
}

#[actix_web::test]
async fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(PROGRAM).args(["completions", shell]).output();
        let output = within("the program to end", output).await.unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("max-message-bytes") && script.contains("check-config"), "{shell}");
    }
    let (code, error) = run(&["completions", "cmd"]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("bash"), "{error}");
}

#[actix_web::test]
async fn address_in_use_exits_with_1_and_names_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, error) = run(&["--listen", &addr]).await;
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&format!("cannot listen on {addr}")), "{error}");
}

/// The program raises the soft limit to the hard limit, and checks that one.
#[cfg(unix)]
#[actix_web::test]
async fn open_file_limit_below_max_connections_logs_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let warning = async |limits: &str, flags: &[&str]| {
        let shell = format!("{limits}; exec \"$0\" \"$@\"");
        let mut program = Command::new("sh");
        program.args(["-c", &shell, PROGRAM, "--db", "none", "--listen", &addr]).args(flags);
        let output = within("the program to end", program.output()).await.unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("cannot listen"), "{log}");
        log.lines().find(|line| line.contains("open files")).map(str::to_owned)
    };
    let limits = "ulimit -Sn 300; ulimit -Hn 700";
    assert_eq!(warning(limits, &["--max-connections", "200"]).await, None);
    let line = warning(limits, &["--max-connections", "201"]).await.expect("a warning");
    assert!(line.contains("the system allows 700 open files"), "{line}");
    assert!(line.contains("--max-connections 201 needs 701"), "{line}");
}

#[cfg(unix)]
#[actix_web::test]
async fn binary_serves_the_page_without_any_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("alone");
    // `cp` makes the copy, because Linux does not run a file that is open for writing (ETXTBSY): if
    // this process wrote the copy, child processes of other tests could inherit the descriptor.
    let copied = Command::new("cp").arg(PROGRAM).arg(&copy).status();
    assert!(within("the copy", copied).await.unwrap().success());
    let program = Program::start(copy.to_str().unwrap(), folder.path(), &[]).await;
    for path in ["/", "/static/chat.js"] {
        let host = program.addr;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw_http(host, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[cfg(unix)]
#[actix_web::test]
async fn sigint_sigterm_and_sighup_close_clients_with_1001_and_exit_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
        let mut clients = Vec::new();
        for n in 0..10 {
            clients.push(Client::connect(program.addr, &format!("nick=n{n}")).await);
        }
        // A client that receives its own line is registered.
        for (n, client) in clients.iter_mut().enumerate() {
            client.say("here").await;
            while within("its line", client.line()).await.unwrap() != format!("n{n}: here") {}
        }
        program.signal(signal);
        for client in &mut clients {
            assert_eq!(client.expect_close().await.0, 1001, "{signal}");
        }
        assert_eq!(program.exit_code().await, Some(0), "{signal}");
    }
}

#[cfg(unix)]
#[actix_web::test]
async fn second_signal_exits_immediately() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &["--shutdown-timeout", "1h"]).await;
    // A client that does not answer the close frame delays the shutdown for 2 seconds.
    let mut stalled = Client::connect(program.addr, "nick=stalled").await;
    stalled.say("here").await;
    stalled.expect("stalled: here").await;
    program.signal("-TERM");
    let next = within("the log", program.log.next_line()).await.unwrap();
    assert!(next.unwrap().contains("shutting down"));
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(1));
    let last = within("the log", program.log.next_line()).await.unwrap();
    assert_eq!(last.as_deref(), Some("error: second signal received; forcing exit"));
}

#[actix_web::test]
async fn messages_are_not_logged() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut client = Client::connect(program.addr, "").await;
    client.say("hello").await;
    client.expect("hello").await;
    client.leave().await;
    program.child.start_kill().unwrap();
    let rest = within("the end of the log", program.log.next_line()).await.unwrap();
    assert_eq!(rest, None);
}
