//! The client of the API server, and what must be there before the first watch.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use axoneme_model::Kind;
use axoneme_runtime::apiserver::{Sources, find};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
};
use serde_json::Value;
use tracing::{info, warn};

use crate::{options::Options, source::kube::resource};

/// How long one address of the API server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to find the API server at start.
const PAUSE: Duration = Duration::from_secs(1);
/// Watches, writes and reviews together stay far below; a larger number would only hide a loop.
const FIELD_MANAGER: &str = "axoneme-operator";

/// A client, however the API server is to be found.
pub async fn client(options: &Options) -> anyhow::Result<Client> {
    let config = match &options.kubeconfig {
        Some(path) => from_file(path).await?,
        None => in_cluster(options).await?,
    };
    info!(server = %config.cluster_url, "API server");
    Client::try_from(config).context("client of the API server")
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("kubeconfig {}", path.display()))
}

/// On the host network the service address of the API server doesn't answer before the agent of the node runs, and that
/// agent may wait for this operator: so the address comes from elsewhere, and is looked for until it is found.
async fn in_cluster(options: &Options) -> anyhow::Result<Config> {
    let mut config = Config::incluster_env().context("not in a pod: name a --kubeconfig")?;
    let sources = Sources {
        named: options.apiserver.clone(),
        published: Some(options.apiserver_file.clone()),
        host_root: None,
        in_cluster: options.service_host.clone().zip(options.service_port.clone()),
    };
    let url = loop {
        let sources = sources.clone();
        match tokio::task::spawn_blocking(move || find(&sources, PATIENCE)).await? {
            Ok(url) => break url,
            Err(e) => warn!(error = %e, "looking for the API server"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    config.cluster_url = url.parse().with_context(|| format!("URL {url} of the API server"))?;
    // its certificate is good for the service's name, whatever address it is reached by
    config.tls_server_name = Some("kubernetes.default.svc".into());
    Ok(config)
}

/// Creates the kinds that are missing, and brings those up to date that this operator created.
pub async fn install_kinds(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for mut wanted in axoneme_crds::all_crds() {
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let labels = wanted.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".into(), "axoneme".into());
        let context = || format!("CustomResourceDefinition {name}");
        let Some(now) = api.get_opt(&name).await.with_context(context)? else {
            match api.create(&PostParams::default(), &wanted).await {
                Ok(_) => info!(%name, "kind created"),
                Err(kube::Error::Api(s)) if s.code == 409 => {}
                Err(e) => return Err(e).with_context(context),
            }
            continue;
        };
        let ours = now.metadata.labels.as_ref().and_then(|l| l.get("app.kubernetes.io/part-of"));
        if ours.is_none_or(|o| o != "axoneme") {
            info!(%name, "kind is there already and not ours: left as it is");
            continue;
        }
        if differs(&wanted, &now) {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            api.patch(&name, &params, &Patch::Apply(&wanted)).await.with_context(context)?;
            info!(%name, "kind brought up to date");
        }
    }
    Ok(())
}

/// Waits until the API server serves the kinds that it has definitions of: only then does an unknown kind mean that
/// there is none, rather than that there is none yet.
pub async fn kinds_served(client: &Client) -> anyhow::Result<()> {
    for kind in OWN_KINDS {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => {}
            Err(e) => return Err(e).with_context(|| format!("kind {}", kind.as_str())),
        }
    }
    Ok(())
}

/// Kinds that this operator brings.
const OWN_KINDS: [Kind; 9] = [
    Kind::AxonemeConfig,
    Kind::CiliumCIDRGroup,
    Kind::CiliumClusterwideNetworkPolicy,
    Kind::CiliumIdentity,
    Kind::CiliumNetworkPolicy,
    Kind::CiliumNode,
    Kind::CiliumNodeConfig,
    Kind::CiliumPodIPPool,
    Kind::ClusterNetworkPolicy,
];

/// Whether something that is wanted is not so. What the API server added doesn't count.
fn differs(wanted: &CustomResourceDefinition, now: &CustomResourceDefinition) -> bool {
    match (serde_json::to_value(&wanted.spec), serde_json::to_value(&now.spec)) {
        (Ok(wanted), Ok(now)) => !holds(&now, &wanted),
        _ => true,
    }
}

fn holds(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            wanted.iter().all(|(k, w)| now.get(k).map_or(w.is_null(), |n| holds(n, w)))
        }
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(n, w)| holds(n, w))
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => now == wanted,
    }
}

/// Creates the AxonemeConfig of the directory where there is none.
pub async fn install_config(client: &Client, dir: &Path) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(Kind::AxonemeConfig));
    for (path, text) in crate::source::directory::read(dir) {
        let context = || format!("AxonemeConfig in {}", path.display());
        let text = text.map_err(anyhow::Error::msg).with_context(context)?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(context)?;
        for d in documents.into_iter().filter(|d| d.get("kind").is_some_and(|k| k == "AxonemeConfig")) {
            let object: DynamicObject = serde_json::from_value(d).with_context(context)?;
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => info!("AxonemeConfig created"),
                Err(kube::Error::Api(s)) if s.code == 409 => {}
                Err(e) => return Err(e).with_context(context),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_adds_is_no_difference() {
        let wanted = json!({"a": [{"x": 1}], "b": null});
        assert!(holds(&json!({"a": [{"x": 1.0, "default": true}], "status": {}}), &wanted));
        assert!(!holds(&json!({"a": [{"x": 2}]}), &wanted));
        assert!(!holds(&json!({"a": [{"x": 1}, {"x": 1}]}), &wanted));
    }
}
