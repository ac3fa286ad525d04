//! The folder with the account key and the certificate. Only the user of the server can access it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use log::error;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::AcmeError;
use crate::config::Acme;

/// The files of one account and one list of domains. Their names depend on the authority, the
/// contacts and the domains, so a certificate of the staging environment is never used in
/// production.
pub(super) struct Store {
    account: PathBuf,
    certificate: PathBuf,
}

impl Store {
    /// Creates the folder if it does not exist. Checks that it is writable, and that only this user
    /// can access it.
    pub(super) fn open(acme: &Acme) -> Result<Self, AcmeError> {
        let dir = &acme.dir;
        let failed = |source| AcmeError::Dir { path: dir.clone(), source };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(failed)?;
        let probe = dir.join("probe");
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let folder = fs::metadata(dir).map_err(failed)?;
            let mode = folder.mode() & 0o7777;
            if mode & 0o077 != 0 {
                return Err(AcmeError::OpenDir { path: dir.clone(), mode });
            }
            save(&probe, b"").map_err(failed)?;
            // Only root can write to the folder of another user.
            if fs::metadata(&probe).map_err(failed)?.uid() != folder.uid() {
                return Err(AcmeError::OpenDir { path: dir.clone(), mode });
            }
        }
        let url = acme.url.as_str();
        let contacts = acme.contacts.iter().map(|contact| contact.as_str()).collect();
        let domains = acme.domains.iter().map(|domain| domain.as_str()).collect();
        let store = Self {
            account: dir.join(format!("account-{}.der", digest(url, contacts))),
            certificate: dir.join(format!("certificate-{}.pem", digest(url, domains))),
        };
        save(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(failed)?;
        Ok(store)
    }

    /// Returns the path of the certificate.
    pub(super) fn certificate_path(&self) -> &Path {
        &self.certificate
    }

    /// Returns the certificate with its key, in PEM.
    pub(super) fn certificate(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.certificate)
    }

    pub(super) fn save_certificate(&self, pem: &[u8]) -> io::Result<()> {
        save(&self.certificate, pem)
    }

    /// Returns the account key, in PKCS #8, if there is a valid one.
    pub(super) fn account(&self) -> io::Result<Option<Vec<u8>>> {
        let key = read(&self.account)?;
        Ok(key.filter(|key| {
            let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
            let is_key = any_ecdsa_type(&der).is_ok();
            if !is_key {
                error!("{} has no valid key; creating a new account", self.account.display());
            }
            is_key
        }))
    }

    pub(super) fn save_account(&self, key: &[u8]) -> io::Result<()> {
        save(&self.account, key)
    }
}

/// Derives a part of a file name from the URL of an authority and a list, whose order does not
/// matter.
fn digest<'a>(url: &'a str, mut list: Vec<&'a str>) -> String {
    list.sort_unstable();
    let mut digest = Sha256::new();
    for text in std::iter::once(url).chain(list) {
        digest.update(text);
        digest.update([0]);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file. Returns `None` if it does not exist.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file atomically. Only its owner can read it.
fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // The process id prevents a conflict with another server that uses the same folder.
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DirectoryUrl, DomainName};

    fn acme(dir: PathBuf) -> Acme {
        let domain: DomainName = "chat.example".parse().expect("a domain");
        let mut acme = Acme::new(vec![domain]);
        acme.dir = dir;
        acme
    }

    #[cfg(unix)]
    #[test]
    fn files_are_readable_only_by_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("a/keys");
        let store = Store::open(&acme(dir.clone())).expect("a new folder");
        store.save_certificate(b"pem").expect("space");
        store.save_account(b"der").expect("space");
        assert_eq!(store.certificate().expect("readable").as_deref(), Some(&b"pem"[..]));
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        let mut modes: Vec<_> = fs::read_dir(&dir)
            .expect("a folder")
            .map(|entry| mode(&entry.expect("an entry").path()))
            .collect();
        modes.push(mode(&dir));
        assert_eq!(modes, [0o600, 0o600, 0o700]);
        let open = fs::Permissions::from_mode(0o750);
        fs::set_permissions(&dir, open).expect("our own folder");
        let error = Store::open(&acme(dir)).err().expect("an error").to_string();
        assert!(error.contains("(mode 750)"), "{error}");
    }

    #[test]
    fn names_of_files_depend_on_the_authority_and_the_domains() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut acme = acme(folder.path().join("keys"));
        let first = Store::open(&acme).expect("a folder");
        acme.domains.push("alt.example".parse().expect("a domain"));
        let second = Store::open(&acme).expect("a folder");
        acme.domains.reverse();
        let reversed = Store::open(&acme).expect("a folder");
        assert_eq!(second.certificate, reversed.certificate);
        acme.url = DirectoryUrl::lets_encrypt_staging();
        let third = Store::open(&acme).expect("a folder");
        assert_eq!(first.account, second.account);
        assert_ne!(first.certificate, second.certificate);
        assert_ne!(second.account, third.account);
        assert_ne!(second.certificate, third.certificate);
    }

    #[test]
    fn damaged_account_key_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&acme(folder.path().join("keys"))).expect("a folder");
        assert_eq!(store.account().expect("readable"), None);
        store.save_account(b"damaged").expect("space");
        assert_eq!(store.account().expect("readable"), None);
    }
}
