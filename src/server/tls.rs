//! Loads the server's certificate from files, validates it, and reloads it when the files change.
//! If a new certificate is invalid, the current one stays in use.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::rt;
use log::{error, info};
use thiserror::Error;
use tokio::time::sleep;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as RustlsError, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Config;

/// The interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);

/// Why a certificate cannot be loaded.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file has no valid certificate.
    #[error("no valid PEM certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// The file has no private key of a supported type.
    #[error("no usable PEM private key in {}", .0.display())]
    NoKey(PathBuf),
    /// The key belongs to another certificate.
    #[error(
        "the private key in {} does not match the first certificate in {}",
        key.display(),
        cert.display()
    )]
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The certificate has expired.
    #[error("the certificate in {} expired {} ago", path.display(), largest_unit(*.since))]
    Expired {
        /// The file of the certificate.
        path: PathBuf,
        /// The time since it expired.
        since: Duration,
    },
}

/// Formats a duration in its largest unit.
pub(super) fn largest_unit(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} seconds"),
        (0, 0, minutes) => format!("{minutes} minutes"),
        (0, hours, _) => format!("{hours} hours"),
        (days, ..) => format!("{days} days"),
    }
}

/// The two files of a certificate, in PEM.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The certificate chain.
    cert: PathBuf,
    key: PathBuf,
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    /// Returns the files of a configuration, if they are set.
    pub(super) fn from_config(config: &Config) -> Option<Self> {
        Some(Self { cert: config.tls_cert.clone()?, key: config.tls_key.clone()? })
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
        };
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)? })
    }

    /// Parses the certificate and its key. They must match, and the certificate must not have
    /// expired.
    fn parse(
        &self,
        contents: &Contents,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let Self { cert, key } = self;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.cert).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| TlsError::NoCertificate(cert.clone()))?;
        let (_, first) = X509Certificate::from_der(&chain[0])
            .map_err(|_| TlsError::NoCertificate(cert.clone()))?;
        let not_after = first.validity().not_after.timestamp();
        let private = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| TlsError::NoKey(key.clone()))?;
        let certified = CertifiedKey::from_der(chain.clone(), private, provider);
        let certified = certified.map_err(|error| {
            if matches!(error, RustlsError::InconsistentKeys(_)) {
                TlsError::Mismatch { cert: cert.clone(), key: key.clone() }
            } else if matches!(error, RustlsError::InvalidCertificate(_)) {
                TlsError::NoCertificate(cert.clone())
            } else {
                TlsError::NoKey(key.clone())
            }
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = Duration::from_secs(u64::try_from(not_after).unwrap_or_default());
        match now.checked_sub(end) {
            Some(since) => Err(TlsError::Expired { path: cert.clone(), since }),
            None => Ok(certified),
        }
    }
}

/// The certificate for new connections.
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn replace(&self, certified: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Loads a certificate from files and reloads it when they change, until the returned
/// configuration is dropped.
pub(super) fn server_config(files: Files) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let contents = files.read()?;
    let current = Arc::new(Current(RwLock::new(Arc::new(files.parse(&contents, &provider)?))));
    rt::spawn(watch(files, contents, Arc::downgrade(&current), Arc::clone(&provider)));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Replaces the current certificate when the files change, until the configuration is dropped.
async fn watch(
    files: Files,
    mut last: Contents,
    current: Weak<Current>,
    provider: Arc<CryptoProvider>,
) {
    let mut unreadable = false;
    loop {
        sleep(CHECK_INTERVAL).await;
        let Some(current) = current.upgrade() else { return };
        let reading = files.clone();
        let Ok(contents) = rt::task::spawn_blocking(move || reading.read()).await else { return };
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) => {
                // A file may be missing for a moment while it is replaced: report that once.
                if !std::mem::replace(&mut unreadable, true) {
                    error!("keeping the current certificate: {error}");
                }
                continue;
            }
        };
        unreadable = false;
        if contents == last {
            continue;
        }
        match files.parse(&contents, &provider) {
            Ok(certified) => {
                current.replace(certified);
                info!("reloaded the certificate in {}", files.cert.display());
            }
            // Often only one of the two files has been replaced so far.
            Err(error) => error!("keeping the current certificate: {error}"),
        }
        last = contents;
    }
}
