//! A real cluster, by kube's dynamic client.

use std::{cell::RefCell, collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use kube::{
    Client, Config,
    api::{Api as KubeApi, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{self, ApiResource, Scope},
};
use serde_json::Value;

use super::api::{Api, ApiError, Gvk, metadata};

/// A cluster. What the API server says of kinds is asked once for each.
pub struct Cluster {
    client: Client,
    kinds: RefCell<BTreeMap<Gvk, (ApiResource, bool)>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster that a kubeconfig's current context names.
    ///
    /// # Errors
    /// The file cannot be read, or names no cluster.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, kinds: RefCell::default() })
    }

    async fn resource(&self, kind: &Gvk) -> Result<(ApiResource, bool), ApiError> {
        if let Some(known) = self.kinds.borrow().get(kind) {
            return Ok(known.clone());
        }
        let (group, version) = kind.api_version.rsplit_once('/').unwrap_or(("", &kind.api_version));
        let asked = GroupVersionKind::gvk(group, version, &kind.kind);
        let found = discovery::pinned_kind(&self.client, &asked).await;
        let (resource, capabilities) =
            found.map_err(|e| ApiError::Other(format!("retrieving API resource for {kind} failed: {e}")))?;
        let known = (resource, capabilities.scope == Scope::Namespaced);
        self.kinds.borrow_mut().insert(kind.clone(), known.clone());
        Ok(known)
    }

    async fn objects(&self, kind: &Gvk, namespace: &str) -> Result<KubeApi<DynamicObject>, ApiError> {
        let (resource, namespaced) = self.resource(kind).await?;
        Ok(if namespaced && !namespace.is_empty() {
            KubeApi::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            KubeApi::all_with(self.client.clone(), &resource)
        })
    }

    async fn of(&self, object: &Value) -> Result<KubeApi<DynamicObject>, ApiError> {
        let kind = Gvk::of(object).ok_or_else(|| ApiError::Other("no kind".to_owned()))?;
        self.objects(&kind, metadata(object, "namespace")).await
    }
}

/// What the API server says: its own words, and whether another try can end otherwise.
fn told(error: &kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) if status.code == 409 => ApiError::Conflict(status.message.clone()),
        kube::Error::Api(status) => ApiError::Other(status.message.clone()),
        other => ApiError::Other(other.to_string()),
    }
}

fn json(object: &DynamicObject) -> Result<Value, ApiError> {
    serde_json::to_value(object).map_err(|e| ApiError::Other(e.to_string()))
}

#[async_trait(?Send)]
impl Api for Cluster {
    async fn namespaced(&self, kind: &Gvk) -> Result<bool, ApiError> {
        self.resource(kind).await.map(|(_, namespaced)| namespaced)
    }

    async fn get(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let found = self.objects(kind, namespace).await?.get_opt(name).await.map_err(|e| told(&e))?;
        found.map(|object| json(&object)).transpose()
    }

    async fn list(
        &self,
        kind: &Gvk,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Value>, ApiError> {
        let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let found = self.objects(kind, namespace).await?.list(&ListParams::default().labels(&selector.join(","))).await;
        let mut objects = Vec::new();
        for mut object in found.map_err(|e| told(&e))? {
            // the items of a list do not say what they are
            object
                .types
                .get_or_insert(kube::core::TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
            objects.push(json(&object)?);
        }
        Ok(objects)
    }

    async fn create(&self, object: &Value) -> Result<(), ApiError> {
        let api = self.of(object).await?;
        let typed: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|e| ApiError::Other(format!("not an object: {e}")))?;
        api.create(&PostParams::default(), &typed).await.map(drop).map_err(|e| told(&e))
    }

    async fn merge_patch(&self, object: &Value) -> Result<(), ApiError> {
        let api = self.of(object).await?;
        let patch = Patch::Merge(object);
        api.patch(metadata(object, "name"), &PatchParams::default(), &patch).await.map(drop).map_err(|e| told(&e))
    }

    async fn delete(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<bool, ApiError> {
        match self.objects(kind, namespace).await?.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(told(&error)),
        }
    }
}
