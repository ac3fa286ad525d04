//! The connection to the NATS servers. It reconnects for ever.

use std::future::IntoFuture;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, DiscardPolicy, Info, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use bytes::Bytes;
use log::{debug, info, warn};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::ClusterError;
use super::chain::Chain;
use super::record::{NewEpoch, Record};
use crate::config::Cluster;
use crate::domain::Epoch;
use crate::log::sqlite::Placed;

/// How often the connection is tested. After two pings without an answer it is replaced.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long connecting, or a request, may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The greatest pause between two attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often the server shows that a consumer without new records is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The server removes a consumer that has had no connection for this time.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection, and the stream of the log.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    context: Context,
    config: Cluster,
}

/// What the stream contains.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamState {
    /// The position of the first record that is not deleted yet.
    pub(super) first: u64,
    /// The position of the last record. 0 if there was none.
    pub(super) last: u64,
    /// The number of servers that are configured to store it.
    pub(super) replicas: usize,
}

/// What the first and the last record of the stream tell about a journal that differs from it.
pub(super) enum Beginning {
    /// The log has begun a new epoch with the journal's history.
    Continues(Placed, NewEpoch),
    /// The log has begun this epoch with another history.
    Other(Epoch),
    /// Nothing: neither record is of another epoch.
    Unknown,
}

impl Link {
    /// Begins to connect.
    pub(super) async fn connect(config: &Cluster) -> Result<Self, ClusterError> {
        let last_error = Mutex::new(String::new());
        let mut options = ConnectOptions::new()
            .name(config.node_name.as_deref().unwrap_or("chinwag"))
            .ping_interval(PING_INTERVAL)
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .reconnect_delay_callback(|attempt| {
                let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
                Duration::from_millis(20).saturating_mul(attempt).min(RECONNECT_PAUSE_MAX)
            })
            .retry_on_initial_connect()
            .event_callback(move |event| {
                log_event(&event, &last_error);
                std::future::ready(())
            });
        if let Some(file) = &config.creds {
            let with_file = options.credentials_file(file).await;
            options = with_file.map_err(|error| ClusterError::Credentials(file.clone(), error))?;
        }
        if let Some(file) = &config.ca {
            options = options.add_root_certificates(file.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        let servers = config.servers.iter().map(|server| server.as_str().parse::<ServerAddr>());
        let servers = servers.collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(|error| ClusterError::Connect(error.to_string()))?;
        // async-nats does not use the user, the password or the token in a URL.
        let user = servers.iter().find_map(|server| Some((server.username()?, server.password())));
        options = match user {
            Some((user, Some(password))) => {
                options.user_and_password(decode(user), decode(password))
            }
            Some((token, None)) => options.token(decode(token)),
            None => options,
        };
        let client = options.connect(servers).await;
        let client = client.map_err(|error| ClusterError::Connect(error.to_string()))?;
        let context = jetstream::new(client.clone());
        Ok(Self { client, context, config: config.clone() })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Returns the subject of the records.
    pub(super) fn subject(&self) -> String {
        format!("{}.log", self.config.stream.as_str())
    }

    /// Returns the subject of requests for copies of history files.
    pub(super) fn copy_subject(&self) -> String {
        format!("{}.copy", self.config.stream.as_str())
    }

    /// Returns the name of the node.
    pub(super) fn node_name(&self) -> Option<&str> {
        self.config.node_name.as_deref()
    }

    /// Returns the subject of the packets of a node, whose id is given in hexadecimal.
    pub(super) fn packet_subject(&self, node: &str) -> String {
        format!("{}.p.{node}", self.config.stream.as_str())
    }

    /// Returns the packets of all nodes.
    pub(super) async fn packets(&self) -> Result<Subscriber, String> {
        let packets = self.client.subscribe(self.packet_subject("*")).await;
        packets.map_err(|error| error.to_string())
    }

    /// Returns the requests for copies that this node must answer.
    pub(super) async fn copy_requests(&self) -> Result<Subscriber, String> {
        let requests = self.client.queue_subscribe(self.copy_subject(), "copy".into()).await;
        requests.map_err(|error| error.to_string())
    }

    /// Warns if NATS may lose records that it has acknowledged.
    pub(super) async fn warn_of_weak_settings(&self) {
        let Ok(Some(stream)) = self.stream().await else { return };
        let config = &stream.cached_info().config;
        let version = self.client.server_info().version;
        if config.storage != StorageType::File {
            warn!("the stream is in memory only: a restart of NATS loses it");
        }
        if !config.max_age.is_zero() || config.discard != DiscardPolicy::Old {
            warn!("the stream must have no max_age, and must discard old records");
        }
        if config.num_replicas > 1 && !self.client.is_server_compatible(2, 10, 23) {
            warn!("NATS {version} may lose a replicated stream (nats-server#6888); use 2.10.23");
        } else if !self.client.is_server_compatible(2, 10, 0) {
            warn!(
                "NATS {version} acknowledges messages up to 2 minutes before they are on disk; a \
                 power failure may lose them. Use NATS 2.10 with sync_interval: always"
            );
        } else if config.num_replicas == 1 {
            info!("NATS has one copy of the log; set sync_interval: always, so that it is on disk");
        }
    }

    /// Returns the bytes of a record, and the time that the log gave it.
    pub(super) async fn record(&self, position: u64) -> Result<(Bytes, i64), String> {
        let stream = self.stream().await?.ok_or("the stream does not exist any more")?;
        let record = timeout(TIMEOUT, stream.get_raw_message(position)).await;
        let record = record.map_err(|_| "no answer from NATS")?;
        let record = record.map_err(|error| error.to_string())?;
        let time = i64::try_from(record.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        Ok((record.payload, time))
    }

    /// Returns what the first and the last record of the stream tell about a journal that differs
    /// from it.
    pub(super) async fn beginning(
        &self,
        state: StreamState,
        epoch: &Epoch,
        chain: Chain,
    ) -> Result<Beginning, String> {
        let (payload, time) = self.record(state.first).await?;
        let first = Record::decode(&payload);
        if let Ok(Record::NewEpoch(new)) = &first
            && new.continues(epoch, chain)
        {
            let hash = Sha256::digest(&payload).into();
            let placed = Placed { position: state.first, time, hash };
            return Ok(Beginning::Continues(placed, new.clone()));
        }
        // Neither record alone is enough: the record that began the epoch may be deleted, and the
        // node that published the last record may not have known the new epoch yet.
        let (payload, _) = self.record(state.last).await?;
        let records = [first, Record::decode(&payload)].into_iter().flatten();
        let other = records.map(|record| record.epoch()).find(|other| other != epoch);
        Ok(other.map_or(Beginning::Unknown, Beginning::Other))
    }

    /// Adds a record. Returns its position.
    pub(super) async fn append(&self, record: Vec<u8>) -> Result<u64, String> {
        let sent = self.context.publish(self.subject(), record.into()).await;
        let ack = sent.map_err(|error| error.to_string())?.await;
        ack.map(|ack| ack.sequence).map_err(|error| error.to_string())
    }

    /// Deletes the records before a position.
    pub(super) async fn delete_before(&self, position: u64) -> Result<(), String> {
        let stream = self.stream().await?.ok_or("the stream does not exist any more")?;
        let purged = timeout(TIMEOUT, stream.purge().sequence(position).into_future()).await;
        let purged = purged.map_err(|_| "no answer from NATS")?;
        purged.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Returns the state of the stream, or `None` if it does not exist.
    pub(super) async fn state(&self) -> Result<Option<StreamState>, String> {
        Ok(self.stream().await?.map(|stream| {
            let Info { state, config, .. } = stream.cached_info();
            let (first, last) = (state.first_sequence, state.last_sequence);
            StreamState { first, last, replicas: config.num_replicas }
        }))
    }

    async fn stream(&self) -> Result<Option<stream::Stream>, String> {
        let found = timeout(TIMEOUT, self.context.get_stream(self.config.stream.as_str())).await;
        let error = match found.map_err(|_| "no answer from NATS")? {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => error,
        };
        if let GetStreamErrorKind::JetStream(cause) = error.kind()
            && cause.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND
        {
            return Ok(None);
        }
        Err(error.to_string())
    }

    /// Creates the stream.
    pub(super) async fn create_stream(&self) -> Result<(), String> {
        let config = stream::Config {
            name: self.config.stream.as_str().into(),
            description: Some("The log of chinwag. Its records must not be changed.".into()),
            subjects: vec![self.subject()],
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            discard: DiscardPolicy::Old,
            max_bytes: i64::try_from(self.config.log_bytes).unwrap_or(i64::MAX),
            deny_delete: true,
            ..stream::Config::default()
        };
        self.context.create_stream(config).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Returns the records from a position on.
    pub(super) async fn records(&self, start: u64) -> Result<push::Messages, String> {
        let stream = self.stream().await?.ok_or("the stream does not exist any more")?;
        let config = push::Config {
            deliver_subject: self.client.new_inbox(),
            ack_policy: AckPolicy::None,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: CONSUMER_TIMEOUT,
            memory_storage: true,
            num_replicas: 1,
            max_deliver: 1,
            ..push::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        consumer.messages().await.map_err(|error| error.to_string())
    }
}

/// Decodes a part of a URL, in which a character may be `%` and two hexadecimal digits.
fn decode(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

/// Logs an event of the connection. While NATS is unreachable, every attempt to connect is an
/// error, which is logged when it is another one than the last.
fn log_event(event: &Event, last_error: &Mutex<String>) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => warn!("the connection to NATS is lost; connecting again"),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::LameDuckMode => {
            warn!("NATS: {event}");
        }
        Event::ClientError(error) => {
            let error = error.to_string();
            let mut last_error = last_error.lock().unwrap_or_else(PoisonError::into_inner);
            if *last_error != error {
                warn!("cannot connect to NATS: {error}; trying again");
                *last_error = error;
            }
        }
        Event::Draining | Event::Closed => debug!("NATS: {event}"),
    }
}
