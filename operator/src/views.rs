//! The aggregated API in the operator: `views.axoneme.io/v1alpha1`. See docs/views.md.
//!
//! ```text
//!   Loop ──after every flush──▶ Follow ──▶ Shelf ◀── axoneme_views::Server ◀──TLS── API server   (the Lease holder's)
//!   pki::Keeper ──certificate──▶ Server                    Registration ──▶ EndpointSlice, APIService (the Lease holder)
//!   extension-apiserver-authentication ──▶ trust ──▶ Server
//! ```
//!
//! *Guarantees*: the APIService is there only while a replica leads that has read the cluster, and is taken off by one
//! that ends in order: an APIService that nobody answers for would keep namespaces from being deleted. Nothing else of
//! the operator waits for any of this. *Caveats*: a leader that is lost with its machine takes nothing off; the next one
//! answers in its place as soon as it leads.

mod follow;
mod oracle;
mod registration;
mod trust;

use std::{sync::Arc, time::Duration};

use axoneme_views::{
    Shelf,
    server::{Answered, Certificates, Limits, Server},
};
use axoneme_wire::server::Tls;
use kube::Client;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::{
    follow::Follow,
    oracle::Oracle,
    registration::{Place, Registration, SERVICE, api_service, endpoint_slice},
};
use crate::metrics::Metrics;

/// Port of the host that the API server is led to.
pub const DEFAULT_PORT: u16 = 4252;
/// Between two looks at what the API server has been told.
const LOOK: Duration = Duration::from_secs(15);

/// The name by which the API server knows the views, and which their certificate must hold.
#[must_use]
pub fn server_name(namespace: &str) -> String {
    format!("{SERVICE}.{namespace}.svc")
}

/// What a server of views needs.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Serving {
    pub client: Client,
    pub shelf: Arc<Shelf>,
    pub certificates: Certificates,
    pub tls: watch::Receiver<Tls>,
    pub metrics: Arc<Metrics>,
}

/// The certificate as it is now, and whoever signs requests as soon as it is known.
pub fn certificates(tls: &watch::Receiver<Tls>) -> Result<Certificates, axoneme_views::server::BadCertificate> {
    let Tls { certificate_pem, key_pem } = tls.borrow().clone();
    Certificates::new(&certificate_pem, &key_pem)
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, serving: Serving, cancel: CancellationToken) {
    let Serving { client, shelf, certificates, mut tls, metrics } = serving;
    let told = move |a: &Answered<'_>| metrics.viewed(a.resource, a.verb, a.status.as_u16(), a.took);
    let access = Arc::new(Oracle::new(client.clone()));
    let server = Server::new(shelf, access, Limits::default(), told);
    let shown = certificates.clone();
    let exchange = async move {
        while tls.changed().await.is_ok() {
            let Tls { certificate_pem, key_pem } = tls.borrow_and_update().clone();
            match shown.replace(&certificate_pem, &key_pem) {
                Ok(()) => info!("views get the new certificate"),
                Err(e) => warn!(error = %e, "the certificate before stays"),
            }
        }
        // nobody makes certificates any more: the last one stays
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server.serve(listener, certificates.clone(), cancel) => {}
        () = exchange => {}
        () = trust::keep(client, certificates) => {}
    }
}

#[cfg(test)]
mod tests;
