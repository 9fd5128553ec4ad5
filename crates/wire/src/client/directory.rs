//! Where the replicas are and who the node is.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Operator replicas and how to know them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// `host:port`, the one to ask first in front.
    pub addresses: Vec<String>,
    /// PEM of the CA that signs their certificates. Empty: clear text, for tests and one-process set-ups only.
    pub ca_pem: String,
}

/// Finds operator replicas: a ConfigMap read from the API server with a copy on disk, or a fixed list.
#[async_trait::async_trait]
pub trait Directory: Send + Sync {
    async fn replicas(&self) -> io::Result<Replicas>;
}

/// A list that never changes.
#[derive(Clone, Debug)]
pub struct Fixed(pub Replicas);

#[async_trait::async_trait]
impl Directory for Fixed {
    async fn replicas(&self) -> io::Result<Replicas> {
        Ok(self.0.clone())
    }
}

/// The token that the node presents. Asked before each connect: projected tokens are rotated.
#[async_trait::async_trait]
pub trait Credentials: Send + Sync {
    async fn token(&self) -> io::Result<String>;
}

/// A projected ServiceAccount token with the audience [`crate::TOKEN_AUDIENCE`].
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(path.as_ref().to_owned())
    }
}

#[async_trait::async_trait]
impl Credentials for TokenFile {
    async fn token(&self) -> io::Result<String> {
        let token = tokio::fs::read_to_string(&self.0)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("token {}: {e}", self.0.display())))?;
        Ok(token.trim().to_owned())
    }
}

/// Annotation of the list of replicas that names the leader's `host:port`.
pub const LEADER_ANNOTATION: &str = "axoneme.io/leader";

impl Replicas {
    /// From the ConfigMaps that operators keep: `axoneme-operators` (`data`: replica → `host:port`, annotation
    /// [`LEADER_ANNOTATION`]) and `axoneme-ca` (`data`: `ca.crt`). The leader comes first.
    #[must_use]
    pub fn from_config_maps<'a>(
        operators: impl IntoIterator<Item = &'a String>,
        leader: Option<&str>,
        ca_pem: &str,
    ) -> Self {
        let mut addresses: Vec<String> = operators.into_iter().cloned().collect();
        addresses.sort_by_key(|a| Some(a.as_str()) != leader);
        Self { addresses, ca_pem: ca_pem.to_owned() }
    }
}
