//! Leads the API server to the replica that answers, and away when none does.
//!
//! The Service `axoneme-views` is a manifest without a selector: the switch for all of this. While it is there, the Lease
//! holder that has read the cluster writes itself into the Service's EndpointSlice and registers the APIService. So all
//! API servers ask one replica: versions and pages go on, and the one asked is the one that nodes tell what they have in
//! force. Another replica that takes the Lease takes the place over, some seconds after the first is lost.
//!
//! An APIService that nobody answers for makes discovery fail, and namespaces are not deleted while discovery fails
//! (`namespaced_resources_deleter.go`, `deleteAllContent`). So it is no manifest, and whoever leads takes it off when it
//! ends in order, when it has no views to show, and when the Service is gone.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use axoneme_views::{GROUP, VERSION, server::Certificates};
use k8s_openapi::{
    ByteString, api::core::v1::Service, api::discovery::v1::EndpointSlice,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::LOOK;
use crate::lease::LeaseHold;

/// The Service that the APIService names, and its EndpointSlice.
pub const SERVICE: &str = "axoneme-views";
/// Name of its port.
const PORT: &str = "views";
const FIELD_MANAGER: &str = "axoneme-operator";
/// Less than a write may take under the Lease.
const DEADLINE: Duration = Duration::from_secs(3);
/// Until the front proxy is known, and after the Lease changed hands, it is looked more often.
const SOON: Duration = Duration::from_secs(1);

/// Where this replica answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub port: u16,
}

/// Keeps the registration, while this replica leads.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Registration {
    pub client: Client,
    pub namespace: String,
    /// None: it could not begin to serve.
    pub place: Option<(Place, Certificates)>,
    pub hold: LeaseHold,
    /// What to trust, PEM.
    pub bundle: watch::Receiver<String>,
    /// Whether this replica has read the cluster.
    pub ready: watch::Receiver<bool>,
}

impl Registration {
    /// Runs until cancelled; then takes the APIService off, if this replica led.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut led = false;
        loop {
            let leads = self.hold.is_sure();
            let (bundle, is_ready) = (self.bundle.borrow_and_update().clone(), *self.ready.borrow_and_update());
            let may = is_ready && self.place.as_ref().is_none_or(|(_, c)| c.is_trusting());
            if leads
                && may
                && let Err(e) = self.look(&bundle).await
            {
                warn!(error = format!("{e:#}"), "views can't be registered yet");
            }
            let pause = if may && leads == led { LOOK } else { SOON };
            led = leads;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = turned(&self.hold, leads) => {}
                Ok(()) = self.bundle.changed() => {}
                Ok(()) = self.ready.changed() => {}
                () = cancel.cancelled() => break,
            }
        }
        // the Lease is being given back by now: whoever takes it registers anew
        if led && let Err(e) = self.withdraw().await {
            warn!(
                error = format!("{e:#}"),
                "APIService {} can't be taken off: namespaces are not deleted while it is \
                there and no operator is: kubectl delete apiservice {}",
                name(),
                name()
            );
        }
    }

    /// Writes what is wrong, if anything is.
    pub async fn look(&self, bundle: &str) -> anyhow::Result<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = || format!("Service {SERVICE}");
        let service = tokio::time::timeout(DEADLINE, services.get_opt(SERVICE)).await.with_context(about)?;
        if service.with_context(about)?.is_none() {
            debug!("no Service {SERVICE}: views are not wanted");
            return self.withdraw().await;
        }
        let Some((place, _)) = &self.place else { return self.withdraw().await };
        self.put_slice(*place).await?;
        self.put_service(bundle).await
    }

    async fn put_slice(&self, place: Place) -> anyhow::Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = || format!("EndpointSlice {SERVICE}");
        let now =
            tokio::time::timeout(DEADLINE, api.get_opt(SERVICE)).await.with_context(about)?.with_context(about)?;
        let wanted = endpoint_slice(&self.namespace, place);
        let is_so = now.as_ref().is_some_and(|n| serde_json::to_value(n).is_ok_and(|n| holds(&n, &wanted)));
        // asked last: this replica may have stood still
        if is_so || !self.hold.is_sure() {
            return Ok(());
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let done = tokio::time::timeout(DEADLINE, api.patch(SERVICE, &params, &Patch::Apply(wanted))).await;
        done.with_context(about)?.with_context(about)?;
        info!(address = %place.address, "views are asked of this replica");
        Ok(())
    }

    async fn put_service(&self, bundle: &str) -> anyhow::Result<()> {
        let api: Api<APIService> = Api::all(self.client.clone());
        let (name, about) = (name(), || format!("APIService {}", name()));
        let now = tokio::time::timeout(DEADLINE, api.get_opt(&name)).await.with_context(about)?.with_context(about)?;
        let wanted = api_service(&self.namespace, bundle);
        let is_so = now.as_ref().is_some_and(|n| serde_json::to_value(n).is_ok_and(|n| holds(&n, &wanted)));
        if is_so || !self.hold.is_sure() {
            return Ok(());
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let done = tokio::time::timeout(DEADLINE, api.patch(&name, &params, &Patch::Apply(wanted))).await;
        done.with_context(about)?.with_context(about)?;
        info!("views registered");
        Ok(())
    }

    /// Takes the APIService off, if it is there and leads to our Service.
    pub async fn withdraw(&self) -> anyhow::Result<()> {
        let api: Api<APIService> = Api::all(self.client.clone());
        let (name, about) = (name(), || format!("APIService {}", name()));
        let now = tokio::time::timeout(DEADLINE, api.get_opt(&name)).await.with_context(about)?.with_context(about)?;
        let ours = now.filter(|n| {
            let service = n.spec.as_ref().and_then(|s| s.service.as_ref());
            service.is_some_and(|s| {
                s.name.as_deref() == Some(SERVICE) && s.namespace.as_deref() == Some(self.namespace.as_str())
            })
        });
        let Some(ours) = ours else { return Ok(()) };
        // one that somebody else has written since is not ours to take off
        let only = Preconditions { uid: ours.metadata.uid, resource_version: ours.metadata.resource_version };
        let params = DeleteParams::default().preconditions(only);
        match tokio::time::timeout(DEADLINE, api.delete(&name, &params)).await.with_context(about)? {
            Ok(_) => info!("views taken off"),
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => {}
            Err(e) => return Err(e).with_context(about),
        }
        Ok(())
    }
}

/// Until the Lease is won or lost.
async fn turned(hold: &LeaseHold, leads: bool) {
    while hold.is_sure() == leads {
        tokio::time::sleep(SOON).await;
    }
}

fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

/// The APIService.
#[must_use]
pub fn api_service(namespace: &str, bundle: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name(), "labels": {"app.kubernetes.io/part-of": "axoneme"}},
        "spec": {
            "group": GROUP, "version": VERSION,
            // behind everything of Kubernetes' own: `kubectl get nodes` and `get endpoints` mean what they always did
            "groupPriorityMinimum": 100, "versionPriority": 10,
            "service": {"namespace": namespace, "name": SERVICE, "port": 443},
            "caBundle": ByteString(bundle.as_bytes().to_vec()),
        },
    })
}

/// The EndpointSlice with this replica, and no other.
#[must_use]
pub fn endpoint_slice(namespace: &str, place: Place) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": SERVICE, "namespace": namespace, "labels": {
            "app.kubernetes.io/part-of": "axoneme",
            "kubernetes.io/service-name": SERVICE,
            "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER,
        }},
        "addressType": if place.address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [place.address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": PORT, "port": place.port, "protocol": "TCP"}],
    })
}

/// Whether an object is as wanted; what the API server added doesn't count.
fn holds(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => wanted
            .iter()
            .all(|(k, w)| matches!(k.as_str(), "apiVersion" | "kind") || now.get(k).is_some_and(|n| holds(n, w))),
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(n, w)| holds(n, w))
        }
        _ => now == wanted,
    }
}
