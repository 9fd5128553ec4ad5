//! Where the operator is: two ConfigMaps of its namespace, with a copy on disk for when the API server is away.
//!
//! What is in them: see [`Replicas::from_config_maps`].

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axoneme_runtime::apiserver::{self, Sources};
use axoneme_wire::client::{Directory, LEADER_ANNOTATION, Replicas};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::store;

/// ConfigMap with the replicas' addresses.
pub const OPERATORS: &str = "axoneme-operators";
/// ConfigMap with their certificate authority.
pub const AUTHORITY: &str = "axoneme-ca";
const CA: &str = "ca.crt";
/// An API server that is there answers in milliseconds; one that is not must not hold up the copy on disk.
const PATIENCE: Duration = Duration::from_secs(3);

/// How the API server is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    pub sources: Sources,
    pub namespace: String,
    pub token_dir: PathBuf,
    /// The copy.
    pub cache: PathBuf,
    /// Where the API server's address is told to the operator on this node.
    pub publish: PathBuf,
}

/// [`Directory`] by the API server.
#[expect(missing_debug_implementations, reason = "kube's client is not Debug")]
pub struct Cluster {
    settings: Settings,
    client: Mutex<Option<Client>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Copy {
    addresses: Vec<String>,
    ca_pem: String,
}

impl Cluster {
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: Mutex::new(None) }
    }

    async fn ask(&self) -> io::Result<Replicas> {
        let client = self.client().await?;
        let api: Api<ConfigMap> = Api::namespaced(client, &self.settings.namespace);
        let (operators, authority) =
            tokio::time::timeout(PATIENCE, async { tokio::try_join!(api.get(OPERATORS), api.get(AUTHORITY)) })
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the API server does not answer"))?
                .map_err(io::Error::other)?;
        let ca_pem = authority
            .data
            .and_then(|mut d| d.remove(CA))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("ConfigMap {AUTHORITY} has no {CA}")))?;
        Ok(replicas(operators, &ca_pem))
    }

    async fn client(&self) -> io::Result<Client> {
        let mut held = self.client.lock().await;
        if let Some(client) = &*held {
            return Ok(client.clone());
        }
        let sources = self.settings.sources.clone();
        let url = tokio::task::spawn_blocking(move || apiserver::find(&sources, PATIENCE))
            .await?
            .map_err(io::Error::other)?;
        if let Err(error) = apiserver::publish(&self.settings.publish, &url) {
            tracing::warn!(%error, path = %self.settings.publish.display(), "the API server's address is not told to the operator on this node");
        }
        let client = client(&url, &self.settings.token_dir).await?;
        *held = Some(client.clone());
        Ok(client)
    }
}

fn replicas(operators: ConfigMap, ca_pem: &str) -> Replicas {
    let leader = operators.metadata.annotations.and_then(|mut a| a.remove(LEADER_ANNOTATION));
    Replicas::from_config_maps(operators.data.unwrap_or_default().values(), leader.as_deref(), ca_pem)
}

/// Certificate and token are read from their files, the token anew when it is rotated.
async fn client(url: &str, token_dir: &Path) -> io::Result<Client> {
    let kubeconfig = serde_json::json!({
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": token_dir.join(CA)}}],
        "users": [{"name": "u", "user": {"tokenFile": token_dir.join("token")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).map_err(io::Error::other)?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(io::Error::other)?;
    config.read_timeout = Some(PATIENCE);
    config.connect_timeout = Some(PATIENCE);
    Client::try_from(config).map_err(io::Error::other)
}

fn save(path: &Path, replicas: &Replicas) {
    let copy = Copy { addresses: replicas.addresses.clone(), ca_pem: replicas.ca_pem.clone() };
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|e| e.to_string()).and_then(|()| {
        let bytes = serde_json::to_vec(&copy).map_err(|e| e.to_string())?;
        if std::fs::read(path).ok().as_deref() == Some(&bytes) {
            return Ok(());
        }
        store::replace_file(path, &bytes, 0o600).map_err(|e| e.to_string())
    });
    if let Err(error) = written {
        tracing::warn!(error, "where the operator is was not kept on disk");
    }
}

fn restore(path: &Path) -> Option<Replicas> {
    let copy: Copy = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(Replicas { addresses: copy.addresses, ca_pem: copy.ca_pem })
}

#[async_trait::async_trait]
impl Directory for Cluster {
    async fn replicas(&self) -> io::Result<Replicas> {
        match self.ask().await {
            Ok(replicas) => {
                save(&self.settings.cache, &replicas);
                Ok(replicas)
            }
            Err(error) => {
                // a new client next time: the API server may have moved
                *self.client.lock().await = None;
                match restore(&self.settings.cache) {
                    Some(replicas) => {
                        tracing::debug!(%error, "asking the operators that were known last");
                        Ok(replicas)
                    }
                    None => Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_leader_is_asked_first() {
        let data =
            BTreeMap::from([("a".to_owned(), "10.0.0.1:1".to_owned()), ("b".to_owned(), "10.0.0.2:1".to_owned())]);
        let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        map.metadata.annotations = Some(BTreeMap::from([(LEADER_ANNOTATION.to_owned(), "10.0.0.2:1".to_owned())]));
        assert_eq!(replicas(map, "PEM").addresses, ["10.0.0.2:1", "10.0.0.1:1"]);
        assert!(replicas(ConfigMap::default(), "PEM").addresses.is_empty());
    }

    #[test]
    fn the_copy_on_disk_is_what_was_known_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/operators.json");
        assert_eq!(restore(&path), None);
        let replicas = Replicas { addresses: vec!["a:1".into()], ca_pem: "PEM".into() };
        save(&path, &replicas);
        assert_eq!(restore(&path), Some(replicas));
    }
}
