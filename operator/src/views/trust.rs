//! Whom to believe who a request is from: what the API server tells in `extension-apiserver-authentication`.

use axoneme_views::{
    front_proxy::{FrontProxy, NAME, NAMESPACE},
    server::Certificates,
};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tracing::{info, warn};

/// Follows the ConfigMap. It does not end. What can't be used changes nothing: what was believed before stays so.
pub(super) async fn keep(client: Client, certificates: Certificates) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let changes = watcher::watch_object(api, NAME).default_backoff();
    pin_mut!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(map)) => {
                let trusted = FrontProxy::parse(&map.data.unwrap_or_default());
                let trusted = trusted.and_then(|proxy| certificates.trust(proxy).map_err(|e| e.to_string()));
                match trusted {
                    Ok(()) => info!("views know the API server's front proxy"),
                    Err(why) => warn!(%why, "views can't know who a request is from"),
                }
            }
            Ok(None) => warn!("there is no ConfigMap {NAMESPACE}/{NAME}: views can't know who a request is from"),
            Err(e) => warn!(error = %e, "ConfigMap {NAMESPACE}/{NAME} can't be watched"),
        }
    }
    std::future::pending::<()>().await;
}
