//! Copies of history files. A node whose file lacks records that the stream does not have any more
//! asks the other nodes for a copy of theirs, before it opens its own. One of them answers: it
//! makes a backup, and sends it in parts. The node continues with the records after the copy.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{File, remove_dir_all, remove_file};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_nats::{Message, Request, StatusCode, Subscriber};
use log::{info, warn};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::chain::Chain;
use super::link::{Beginning, Link, StreamState};
use super::record::Record;
use super::{ClusterError, PATIENCE, next};
use crate::config::Config;
use crate::domain::Seq;
use crate::log::sqlite::{self, JournalError, JournalState, Replaced};

/// The size of a part, in bytes. NATS must accept messages that are larger: see
/// [`payload_needed`](super::payload_needed).
const PART_BYTES: usize = 384 * 1024;

/// How often a node shows that it is making a backup.
const WORKING: Duration = Duration::from_secs(1);

/// After this silence the other node counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a copy is tried. Another node may have just started.
const TRY_FOR: Duration = Duration::from_secs(20);

/// How long a copy is tried while no other node is running.
const TRY_ALONE_FOR: Duration = Duration::from_secs(3);

/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why there is no copy.
#[derive(Debug, Error)]
enum NoCopy {
    #[error("no other node is running")]
    Alone,
    #[error("{0}")]
    Failed(String),
}

impl From<String> for NoCopy {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// What a node answers to a request for a copy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It is making a backup.
    Working,
    /// The backup is ready.
    Ready {
        bytes: u64,
        /// The SHA-256 hash of the file.
        hash: [u8; 32],
        /// The subject for requests of parts. A request is the offset of the part.
        parts: String,
    },
    /// It cannot make a backup.
    Failed(String),
}

impl Answer {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("all keys are strings and no other error is possible")
    }
}

/// Returns the path of the file that marks a history file which differs from those of most nodes.
/// At its next start, the node replaces the history file by a copy.
pub(super) fn outvoted_mark(path: &Path) -> PathBuf {
    let mut mark = path.as_os_str().to_owned();
    mark.push(".differs");
    mark.into()
}

/// Replaces the history file of a node by a copy of that of another node, if the stream does not
/// have all records that the file lacks, if the log has begun a new epoch with another history, or
/// if the file is marked because it differs from those of most nodes.
/// Messages that the copy lacks are saved. Call it before the file is opened. If no other node can
/// send a copy, the file stays as it is.
///
/// # Errors
/// If the settings of the cluster cannot be used, or the file cannot be read or replaced.
pub async fn bring_up_to_date(config: &Config) -> Result<(), ClusterError> {
    let (Some(cluster), Some(path)) = (&config.cluster, &config.db) else { return Ok(()) };
    let failed = |error| JournalError::System(path.clone(), error);
    let path = &sqlite::canonical(path).map_err(failed)?;
    remove_old_copies(path);
    let own = sqlite::read_state(path)?;
    let link = Link::connect(cluster).await?;
    let is_node = own.as_ref().is_some_and(|own| own.place.is_some());
    let Some(stream) = wait_for_stream(&link, is_node).await else { return Ok(()) };
    let mark = outvoted_mark(path);
    if !mark.exists() && !needs_copy(&link, own.as_ref(), stream).await {
        return Ok(());
    }
    info!("copying the history file of another node");
    let began = Instant::now();
    loop {
        let reason = match fetch(&link, path, stream.first).await {
            Ok(copy) => {
                if let Some(Replaced { messages, lost, file }) = sqlite::install(copy, path)? {
                    warn!(
                        "the copy lacks {messages} messages of the replaced history file, or an \
                         edit or deletion of them; they are saved in {}, and the replaced file is \
                         kept as {}",
                        lost.display(),
                        file.display()
                    );
                }
                let _ = remove_file(mark);
                info!("the history file was copied in {:.1} s", began.elapsed().as_secs_f64());
                return Ok(());
            }
            Err(reason) => reason,
        };
        let patience = match reason {
            NoCopy::Alone => TRY_ALONE_FOR,
            NoCopy::Failed(_) => TRY_FOR,
        };
        if began.elapsed() >= patience {
            warn!("cannot copy the history file of another node: {reason}");
            return Ok(());
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Returns the state of the stream, or `None` if it has no records. Waits for NATS: for ever, or
/// only for some time if the node can start without it.
async fn wait_for_stream(link: &Link, is_node: bool) -> Option<StreamState> {
    let began = Instant::now();
    let mut has_warned = false;
    loop {
        match link.state().await {
            Ok(state) => return state.filter(|state| state.last > 0),
            Err(_) if is_node && began.elapsed() >= PATIENCE => return None,
            Err(reason) => {
                let is_late = began.elapsed() >= PATIENCE;
                if is_late && !std::mem::replace(&mut has_warned, true) {
                    warn!("NATS does not answer: {reason}; trying again");
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Returns whether a history file needs records that the stream does not have any more, or differs
/// from the history with which the log has begun a new epoch. Also returns false for the file of a
/// single server, which is refused later if it is not the beginning of the log.
async fn needs_copy(link: &Link, own: Option<&JournalState>, stream: StreamState) -> bool {
    if own.is_some_and(|own| own.head > Seq::default() && own.place.is_none()) {
        return false;
    }
    let Some(JournalState { place: Some(place), epoch, .. }) = own else {
        let first = link.record(stream.first).await.map(|(bytes, _)| Record::decode(&bytes));
        return match first.ok().and_then(Result::ok) {
            Some(Record::Genesis(genesis)) => genesis.parent.head > Seq::default(),
            Some(Record::NewEpoch(_)) => true,
            Some(Record::Append(_)) | None => stream.first > 1,
        };
    };
    if (stream.first..=stream.last).contains(&place.position)
        && link.record(place.position).await.is_ok_and(|(_, time)| time == place.time)
    {
        return false;
    }
    let chain = Chain::new(place.position, &place.chain);
    match link.beginning(stream, epoch, chain).await {
        Ok(Beginning::Continues(..)) => false,
        Ok(Beginning::Other(_)) => true,
        Ok(Beginning::Unknown) | Err(_) => stream.first > place.position,
    }
}

/// Fetches a copy into a file beside `path`. It must have the records before `first`.
async fn fetch(link: &Link, path: &Path, first: u64) -> Result<NamedTempFile, NoCopy> {
    let client = &link.client;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
    let asked = client.publish_with_reply(link.copy_subject(), inbox, "".into()).await;
    asked.map_err(|error| error.to_string())?;
    let (bytes, hash, parts) = loop {
        let answer = timeout(SILENCE_MAX, next(&mut answers)).await;
        let answer = answer.ok().flatten().ok_or("no other node answers".to_owned())?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(NoCopy::Alone);
        }
        match serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())? {
            Answer::Working => {}
            Answer::Ready { bytes, hash, parts } => break (bytes, hash, parts),
            Answer::Failed(reason) => return Err(reason.into()),
        }
    };
    let copy = NamedTempFile::with_prefix_in(prefix(path), folder(path));
    let mut copy = copy.map_err(|error| error.to_string())?;
    let (mut offset, mut received) = (0, Sha256::new());
    while offset < bytes {
        let request = Request::new().payload(offset.to_string().into()).timeout(Some(SILENCE_MAX));
        let part = client.send_request(parts.clone(), request).await;
        let part = part.map_err(|error| error.to_string())?.payload;
        if part.is_empty() {
            return Err("the other node cannot read its copy".to_owned().into());
        }
        copy.write_all(&part).map_err(|error| error.to_string())?;
        received.update(&part);
        offset += part.len() as u64;
    }
    let received: [u8; 32] = received.finalize().into();
    if offset != bytes || received != hash {
        return Err("the copy is damaged".to_owned().into());
    }
    let place = sqlite::read_state(copy.path()).map_err(|error| error.to_string())?;
    let Some(place) = place.and_then(|copied| copied.place).filter(|it| it.position >= first)
    else {
        return Err("the other node is behind the stream".to_owned().into());
    };
    let (_, time) = link.record(place.position).await?;
    if time != place.time {
        return Err("the other node has the history of another stream".to_owned().into());
    }
    Ok(copy)
}

/// Sends copies of a history file to nodes that ask, while the node itself is ready.
pub(super) async fn serve(link: Link, path: PathBuf, is_ready: Rc<Cell<bool>>) {
    let backups = Rc::new(Semaphore::new(1));
    loop {
        if let Ok(mut requests) = link.copy_requests().await {
            while let Some(request) = next(&mut requests).await {
                let (link, path, backups) = (link.clone(), path.clone(), Rc::clone(&backups));
                let is_ready = is_ready.get();
                actix::spawn(async move {
                    if let Err(reason) = answer(&link, &request, &path, &backups, is_ready).await {
                        warn!("cannot send a copy of the history file: {reason}");
                    }
                });
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Answers a request for a copy.
async fn answer(
    link: &Link,
    request: &Message,
    path: &Path,
    backups: &Semaphore,
    is_ready: bool,
) -> Result<(), String> {
    let Some(reply) = &request.reply else { return Ok(()) };
    let reply_with = async |answer: Answer| {
        let sent = link.client.publish(reply.clone(), answer.encode().into()).await;
        sent.map_err(|error| error.to_string())
    };
    if !is_ready {
        return reply_with(Answer::Failed("the other node is not ready".into())).await;
    }
    info!("another node asks for a copy of the history file");
    let mut permit = pin!(backups.acquire());
    let _permit = loop {
        match timeout(WORKING, &mut permit).await {
            Ok(permit) => break permit.map_err(|error| error.to_string())?,
            Err(_) => reply_with(Answer::Working).await?,
        }
    };
    let mut backup = make_backup(path.to_owned());
    let backup = loop {
        match timeout(WORKING, &mut backup).await {
            Ok(made) => break made.unwrap_or(Err("the backup has failed".into())),
            Err(_) => reply_with(Answer::Working).await?,
        }
    };
    let Backup { mut file, bytes, hash, folder } = match backup {
        Ok(backup) => backup,
        Err(reason) => {
            reply_with(Answer::Failed(reason.clone())).await?;
            return Err(reason);
        }
    };
    let parts = link.client.new_inbox();
    let subscribed = link.client.subscribe(parts.clone()).await;
    let mut requests = subscribed.map_err(|error| error.to_string())?;
    reply_with(Answer::Ready { bytes, hash, parts }).await?;
    send_parts(link, &mut file, &mut requests).await;
    drop(folder);
    Ok(())
}

/// Sends the parts of a file that are requested, until there is silence.
async fn send_parts(link: &Link, file: &mut File, requests: &mut Subscriber) {
    while let Ok(Some(request)) = timeout(SILENCE_MAX, next(requests)).await {
        let offset = std::str::from_utf8(&request.payload).ok().and_then(|it| it.parse().ok());
        let (Some(reply), Some(offset)) = (request.reply, offset) else { continue };
        // An empty part tells the node that it failed.
        let part = read_part(file, offset).unwrap_or_default();
        let is_last = part.len() < PART_BYTES;
        if link.client.publish(reply, part.into()).await.is_err() || is_last {
            return;
        }
    }
}

fn read_part(file: &mut File, offset: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut part = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(part)
}

/// A backup, which is deleted when it is dropped.
struct Backup {
    file: File,
    bytes: u64,
    hash: [u8; 32],
    folder: tempfile::TempDir,
}

/// Makes a backup on a thread of its own, since that blocks.
fn make_backup(path: PathBuf) -> oneshot::Receiver<Result<Backup, String>> {
    let (sender, made) = oneshot::channel();
    std::thread::spawn(move || {
        let backup = try_backup(&path).map_err(|error| error.to_string());
        drop(sender.send(backup));
    });
    made
}

fn try_backup(path: &Path) -> Result<Backup, Box<dyn std::error::Error>> {
    let folder = tempfile::Builder::new().prefix(&prefix(path)).tempdir_in(folder(path))?;
    let dest = folder.path().join("copy");
    sqlite::backup(path, &dest, &mut |_, _| {})?;
    let mut file = File::open(&dest)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; PART_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut part)?;
        if read == 0 {
            break;
        }
        hash.update(&part[..read]);
        bytes += read as u64;
    }
    Ok(Backup { file, bytes, hash: hash.finalize().into(), folder })
}

/// Returns the folder of a canonical path.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Returns how the names of copies begin that are made from this history file, or for it.
fn prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".copy-");
    prefix
}

/// Removes copies that a killed process has left behind.
fn remove_old_copies(path: &Path) {
    let prefix = prefix(path);
    for entry in folder(path).read_dir().into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            let old = entry.path();
            // Another start will try again.
            let _ = if old.is_dir() { remove_dir_all(old) } else { remove_file(old) };
        }
    }
}
