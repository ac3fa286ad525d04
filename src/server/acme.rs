//! Obtains the server's certificate from a certificate authority, saves it in a folder, and renews
//! it. The crate `rustls-acme` implements ACME and answers the authority's challenges. This module
//! decides when to order a certificate and which one to serve. It does not use the delays of
//! `rustls-acme` between attempts. They begin with one second, which exhausts the five failed
//! validations an hour that Let's Encrypt allows, and grow to 18 hours.

mod problem;
mod store;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::rt;
use async_trait::async_trait;
use futures_core::Stream;
use log::{error, info, warn};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use rustls_acme::{
    AccountCache, AcmeConfig, AcmeState, CertCache, EventError, EventOk, ResolvesServerCertAcme,
    is_tls_alpn_challenge,
};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::largest_unit;
use crate::config::Acme;
use problem::{Cause, Problem};
use store::Store;

const HTTP: &[u8] = b"http/1.1";

/// The maximum time for one attempt to obtain a certificate.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);

/// The maximum time between two readings of the system clock: it may be set, and timers stop while
/// the machine is suspended.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Why the settings of ACME or its folder cannot be used.
#[derive(Debug, Error)]
pub enum AcmeError {
    /// The folder cannot be created or written to.
    #[error("cannot keep keys and certificates in {}: {source}", path.display())]
    Dir {
        /// The folder.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// Other users have access to the folder.
    #[error(
        "other users have access to {} (mode {mode:o}); the folder for private keys must have \
         mode 700",
        path.display()
    )]
    OpenDir {
        /// The folder.
        path: PathBuf,
        /// The mode of the folder.
        mode: u32,
    },
    /// The file with the authority's root certificates cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    CaFile {
        /// The path of the file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file has no valid root certificate.
    #[error("no valid PEM certificate in {}", .0.display())]
    NoCaCertificate(PathBuf),
}

/// A certificate with its expiry and the time of its renewal.
struct Certificate {
    certified: Arc<CertifiedKey>,
    not_after: SystemTime,
    renew_at: SystemTime,
}

impl Certificate {
    /// Parses a private key and its certificate chain, in PEM.
    fn parse(pem: &[u8], provider: &CryptoProvider) -> Option<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let (_, first) = X509Certificate::from_der(chain.first()?).ok()?;
        let [not_before, not_after] = [first.validity().not_before, first.validity().not_after]
            .map(|time| Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default()));
        let renew_at = UNIX_EPOCH + not_after - not_after.saturating_sub(not_before) / 3;
        let not_after = UNIX_EPOCH + not_after;
        let certified = Arc::new(CertifiedKey::from_der(chain, key, provider).ok()?);
        Some(Self { certified, not_after, renew_at })
    }

    /// Returns the time until the renewal, which is due after two thirds of the validity period.
    fn until_renewal(&self) -> Duration {
        self.renew_at.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Returns the expiry for a log message.
    fn expiry(&self) -> String {
        match self.not_after.duration_since(SystemTime::now()) {
            Ok(left) => format!("it expires in {}", largest_unit(left)),
            Err(error) => format!("it expired {} ago", largest_unit(error.duration())),
        }
    }

    fn is_valid(&self) -> bool {
        self.not_after > SystemTime::now()
    }
}

/// Selects the certificate for a TLS handshake: that of the challenge for the authority's
/// validation, and the current one for all others.
struct Resolver {
    certified: RwLock<Option<Arc<CertifiedKey>>>,
    challenge: RwLock<Option<Arc<ResolvesServerCertAcme>>>,
    /// Ends the task that renews the certificate when the resolver is dropped.
    _alive: oneshot::Sender<()>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_tls_alpn_challenge(&hello) {
            let challenge = self.challenge.read().unwrap_or_else(PoisonError::into_inner).clone();
            return challenge?.resolve(hello);
        }
        let offers = |name: &[u8]| hello.alpn().into_iter().flatten().any(|other| other == name);
        if offers(ACME_TLS_ALPN_NAME) && !offers(HTTP) {
            // Otherwise rustls would negotiate `acme-tls/1` outside of a validation.
            return None;
        }
        self.certified.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Obtains a certificate and renews it, until the returned configuration is dropped. If the folder
/// has no certificate, handshakes fail until the first one is obtained.
pub(super) fn server_config(acme: &Acme) -> Result<Arc<ServerConfig>, AcmeError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = client_config(acme, &provider)?;
    let store = Arc::new(Store::open(acme)?);
    let (alive, ended) = oneshot::channel();
    let resolver = Arc::new(Resolver {
        certified: RwLock::default(),
        challenge: RwLock::default(),
        _alive: alive,
    });
    let renewal = Renewal {
        acme: acme.clone(),
        client,
        store,
        provider: Arc::clone(&provider),
        resolver: Arc::downgrade(&resolver),
        current: None,
        unsaved: None,
    };
    rt::spawn(async move {
        tokio::select! {
            () = renewal.run() => {}
            _ = ended => {}
        }
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP.to_vec(), ACME_TLS_ALPN_NAME.to_vec()];
    Ok(Arc::new(config))
}

/// Returns the TLS configuration for connections to the authority.
fn client_config(
    acme: &Acme,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, AcmeError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &acme.ca {
        let pem = std::fs::read(path)
            .map_err(|source| AcmeError::CaFile { path: path.clone(), source })?;
        let none = || AcmeError::NoCaCertificate(path.clone());
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|_| none())?).map_err(|_| none())?;
        }
        if roots.is_empty() {
            return Err(none());
        }
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(client))
}

/// The task that obtains, saves and renews the certificate.
struct Renewal {
    acme: Acme,
    client: Arc<ClientConfig>,
    store: Arc<Store>,
    provider: Arc<CryptoProvider>,
    resolver: Weak<Resolver>,
    current: Option<Certificate>,
    /// The current certificate with its key, in PEM, until it is saved.
    unsaved: Option<Vec<u8>>,
}

impl Renewal {
    async fn run(mut self) {
        self.load().await;
        let mut failures = Failures::default();
        loop {
            if let Some(current) = &self.current
                && let wait = current.until_renewal()
                && !wait.is_zero()
            {
                sleep(wait.min(CLOCK_CHECK_INTERVAL)).await;
                self.save();
                continue;
            }
            let attempt = timeout(ATTEMPT_TIMEOUT, self.obtain()).await;
            self.answer_challenges(None);
            let obtained = match attempt {
                Ok(obtained) => obtained.and_then(|pem| self.install(&pem)),
                Err(_) => Err(Problem::timeout(ATTEMPT_TIMEOUT)),
            };
            match obtained {
                Ok(()) => failures = Failures::default(),
                Err(problem) => {
                    let delay = failures.next_delay(problem.cause);
                    self.report(&problem, delay);
                    sleep(delay).await;
                }
            }
        }
    }

    /// Returns the domains for a log message.
    fn domains(&self) -> String {
        self.acme.domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Loads the certificate from the folder, if there is one.
    async fn load(&mut self) {
        let store = Arc::clone(&self.store);
        let pem = run_blocking(move || store.certificate()).await;
        let path = self.store.certificate_path().display();
        let loaded = match pem {
            Ok(Some(pem)) => {
                let parsed = Certificate::parse(&pem, &self.provider);
                if parsed.is_none() {
                    error!("{path} has no valid certificate and key; obtaining another");
                }
                parsed
            }
            Ok(None) => None,
            Err(error) => {
                error!("cannot read {path}: {error}; obtaining another certificate");
                None
            }
        };
        match loaded {
            Some(certificate) => {
                let expiry = certificate.expiry();
                self.serve(certificate);
                let path = self.store.certificate_path().display();
                info!("loaded the certificate for {} from {path}; {expiry}", self.domains());
            }
            None => info!(
                "obtaining a certificate for {} from {}; TLS handshakes fail until it is obtained",
                self.domains(),
                self.acme.url
            ),
        }
    }

    /// Orders a certificate. Returns it with its private key, in PEM.
    async fn obtain(&self) -> Result<Vec<u8>, Problem> {
        let contacts = self.acme.contacts.iter();
        let contacts = contacts.map(|contact| format!("mailto:{}", contact.as_str()));
        let domains = self.acme.domains.iter().map(|domain| domain.as_str());
        let order = Order { store: Arc::clone(&self.store), ordered: Arc::default() };
        let ordered = Arc::clone(&order.ordered);
        let mut state = AcmeConfig::new_with_client_config(domains, Arc::clone(&self.client))
            .directory(self.acme.url.as_str())
            .contact(contacts)
            .cache(order)
            .state();
        self.answer_challenges(Some(state.resolver()));
        loop {
            match next(&mut state).await {
                Err(EventError::Order(error)) => return Err(Problem::from_order(&error)),
                Err(EventError::NewCertParse(error)) => {
                    return Err(Problem::failed(format!("the certificate is invalid: {error}")));
                }
                // Continuing would overwrite the account key, or register another account at each
                // attempt.
                Err(EventError::AccountCacheLoad(error)) => {
                    return Err(Problem::failed(format!("cannot read the account key: {error}")));
                }
                Err(EventError::AccountCacheStore(error)) => {
                    return Err(Problem::failed(format!("cannot save the account key: {error}")));
                }
                Ok(EventOk::AccountCacheStore | EventOk::DeployedNewCert) => {}
                Ok(EventOk::CertCacheStore | EventOk::DeployedCachedCert)
                | Err(
                    EventError::CertCacheLoad(_)
                    | EventError::CertCacheStore(_)
                    | EventError::CachedCertParse(_),
                ) => {
                    let pem = ordered.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return pem.ok_or_else(|| Problem::failed("there is no certificate".into()));
                }
            }
        }
    }

    /// Serves a new certificate to new connections, and saves it.
    fn install(&mut self, pem: &[u8]) -> Result<(), Problem> {
        let certificate = Certificate::parse(pem, &self.provider)
            .ok_or_else(|| Problem::failed("the certificate is invalid".into()))?;
        let (is_due, expiry) = (certificate.until_renewal().is_zero(), certificate.expiry());
        let verb = if self.current.is_some() { "renewed" } else { "obtained" };
        self.serve(certificate);
        info!("{verb} the certificate for {}; {expiry}", self.domains());
        self.unsaved = Some(pem.to_vec());
        self.save();
        if is_due { Err(Problem::clock()) } else { Ok(()) }
    }

    /// Saves the current certificate, unless it is saved already. Blocks the thread for one write,
    /// which happens about every two months.
    fn save(&mut self) {
        let Some(pem) = self.unsaved.take() else { return };
        if let Err(error) = self.store.save_certificate(&pem) {
            let path = self.store.certificate_path().display();
            error!("cannot save the certificate in {path}: {error}; a restart will order another");
            self.unsaved = Some(pem);
        }
    }

    /// Uses a certificate for new connections.
    fn serve(&mut self, certificate: Certificate) {
        if let Some(resolver) = self.resolver.upgrade() {
            let mut served = resolver.certified.write().unwrap_or_else(PoisonError::into_inner);
            *served = Some(Arc::clone(&certificate.certified));
        }
        self.current = Some(certificate);
    }

    /// Sets the resolver for the authority's validation, or removes it.
    fn answer_challenges(&self, answers: Option<Arc<ResolvesServerCertAcme>>) {
        if let Some(resolver) = self.resolver.upgrade() {
            *resolver.challenge.write().unwrap_or_else(PoisonError::into_inner) = answers;
        }
    }

    /// Logs a failed attempt.
    fn report(&self, problem: &Problem, delay: Duration) {
        let (domains, url) = (self.domains(), &self.acme.url);
        let failed = format!("cannot obtain a certificate for {domains} from {url}: {problem}");
        let retry = format!("trying again in {}", humantime::format_duration(delay));
        match &self.current {
            Some(current) if current.is_valid() => {
                warn!("{failed}; {retry}; keeping the current certificate, {}", current.expiry());
            }
            Some(current) => {
                let expiry = current.expiry();
                error!("{failed}; {retry}; the current certificate is invalid: {expiry}");
            }
            None => error!("{failed}; {retry}; TLS handshakes fail until then"),
        }
    }
}

type Event = Result<EventOk, EventError<io::Error, io::Error>>;

/// Waits for the next event of an order.
async fn next(state: &mut AcmeState<io::Error>) -> Event {
    let event = poll_fn(|context| Pin::new(&mut *state).poll_next(context)).await;
    event.expect("the stream of an ACME state does not end")
}

/// Runs a function that reads or writes files on a thread for blocking work.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    rt::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The cache of `rustls-acme` for one order. It provides the account key and takes the certificate.
struct Order {
    store: Arc<Store>,
    ordered: Arc<Mutex<Option<Vec<u8>>>>,
}

#[async_trait]
impl CertCache for Order {
    type EC = io::Error;

    /// Returns `None`, so that `rustls-acme` orders a certificate.
    async fn load_cert(&self, _: &[String], _: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    async fn store_cert(&self, _: &[String], _: &str, pem: &[u8]) -> io::Result<()> {
        *self.ordered.lock().unwrap_or_else(PoisonError::into_inner) = Some(pem.to_vec());
        Ok(())
    }
}

#[async_trait]
impl AccountCache for Order {
    type EA = io::Error;

    async fn load_account(&self, _: &[String], _: &str) -> io::Result<Option<Vec<u8>>> {
        let store = Arc::clone(&self.store);
        run_blocking(move || store.account()).await
    }

    async fn store_account(&self, _: &[String], _: &str, key: &[u8]) -> io::Result<()> {
        let (store, key) = (Arc::clone(&self.store), key.to_vec());
        run_blocking(move || store.save_account(&key)).await
    }
}

/// The number of consecutive failed attempts.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    /// Counts a failure. Returns the delay before the next attempt, which doubles at each failure.
    fn next_delay(&mut self, cause: Cause) -> Duration {
        let (first, longest) = match cause {
            Cause::NoConnection => (2, 300),
            // Let's Encrypt allows five failed validations of a domain an hour, and five
            // certificates of the same domains a week.
            Cause::Failed => (60, 3600),
            Cause::Clock => (3600, 3600),
        };
        let delay = first << self.0.min(10);
        self.0 += 1;
        Duration::from_secs(delay).min(Duration::from_secs(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_between_attempts_doubles_up_to_a_limit_that_depends_on_the_cause() {
        let mut failures = Failures::default();
        let mut delays = |cause, count| {
            let delays = (0..count).map(|_| failures.next_delay(cause).as_secs());
            delays.collect::<Vec<_>>()
        };
        let unreachable = delays(Cause::NoConnection, 10);
        assert_eq!(unreachable, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let mut failures = Failures::default();
        let mut delays = |cause, count| {
            let delays = (0..count).map(|_| failures.next_delay(cause).as_secs());
            delays.collect::<Vec<_>>()
        };
        assert_eq!(delays(Cause::Failed, 3), [60, 120, 240]);
        // Another cause in between does not make the delay short again.
        assert_eq!(delays(Cause::NoConnection, 1), [16]);
        assert_eq!(delays(Cause::Failed, 4), [960, 1920, 3600, 3600]);
        assert_eq!(delays(Cause::Failed, 100).last(), Some(&3600));
        assert_eq!(Failures::default().next_delay(Cause::Clock), Duration::from_secs(3600));
    }

    fn certificate(days_before: i64, days_after: i64) -> Certificate {
        use rcgen::{CertificateParams, KeyPair};
        let mut params = CertificateParams::new(["chat.example".to_owned()]).expect("a name");
        let today = rcgen::date_time_ymd(2026, 1, 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let since = i64::try_from(now).expect("a time") - today.unix_timestamp();
        let now = today + Duration::from_secs(u64::try_from(since).expect("after 2026"));
        let day = Duration::from_secs(86_400);
        let days = |count: i64| day * u32::try_from(count.unsigned_abs()).expect("a few");
        params.not_before = now - days(days_before);
        params.not_after =
            if days_after < 0 { now - days(days_after) } else { now + days(days_after) };
        let key = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&key).expect("a certificate");
        let pem = format!("{}{}", key.serialize_pem(), signed.pem());
        Certificate::parse(pem.as_bytes(), &aws_lc_rs::default_provider()).expect("valid PEM")
    }

    #[test]
    fn certificate_is_renewed_after_two_thirds_of_its_validity() {
        let day = Duration::from_secs(86_400);
        let fresh = certificate(0, 90).until_renewal();
        assert!(fresh > day * 59 && fresh <= day * 60, "{fresh:?}");
        let old = certificate(45, 45).until_renewal();
        assert!(old > day * 14 && old <= day * 15, "{old:?}");
        for due in [certificate(61, 29), certificate(90, -1)] {
            assert!(due.until_renewal().is_zero());
        }
        assert!(certificate(61, 29).is_valid() && !certificate(90, -1).is_valid());
    }
}
