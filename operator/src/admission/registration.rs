//! Tells the API server which authority signs the webhooks' certificates.
//!
//! The configuration itself is a manifest: the operator may read and patch that one object and create none, so that who
//! deletes it is rid of the webhooks. Until the authority stands in it the API server can't call, and admits.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{LOOK, SERVICE};
use crate::lease::LeaseHold;

/// Name of the ValidatingWebhookConfiguration.
pub const NAME: &str = "axoneme";
/// Less than a write may take under the Lease.
const DEADLINE: Duration = Duration::from_secs(3);

/// Keeps the authority in the configuration, while this replica leads.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Registration {
    pub client: Client,
    pub namespace: String,
    pub hold: LeaseHold,
    /// What to trust, PEM.
    pub bundle: watch::Receiver<String>,
    /// Whether this replica has read the cluster.
    pub ready: watch::Receiver<bool>,
}

impl Registration {
    #[must_use]
    pub fn new(
        client: &Client,
        namespace: &str,
        hold: &LeaseHold,
        bundle: watch::Receiver<String>,
        ready: watch::Receiver<bool>,
    ) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned(), hold: hold.clone(), bundle, ready }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            if *self.ready.borrow_and_update()
                && self.hold.is_sure()
                && let Err(e) = self.look().await
            {
                warn!(error = format!("{e:#}"), "webhooks can't be registered yet: objects are admitted unseen");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = self.bundle.changed() => {}
                Ok(()) = self.ready.changed() => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Writes what is wrong in the configuration, if anything is.
    pub async fn look(&mut self) -> anyhow::Result<()> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let about = || format!("ValidatingWebhookConfiguration {NAME}");
        let now = tokio::time::timeout(DEADLINE, api.get_opt(NAME)).await.with_context(about)?.with_context(about)?;
        let Some(now) = now else {
            debug!("no ValidatingWebhookConfiguration {NAME}: the webhooks are not wanted");
            return Ok(());
        };
        let bundle = self.bundle.borrow_and_update().clone();
        let Some(patch) = patch(&now, &self.namespace, &bundle) else { return Ok(()) };
        // asked last: this replica may have stood still
        if !self.hold.is_sure() {
            return Ok(());
        }
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        match tokio::time::timeout(DEADLINE, api.patch(NAME, &params, &patch)).await.with_context(about)? {
            Ok(_) => info!("webhooks registered"),
            // somebody was faster: the next look finds what they left
            Err(kube::Error::Api(s)) if s.code == 409 => {}
            Err(e) => return Err(e).with_context(about),
        }
        Ok(())
    }
}

/// What to change: webhooks that lead to the operator's Service and trust something else. Onto the version that was
/// read, since a webhook that was taken out meanwhile must not come back by its name.
fn patch(now: &ValidatingWebhookConfiguration, namespace: &str, bundle: &str) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let wrong = now.webhooks.iter().flatten().filter(|w| {
        let service = w.client_config.service.as_ref();
        service.is_some_and(|s| s.name == SERVICE && s.namespace == namespace)
            && w.client_config.ca_bundle.as_ref() != Some(&wanted)
    });
    let wrong: Vec<Value> = wrong.map(|w| json!({"name": w.name, "clientConfig": {"caBundle": wanted}})).collect();
    let version = &now.metadata.resource_version;
    (!wrong.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": wrong}))
}
