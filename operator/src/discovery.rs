//! The list of replicas that agents read: one ConfigMap, a key for each replica, its value `host:port`.

use std::{collections::BTreeMap, time::Duration};

use axoneme_wire::server::Leadership;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{net::TcpStream, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use axoneme_wire::client::LEADER_ANNOTATION;

use crate::lease::LeaseHold;

/// Name of the ConfigMap in the operator's namespace.
pub const NAME: &str = "axoneme-operators";
/// How often the leader looks whether others answer, how long it waits, and after how many failures one is crossed out.
const LOOK: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);
const FAILURES: u32 = 3;
/// A write takes no longer, so that it ends before anyone else can hold the Lease: see [`LeaseHold`].
const DEADLINE: Duration = Duration::from_secs(3);

/// This replica's entry.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Entry {
    pub client: Client,
    pub namespace: String,
    pub name: String,
    pub address: String,
    /// Only while it is sure does this replica say that it leads.
    pub hold: LeaseHold,
}

/// Keeps the entry until cancelled, and takes it back then. The leader says that it leads and crosses out replicas that
/// don't answer any more. Nothing is written that is there already.
pub async fn run(entry: Entry, mut leadership: watch::Receiver<Leadership>, cancel: CancellationToken) {
    let mut failures = BTreeMap::new();
    loop {
        let leading = *leadership.borrow_and_update() == Leadership::Me;
        if let Err(e) = entry.keep(leading, &mut failures).await {
            warn!(error = %e, "the list of replicas can't be kept");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            Ok(()) = leadership.changed() => {}
            () = cancel.cancelled() => break,
        }
    }
    let gone = json!({"data": {(entry.name.clone()): null}});
    let patch = Patch::Merge(gone);
    let api = entry.api();
    let params = PatchParams::default();
    let _ = tokio::time::timeout(PATIENCE, api.patch(NAME, &params, &patch)).await;
}

impl Entry {
    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn keep(&self, leading: bool, failures: &mut BTreeMap<String, u32>) -> Result<(), kube::Error> {
        let Some(map) = self.api().get_opt(NAME).await? else {
            return self.create(leading).await;
        };
        let data = map.data.unwrap_or_default();
        let mut changes = serde_json::Map::new();
        if data.get(&self.name) != Some(&self.address) {
            changes.insert(self.name.clone(), self.address.clone().into());
        }
        let mut body = json!({});
        if leading {
            for name in self.dead(&data, failures).await {
                info!(replica = %name, "replica does not answer any more, crossed out");
                changes.insert(name, serde_json::Value::Null);
            }
            let said = map.metadata.annotations.as_ref().and_then(|a| a.get(LEADER_ANNOTATION));
            if said != Some(&self.address) {
                body = json!({"metadata": {"annotations": {LEADER_ANNOTATION: self.address}}});
            }
        }
        if let Some(b) = body.as_object_mut().filter(|_| !changes.is_empty()) {
            b.insert("data".into(), changes.into());
        }
        if body.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(());
        }
        // asked last: this replica may have stood still since it was told that it leads
        if leading && !self.hold.is_sure() {
            return Ok(());
        }
        let (api, params, patch) = (self.api(), PatchParams::default(), Patch::Merge(body));
        match tokio::time::timeout(DEADLINE, api.patch(NAME, &params, &patch)).await {
            Ok(written) => written.map(drop),
            // tried again at the next look
            Err(_) => Ok(()),
        }
    }

    async fn create(&self, leading: bool) -> Result<(), kube::Error> {
        let annotations = leading.then(|| [(LEADER_ANNOTATION.to_owned(), self.address.clone())].into());
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(NAME.into()), annotations, ..ObjectMeta::default() },
            data: Some([(self.name.clone(), self.address.clone())].into()),
            ..ConfigMap::default()
        };
        match self.api().create(&PostParams::default(), &map).await {
            Ok(_) => Ok(()),
            // the next look adds this replica
            Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn dead(&self, data: &BTreeMap<String, String>, failures: &mut BTreeMap<String, u32>) -> Vec<String> {
        failures.retain(|name, _| data.contains_key(name));
        let mut dead = Vec::new();
        for (name, address) in data.iter().filter(|(n, _)| **n != self.name) {
            let answer = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
            if matches!(answer, Ok(Ok(_))) {
                failures.remove(name);
                continue;
            }
            let count = failures.entry(name.clone()).or_default();
            *count += 1;
            if *count >= FAILURES {
                dead.push(name.clone());
            }
        }
        dead
    }
}
