//! What a message survives once it is committed.

use serde::Serialize;
use strum::IntoStaticStr;

/// What a committed message survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(tag = "level", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// It is in the memory of the server. A restart loses it.
    #[default]
    Memory,
    /// It is in a file that may not be synced yet. It survives a crash of the server. A power
    /// failure may lose it.
    File,
    /// It is in a file that is synced to disk. It also survives a power failure.
    Disk,
    /// It is in a stream that several nodes share. What it survives depends on the servers that
    /// store the stream.
    Stream {
        /// The number of servers that are configured to store it. `None` if it is not known yet.
        #[serde(skip_serializing_if = "Option::is_none")]
        replicas: Option<usize>,
    },
}

impl Durability {
    /// Returns the name of the level.
    #[must_use]
    pub fn level(self) -> &'static str {
        self.into()
    }

    /// Returns the number of servers that store the stream. `None` if there is no stream, or if the
    /// number is not known.
    #[must_use]
    pub fn replicas(self) -> Option<usize> {
        match self {
            Self::Memory | Self::File | Self::Disk => None,
            Self::Stream { replicas } => replicas,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_the_same_in_json_and_in_metrics() {
        let all = [
            (Durability::Memory, r#"{"level":"memory"}"#),
            (Durability::File, r#"{"level":"file"}"#),
            (Durability::Disk, r#"{"level":"disk"}"#),
            (Durability::Stream { replicas: None }, r#"{"level":"stream"}"#),
            (Durability::Stream { replicas: Some(3) }, r#"{"level":"stream","replicas":3}"#),
        ];
        for (durability, json) in all {
            let found = serde_json::to_value(durability).expect("an object");
            assert_eq!(found.to_string(), json);
            assert_eq!(found["level"], durability.level());
        }
    }
}
