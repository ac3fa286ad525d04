//! Rules about the source code and the documents.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the Rust files below a folder, as paths from the root.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "there are sources in {folder}");
    found.sort();
    found
}

/// Returns the code of a file without comments and without the tests at its end.
fn code(path: &Path) -> String {
    let text = read(path);
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn none_in(folder: &str, allowed: impl Fn(&Path) -> bool, forbidden: &[&str]) {
    for path in sources(folder).iter().filter(|path| !allowed(path)) {
        let code = code(path);
        for word in forbidden {
            assert!(!code.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn only_three_modules_name_actix_web_actors() {
    let fence = |path: &Path| {
        path.starts_with("src/websocket")
            || path.starts_with("src/session")
            || path.ends_with("http/upgrade.rs")
    };
    none_in("src", fence, &["actix_web_actors"]);
}

#[test]
fn hub_does_no_io_and_never_waits() {
    let io = ["std::fs", "std::net", "std::io", "tokio::net", "tokio::fs", ".await", "block_on"];
    none_in("src/hub", |_| false, &io);
}

#[test]
fn domain_and_protocol_name_no_actors() {
    for folder in ["src/domain", "src/protocol"] {
        none_in(folder, |_| false, &["actix", "Addr<", "Recipient<"]);
    }
}

/// The modules of the library, lowest first. A module imports only modules before it.
const LAYERS: [&str; 11] = [
    "domain",
    "websocket",
    "protocol",
    "metrics",
    "config",
    "limits",
    "log",
    "hub",
    "session",
    "http",
    "server",
];

/// Modules at the bottom of the library, which import no other module.
const LEAVES: [&str; 2] = ["domain", "websocket"];

#[test]
fn modules_import_only_modules_below_them() {
    let mut arrows = BTreeSet::new();
    for path in sources("src") {
        let module = path.iter().nth(1).unwrap().to_str().unwrap();
        let Some(rank) = LAYERS.iter().position(|layer| *layer == module) else {
            let others = ["lib.rs", "main.rs", "cli"];
            assert!(others.contains(&module), "{} is in no layer", path.display());
            continue;
        };
        let code = code(&path);
        for import in code.split("crate::").skip(1) {
            let import = import.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let Some(below) = LAYERS.iter().position(|layer| *layer == import) else {
                panic!("{} imports crate::{import}", path.display());
            };
            let is_leaf = LEAVES.contains(&module) && below != rank;
            assert!(below <= rank && !is_leaf, "{} imports {import}", path.display());
            arrows.insert((module.to_owned(), import.to_owned()));
        }
    }
    let from_protocol = ("protocol".to_owned(), "websocket".to_owned());
    assert!(!arrows.contains(&from_protocol), "protocol is independent of the WebSocket");
    assert!(arrows.len() > 20, "there are imports to check: {arrows:?}");
}

/// While a context waits, its mailbox and timers stand still, and of several waits the last one
/// ends first. Only the hub waits, for one poll. Each clone of a recipient may exceed the mailbox's
/// limit by one (actix#329).
#[test]
fn no_context_waits_and_no_recipient_is_cloned() {
    let hub = |path: &Path| path.ends_with("hub/pacing.rs");
    none_in("src", hub, &["ctx.wait("]);
    none_in("src", |_| false, &["recipient.clone()", "to.clone()"]);
}

#[test]
fn sql_is_only_in_the_sqlite_log() {
    let journal = |path: &Path| path.starts_with("src/log/sqlite");
    none_in("src", journal, &["rusqlite", "SELECT ", "INSERT "]);
}

#[test]
fn exactly_one_function_removes_clients() {
    let removals: usize =
        sources("src/hub").iter().map(|path| code(path).matches("clients.remove(").count()).sum();
    assert_eq!(removals, 1);
}

/// A program that mounts the chat does not have our flags. `cli/hints.rs` adds them to errors.
#[test]
fn library_names_no_flags() {
    let program =
        ["main.rs", "commands.rs", "check_config.rs", "hints.rs", "logging.rs", "args.rs"];
    for path in sources("src").iter().filter(|path| !program.iter().any(|own| path.ends_with(own)))
    {
        assert_eq!(flags(&code(path)), BTreeSet::new(), "{}", path.display());
    }
}

#[test]
fn lines_fit_in_100_columns() {
    for path in ["src", "tests", "examples"].into_iter().flat_map(sources) {
        for (number, line) in read(&path).lines().enumerate() {
            let fits = line.chars().count() <= 100;
            assert!(fits, "{}:{} is over 100 columns", path.display(), number + 1);
        }
    }
}

/// Returns the words of a text that look like `--flag`.
fn flags(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 3)
        .collect()
}

#[test]
fn documentation_has_every_flag_of_the_program_with_its_default() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_chinwag"))
        .arg("--help")
        .output()
        .expect("the program runs");
    let help = String::from_utf8(help.stdout).unwrap();
    let document = read("docs/CONFIGURATION.md");
    let table: Vec<&str> = document.lines().filter(|line| line.starts_with("| `--")).collect();
    let mut known = flags(&help);
    known.retain(|flag| !["--help", "--version"].contains(flag));
    assert_eq!(flags(&table.join("\n")), known);

    // "[default: 25s]" in the help is `25s` in the flag's row.
    for paragraph in help.split("\n      --").skip(1) {
        let flag = paragraph.split([' ', '\n']).next().unwrap();
        let row = table.iter().find(|row| row.contains(&format!("`--{flag} ")));
        if let Some((_, default)) = paragraph.split_once("[default: ") {
            let default = format!("`{}`", default.split(']').next().unwrap());
            let plain = default.contains(' ');
            assert!(plain || row.is_some_and(|row| row.contains(&default)), "{flag}: {default}");
        }
    }
}

/// Returns the anchors that GitHub gives the headings of a document.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_and_images_in_documents_resolve() {
    let mut checked = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/OPERATIONS.md"]
        .into_iter()
        .chain(["docs/PERFORMANCE.md", "docs/PROTOCOL.md", "docs/CONFIGURATION.md"])
        .chain(["docs/ROBUSTNESS.md", "docs/CLUSTER.md"])
    {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap();
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let images = text.split("src=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for target in links.chain(images).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { Path::new(document) } else { &folder.join(file) };
            assert!(root().join(file).exists(), "{document} links to {target}");
            let has_anchor = || anchors(&read(file)).contains(anchor);
            assert!(anchor.is_empty() || has_anchor(), "{document} links to {target}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "the documents have links to check, not {checked}");
}

/// The source defines every name in the README's table of gorilla's names.
#[test]
fn table_of_gorillas_names_matches_the_source() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("## From gorilla's example to chinwag").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let source: String = sources("src").iter().map(|path| code(path)).collect();
    let mut checked = 0;
    for row in section.lines().filter(|line| line.starts_with('|')).skip(2) {
        let here = row.split('|').nth(2).unwrap();
        for name in here.split('`').skip(1).step_by(2) {
            if name.ends_with('/') || name.ends_with(".rs") || name.ends_with(".html") {
                assert!(root().join(name).exists(), "{name}");
            } else {
                // A name with a path is defined here; `try_send` is only used.
                let (path, last) = name.rsplit_once("::").unwrap_or(("", name));
                let words = |kind: &&str| source.contains(&format!("{kind} {last}"));
                let defined = ["struct", "enum", "fn"].iter().any(words);
                assert!(defined || path.is_empty() && source.contains(last), "{name}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "the table has names to check, not {checked}");
}

#[test]
fn walk_of_a_message_names_existing_files_and_functions() {
    let document = read("ARCHITECTURE.md");
    let (_, section) = document.split_once("## The way of one message").unwrap();
    let section = section.split("\n### ").next().unwrap();
    let mut files = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ") && line.contains("`: `")) {
        let step = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        let (file, function) = step.split_once("`: `").unwrap();
        let code = code(&Path::new("src").join(file));
        let last = function.rsplit("::").next().unwrap();
        let defined =
            code.contains(&format!("fn {last}(")) || code.contains(&format!("fn {last}<"));
        assert!(defined || code.contains(&format!("impl {function} for")), "{step}");
        files.push(file.to_owned());
    }
    assert!(files.len() >= 15, "the walk has steps to check, not {}", files.len());
    for file in &files {
        let times = files.iter().filter(|other| *other == file).count();
        let is_entered_twice = ["protocol/json.rs", "hub/commit.rs"].contains(&file.as_str());
        assert!(times == 1 || is_entered_twice && times == 2, "{file} is entered {times} times");
    }
}

#[test]
fn documentation_has_every_close_code() {
    let document = read("docs/PROTOCOL.md");
    for reason in chinwag::protocol::DisconnectReason::ALL {
        if let Some(code) = reason.code() {
            assert!(document.contains(&format!("| {code} |")), "{code} {reason}");
        }
    }
}
