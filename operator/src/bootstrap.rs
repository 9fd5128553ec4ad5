//! What has to be in the API before the operator can work: its kinds, and one AxonemeConfig.
//!
//! One `kubectl apply -k` can't create a kind and an object of that kind, since the kind isn't served yet. So the
//! operator applies its own kinds, and seeds the AxonemeConfig from a file (a mounted ConfigMap) where there is none. It
//! never changes an AxonemeConfig that exists: that is the user's.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use axoneme_crds::{all_crds, axoneme_config::AxonemeConfig};
use futures::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{conditions, wait::await_condition},
};

/// The field manager of what is applied here.
const MANAGER: &str = "axoneme-operator";
/// An API server answers for a new kind within a second or two.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// Applies all kinds and waits until they are served.
///
/// # Errors
/// Which kind, and what the API server said.
pub async fn install_kinds(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    try_join_all(all_crds().into_iter().map(|crd| install(api.clone(), crd))).await.map(drop)
}

async fn install(api: Api<CustomResourceDefinition>, crd: CustomResourceDefinition) -> Result<()> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&crd)).await.with_context(|| format!("apply kind {name}"))?;
    let served = await_condition(api, &name, conditions::is_crd_established());
    tokio::time::timeout(ESTABLISHED, served)
        .await
        .with_context(|| format!("kind {name} is not served after {ESTABLISHED:?}"))?
        .with_context(|| format!("wait for kind {name}"))?;
    Ok(())
}

/// Creates the AxonemeConfig of the file if the cluster has none. Whether it did.
///
/// # Errors
/// A file that is there and can't be read as an AxonemeConfig, with the field; or what the API server said.
pub async fn seed_config(client: &Client, file: &Path) -> Result<bool> {
    let api: Api<AxonemeConfig> = Api::all(client.clone());
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!(file = %file.display(), "no AxonemeConfig to seed from: the cluster's own, or the defaults, hold");
            return Ok(false);
        }
        Err(e) => return Err(e).with_context(|| format!("read {}", file.display())),
    };
    let config = read_config(&text).with_context(|| file.display().to_string())?;
    let name = config.metadata.name.clone().unwrap_or_default();
    if api.get_opt(&name).await.context("read AxonemeConfig")?.is_some() {
        return Ok(false);
    }
    match api.create(&PostParams::default(), &config).await {
        Ok(_) => Ok(true),
        // another replica was faster
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(false),
        Err(e) => Err(e).with_context(|| format!("create AxonemeConfig {name}")),
    }
}

/// The AxonemeConfig of a YAML text; unknown and removed settings are refused with their new names.
fn read_config(text: &str) -> Result<AxonemeConfig> {
    let value: serde_json::Value = serde_saphyr::from_str(text).context("not YAML")?;
    let unknown: Vec<String> =
        axoneme_crds::axoneme_config::validate_unknown(&value).iter().map(ToString::to_string).collect();
    anyhow::ensure!(unknown.is_empty(), "{}", unknown.join("; "));
    axoneme_crds::parse(value).map_err(|e| anyhow::anyhow!("{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_with_a_removed_setting_is_refused_by_its_new_name() {
        let text =
            "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default}\nspec: {tunnel: vxlan}\n";
        let error = format!("{:#}", read_config(text).unwrap_err());
        assert!(error.contains("spec.tunnel") && error.contains("spec.routing.mode"), "{error}");
    }

    #[test]
    fn seed_is_read_with_its_settings() {
        let text = "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default}\nspec: {routing: {mode: Native}}\n";
        let config = read_config(text).unwrap();
        assert_eq!(config.metadata.name.as_deref(), Some("default"));
        assert_eq!(
            serde_json::to_value(&config).unwrap().pointer("/spec/routing/mode"),
            Some(&serde_json::json!("Native"))
        );
    }
}
