//! Who is behind a client.

use std::fmt;
use std::sync::LazyLock;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{ClientId, random};

/// The owner of one or more clients: all clients that sent the same key, or a single client without
/// one. For a key, it holds a hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity([u8; 16]);

/// The public form of an [`Identity`], which is sent with messages: 20 hexadecimal digits. It
/// cannot be converted back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Author([u8; 10]);

impl From<Identity> for Author {
    fn from(identity: Identity) -> Self {
        let hash =
            Sha256::new().chain_update("chinwag author\0").chain_update(identity.0).finalize();
        let mut author = [0; 10];
        author.copy_from_slice(&hash[..10]);
        Self(author)
    }
}

impl Author {
    /// Returns the hexadecimal digits.
    fn digits(self) -> [u8; 20] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut digits = [0; 20];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).expect("digits are ASCII"))
    }
}

impl Serialize for Author {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.digits()).expect("digits are ASCII"))
    }
}

/// The text cannot be a key, because its length is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a key must have 16 to 256 characters")]
pub struct BadKey;

impl Identity {
    /// Returns the identity of everyone who knows this key. A key is a secret of 16 to 256
    /// characters.
    ///
    /// # Errors
    /// Returns an error if the key is shorter than 16 characters (too easy to guess) or longer than
    /// 256.
    pub fn of_key(key: &str) -> Result<Self, BadKey> {
        if !(16..=256).contains(&key.chars().take(257).count()) {
            return Err(BadKey);
        }
        let hash = Sha256::new().chain_update("chinwag key\0").chain_update(key).finalize();
        let mut identity = [0; 16];
        identity.copy_from_slice(&hash[..16]);
        Ok(Self(identity))
    }

    /// Returns the identity of a connection that sent no key. It is unique across connections and
    /// processes.
    #[must_use]
    pub fn of_client(client: ClientId) -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(random);
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&PROCESS.to_be_bytes());
        identity[8..].copy_from_slice(&client.0.to_be_bytes());
        Self(identity)
    }

    /// Creates an identity that was read from storage.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}
